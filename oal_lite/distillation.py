"""Distillation: the student learns the frozen teacher's logits and, through an adapter, features.

Both losses are the Kullback-Leibler divergence KL(teacher || student) between softmaxes, the mean
over the batch, in nats. OAL adds them to the cross-entropy with weights 4 and 8.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from oal_lite.arguments import (
    finite_loss,
    need_finite,
    need_floats,
    need_number,
    need_tensor,
    need_whole,
)


def logit_kd(
    student_logits: Float[Tensor, "n c"],
    teacher_logits: Float[Tensor, "n c"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Logit distillation, T^2 KL(softmax(teacher / T) || softmax(student / T)), batch mean.

    The factor T^2 keeps the size of the gradient about the same for every temperature.

    Args:
        student_logits: Shape (n, c).
        teacher_logits: Shape (n, c). Nothing is detached here; a frozen teacher's logits carry no
            gradient anyway.
        temperature: T, above 0. OAL uses 1.

    Returns:
        The loss, a scalar in nats times T^2.

    Raises:
        ValueError: If the shapes are not equal, not two-dimensional or empty, or T is not above 0.

    Source: Hinton et al., arXiv:1503.02531, section 2; the released OAL code's
    ``openood/trainers/oal_trainer.py``.
    """
    need_floats(student_logits=student_logits, teacher_logits=teacher_logits)
    need_number(temperature=temperature)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0: OAL uses 1, Hinton 2 to 20.")
    return temperature**2 * _kl(student_logits / temperature, teacher_logits / temperature)


def feature_kd(
    student_features: Float[Tensor, "n d"], mapped_teacher_features: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """Feature distillation, KL(softmax(DT(teacher)) || softmax(student)), batch mean.

    A softmax over feature coordinates, as in the paper, compares their differences only: adding a
    constant to a feature vector changes nothing. As in the released code, gradient flows both ways,
    to the student and through the target to the adapter DT. The adapter can then lower the loss by
    itself, so a small value does not prove that the student has moved.

    Args:
        student_features: Pooled student features, shape (n, d).
        mapped_teacher_features: Teacher features after `FeatureAdapter`, shape (n, d).

    Returns:
        The loss, a scalar in nats.

    Raises:
        ValueError: If the shapes are not equal, not two-dimensional or empty.

    Source: OAL, arXiv:2406.16525; the released code's ``openood/trainers/oal_trainer.py``.
    """
    return _kl(student_features, mapped_teacher_features)


class FeatureAdapter(nn.Module):
    """The adapter DT from teacher to student width: BatchNorm, Linear, ReLU, BatchNorm.

    Args:
        teacher_dim: Width of teacher features, 768 for ViT-B/16.
        student_dim: Width of student features, 512 for ResNet-18.

    Raises:
        ValueError: If a width is below 1.

    Source: the released OAL code's ``openood/networks/kd_model.py``.
    """

    def __init__(self, teacher_dim: int, student_dim: int) -> None:
        super().__init__()
        need_whole(teacher_dim=teacher_dim, student_dim=student_dim)
        if min(teacher_dim, student_dim) < 1:
            raise ValueError(
                f"teacher_dim={teacher_dim} and student_dim={student_dim} must be at least 1."
            )
        self.teacher_dim = teacher_dim
        self.layers = nn.Sequential(
            nn.BatchNorm1d(teacher_dim),
            nn.Linear(teacher_dim, student_dim),
            nn.ReLU(),
            nn.BatchNorm1d(student_dim),
        )

    def forward(self, teacher_features: Float[Tensor, "n t"]) -> Float[Tensor, "n s"]:
        """Teacher features mapped to the student's width.

        Args:
            teacher_features: Shape (n, teacher_dim).

        Returns:
            Mapped features, shape (n, student_dim).

        Raises:
            ValueError: If the shape does not fit, or one image comes in training mode.
        """
        need_tensor(teacher_features=teacher_features)
        shape = tuple(teacher_features.shape)
        if len(shape) != 2 or shape[1] != self.teacher_dim:
            raise ValueError(
                f"teacher_features has shape {shape} but this adapter expects "
                f"(n, {self.teacher_dim}): build it with the width of your teacher."
            )
        if self.training and shape[0] < 2:
            raise ValueError(
                f"teacher_features has {shape[0]} row but batch statistics need 2 in training: "
                "drop the short last batch, or call eval()."
            )
        need_finite(teacher_features=teacher_features)
        return self.layers(teacher_features.to(self.layers[1].weight))


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    need_floats(student=student, teacher=teacher)
    if student.shape != teacher.shape or student.ndim != 2 or student.numel() == 0:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must share one "
            "shape (n, d), n at least 1: feed both the same batch, and map features to one width."
        )
    loss = F.kl_div(
        student.log_softmax(dim=1),
        teacher.log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return finite_loss(loss, "the distillation loss")
