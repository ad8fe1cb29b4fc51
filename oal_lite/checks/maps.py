"""Exercise checks of notebook 04."""

from collections.abc import Callable

import torch

from oal_lite.maps import knn_purity


def check_purity(purity: Callable) -> str:
    """Check `purity(features, labels, k)`: mean share of the k nearest others of one's own label.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    got = purity(features, labels, 1)
    assert got is not None, "purity returns nothing; is there a return?"
    assert abs(float(got) - 1) < 1e-6, f"two tight pairs: expected 1.0 for k = 1, got {float(got)}"
    got = float(purity(features, torch.tensor([0, 1, 0, 1]), 1))
    assert abs(got) < 1e-6, (
        f"every nearest neighbour has the other label: expected 0.0, got {got}. "
        "Does a point count as its own neighbour?"
    )
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    expected, got = (
        knn_purity(features, labels, 5).mean().item(),
        float(purity(features, labels, 5)),
    )
    assert abs(got - expected) < 1e-6, (
        f"40 random points: expected {expected:.4f}, got {got:.4f}. Is it the cosine, so the "
        "product of unit vectors?"
    )
    return "Right, and it agrees with oal_lite.maps.knn_purity."


def check_chance(chance: Callable) -> str:
    """Check `chance(counts)`: the purity of neighbours drawn at random.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    got = chance([2, 2])
    assert got is not None, "chance returns nothing; is there a return?"
    assert abs(got - 1 / 3) < 1e-9, (
        f"two groups of two: of the 3 others just 1 is of your group, so 1/3; got {got:.4f}. "
        "Did you leave yourself out?"
    )
    expected = (30 * 29 + 10 * 9) / (40 * 39)
    assert abs(chance([30, 10]) - expected) < 1e-9, (
        f"groups of 30 and 10: expected {expected:.4f}, got {chance([30, 10]):.4f}. "
        "Larger groups hold more of the points."
    )
    return "Right. A purity means something only beside this number."
