"""Loss terms: the named summands from which `recipes` puts every training arm together."""

from collections.abc import Sized
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from oal_lite.arguments import (
    finite_loss,
    need_choice,
    need_integers,
    need_kind,
    need_weight,
)
from oal_lite.distillation import (
    DISTANCES,
    FeatureAdapter,
    distance_kd,
    feature_kd,
    logit_kd,
)
from oal_lite.images import LazyImages
from oal_lite.mutual_information import ClubNet
from oal_lite.teacher import TeacherOutputs


@dataclass
class Step:
    """What the loss terms see of one training step."""

    labels: Int[Tensor, " b"]
    logits: Float[Tensor, "b k"]
    features: Float[Tensor, "b d"]
    teacher_features: Float[Tensor, "b t"]
    teacher_logits: Float[Tensor, "b k"]
    generator: torch.Generator
    extra: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def beside(self, name: str) -> Float[Tensor, "m k"]:
        """Logits of the images that a term has asked for beside the batch.

        Raises:
            ValueError: if this step has none.
        """
        if name not in self.extra:
            raise ValueError(
                f"{name!r} looks at images beside the batch, and this step has none; train it with "
                "train.fit, or take an arm without it, as oal-paper"
            )
        return self.extra[name][0]


def _need_rows(**parts: Sized) -> None:
    """Refuse parts of a term that are empty, or of different lengths."""
    lengths = {name: len(part) for name, part in parts.items()}
    if min(lengths.values()) < 1 or len(set(lengths.values())) > 1:
        found = " and ".join(f"{n} {name}" for name, n in lengths.items())
        raise ValueError(f"{found}; expected at least one, and as many of each")


def _need_labelled(**parts: Tensor) -> None:
    """Refuse rows without a label each, and labels that are no classes."""
    _need_rows(**parts)
    name, labels = [*parts.items()][-1]
    need_integers(**{name: labels})
    if labels.min() < 0:
        raise ValueError(f"{name} hold {labels.min().item()}; expected classes, from 0 on")


class Term(nn.Module):
    """One named summand of the loss.

    A term may own parameters, which the main optimiser trains at the term's own rate; it may ask
    for extra images, or extra feature maps, to go through the student with the batch; it may do
    something of its own before each step.
    """

    lr: float | None = None  # for the term's own parameters

    def __init__(self, name: str, weight: float):
        super().__init__()
        need_weight(**{f"weight of {name!r}": weight})
        self.name, self.weight = name, float(weight)

    def _hold(self, **parts: Tensor | LazyImages | None) -> None:
        """Keep tensors where the term goes, and anything else, such as unread images, as it is."""
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part, persistent=False)
            else:
                setattr(self, name, part)

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"] | None:
        """Images that the student shall see beside the batch of `n`; none by default."""
        return None

    def extra_maps(
        self, n: int, side: int, generator: torch.Generator
    ) -> Float[Tensor, "m c s s"] | None:
        """Feature maps of a side, to join the batch of `n` before the student's third stage."""
        return None

    def before(self, step: Step) -> None:
        """Do what must come before this step's loss; nothing by default."""

    def main_parameters(self) -> list[nn.Parameter]:
        """Parameters for the main optimiser."""
        return list(self.parameters())


class CrossEntropy(Term):
    """-log softmax(logits)[label], the mean over the batch."""

    def __init__(self):
        super().__init__("cross-entropy", 1.0)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        return finite_loss(F.cross_entropy(step.logits, step.labels), self.name)


class LogitKD(Term):
    """KL(softmax teacher || softmax student) on logits; see `distillation.logit_kd`."""

    def __init__(self, weight: float):
        super().__init__("distil logits", weight)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        return logit_kd(step.logits, step.teacher_logits)


class FeatureKD(Term):
    """The same on features, through an adapter that is trained along; see `feature_kd`."""

    def __init__(self, weight: float, teacher_dim: int, student_dim: int, lr: float):
        super().__init__("distil features", weight)
        self.adapter = FeatureAdapter(teacher_dim, student_dim)
        self.lr = lr

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        return feature_kd(step.features, self.adapter(step.teacher_features))


