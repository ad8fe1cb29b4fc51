"""Outliers at the edge of a class: k-nearest-neighbour sampling in a feature space.

Find the features of a class that have the fewest neighbours, push them about with Gaussian
noise, and keep of each the few candidates that end up farthest from the class. The idea is
that of NPOS (Tao et al., ICLR 2023). DREAM-OOD and OAL (arXiv:2406.16525) took it over, and
with it a view of the distances in the wrong shape, so that the released code does not keep
what its text says: `selection="farthest"` is the text, `"as_released"` the code.

`sample_outliers_plain` is the method as one would write it down. `sample_outliers` makes the
same picks and hardly builds a candidate: `knn_pruning` says how.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from numpy.random import SeedSequence
from torch import Generator, Tensor

from oal_lite.arguments import (
    need_choice,
    need_count,
    need_floats,
    need_generator,
    need_integers,
    need_number,
    need_tensor,
    need_whole,
)
from oal_lite.knn_pruning import contests, drifts, edge, rounds_at_once, undefeated, winners
from oal_lite.threads import one_thread_on_cpu

SUMS = 2**25  # beside noise that is drawn, a second thread needs so many sums to count: 3 ms

Selection = Literal["farthest", "as_released", "random"]


def unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Project onto the unit sphere: x / |x|.

    Raises:
        ValueError: if a row has no direction: its length is 0, infinite or NaN in its dtype.
    """
    need_floats(x=x)
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    _need(
        bool(((lengths > 0) & lengths.isfinite()).all()),
        "a row's length is 0, infinite or NaN, so it has no direction: leave such rows out, or "
        "convert very large or small ones by .double()",
    )
    return x / lengths


