"""Exercise checks of notebook 06."""

from collections.abc import Callable

import torch

from oal_lite.checks.answers import compare, exercise
from oal_lite.distillation import logit_kd
from oal_lite.widgets.loss_terms import shares as library_shares


@exercise
def check_distillation(loss: Callable) -> str:
    """`loss(student_logits, teacher_logits)`: KL(teacher || student), batch mean."""
    student = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    teacher = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    truth, other = logit_kd(student, teacher), logit_kd(teacher, student)
    p = teacher.softmax(1)
    each = (p * (p.log() - student.log_softmax(1))).sum(1)
    compare(
        loss(student, teacher), truth, "your loss", tolerance=1e-5,
        slips={
            "that is KL(student || teacher): the weights in front of the logarithm are the "
            "teacher's.": other,
            "that is the sum over the batch; take the mean.": 2 * truth,
            "that is the mean over classes, too; sum over the classes of an image.": truth / 3,
            "one number is asked for: the mean over the batch.": each,
            "the sign is the other way round: p (log p − log q).": -truth,
            "that is the cross-entropy; the teacher's own entropy is to be taken off.":
                -(p * student.log_softmax(1)).sum(1).mean(),
            "these are logits; log_softmax makes log-probabilities of them.":
                (teacher * (teacher - student)).sum(1).mean(),
        },
    )  # fmt: skip
    compare(loss(teacher, teacher), 0.0, "your loss where student and teacher agree")
    return "Right: the same number as oal_lite.distillation.logit_kd."


@exercise
def check_shares(shares: Callable) -> str:
    """`shares(gram, weights)`: the part of the step that each loss term makes."""
    one, half = torch.tensor([[1.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, -2.0], [-2.0, 9.0]])
    compare(
        shares(one, torch.tensor([1.0, 1.0])), [0.2, 0.8],
        "two gradients of length 1 and 2 at a right angle: your share",
        slips={
            "these are the shares of the lengths; the share is along the step G, so squares "
            "come in.": [1 / 3, 2 / 3],
            "divide by G · G, which is weights @ gram @ weights.": [1.0, 4.0],
            "divide by G · G, not by its root, the length of G.": [1 / 5**0.5, 4 / 5**0.5],
        },
    )  # fmt: skip
    weights = torch.tensor([3.0, 0.5])
    alone = weights.square() * half.diagonal()
    compare(
        shares(half, weights), library_shares(half, weights.tolist())[1],
        "two terms that pull against each other: your share",
        slips={
            "what the terms do to each other is missing: G holds all terms, so use the whole of "
            "gram.": alone / alone.sum(),
            "the weight of the term itself is missing: w_t g_t · G.":
                (half @ weights) / (weights @ half @ weights),
        },
    )  # fmt: skip
    return "Right. A term that pulls against the sum has a negative share."
