"""What all checks share: comparing an answer with the right one, and recognising known slips."""

from collections.abc import Mapping

import torch
from torch import Tensor


def as_numbers(answer: object, what: str) -> Tensor:
    """The answer as a float64 tensor.

    Raises:
        AssertionError: if it does not convert; the sentence names what was given.
    """
    if answer is None:
        raise AssertionError(f"{what} gives None: did you forget to `return` the result?")
    try:
        return torch.as_tensor(answer).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AssertionError(
            f"{what} gives a {type(answer).__name__}, expected a number or a tensor of numbers."
        ) from error


def compare(
    answer: object, truth: object, what: str, *, slips: Mapping[str, object] | None = None,
    tolerance: float = 1e-4,
) -> None:  # fmt: skip
    """Accept an answer that equals the truth within a relative and absolute tolerance.

    Args:
        answer: what the reader's code gave.
        truth: what it should give.
        what: how to name the answer in a sentence.
        slips: results of known mistakes, by the hint that helps against each.
        tolerance: relative and absolute.

    Raises:
        AssertionError: with the hint of the slip that fits, or with both values.
    """
    given, right = as_numbers(answer, what), torch.as_tensor(truth).double()
    if given.shape != right.shape:
        raise AssertionError(
            f"{what} has shape {tuple(given.shape)}, expected {tuple(right.shape)}."
        )
    if _close(given, right, tolerance):
        return
    for hint, wrong in (slips or {}).items():
        if _close(given, torch.as_tensor(wrong).double(), tolerance):
            raise AssertionError(f"{what} is not right yet: {hint}")
    shown, expected = (_short(x) for x in (given, right))
    raise AssertionError(f"{what} gives {shown}, expected {expected}.")


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _short(x: Tensor) -> str:
    values = [f"{v:.4f}" for v in x.flatten()[:4].tolist()]
    return values[0] if x.ndim == 0 else f"[{', '.join(values)}{', …' if x.numel() > 4 else ''}]"