def kth_distance(
    queries: Float[Tensor, "m d"], bank: Float[Tensor, "n d"], k: int
) -> Float[Tensor, "m"]:
    """Squared L2 distance from each query to its k-th nearest row of the bank.

    r_k(q) = k-th smallest of |q - b_j|^2 over j; between unit vectors, 2 - 2 cos, in [0, 4]. A
    query that is itself a row of the bank counts as its own first neighbour.

    Raises:
        ValueError: matrices that do not fit, numbers that are not finite, or k out of range.
    """
    need_floats(queries=queries, bank=bank)
    need_whole(k=k)
    _need(
        queries.ndim == bank.ndim == 2 and queries.shape[1] == bank.shape[1],
        f"queries have shape {tuple(queries.shape)} and the bank {tuple(bank.shape)}: expected two "
        "matrices of one width",
    )
    _need(
        queries.dtype == bank.dtype,
        f"queries are of type {queries.dtype} and the bank of {bank.dtype}: convert one of them",
    )
    _need(
        bool(queries.isfinite().all() and bank.isfinite().all()),
        "queries or bank hold NaN or infinite values: leave those rows out",
    )
    _need(1 <= k <= len(bank), f"k = {k}: expected 1 to {len(bank)}, the rows of the bank")
    lengths = bank.square().sum(1)
    kth = [
        torch.addmm(lengths, q, bank.T, alpha=-2)  # |b|^2 - 2 q . b; |q|^2 does not move the k-th
        .topk(k, largest=False, sorted=False)
        .values.amax(1)
        for q in queries.split(max(1, 2**22 // len(bank)))  # at most 4 million distances at once
    ]
    distances = (torch.cat(kth) + queries.square().sum(1)).clamp_min(0)
    _need(
        bool(distances.isfinite().all()),
        f"squared distances exceed the range of {bank.dtype}: normalise the rows, or use .double()",
    )
    return distances


def boundary_points(
    features: Float[Tensor, "n d"], k: int = 300, n_boundary: int = 50
) -> Int[Tensor, "b"]:
    """Indices of the features with the fewest neighbours: the largest r_k(f / |f|), in order.

    Each point counts as its own first neighbour; ties go to the lower index. Computed in the
    input's dtype. Source: NPOS (ICLR 2023). Raises ValueError as `sample_outliers` does.
    """
    _check(features, k=k, n_boundary=n_boundary)
    z = unit(features)
    return _largest(kth_distance(z, z, k), n_boundary)


def draw_noise(
    n: int, d: int, generator: Generator | None, device: torch.device
) -> Float[Tensor, "n d"]:
    """Standard normal noise, drawn where the generator lives and then moved.

    Always float32: in float64 torch draws other numbers, and one seed should mean one noise.
    """
    need_whole(n=n, d=d)
    need_generator(generator)
    _need(min(n, d) >= 0, f"noise of shape ({n}, {d}): expected no negative number")
    source = device if generator is None else generator.device
    try:
        noise = torch.randn(n, d, generator=generator, device=source, dtype=torch.float32)
    except RuntimeError:  # of all reasons, memory is the one that is left
        raise ValueError(
            f"{n} noises of {d} numbers do not fit into memory: lower n_candidates"
        ) from None
    return noise.to(device)


def candidates_around(
    points: Float[Tensor, "b d"], noise: Float[Tensor, "s d"], sigma: float
) -> Float[Tensor, "b s d"]:
    """Every point pushed by every noise, back on the sphere: (z_b + sigma eps_s) / |...|.

    The push has length sigma sqrt(d), 1.94 at sigma = 0.07 and d = 768, against |z_b| = 1: the
    cosine of a candidate with its own point is only about 1 / sqrt(1 + sigma^2 d) = 0.458.

    Raises:
        ValueError: if points and noise are not two matrices of one width, or sigma is no number of
            at least 0.
    """
    need_floats(points=points, noise=noise)
    _need(
        points.ndim == noise.ndim == 2 and points.shape[1] == noise.shape[1],
        f"points have shape {tuple(points.shape)} and noise {tuple(noise.shape)}: expected two "
        "matrices of one width",
    )
    _check_sigma(sigma)
    return unit(points[:, None] + sigma * noise.to(points.dtype))


def select_candidates(
    distances: Float[Tensor, "b s"],
    keep: int = 2,
    selection: Selection = "farthest",
    generator: Generator | None = None,
) -> Int[Tensor, "m"]:
    """Choose `keep` candidates for every boundary point, as flat indices into the (b, s) matrix.

    - "farthest", NPOS's text: the largest of each row, largest first.
    - "as_released", its code and its heirs': the matrix lies row after row in memory, but is
      viewed as (s, b) and searched along dim 0. Column j then mixes candidates of many rows,
      and the positions that win there are looked up in row j, where they mean nothing.
    - "random": distinct candidates of each row, evenly drawn; the control.

    Args:
        distances: k-th distances, one row per boundary point; "random" reads the shape only.
        keep: how many to keep for every boundary point; ties go to the lower index.
        selection: one of the three.
        generator: for "random".

    Raises:
        ValueError: keep exceeds the candidates, or the selection is unknown.
    """
    need_tensor(distances=distances)
    need_generator(generator)
    _need(
        distances.ndim == 2,
        f"distances have shape {tuple(distances.shape)}: expected one row per boundary point",
    )
    b, s = distances.shape
    _check_choice(keep, s, selection)
    if selection == "random":
        source = distances.device if generator is None else generator.device
        keys = torch.rand(b, s, generator=generator, device=source).to(distances.device)
        positions = keys.argsort(dim=1, stable=True)[:, :keep]
    else:
        positions = _largest(contests(distances, selection), keep)
    return (torch.arange(b, device=distances.device)[:, None] * s + positions).flatten()


@torch.no_grad()
def sample_outliers_plain(
    features: Float[Tensor, "n d"],
    *,
    k: int = 300,
    n_boundary: int = 50,
    n_candidates: int = 1500,
    sigma: float = 0.07,
    keep: int = 2,
    selection: Selection = "farthest",
    generator: Generator | None = None,
) -> Float[Tensor, "m d"]:
    """Do what `sample_outliers` does as it is written down: build every candidate, measure it.

    In the input's dtype: in float64 the oracle of the fast form; in float32 a near-tie may
    fall the other way. The candidates alone take 230 MB at the default sizes, d = 768, float32.
    """
    _check(features, k, n_boundary, n_candidates, sigma, keep, selection)
    need_generator(generator)
    z = unit(features)
    boundary = z[boundary_points(features, k, n_boundary)]
    noise = draw_noise(n_candidates, z.shape[1], generator, z.device)
    candidates = candidates_around(boundary, noise, sigma)
    distances = kth_distance(candidates.flatten(0, 1), z, k).view(n_boundary, n_candidates)
    return candidates.flatten(0, 1)[select_candidates(distances, keep, selection, generator)]


@torch.no_grad()
def sample_outliers(
    features: Float[Tensor, "n d"],
    *,
    k: int = 300,
    n_boundary: int = 50,
    n_candidates: int = 1500,
    sigma: float = 0.07,
    keep: int = 2,
    selection: Selection = "farthest",
    generator: Generator | None = None,
) -> Float[Tensor, "m d"]:
    """Outliers of one class: noisy copies of its boundary points, far from the class.

    With z = f / |f| and r_k(v) the squared L2 distance from v to the k-th nearest z,

        boundary   = the n_boundary points z_b with the largest r_k(z_b)
        candidates = v_bs = (z_b + sigma eps_s) / |z_b + sigma eps_s|,      eps_s ~ N(0, I)
        outliers   = for each b, the `keep` candidates v_bs with the largest r_k(v_bs)

    One set of n_candidates noises serves all boundary points. The picks are those of
    `sample_outliers_plain` in float64; k-th distances equal to ten decimals are ties, which go
    to the lower index. Source: NPOS (ICLR 2023); OAL (arXiv:2406.16525) and its released code.

    Args:
        features: the features of one class, of any length but zero.
        k: which neighbour counts; on the boundary the point itself is the first.
        n_boundary: number of boundary points.
        n_candidates: number of noises, so of candidates for each boundary point.
        sigma: standard deviation of the noise per dimension; the features have length 1.
        keep: outliers kept for each boundary point.
        selection: "farthest", "as_released" or "random", all from the same noise; see
            `select_candidates`.
        generator: on any device; None takes torch's default one.

    Returns:
        m = n_boundary * keep unit vectors, in the input's dtype, on its device; rows
        i*keep .. (i+1)*keep - 1 belong to boundary point i.

    Raises:
        ValueError: a size does not fit; sigma is negative or not finite; the features are not a
            floating-point matrix of finite, non-zero rows; or the selection is unknown.
    """
    _check(features, k, n_boundary, n_candidates, sigma, keep, selection)
    need_generator(generator)
    with ThreadPoolExecutor(1) as pool:
        noises = _Noise([[generator]], n_candidates, features.shape[1], features.device, pool)
        z = unit(features.double())
        boundary, gram = _edge(z, k, n_boundary)
        (outliers,) = _sample(z, boundary, gram, noises, k, sigma, keep, selection)
    return outliers.to(features.dtype)


@torch.no_grad()
def sample_outliers_per_class(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    n_classes: int,
    rounds: int = 10,
    k: int = 300,
    n_boundary: int = 50,
    n_candidates: int = 1500,
    sigma: float = 0.07,
    keep: int = 2,
    selection: Selection = "farthest",
    generator: Generator | None = None,
    progress: bool = False,
) -> tuple[Float[Tensor, "m d"], Int[Tensor, "m"]]:
    """Outliers of every class, `rounds` times over, each time with new noise.

    One seed is drawn from the generator and split by class and round (`round_generator`), so
    that a class's outliers depend neither on the other classes nor on the number of rounds. The
    noise is drawn where the generator lives: on the CPU it is the same for features on any device,
    and on a GPU it is other noise, for which nothing has to be copied.

    Labels run from 0 to n_classes - 1, and each class needs at least k features. OAL's code
    takes 10 rounds on CIFAR-10 and 100 on CIFAR-100. `progress` shows a bar over the classes;
    all else is as in `sample_outliers`.

    Returns:
        m = n_classes * rounds * n_boundary * keep outliers and their classes, class by class
        and then round by round.

    Raises:
        ValueError: as `sample_outliers`, naming the class; or labels that do not fit.
    """
    from tqdm.auto import trange

    _check(features)
    need_integers(labels=labels)
    need_count(n_classes=n_classes, rounds=rounds)
    need_generator(generator)
    _need(
        labels.shape == features.shape[:1],
        f"labels have shape {tuple(labels.shape)}, features {tuple(features.shape)}: expected "
        "one label per row of features",
    )
    strange = (labels < 0) | (labels >= n_classes)
    strangers = labels[strange].unique().tolist() if strange.any() else []
    _need(
        not strangers,
        f"labels hold {strangers[:5]}: expected 0 to n_classes - 1 = {n_classes - 1}; drop those "
        "rows or raise n_classes",
    )
    for c in range(n_classes):  # all of them first: a long run should not fail at its end
        try:
            _check(features[labels == c], k, n_boundary, n_candidates, sigma, keep, selection)
        except ValueError as error:
            raise ValueError(f"class {c}: {error}") from error

    source = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=source))
    together = rounds_at_once(features.shape, n_boundary, n_candidates, features.device)
    starts = range(0, rounds, together)
    splits = (
        [round_generator(seed, c, r, source) for r in range(rounds)[start : start + together]]
        for c in range(n_classes)
        for start in starts
    )
    outliers = []
    with ThreadPoolExecutor(1) as pool:
        noises = _Noise(splits, n_candidates, features.shape[1], features.device, pool)
        for c in trange(n_classes, desc="k-NN outliers", unit="class", disable=not progress):
            z = unit(features[labels == c].double())
            boundary, gram = _edge(z, k, n_boundary)
            for _ in starts:
                kept = _sample(z, boundary, gram, noises, k, sigma, keep, selection)
                outliers.append(kept.flatten(0, 1).to(features.dtype))
    classes = torch.arange(n_classes, dtype=labels.dtype, device=labels.device)
    return torch.cat(outliers), classes.repeat_interleave(rounds * n_boundary * keep)


