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

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

MEMORY = 2**26  # bytes of temporary tensors at a time, on any device


def rows_at_once(bytes_per_row: int) -> int:
    """How many rows fit into `MEMORY`; at least one."""
    return max(1, MEMORY // bytes_per_row)


def rounds_at_once(shape: tuple[int, int], n_boundary: int, n_candidates: int) -> int:
    """How many rounds of noise `undefeated` may take together at (n, d) features."""
    n, d = shape
    return rows_at_once(n_candidates * (4 * d + 4 * n + 64 * n_boundary))


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
    parts = vectors.split(rows_at_once(8 * (units.shape[1] + 2 * len(units))))
    kth = torch.cat([kth_largest((v @ units.T).to(v.dtype), k) for v in parts])
    return kth / torch.linalg.vector_norm(vectors, dim=1)


def rounding_error(d: int) -> float:
    """Bound on the error of a single-precision dot product in d dimensions, over |x| |y|.

    That is d u and a few roundings more; eps = 2 u leaves half of it for what is done next.
    """
    return (d + 8) * torch.finfo(torch.float32).eps


def edge(z: Float[Tensor, "n d"], k: int, count: int) -> Float[Tensor, "n"]:
    """k-th distances of all unit vectors that may be among the `count` largest; -inf for others.

    Single precision finds who may be, double precision measures these.
    """
    error, single = rounding_error(z.shape[1]), z.float()
    cosines = kth_cosine(single, single, k)
    if ((cosines[:16] - kth_cosine(z[:16], z, k)).abs() > error / 2).any():
        cosines = kth_cosine(z, z, k)  # degraded, as in `undefeated`
    mark = cosines.topk(count, largest=False).values.amax() + 2 * error
    distances = z.new_full((len(z),), -torch.inf)
    distances[cosines <= mark] = 2 - 2 * kth_cosine(z[cosines <= mark], z, k)
    return distances


def undefeated(
    z: Float[Tensor, "n d"],
    boundary: Int[Tensor, "b"],
    noise: Float[Tensor, "r s d"],
    *,
    k: int,
    sigma: float,
    keep: int,
    selection: str,
) -> Float[Tensor, "r b s"]:
    """k-th distances of all candidates that might be picked, in r rounds; -inf for the others.

    A few likely winners of each contest give the mark T. With single-precision values g + p of
    (x_b + d_s) . x_j that are off by `error` at most, and low <= |x_b + d_s| <= high, the k-th
    cosine of a candidate is at most

        (k-th largest g + p, plus error) / low            (/ high, where that is negative)

    and the keep-th smallest of these is T. A candidate is out if k times

        g + p >= T high + error                           (T low, where T is negative)

    for then k of its cosines lie above T, whatever the rounding.

    Args:
        z: unit vectors, float64.
        boundary: which of them are the boundary points.
        noise: float32.
        k: which neighbour counts.
        sigma: standard deviation of the noise.
        keep: how many candidates win a contest.
        selection: "farthest" or "as_released".
    """
    (n, d), b, (r, s) = z.shape, len(boundary), noise.shape[:2]
    points, noise = z[boundary], noise.flatten(0, 1)
    gram = (points @ z.T).float()
    drift = (noise @ (sigma * z).float().T).float()
    lengths = sigma * torch.linalg.vector_norm(noise, dim=1, keepdim=True).double()
    error = rounding_error(d) * (1 + lengths)
    sample = sigma * noise[:64].double() @ points.T
    if ((drift[:64, boundary] - sample).abs() > error[:64] / 2).any():
        # Autocast, TF32 or bfloat16 had a hand in this product, and the bound does not hold.
        drift = torch.cat([sigma * e.double() @ z.T for e in noise.split(1024)]).float()
    squares = 1 + 2 * drift[:, boundary].double() + lengths**2
    spread = (1 + lengths) * error
    low, high = (squares - spread).clamp_min(0).sqrt(), (squares + spread).clamp_min(0).sqrt()

    guess = ((gram.mean(1) + drift.mean(1, keepdim=True)) / high).float()
    races = contests(guess.view(r, s, b).mT, selection).reshape(r * b, s)
    likely = races.topk(min(s, 3 * keep), largest=False).indices.view(r, b, -1)
    probes = _candidate(likely, b, s, selection)
    parts = probes.flatten().split(rows_at_once(8 * n))
    tops = torch.cat([kth_largest(drift[i // b] + gram[i % b], k) for i in parts])
    tops = tops.view_as(probes) + error[probes // b, 0]
    upper = tops / torch.where(tops > 0, low.flatten()[probes], high.flatten()[probes])
    marks = upper.clamp_max(1).topk(keep, largest=False).values.amax(2)

    mark = marks[:, _contest(b, s, selection, z.device)].view(r * s, b)
    line = mark * torch.where(mark > 0, high, low) + error
    (alive,) = fewer_than(k, gram, drift, line.float()).flatten().nonzero(as_tuple=True)
    vectors = points[alive % b] + sigma * noise[alive // b].double()
    distances = z.new_full((r * s * b,), -torch.inf)
    distances[alive] = 2 - 2 * kth_cosine(vectors, z, k)
    return distances.view(r, s, b).mT


def _contest(b: int, s: int, selection: str, device: torch.device) -> Int[Tensor, "s b"]:
    """In which contest of its round each candidate runs; see `contests`."""
    points, noises = torch.arange(b, device=device), torch.arange(s, device=device)
    if selection == "farthest":
        return points.expand(s, b)
    return (points * s + noises[:, None]) % b


def _candidate(
    positions: Int[Tensor, "r b p"], b: int, s: int, selection: str
) -> Int[Tensor, "r b p"]:
    """Index, among all r s b candidates, of positions in the contests of each round."""
    rounds, races = (torch.arange(x, device=positions.device) for x in positions.shape[:2])
    points, noises = races[:, None], positions
    if selection != "farthest":
        flat = positions * b + races[:, None]
        points, noises = flat // s, flat % s
    return (rounds[:, None, None] * s + noises) * b + points


def fewer_than(
    k: int,
    gram: Float[Tensor, "b n"],
    drift: Float[Tensor, "s n"],
    line: Float[Tensor, "s b"],
) -> Bool[Tensor, "s b"]:
    """Whether #{j : gram_bj + drift_sj >= line_sb} < k, for every candidate: the one hot loop.

    On a CPU by a loop that numba compiles at the first call (about a second, numba's import
    included), in as many threads as torch has; elsewhere by torch.
    """
    if gram.device.type != "cpu":
        return fewer_than_plain(k, gram, drift, line)
    few = torch.empty(line.shape, dtype=torch.bool)
    count, gram = _compiled(), gram.contiguous().numpy()
    threads = torch.get_num_threads()
    rows = -(-len(drift) // threads)
    parts = [[x.numpy() for x in xs] for xs in zip(
        *(x.contiguous().split(rows) for x in (drift, line)), few.split(rows), strict=True
    )]  # fmt: skip
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: count(k, gram, *part), parts))
    return few


def fewer_than_plain(k: int, gram: Tensor, drift: Tensor, line: Tensor) -> Tensor:
    """Do what `fewer_than` does in plain torch: every sum is written down, then counted."""
    rows = rows_at_once(5 * gram.numel())
    return torch.cat(
        [
            (gram + p[:, None] >= t[..., None]).sum(-1) < k
            for p, t in zip(drift.split(rows), line.split(rows), strict=True)
        ]
    )


@no_type_check  # numba reads this function itself, and no decorated one
def _fewer_than(k, gram, drift, line, few):
    for s in range(len(drift)):
        for b in range(len(gram)):
            count = np.int32(0)
            for j in range(gram.shape[1]):
                nearer = gram[b, j] + drift[s, j] >= line[s, b]
                count = np.int32(count + np.int32(nearer))  # else 64 bits, at half the speed
            few[s, b] = count < k


@cache
def _compiled() -> Callable:
    from numba import njit

    return njit(_fewer_than, nogil=True)
