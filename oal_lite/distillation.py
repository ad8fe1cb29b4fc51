"""Distillation: the student learns the frozen teacher's logits and, through an adapter, features.

Both losses are the Kullback-Leibler divergence KL(teacher || student) between softmaxes, the mean
over the batch, in nats. OAL adds them to the cross-entropy with weights 4 and 8.

A third, ours, hands on what the teacher's features know and its logits do not say: how far an
image lies from all that it has seen. The student answers with its energy, the very number that is
scored. By the same distance the teacher's answers can be hedged, so that softmax scores learn it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from oal_lite.arguments import (
    finite_loss,
    need_count,
    need_finite,
    need_floats,
    need_kind,
    need_number,
    need_room,
    need_tensor,
    need_whole,
)
from oal_lite.scores import class_gaussians, energy
from oal_lite.teacher import TeacherOutputs


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
    softened = _kl(student_logits / temperature, teacher_logits / temperature)
    return finite_loss(temperature * temperature * softened, "the distillation loss")


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
        need_count(teacher_dim=teacher_dim, student_dim=student_dim)
        need_room(4 * teacher_dim * student_dim, teacher_dim=teacher_dim, student_dim=student_dim)
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


def distance_kd(
    student_logits: Float[Tensor, "n c"], distances: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Distance distillation, 1 - corr(E, D): the energy shall follow the teacher's distance.

    E_i = -log sum_c exp(logits_ic) is the student's energy of image i, high = OOD; D_i is how far
    the teacher's feature of it lies from ID features (a module of `DISTANCES`). Pearson's
    correlation, over the batch, asks for no unit, no margin and no offset. For example E = (1, 2,
    4) and D = (10, 20, 40) agree, and cost 0. Energies that rise where distances fall cost 2.

    KL divergences of softmaxes, as in `logit_kd`, leave the energy free: adding a constant to all
    logits of an image changes its energy and no softmax.

    Args:
        student_logits: Shape (n, c).
        distances: Shape (n,).

    Returns:
        The loss, a scalar from 0 to 2; 1 where all energies or all distances are equal.

    Raises:
        ValueError: If there is not one distance for each of at least 2 images.

    Source: energy as Liu et al., NeurIPS 2020; correlation in place of divergence as in
    distillation by Huang et al., NeurIPS 2022 (DIST). Their use here is ours.
    """
    need_floats(student_logits=student_logits, distances=distances)
    n = len(distances)
    if n < 2 or student_logits.ndim != 2 or distances.shape != (len(student_logits),):
        raise ValueError(
            f"logits {tuple(student_logits.shape)} and distances {tuple(distances.shape)}: a "
            "correlation needs (n, c) logits and (n,) distances with n at least 2."
        )
    energies = -student_logits.logsumexp(dim=1)
    correlation = F.cosine_similarity(
        energies - energies.mean(), distances - distances.mean(), dim=0
    )
    return finite_loss(1 - correlation, "distance distillation")


def hedged(
    logits: Float[Tensor, "n c"],
    distances: Float[Tensor, " n"],
    id_distances: Float[Tensor, " m"],
    r: int = 4,
) -> Float[Tensor, "n c"]:
    """The teacher's answers, the less sure the farther an image lies from what the teacher knows.

        p_i = (1 - h_i) softmax(t_i) + h_i / c,     h_i = F(D_i)^r;     returned: log p_i

    F(D) is the share of ID images that lie nearer than D, so h_i is the chance that r of them,
    drawn at random, all do. For example an image that lies farther than half of all ID images is
    hedged by 0.5^4 = 6 %, one that lies farther than 95 % of them by 81 %, and one that lies
    farther than all is answered by "any class". A classifier is often sure of an image whose like
    it has never seen; the distance of its features is not.

    Args:
        logits: the teacher's t, shape (n, c).
        distances: D of the same images, by a module of `DISTANCES`, shape (n,).
        id_distances: those of ID images, shape (m,).
        r: how many, at least 1. The larger, the nearer the edge before an answer is hedged.

    Returns:
        Log-probabilities, which are logits too, shape (n, c).

    Raises:
        ValueError: If there is not one distance for each image, or no ID image, or r is below 1.

    Source: ours. Outlier exposure (Hendrycks et al., ICLR 2019) asks for h_i = 1 on all outliers.
    """
    need_floats(logits=logits, distances=distances, id_distances=id_distances)
    need_whole(r=r)
    if logits.ndim != 2 or distances.shape != (len(logits),):
        raise ValueError(
            f"logits {tuple(logits.shape)} and distances {tuple(distances.shape)}: hedging needs "
            "(n, c) logits and (n,) distances of the same images."
        )
    if id_distances.ndim != 1 or not len(id_distances) or r < 1:
        raise ValueError(
            f"id_distances {tuple(id_distances.shape)} and r={r}: pass distances of ID images, "
            "(m,) with m at least 1, and r of at least 1: the usual value is 4."
        )
    need_finite(logits=logits, distances=distances, id_distances=id_distances)
    nearer = torch.searchsorted(id_distances.sort().values, distances.contiguous())
    h = (nearer / len(id_distances)).to(logits.dtype)[:, None] ** r
    sure = (1 - h).log() + logits.log_softmax(dim=1)  # a logarithm of 0 is -inf, and adds nothing
    unsure = (h / logits.shape[1]).log()
    return torch.logaddexp(sure, unsure.expand_as(sure))


