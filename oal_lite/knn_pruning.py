"""Which k-NN outlier candidates can still win: the fast form of `knn_outliers`.

A candidate v_bs = (x_b + d_s) / |x_b + d_s| is boundary point b pushed by noise s, d_s = sigma
eps_s. All boundary points share the noises, so the cosine with feature x_j is

    cos(v_bs, x_j) = (x_b . x_j + d_s . x_j) / |x_b + d_s|

and two small matrix products, gram = x_b . x_j and drift = d_s . x_j, hold all of them: no
candidate has to be built. Then the contests are cut short. Take a cosine T that at least `keep`
candidates of a contest do not reach with their k-th neighbour. Whoever has k neighbours nearer
than T has lost, and nobody asks by how much. Counting is cheap, and single precision will do
where its error is bounded and given away. The few who are left are measured in double precision.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

log = logging.getLogger(__name__)

MEMORY = 2**24  # bytes of temporary tensors at a time: a CPU's cache holds so many
ON_GPU = 8  # times as many where a call costs more than what it does


def rows_at_once(bytes_per_row: int, device: torch.device) -> int:
    """How many rows fit into `MEMORY`, or `ON_GPU` times that; at least one."""
    return max(1, MEMORY * (1 if device.type == "cpu" else ON_GPU) // bytes_per_row)


def rounds_at_once(
    shape: tuple[int, int], n_boundary: int, n_candidates: int, device: torch.device
) -> int:
    """How many rounds of noise `undefeated` may take together at (n, d) features."""
    n, d = shape
    return rows_at_once(n_candidates * (4 * d + 4 * n + 64 * n_boundary), device)


def contests(values: Shaped[Tensor, "*r b s"], selection: str) -> Shaped[Tensor, "*r x y"]:
    """Rearrange (b, s) matrices: row i holds the candidates among which i's positions are won."""
    if selection == "farthest":
        return values
    return values.reshape(*values.shape[:-2], values.shape[-1], values.shape[-2]).mT


def kth_largest(values: Float[Tensor, "m n"], k: int) -> Float[Tensor, "m"]:
    """The k-th largest of every row. May reorder the rows of `values`."""
    if values.device.type != "cpu":
        return values.topk(k, sorted=False).values.amin(1)
    array = values.numpy()
    array.partition(values.shape[1] - k, axis=1)  # ten times as fast as torch's on a CPU
    return values[:, values.shape[1] - k].clone()


def kth_cosine(
    vectors: Float[Tensor, "m d"], units: Float[Tensor, "n d"], k: int
) -> Float[Tensor, "m"]:
    """Cosine between each vector and its k-th nearest unit vector, in blocks of `MEMORY`."""
    parts = vectors.split(rows_at_once(8 * (units.shape[1] + 2 * len(units)), units.device))
    kth = torch.cat([kth_largest((v @ units.T).to(v.dtype), k) for v in parts])
    return kth / torch.linalg.vector_norm(vectors, dim=1)


def rounding_error(d: int) -> float:
    """Bound on the error of a single-precision dot product in d dimensions, over |x| |y|.

    That is d u and a few roundings more; eps = 2 u leaves half of it for what is done next: some
    ten roundings, in single precision too.
    """
    return (d + 8) * torch.finfo(torch.float32).eps


def edge(z: Float[Tensor, "n d"], k: int, count: int) -> Float[Tensor, "n"]:
    """k-th distances of all unit vectors that may be among the `count` largest; -inf for others.

    Single precision finds who may be, double precision measures these.
    """
    error, single = rounding_error(z.shape[1]), z.float()
    cosines = kth_cosine(single, single, k)
    if ((cosines[:8] - kth_cosine(z[:8], z, k)).abs() > error / 2).any():
        cosines = kth_cosine(z, z, k)  # degraded, as in `drifts`
    mark = cosines.topk(count, largest=False).values.amax() + 2 * error
    distances = z.new_full((len(z),), -torch.inf)
    distances[cosines <= mark] = 2 - 2 * kth_cosine(z[cosines <= mark], z, k)
    return distances


def drifts(
    z: Float[Tensor, "n d"], noise: Float[Tensor, "r s d"], sigma: float
) -> Float[Tensor, "r s n"]:
    """Products sigma noise . x_j in single precision: half of all the work."""
    drift = (noise @ (sigma * z).float().T).float()
    error = rounding_error(z.shape[1]) * sigma * torch.linalg.vector_norm(noise[0, :16], dim=1)
    off = drift[0, :16, :64] - sigma * noise[0, :16].double() @ z[:64].T
    if (off.abs().amax(1) > error / 2).any():
        # Autocast, TF32 or bfloat16 had a hand in it, and the bound does not hold.
        parts = noise.flatten(0, 1).split(rows_at_once(16 * sum(z.shape), z.device))
        drift = torch.cat([sigma * e.double() @ z.T for e in parts]).float().view_as(drift)
    return drift