class DistanceKD(Term):
    """The student's energy follows the teacher's distance to what it knows; see `distance_kd`.

    Args:
        weight: of the term.
        known: what the teacher says of n ID training images.
        labels: of the images, (n,).
        kind: of distance, a key of `distillation.DISTANCES`.
    """

    def __init__(
        self, weight: float, known: TeacherOutputs, labels: Int[Tensor, " n"], kind: str = "knn"
    ):  # fmt: skip
        super().__init__("distil distance", weight)
        need_choice(DISTANCES, distance=kind)
        self.distance = DISTANCES[kind](known, labels)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        said = TeacherOutputs(step.teacher_features, step.teacher_logits)
        return distance_kd(step.logits, self.distance(said))


class Answers(Term):
    """What the teacher says of more images than the batch holds: its logits, and its distance.

        logit_kd(student, teacher)  +  distance_kd(student, D)

    The images are drawn, and the teacher has looked at each, before the training. More of them also
    means more training: the control is ID images once more (`Arm.answers` of `("id",)`).

    Args:
        weight: of both summands.
        images: (m, 3, h, w); perhaps still unread.
        logits: the teacher's, (m, k).
        distances: the teacher's D, (m,); without them its logits alone are learnt.
    """

    def __init__(
        self, weight: float, images: UInt8[Tensor, "m 3 h w"] | LazyImages,
        logits: Float[Tensor, "m k"], distances: Float[Tensor, " m"] | None = None,
    ):  # fmt: skip
        super().__init__("teacher's answers", weight)
        parts = {"images": images, "logits": logits, "distances": distances}
        _need_rows(**{name: part for name, part in parts.items() if part is not None})
        self._hold(**parts)
        self._drawn: Tensor | None = None

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"]:
        """As many of the images as the batch has."""
        self._drawn = torch.randint(len(self.images), (n,), generator=generator)
        return self.images[self._drawn]

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        logits = step.beside(self.name)
        loss = logit_kd(logits, self.logits[self._drawn])
        if self.distances is None:
            return loss
        return loss + distance_kd(logits, self.distances[self._drawn])


PAIRINGS, FITS = ("random", "class"), ("bound", "likelihood")  # of `Micl`


class Micl(Term):
    """CLUB(outlier -> ID feature), made small; `pairing` and `q` choose between text and code.

    Args:
        name, weight: of the term.
        q: the network q(feature | outlier).
        vectors: outliers, (m, x); classes: (m,).
        pairing: `"random"` draws any outlier for a feature, `"class"` one of the feature's class.
        fit: `"bound"` lets q minimise the bound with the student (released);
            `"likelihood"` fits q on the pairs first, by Adam, and holds it for the bound (CLUB,
            Cheng et al., ICML 2020, section 3.2).
        lr: of q.
    """

    def __init__(
        self, name: str, weight: float, q: ClubNet, vectors: Tensor, classes: Tensor, *,
        pairing: str, fit: str, lr: float,
    ):  # fmt: skip
        super().__init__(name, weight)
        need_choice(PAIRINGS, pairing=pairing)
        need_choice(FITS, fit=fit)
        need_kind(ClubNet, "as recipes.build_terms makes", q=q)
        _need_labelled(vectors=vectors, classes=classes)
        self.q, self.pairing, self.fit, self.lr = q, pairing, fit, lr
        self._hold(vectors=vectors)
        order = classes.argsort(stable=True)
        counts = classes.bincount()
        if pairing == "class" and (counts == 0).any():
            raise ValueError(
                f"{name}: no outlier of classes {(counts == 0).nonzero().flatten().tolist()}; "
                "pairing by class needs at least one of each: synthesise more"
            )
        self._hold(order=order, counts=counts, starts=counts.cumsum(0) - counts)
        self._drawn: Tensor | None = None
        self._optimizer = None
        if fit == "likelihood":
            self._optimizer = torch.optim.Adam(q.parameters(), lr=lr)

    def _draw(self, step: Step) -> Float[Tensor, "b x"]:
        chance = torch.rand(len(step.labels), generator=step.generator).to(self.vectors.device)
        if self.pairing == "random":
            return self.vectors[(chance * len(self.vectors)).long()]
        if len(self.counts) < step.logits.shape[1]:
            raise ValueError(
                f"{self.name}: outliers of the first {len(self.counts)} classes only, of "
                f"{step.logits.shape[1]}; pairing by class needs at least one of each"
            )
        within = (chance * self.counts[step.labels]).long()
        return self.vectors[self.order[self.starts[step.labels] + within]]

    def before(self, step: Step) -> None:
        """Draw the outliers of this step; fit q on the pairs where it is fitted."""
        self._drawn = self._draw(step)
        if self._optimizer is not None:
            self.q.requires_grad_(True)
            loss = -self.q.log_likelihood(self._drawn, step.features.detach().float())
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self.q.requires_grad_(False)

    def main_parameters(self) -> list[nn.Parameter]:
        """Those of q only where q has no optimiser of its own."""
        return [] if self._optimizer is not None else list(self.q.parameters())

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the bound on this step's pairs."""
        return self.q.bound(self._drawn, step.features.float())