def _bank(known: TeacherOutputs) -> Float[Tensor, "m d"]:
    """The features that a distance is measured to."""
    need_kind(TeacherOutputs, "what the teacher says of ID images", known=known)
    need_floats(**{"features of known": known.features})
    if known.features.ndim != 2 or not len(known.features):
        raise ValueError(
            f"features of known have shape {tuple(known.features.shape)}; expected a row for each "
            "of one or more ID images"
        )
    need_finite(**{"features of known": known.features})
    return known.features


def _beside(said: TeacherOutputs, width: int) -> Float[Tensor, "n d"]:
    """The features whose distance is asked for, in single precision."""
    if said.features.shape[-1] != width:
        raise ValueError(
            f"features of {said.features.shape[-1]} numbers, and {width} in those of the ID "
            "images; take both from one teacher"
        )
    need_finite(**{"the teacher's features": said.features})
    return said.features.float()


class TeacherDistance(nn.Module):
    """Mahalanobis distance of teacher features to the nearest class mean, fitted once.

    The square root of `scores.mahalanobis`, in single precision.

    Args:
        known: What the teacher says of m ID training images.
        labels: Class of each, shape (m,).

    Raises:
        ValueError: As `scores.class_gaussians`.

    Source: Lee et al., NeurIPS 2018, arXiv:1807.03888, section 2.1.
    """

    def __init__(self, known: TeacherOutputs, labels: Int[Tensor, " m"]) -> None:
        super().__init__()
        bank = _bank(known)
        centre = bank.double().mean(dim=0)  # taken off first, for the digits of single precision
        whiten, means = class_gaussians(bank.double() - centre, labels)
        for name, value in {"centre": centre, "whiten": whiten, "means": means}.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, said: TeacherOutputs) -> Float[Tensor, " n"]:
        """Distances, high = OOD."""
        features = _beside(said, len(self.centre))
        return torch.cdist((features - self.centre) @ self.whiten, self.means).amin(dim=1)


class TeacherNeighbours(nn.Module):
    """Distance of teacher features to their k-th nearest ID feature, all on the unit sphere.

    `scores.knn` on a bank that stays where the student trains. It asks for no Gaussian classes, and
    is the distance by which the paper finds the edge of a class. An image of the bank is its own
    first neighbour, so k should be larger than 1.

    Args:
        known: What the teacher says of m ID training images.
        labels: Not needed; here so that all of `DISTANCES` are made alike.
        k: Which neighbour, from 1 to m; the last one where the bank is smaller.

    Source: Sun et al., ICML 2022, arXiv:2204.06507, section 3.
    """

    def __init__(self, known: TeacherOutputs, labels: Int[Tensor, " m"], k: int = 50) -> None:
        super().__init__()
        bank = _bank(known)
        need_count(k=k)
        self.k = min(k, len(bank))
        self.register_buffer("bank", F.normalize(bank.float(), dim=1), persistent=False)

    def forward(self, said: TeacherOutputs) -> Float[Tensor, " n"]:
        """Distances in [0, 2], high = OOD."""
        cosines = F.normalize(_beside(said, self.bank.shape[1]), dim=1) @ self.bank.T
        kth = cosines.topk(self.k, dim=1).values[:, -1]
        return (2 - 2 * kth).clamp_min(0).sqrt()


class TeacherEnergy(nn.Module):
    """The teacher's own energy, -log sum_c exp(t_c): no distance, but what its logits know.

    Args:
        known, labels: Not needed; here so that all of `DISTANCES` are made alike.
    """

    def __init__(self, known: TeacherOutputs, labels: Int[Tensor, " m"]) -> None:
        super().__init__()

    def forward(self, said: TeacherOutputs) -> Float[Tensor, " n"]:
        """Energies, high = OOD."""
        return energy(said.logits.float())


# By what the student's energy can be told how foreign an image is.
DISTANCES = {"mahalanobis": TeacherDistance, "knn": TeacherNeighbours, "energy": TeacherEnergy}


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
