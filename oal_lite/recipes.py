"""Training arms: each is a sum of named loss terms, and each answers one question.

    ce                CE                                        the baseline
    kd                CE + distillation                         is it the teacher?
    oal-as-released   kd + MICL as the released code runs it    what does the code do?
    oal-paper         kd + MICL as the text describes it        what does the text say?
    oal-noise         oal-paper on Gaussian noise               does the synthesis matter?
    oe-pixels         kd + outlier exposure on decoded outliers is latent better than pixel?

MICL is the paper's "mutual-information-based contrastive loss": the CLUB bound between
synthetic outliers and the student's ID features, to be made small. Its two ways differ in three
places, where the released code departs from its text (D1 to D3 in the README):

    ==============  ===========================  ==================================
                    oal-as-released              oal-paper
    ==============  ===========================  ==================================
    selection (D1)  scrambled, so random         farthest of each boundary point
    pairs (D2)      outlier and feature random   outlier of the feature's own class
    q (D3)          minimises the bound          fitted by likelihood, then held
    ==============  ===========================  ==================================
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from oal_lite.distillation import FeatureAdapter, feature_kd, logit_kd
from oal_lite.mutual_information import ClubNet
from oal_lite.presets import LossWeights, TrainSettings


@dataclass(frozen=True)
class Outliers:
    """Synthetic outliers: k-NN ones in feature space, and what diffusion made of some of them.

    Attributes:
        vectors: k-NN outliers, scaled as the prompt's token is, (m, d).
        vector_classes: the class each lies at the edge of, (m,).
        latents: (n, c, h, w).
        latent_classes: (n,).
        images: the decoded latents, 8-bit; only the pixel arms look at them.
    """

    vectors: Float[Tensor, "m d"]
    vector_classes: Int[Tensor, " m"]
    latents: Float[Tensor, "n c h w"]
    latent_classes: Int[Tensor, " n"]
    images: UInt8[Tensor, "n 3 h2 w2"]


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


class Term(nn.Module):
    """One named summand of the loss.

    A term may own parameters, which the main optimiser trains at the term's own rate; it may ask
    for extra images to go through the student with the batch; it may do something of its own
    before each step.
    """

    lr: float | None = None  # for the term's own parameters

    def __init__(self, name: str, weight: float):
        super().__init__()
        self.name, self.weight = name, weight

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"] | None:
        """Images that the student shall see beside the batch of `n`; none by default."""
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
        return F.cross_entropy(step.logits, step.labels)


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
        if pairing not in ("random", "class") or fit not in ("bound", "likelihood"):
            raise ValueError(
                f"pairing={pairing!r}, fit={fit!r}: expected pairing 'random' or 'class', and fit "
                "'bound' or 'likelihood'"
            )
        self.q, self.pairing, self.fit, self.lr = q, pairing, fit, lr
        self.register_buffer("vectors", vectors, persistent=False)
        order = classes.argsort(stable=True)
        counts = classes.bincount()
        if pairing == "class" and (counts == 0).any():
            raise ValueError(
                f"{name}: no outlier of classes {(counts == 0).nonzero().flatten().tolist()}; "
                "pairing by class needs at least one of each: synthesise more"
            )
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
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

    def __init__(self, weight: float, images: UInt8[Tensor, "n 3 h w"]):
        super().__init__("outlier exposure", weight)
        self.register_buffer("images", images, persistent=False)

    def extra_images(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"]:
        """As many outlier images as the batch has ID images."""
        return self.images[torch.randint(len(self.images), (n,), generator=generator)]

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Evaluate the term."""
        logits, _ = step.extra[self.name]
        return -logits.log_softmax(dim=1).mean()


# --- arms -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """What an arm is made of.

    Attributes:
        question: that it answers.
        outliers: the k-NN selection behind its outliers, `"noise"` for Gaussian noise in the
            place of the synthetic ones, or None.
        distil: both distillation terms.
        micl: (pairing, fit) of both MICL terms, or None.
        exposure: outlier exposure on the decoded outliers.
    """

    question: str
    outliers: str | None = None
    distil: bool = True
    micl: tuple[str, str] | None = None
    exposure: bool = False


ARMS: dict[str, Arm] = {
    "ce": Arm("the baseline", distil=False),
    "kd": Arm("is it the teacher?"),
    "oal-as-released": Arm("what does the code do?", "as_released", micl=("random", "bound")),
    "oal-paper": Arm("what does the text say?", "farthest", micl=("class", "likelihood")),
    "oal-noise": Arm("does the synthesis matter?", "noise", micl=("class", "likelihood")),
    "oe-pixels": Arm("is latent better than pixel?", "farthest", distil=True, exposure=True),
}


def get_arm(name: str) -> Arm:
    """Look up an arm.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r}; choose from {', '.join(ARMS)}")
    return ARMS[name]


def column_means(latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n w"]:
    """The released code's view of a latent: the mean over channels, then over rows.

    A 4 x 64 x 64 latent becomes 64 numbers; where things are, and in which channel, is lost.
    """
    return latents.mean(dim=(1, 2))


def gaussian_like(outliers: Outliers, generator: torch.Generator) -> Outliers:
    """Gaussian noise in the place of every outlier, with the same mean and spread: a control."""

    def noise(x: Tensor) -> Tensor:
        return x.mean() + x.std() * torch.randn(x.shape, generator=generator)

    images = noise(outliers.images.float()).round().clamp(0, 255).to(torch.uint8)
    return Outliers(
        noise(outliers.vectors), outliers.vector_classes, noise(outliers.latents),
        outliers.latent_classes, images,
    )  # fmt: skip


def build_terms(
    arm: Arm,
    *,
    outliers: Outliers | None,
    teacher_dim: int,
    student_dim: int,
    weights: LossWeights,
    settings: TrainSettings,
    latent_vector: Callable[[Tensor], Tensor] = column_means,
) -> nn.ModuleList:
    """Put an arm's loss terms together; the loss is the sum of weight times term.

    Raises:
        ValueError: if the arm needs outliers and gets none.
    """
    if arm.outliers and outliers is None:
        raise ValueError(f"an arm on {arm.outliers!r} outliers needs them: pass outliers=")
    terms: list[Term] = [CrossEntropy()]
    if arm.distil:
        terms.append(LogitKD(weights.kd_logits))
        terms.append(FeatureKD(weights.kd_features, teacher_dim, student_dim, settings.adapter_lr))
    if arm.micl:
        pairing, fit = arm.micl
        how = {"pairing": pairing, "fit": fit}
        how["lr"] = settings.q_fit_lr if fit == "likelihood" else settings.q_lr
        seen = latent_vector(outliers.latents)
        # Widths of the released networks; only their ends follow the data.
        q_knn = ClubNet(teacher_dim, student_dim, (256,), (256,))
        q_diffusion = ClubNet(seen.shape[1], student_dim, (32, 16, 256), (256,))
        terms.append(
            Micl("MICL k-NN", weights.micl_knn, q_knn, outliers.vectors,
                 outliers.vector_classes, **how)
        )  # fmt: skip
        terms.append(
            Micl("MICL diffusion", weights.micl_diffusion, q_diffusion, seen,
                 outliers.latent_classes, **how)
        )  # fmt: skip
    if arm.exposure:
        terms.append(OutlierExposure(weights.exposure, outliers.images))
    return nn.ModuleList(terms)
