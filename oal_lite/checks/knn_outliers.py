"""Exercises of notebook 02: the edge of a class."""

import math
from collections.abc import Callable

import torch

from oal_lite import knn_outliers
from oal_lite.checks.answers import compare, exercise


def _cloud(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@exercise
def check_kth_distance(kth_distance: Callable) -> str:
    """`kth_distance(queries, bank, k)` is the squared distance to the k-th nearest row."""
    bank = knn_outliers.unit(_cloud(30, 5, 0) + 1)
    queries = knn_outliers.unit(_cloud(7, 5, 1))
    for k in (1, 4, 30):
        truth = knn_outliers.kth_distance(queries, bank, k)
        squares = torch.cdist(queries, bank).square()
        compare(
            kth_distance(queries, bank, k), truth, f"kth_distance with k = {k}",
            slips={
                "this is the distance; the method takes its square.": truth.sqrt(),
                "this is the k-th FARTHEST; ask for the smallest.":
                    squares.topk(k, dim=1).values[:, -1],
                "off by one: k = 1 is the nearest row, which has index 0 after sorting.":
                    squares.sort(dim=1).values[:, min(k, 29)],
                "this is the mean over the k nearest; take the k-th alone.":
                    squares.sort(dim=1).values[:, :k].mean(1),
            },
        )  # fmt: skip
    return "Right: the k-th smallest squared distance, for k = 1, 4 and all 30."


@exercise
def check_own_percentile(own_percentile: Callable) -> str:
    """`own_percentile(distances, picks)`: share of a pick's own row that lies nearer than it."""
    distances = _cloud(6, 40, 2).square()
    picks = knn_outliers.select_candidates(distances, 2, "as_released")
    row = picks // 40
    kept = distances.flatten()[picks]
    truth = (distances[row] < kept[:, None]).double().mean(1)
    compare(
        own_percentile(distances, picks), truth, "own_percentile",
        slips={
            "compare with the candidates of its own boundary point only, not with all of them.":
                (distances.flatten() < kept[:, None]).double().mean(1),
            "you count the candidates that lie FARTHER; 1 should mean the farthest of all.":
                (distances[row] > kept[:, None]).double().mean(1),
            "the row of flat index p is p // s; p % s is the place within the row.":
                (distances[picks % 6] < kept[:, None]).double().mean(1),
            "the pick does not lie nearer than itself: count by <, and divide by all s.":
                truth + 1 / 40,
            "one number for each pick is asked for, without the last mean.": truth.mean(),
            "the share is of all s candidates of the point, the pick among them.": truth * 40 / 39,
        },
    )  # fmt: skip
    return "Right: near 1 would say that the farthest were kept. Are these?"


@exercise
def check_sigma_for_cosine(sigma: Callable) -> str:
    """`sigma(cosine, dims)`: the noise at which candidates keep this cosine with their point."""
    for cosine, dims in ((0.9, 768), (0.5, 128)):
        truth = math.sqrt((1 / cosine**2 - 1) / dims)
        compare(
            sigma(cosine, dims), truth, f"σ for a cosine of {cosine} in {dims} dimensions",
            tolerance=3e-4,
            slips={
                "this is the length of the whole noise, σ√d; divide by √d.":
                    truth * math.sqrt(dims),
                "this is σ²; take the root.": truth**2,
                "square the cosine: the root stands over the whole of 1 + σ²d.":
                    math.sqrt((1 / cosine - 1) / dims),
                "this takes σd for σ√d: under the root stands σ²d, not σ²d².":
                    truth / math.sqrt(dims),
            },
        )  # fmt: skip
    return f"Right: in 768 dimensions {math.sqrt((1 / 0.9**2 - 1) / 768):.4f}, a quarter of 0.07."