def round_generator(
    seed: int, class_index: int, round_index: int, device: str | torch.device = "cpu"
) -> Generator:
    """Split the seed by class and round: a generator on the device.

    Raises:
        ValueError: if one of the three is negative or no whole number.
    """
    need_whole(seed=seed, class_index=class_index, round_index=round_index)
    _need(
        min(seed, class_index, round_index) >= 0,
        f"seed {seed}, class {class_index}, round {round_index}: expected none below 0",
    )
    split = SeedSequence(seed, spawn_key=(class_index, round_index))
    return Generator(device).manual_seed(int(split.generate_state(1)[0]))


def _edge(z, k, n_boundary):
    """Which points are the boundary, and their cosines with all."""
    boundary = _largest(edge(z, k, n_boundary), n_boundary)
    return boundary, z[boundary] @ z.T


class _Noise:
    """Noise of some rounds at a time, each from a generator of its own.

    A CPU draws in a thread, which keeps one core busy beside all that follows the large product. A
    GPU draws when the noise is taken, in the order of its other work.
    """

    def __init__(self, splits, n: int, d: int, device: torch.device, pool: Executor):
        def draw(generators, home):
            return generators, torch.stack([draw_noise(n, d, g, home) for g in generators])

        def begin(generators):
            home = device if generators[0] is None else generators[0].device
            if home.type == "cpu":
                return pool.submit(draw, generators, home).result
            return lambda: draw(generators, home)

        self._device, self._coming = device, map(begin, splits)
        self.start()

    def start(self) -> bool:
        """Begin to draw the next; whether there is a next."""
        self._next = next(self._coming, None)
        return self._next is not None

    def take(self) -> tuple[Sequence[Generator | None], Float[Tensor, "r n d"]]:
        """Wait for what was begun: generators and their noise."""
        generators, noise = self._next()
        return generators, noise.to(self._device)


