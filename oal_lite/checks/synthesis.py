"""Exercise checks of notebook 03."""

from collections.abc import Callable

import torch

from oal_lite.checks.answers import as_numbers, compare, exercise
from oal_lite.recipes import column_means


@exercise
def check_guide(guide: Callable) -> str:
    """`guide(empty, prompted, w)`: classifier-free guidance."""
    empty, prompted = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    for w, truth in {0: [[1.0, 2.0]], 1: [[3.0, 1.0]], 7.5: [[16.0, -5.5]]}.items():
        compare(
            guide(empty, prompted, w), truth, f"guide at w = {w}, empty (1, 2), prompted (3, 1),",
            slips={
                "start at the answer to the empty prompt: at w = 0 the prompt has no say.":
                    prompted + w * (prompted - empty),
                "this is only the difference; it is added to the answer to the empty prompt.":
                    w * (prompted - empty),
                "the difference is prompted − empty.": empty + w * (empty - prompted),
            },
        )  # fmt: skip
    return "Right: w = 0 ignores the prompt, w = 1 follows it, w = 7.5 goes far beyond it."


@exercise
def check_column_means(function: Callable) -> str:
    """`function(latents)`: (n, c, h, w) to (n, w), the released code's view of a latent."""
    latents = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    got, truth = as_numbers(function(latents), "your function"), column_means(latents)
    compare(
        got, truth, "your function, given latents of shape (3, 4, 5, 6),",
        slips={
            "these are sums, not means.": latents.sum((1, 2)),
            "this is one number per row; one per column is asked for.": latents.mean((1, 3)),
            "this is one number per channel; one per column is asked for.": latents.mean((2, 3)),
            "only the channels are gone; take the mean over rows, too.": latents.mean(1),
            "only the rows are gone; take the mean over channels, too.": latents.mean(2),
        },
    )  # fmt: skip
    shuffled = latents[:, :, torch.randperm(5, generator=torch.Generator().manual_seed(1))]
    compare(function(shuffled), truth, "your function, after the rows were shuffled,")
    return "Right. And shuffling the rows of the latents changes nothing: that is what is lost."
