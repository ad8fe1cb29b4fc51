"""Exercise checks of notebook 04."""

from collections.abc import Callable

import torch

from oal_lite.checks.answers import compare, exercise
from oal_lite.maps import knn_purity


@exercise
def check_purity(purity: Callable) -> str:
    """`purity(features, labels, k)`: mean share of the k nearest others of one's own label."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    compare(
        purity(features, labels, 1), 1.0, "the purity of two tight pairs for k = 1",
        slips={
            "one number is asked for, the mean over all points.": [1.0] * 4,
            "this is a count, or a percentage; the purity is a share, from 0 to 1.": 100.0,
        },
    )  # fmt: skip
    compare(
        purity(features, torch.tensor([0, 1, 0, 1]), 1), 0.0,
        "all nearest have the other label, and no point is its own neighbour: the purity",
        slips={"a point counts as its own neighbour; leave it out.": 1.0},
    )  # fmt: skip
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    compare(
        purity(apart, torch.tensor([0, 1, 1]), 1), 2 / 3,
        "the purity where all others of a point have negative cosines",
        slips={"a point counts as its own neighbour; leave it out by a cosine of −∞.": 1.0},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    euclidean = labels[distances.topk(5, largest=False).indices] == labels[:, None]
    compare(
        purity(features, labels, 5), knn_purity(features, labels, 5).mean(),
        "the purity of 40 random points for k = 5",
        slips={
            "this is a count; divide by k.": 5 * knn_purity(features, labels, 5).mean(),
            "these are the nearest by distance; take the cosine, so unit vectors.":
                euclidean.double().mean(),
            "these are the largest products of the vectors as they come; divide each by its "
            "length first.": _by_product(features, labels),
        },
    )  # fmt: skip
    return "Right, and it agrees with oal_lite.maps.knn_purity."


def _by_product(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    products = (features @ features.T).fill_diagonal_(-torch.inf)
    return (labels[products.topk(5).indices] == labels[:, None]).double().mean()


@exercise
def check_chance(chance: Callable) -> str:
    """`chance(counts)`: the purity of neighbours drawn at random."""
    compare(
        chance([2, 2]), 1 / 3, "two groups of two: your chance",
        slips={
            "of the 3 others just 1 is of your group. Did you leave yourself out?": 1 / 2,
            "one number is asked for, the mean over all points.": [1 / 3, 1 / 3],
        },
    )  # fmt: skip
    compare(
        chance([30, 10]), (30 * 29 + 10 * 9) / (40 * 39), "groups of 30 and 10: your chance",
        slips={
            "that is the mean over groups. Larger groups hold more of the points.":
                (29 / 39 + 9 / 39) / 2,
            "that is the first group alone. Larger groups hold more of the points.": 29 / 39,
            "did you leave the point itself out, both of its group and of all?":
                (30 * 30 + 10 * 10) / 40**2,
        },
    )  # fmt: skip
    return "Right. A purity means something only beside this number."