class OutlierExposure(Term):
    """Cross-entropy to the uniform distribution on outlier images: -mean_k log softmax(logits)_k.

    Source: Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", ICLR 2019, eq. 3.
    """

    def __init__(self, weight: float, images: UInt8[Tensor, "n 3 h w"] | LazyImages):
        super().__init__("outlier exposure", weight)
        _need_rows(images=images)
        self._hold(images=images)

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"]:
        """As many outlier images as the batch has ID images."""
        return self.images[torch.randint(len(self.images), (n,), generator=generator)]

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        logits = step.beside(self.name)
        return -logits.log_softmax(dim=1).mean()


class Reconstructions(Term):
    """Cross-entropy on ID images that have been through the diffusion model's autoencoder.

    A decoded outlier has two marks: its odd content, and the decoder's blur. Where some ID images
    have the blur too, a student that learns the blur gains nothing.
    """

    def __init__(self, weight: float, images: UInt8[Tensor, "n 3 h w"], labels: Int[Tensor, " n"]):
        super().__init__("reconstructions", weight)
        _need_labelled(images=images, labels=labels)
        self._hold(images=images, labels=labels)
        self._drawn: Tensor | None = None

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "m 3 h w"]:
        """Half as many reconstructions as the batch has ID images."""
        self._drawn = torch.randint(len(self.images), (n // 2,), generator=generator)
        return self.images[self._drawn]

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        return F.cross_entropy(step.beside(self.name), self.labels[self._drawn])


class LatentExposure(Term):
    """Outlier exposure in latent space: no outlier is decoded, and all of it reaches the head.

        CE(student(stem(z_id)), y)  +  outlier_weight * mean_k -log softmax(student(stem(z_out)))_k

    `stem` leads VAE latents into the student's third stage. Encoded ID images teach the shared
    stages to read latents; they also keep the student from learning the entrance in place of the
    outlier. Both kinds go through in one batch, so no statistic of a batch tells them apart.

    Args:
        weight: of both summands.
        outlier_weight: of the second, within the term.
        stem: the entrance, as `students.LatentStem`; trained along at the rate `lr`.
        id_latents: of the encoded ID training images, (n, c, h, w).
        labels: of the ID images, (n,).
        outliers: latents, (m, c, h, w).
    """

    def __init__(
        self, weight: float, outlier_weight: float, stem: nn.Module, *,
        id_latents: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"],
        outliers: Float[Tensor, "m c h w"], lr: float,
    ):  # fmt: skip
        super().__init__("latent exposure", weight)
        _need_labelled(id_latents=id_latents, labels=labels)
        _need_rows(outliers=outliers)
        self.outlier_weight, self.stem, self.lr = outlier_weight, stem, lr
        self._hold(id_latents=id_latents, labels=labels, outliers=outliers)
        self._drawn: Tensor | None = None

    def extra_maps(self, n: int, side: int, generator: torch.Generator) -> Float[Tensor, "m c s s"]:
        """Maps of as many ID latents as the batch has images, then of as many outliers."""
        self._drawn = torch.randint(len(self.labels), (n,), generator=generator)
        outliers = torch.randint(len(self.outliers), (n,), generator=generator)
        latents = torch.cat([self.id_latents[self._drawn], self.outliers[outliers]])
        mirrored = torch.rand(2 * n, generator=generator) < 0.5  # as half of the images are
        latents[mirrored] = latents[mirrored].flip(-1)
        return self.stem(latents, side)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        known, unknown = step.beside(self.name).chunk(2)
        to_uniform = -unknown.log_softmax(dim=1).mean()
        return F.cross_entropy(known, self.labels[self._drawn]) + self.outlier_weight * to_uniform
