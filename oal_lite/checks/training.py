"""Exercise checks of notebook 06."""

from collections.abc import Callable

import torch

from oal_lite.distillation import logit_kd
from oal_lite.widgets.loss_terms import shares as library_shares


def check_distillation(loss: Callable) -> str:
    """Check `loss(student_logits, teacher_logits)`: KL(teacher || student), batch mean.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    student = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    teacher = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    got = loss(student, teacher)
    assert got is not None, "loss returns nothing; is there a return?"
    assert abs(float(loss(teacher, teacher))) < 1e-6, "it must be zero where both agree"
    expected, other = logit_kd(student, teacher).item(), logit_kd(teacher, student).item()
    assert abs(float(got) - other) > 1e-5, (
        "that is KL(student || teacher): the weights in front of the logarithm are the teacher's"
    )
    assert abs(float(got) - 2 * expected) > 1e-5, "that is the sum over the batch; take the mean"
    assert abs(float(got) - expected) < 1e-5, f"expected {expected:.6f} nats, got {float(got):.6f}"
    return "Right: the same number as oal_lite.distillation.logit_kd."


def check_shares(shares: Callable) -> str:
    """Check `shares(gram, weights)`: the part of the step that each loss term makes.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    got = shares(torch.tensor([[1.0, 0.0], [0.0, 4.0]]), torch.tensor([1.0, 1.0]))
    assert got is not None, "shares returns nothing; is there a return?"
    assert torch.allclose(got, torch.tensor([0.2, 0.8])), (
        f"gradients of length 1 and 2 at a right angle: expected (0.2, 0.8), got {got.tolist()}"
    )
    gram, weights = torch.tensor([[1.0, -2.0], [-2.0, 9.0]]), torch.tensor([3.0, 0.5])
    got, expected = shares(gram, weights), library_shares(gram, weights.tolist())[1]
    assert abs(got.sum().item() - 1) < 1e-5, f"shares sum to 1; yours sum to {got.sum():.3f}"
    assert torch.allclose(got, expected, atol=1e-5), (
        f"two terms that pull against each other: expected {expected.tolist()}, got {got.tolist()}"
    )
    return "Right. A term that pulls against the sum has a negative share."