def undefeated(
    z: Float[Tensor, "n d"],
    boundary: Int[Tensor, "b"],
    gram: Float[Tensor, "b n"],
    noise: Float[Tensor, "r s d"],
    drift: Float[Tensor, "r s n"],
    *,
    k: int,
    sigma: float,
    keep: int,
    selection: str,
    threads: int = 1,
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m"]]:
    """All candidates of r rounds that might be picked, and their k-th distances.

    Args:
        z: unit vectors, float64.
        boundary: which of them are the boundary points.
        gram: cosines of the boundary points with all unit vectors, float64.
        noise: float32.
        drift: from `drifts`.
        k: which neighbour counts.
        sigma: standard deviation of the noise.
        keep: how many candidates win a contest.
        selection: "farthest" or "as_released".
        threads: how many may count.

    Returns:
        The numbers of the candidates among all r b s, in ascending order, and the distances.
    """
    (n, d), b, (r, s) = z.shape, len(boundary), noise.shape[:2]
    single, points = gram.float(), z[boundary]
    noise, drift = noise.flatten(0, 1), drift.flatten(0, 1)
    line = _lines(boundary, single, noise, drift, r, k, sigma, keep, selection)
    few = fewer_than(k, single, drift, line, threads)
    turn, point, push = few.view(r, s, b).mT.nonzero(as_tuple=True)
    parts = torch.stack([point, turn * s + push])
    parts = parts.split(rows_at_once(16 * (n + d), z.device), dim=1)
    distances = torch.cat([_distances(z, points, gram, noise, sigma, k, *part) for part in parts])
    return (turn * b + point) * s + push, distances


def _lines(boundary, single, noise, drift, r, k, sigma, keep, selection):
    """What g + p must reach to count as a neighbour nearer than T: (r s, b).

    A few likely winners of each contest give the mark T. With single-precision values g + p of
    (x_b + d_s) . x_j that are off by `error` at most, and low <= |x_b + d_s| <= high, the k-th
    cosine of a candidate is at most

        (k-th largest g + p, plus error) / low            (/ high, where that is negative)

    and the keep-th smallest of these is T. A candidate is out if k times

        g + p >= T high + error                           (T low, where T is negative)

    for then k of its cosines lie above T, whatever the rounding.
    """
    b, s, device = len(boundary), len(noise) // r, single.device
    lengths = sigma * torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    error = rounding_error(noise.shape[1]) * (1 + lengths)
    squares, spread = 1 + lengths**2 + 2 * drift.index_select(1, boundary), (1 + lengths) * error
    low, high = (squares - spread).clamp_min(0).sqrt(), (squares + spread).clamp_min(0).sqrt()

    guess = (single.mean(1) + drift.mean(1, keepdim=True)) / high
    races = contests(guess.view(r, s, b).mT, selection).reshape(r * b, s)
    likely = races.topk(min(s, 2 * keep), largest=False).indices
    runner = _candidate(torch.arange(r * b, device=device)[:, None], likely, b, s, selection)
    point, push = runner // s % b, runner // (b * s) * s + runner % s
    pairs = torch.stack([point.flatten(), push.flatten()])
    pairs = pairs.split(rows_at_once(8 * single.shape[1], device), dim=1)
    tops = torch.cat([kth_largest(single[i] + drift[j], k) for i, j in pairs])
    tops = tops.view_as(likely) + error[push, 0]
    upper = tops / torch.where(tops > 0, low[push, point], high[push, point])
    marks = upper.clamp_max(1).topk(keep, largest=False).values.amax(1).view(r, b)

    each = marks.repeat_interleave(s, 1) if selection == "farthest" else marks.repeat(1, s)
    mark = each.view(r, b, s).mT.reshape(r * s, b)
    return mark * torch.where(mark > 0, high, low) + error


def _distances(z, points, gram, noise, sigma, k, point, push):
    """k-th distances of single candidates, in double precision; each push multiplied once."""
    distinct, which = push.unique(return_inverse=True)
    moves = sigma * noise[distinct].double()
    lengths = torch.linalg.vector_norm(points[point] + moves[which], dim=1)
    return 2 - 2 * kth_largest(gram[point] + (moves @ z.T)[which], k) / lengths


def contest(
    candidate: Int[Tensor, "*m"], b: int, s: int, selection: str
) -> tuple[Int[Tensor, "*m"], Int[Tensor, "*m"]]:
    """In which contest each of r b s candidates runs, and at which position; see `contests`."""
    turn, candidate = candidate // (b * s), candidate % (b * s)
    if selection == "farthest":
        return turn * b + candidate // s, candidate % s
    return turn * b + candidate % b, candidate // b


def _candidate(race: Tensor, position: Tensor, b: int, s: int, selection: str) -> Tensor:
    """Which candidate runs at this position of this contest: `contest` the other way."""
    if selection == "farthest":
        return race * s + position
    return race // b * (b * s) + position * b + race % b


def winners(
    candidates: Int[Tensor, "m"],
    distances: Float[Tensor, "m"],
    *,
    r: int,
    b: int,
    s: int,
    keep: int,
    selection: str,
) -> Int[Tensor, "r p"]:
    """What `select_candidates` picks in each of r rounds, from the `undefeated` alone."""
    race, position = contest(candidates, b, s, selection)
    order = distances.round(decimals=10).argsort(descending=True, stable=True)
    order = order[race[order].argsort(stable=True)]
    races = torch.arange(r * b, device=race.device)
    first = torch.searchsorted(race[order], races)
    kept = position[order[first[:, None] + torch.arange(keep, device=race.device)]]
    return (races[:, None] % b * s + kept).view(r, b * keep)


def fewer_than(
    k: int,
    gram: Float[Tensor, "b n"],
    drift: Float[Tensor, "s n"],
    line: Float[Tensor, "s b"],
    threads: int = 1,
) -> Bool[Tensor, "s b"]:
    """Whether #{j : gram_bj + drift_sj >= line_sb} < k, for every candidate: the one hot loop.

    On a CPU by a loop that numba compiles at the first call (about a second, numba's import
    included), in so many threads; on a GPU by one of Triton's, where there is Triton.
    """
    if gram.device.type != "cpu":
        return _on_gpu(gram.device)(k, gram, drift, line)
    few = torch.empty(line.shape, dtype=torch.bool)
    count, gram = _compiled(), gram.contiguous().numpy()
    rows = -(-len(drift) // threads)
    own, *others = [[x.numpy() for x in xs] for xs in zip(
        *(x.contiguous().split(rows) for x in (drift, line)), few.split(rows), strict=True
    )]  # fmt: skip
    with ThreadPoolExecutor(threads) as pool:  # starts no thread where there are no others
        theirs = [pool.submit(count, k, gram, *part) for part in others]
        count(k, gram, *own)
    for part in theirs:
        part.result()
    return few


def fewer_than_plain(k: int, gram: Tensor, drift: Tensor, line: Tensor) -> Tensor:
    """Do what `fewer_than` does in plain torch: every sum is written down, then counted."""
    rows = rows_at_once(5 * gram.numel(), gram.device)
    return torch.cat(
        [
            (gram + p[:, None] >= t[..., None]).sum(-1) < k
            for p, t in zip(drift.split(rows), line.split(rows), strict=True)
        ]
    )


@no_type_check  # numba reads this function itself, and no decorated one
def _fewer_than(k, gram, drift, line, few):
    last = len(gram) - 1
    for s in range(len(drift)):
        for b in range(0, last + 1, 2):  # two at a time, so that a drift is read for both
            c = min(b + 1, last)
            at_b = at_c = np.int32(0)
            for j in range(gram.shape[1]):
                # as 32 bits: numba would count in 64, at half the speed
                at_b = np.int32(at_b + np.int32(gram[b, j] + drift[s, j] >= line[s, b]))
                at_c = np.int32(at_c + np.int32(gram[c, j] + drift[s, j] >= line[s, c]))
            few[s, b], few[s, c] = at_b < k, at_c < k


@cache
def _compiled() -> Callable:
    from numba import njit

    return njit(_fewer_than, nogil=True)


@cache
def _on_gpu(device: torch.device) -> Callable:
    """The loop that counts on this device: Triton's, or plain torch where that cannot run."""
    if device.type != "cuda":
        return fewer_than_plain
    try:
        from oal_lite.knn_counting import fewer_than_on_gpu

        one = torch.ones(1, 1, device=device)
        fewer_than_on_gpu(1, one, one, one)
    except Exception as error:  # no Triton, no C compiler, or a GPU that it does not know
        log.warning("Triton cannot be used on %s (%s); plain torch counts instead", device, error)
        return fewer_than_plain
    return fewer_than_on_gpu
