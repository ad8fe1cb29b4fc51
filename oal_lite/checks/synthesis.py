"""Exercise checks of notebook 03."""

from collections.abc import Callable

import torch

from oal_lite.recipes import column_means


def check_guide(guide: Callable) -> str:
    """Check `guide(empty, prompted, w)`: classifier-free guidance.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    empty, prompted = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    for w, expected in {0: [[1.0, 2.0]], 1: [[3.0, 1.0]], 7.5: [[16.0, -5.5]]}.items():
        got = guide(empty, prompted, w)
        assert got is not None, "guide returns nothing; is there a return?"
        assert torch.allclose(got, torch.tensor(expected)), (
            f"w = {w}, empty (1, 2), prompted (3, 1): expected {expected[0]}, got {got.tolist()}. "
            "At w = 0 the prompt has no say, at w = 1 only the prompt has."
        )
    return "Right: w = 0 ignores the prompt, w = 1 follows it, w = 7.5 goes far beyond it."


def check_column_means(function: Callable) -> str:
    """Check `function(latents)`: (n, c, h, w) to (n, w), the released code's view of a latent.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    latents = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    got = function(latents)
    assert got is not None, "nothing is returned; is there a return?"
    assert tuple(got.shape) == (3, 6), (
        f"latents of shape (3, 4, 5, 6) should become (3, 6), one number per column; "
        f"got {tuple(got.shape)}"
    )
    assert torch.allclose(got, column_means(latents), atol=1e-6), (
        "the shape is right, the numbers are not: take means, over channels and over rows"
    )
    shuffled = latents[:, :, torch.randperm(5, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(function(shuffled), got, atol=1e-6)
    return "Right. And shuffling the rows of the latents changes nothing: that is what is lost."
