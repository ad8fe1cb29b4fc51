"""What all checks share: comparing an answer with the right one, and recognising known slips.

A reader sees one sentence. Jupyter would print the traceback of an error, and with it the lines
of the check, which hold the answer; so these errors bring their own, shorter one.
"""

import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path

import torch
from torch import Tensor

CHECKS = str(Path(__file__).parent)


class _Sentence:
    """An error that IPython shows as its message alone."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class NotRight(_Sentence, AssertionError):
    """The answer is not right yet; the message says what is wrong with it."""


class NotWritten(_Sentence, NotImplementedError):
    """The exercise still waits for its answer."""


def exercise(check: Callable[..., str]) -> Callable[..., str]:
    """Let a check say in one sentence whatever goes wrong, in the check or in the reader's code.

    Raises:
        NotWritten: if the reader's code raises NotImplementedError, as a stub does.
        NotRight: if the check refuses the answer, or the reader's code raises anything else.
    """

    @wraps(check)
    def said(answer: object) -> str:
        try:
            return check(answer)
        except AssertionError as error:
            raise NotRight(str(error) or "Your code raises an AssertionError.") from error
        except Exception as error:
            if _is_of_the_stub(error):
                raise NotWritten(
                    "Not written yet: put your answer in the place of "
                    "`raise NotImplementedError(...)` and run the cell again. Hints stand beside "
                    "the exercise."
                ) from error
            line = _line_of_the_reader(error)
            where = f"Your code stops at `{line}`" if line else "The check cannot use your answer"
            raise NotRight(f"{where}: {type(error).__name__}: {error}") from error

    return said


def _is_of_the_stub(error: Exception) -> bool:
    """Torch raises NotImplementedError, too, as for a softmax of integers."""
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""  # none: of code without a file
    return isinstance(error, NotImplementedError) and ("raise " in line or not line)


def _line_of_the_reader(error: Exception) -> str | None:
    """The line at which the check's call of the reader's code went wrong; None: at the call."""
    frames = traceback.extract_tb(error.__traceback__)
    checks = [i for i, f in enumerate(frames) if f.filename.startswith(CHECKS)]
    below = frames[checks[-1] + 1 :]
    return below[0].line if below else None


def returned(answer: object, what: str) -> object:
    """The answer, if there is one.

    Raises:
        AssertionError: if it is None, as that of a function without `return`.
    """
    if answer is None:
        raise AssertionError(f"{what} gives None: did you forget to `return` the result?")
    return answer


def as_numbers(answer: object, what: str) -> Tensor:
    """The answer as a float64 tensor; a list of numbers or of one-number tensors will do, too.

    Raises:
        AssertionError: if it does not convert; the sentence names what was given.
    """
    try:
        return torch.as_tensor(returned(answer, what)).detach().cpu().double()
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
        slips: results of known mistakes, by the hint that helps against each; they may have
            another shape than the truth.
        tolerance: relative and absolute.

    Raises:
        AssertionError: with the hint of the slip that fits, or with both values.
    """
    given, right = as_numbers(answer, what), torch.as_tensor(truth).double()
    if _close(given, right, tolerance):
        return
    for hint, wrong in (slips or {}).items():
        if _close(given, torch.as_tensor(wrong).double(), tolerance):
            raise AssertionError(f"{what} is not right yet: {hint}")
    if given.shape != right.shape:
        raise AssertionError(
            f"{what} has shape {tuple(given.shape)}, expected {tuple(right.shape)}."
        )
    shown, expected = (_short(x) for x in (given, right))
    raise AssertionError(f"{what} gives {shown}, expected {expected}.")


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _short(x: Tensor) -> str:
    values = [f"{v:.4f}" for v in x.flatten()[:4].tolist()]
    return values[0] if x.ndim == 0 else f"[{', '.join(values)}{', …' if x.numel() > 4 else ''}]"