def _sample(z, boundary, gram, noises, k, sigma, keep, selection):
    """Outliers of one class from the next noises: (r, b * keep, d)."""
    generators, noise = noises.take()
    b, (r, s, _), threads = len(boundary), noise.shape, torch.get_num_threads()
    drift = None if selection == "random" else drifts(z, noise, sigma)
    drawing = noises.start()
    if drawing:
        threads = max(1, min(threads, r * s * gram.numel() // SUMS))
    # A step shared by all cores would wait at its end for the one that is drawing.
    with one_thread_on_cpu(z.device) if drawing else nullcontext():
        if selection == "random":
            shape = z.new_empty(b, s)
            picks = torch.stack([select_candidates(shape, keep, "random", g) for g in generators])
        else:
            how = dict(k=k, sigma=sigma, keep=keep, selection=selection)
            left = undefeated(z, boundary, gram, noise, drift, **how, threads=threads)
            picks = winners(*left, r=r, b=b, s=s, keep=keep, selection=selection)
        moves = noise[torch.arange(r, device=z.device)[:, None], picks % s]
        return unit(z[boundary[picks // s]] + sigma * moves.double())


def _largest(values: Tensor, count: int) -> Tensor:
    """Positions of the largest, in order; what differs by rounding only is a tie, won by index."""
    rounded = values.double().round(decimals=10)
    return rounded.argsort(dim=-1, descending=True, stable=True)[..., :count]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check(features, k=1, n_boundary=1, n_candidates=1, sigma=0.0, keep=1, selection="random"):
    need_tensor(features=features)
    need_whole(k=k, n_boundary=n_boundary, n_candidates=n_candidates, keep=keep)
    _need(
        features.ndim == 2 and features.is_floating_point(),
        f"features have shape {tuple(features.shape)} and dtype {features.dtype}: expected a "
        "floating-point matrix, one row per feature; flatten or convert them",
    )
    n = len(features)
    for name, value, top, cure in (
        ("k", k, n, f"there are {n} features, so lower k or pass more"),
        ("n_boundary", n_boundary, n, f"there are {n} features, so lower it or pass more"),
    ):
        _need(1 <= value <= top, f"{name} = {value}: expected 1 to {top}; {cure}")
    _check_choice(keep, n_candidates, selection)
    _check_sigma(sigma)
    lengths = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
    largest = torch.finfo(features.dtype).max
    if ((lengths > 0) & (lengths <= largest)).all():  # NaN is neither
        return
    for bad, what in (
        (~lengths.isfinite(), "NaN or infinite values"),
        (lengths == 0, "zero length, so no direction"),
        (lengths > largest, f"a length beyond the range of {features.dtype}"),
    ):
        rows = bad.nonzero().flatten().tolist()
        _need(not rows, f"features in rows {rows[:5]} have {what}: drop {len(rows)} such rows")


def _check_sigma(sigma):
    _need(
        not isinstance(sigma, int | float) or 0 <= sigma < float("inf"),
        f"sigma = {sigma}: expected a finite number >= 0, such as 0.07",
    )
    need_number(sigma=sigma)


def _check_choice(keep, n_candidates, selection):
    need_whole(keep=keep)
    _need(
        1 <= keep <= n_candidates,
        f"keep = {keep}: expected 1 to {n_candidates}, the number of candidates; draw more",
    )
    need_choice(get_args(Selection), selection=selection)
