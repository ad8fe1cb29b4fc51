"""Training arms: each is a sum of named loss terms, and each answers one question.

    ce                CE                                      the baseline
    kd                CE + distillation                       is it the teacher?
    kd-distance       kd + the teacher's distance             is it what the teacher knows?
    kd-distance-twice the same on ID images once more         is it that more images are seen?
    oal-as-released   kd + MICL as the released code runs it  what does the code do?
    oal-paper         kd + MICL as the text describes it      what does the text say?
    oal-noise         oal-paper on Gaussian noise             does the synthesis matter?
    oe-pixels         kd + exposure on decoded outliers       is latent better than pixel?
    oe-pixels-matched oe-pixels + ID images decoded likewise  the outlier, or the decoder?
    oe-real           kd + exposure on real OOD images        what can exposure give at all?
    oal-latent        kd-distance + latent outliers           how far can latent outliers go?
    oal               kd-distance + what the teacher says of  what if the teacher is asked about
                      outliers and of halves of ID images,    more than ID images?
                      hedged by the distance

Exposure is outlier exposure: a uniform answer is asked for on outliers. The distance is the
teacher's to the nearest ID images, or what a preset names in its place (`Preset.distance`).

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor, nn

from oal_lite.arguments import (
    check_device,
    need_choice,
    need_count,
    need_finite,
    need_floats,
    need_generator,
    need_integers,
    need_kind,
    need_weight,
    need_whole,
)
from oal_lite.distillation import DISTANCES, hedged
from oal_lite.images import LazyImages, check_images
from oal_lite.knn_outliers import Selection
from oal_lite.mutual_information import ClubNet
from oal_lite.presets import LossWeights, Preset, TrainSettings, check_preset
from oal_lite.students import LatentStem
from oal_lite.teacher import TeacherOutputs
from oal_lite.terms import (
    FITS,
    PAIRINGS,
    Answers,
    CrossEntropy,
    DistanceKD,
    FeatureKD,
    LatentExposure,
    LogitKD,
    Micl,
    OutlierExposure,
    Reconstructions,
    Term,
)
from oal_lite.views import Views


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


@dataclass(frozen=True)
class Autoencoded:
    """The ID training images as the diffusion model's autoencoder sees them.

    Attributes:
        latents: of the encoded images, scaled as the outliers are, (n, c, h, w).
        labels: (n,).
        images: the same, decoded again; only the pixel arm with matched ID images looks at them.
    """

    latents: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    images: UInt8[Tensor, "n 3 h2 w2"] | None = None


# --- arms -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """What an arm is made of.

    Attributes:
        question: that it answers, in words; two arms that differ in it alone are equal.
        outliers: the k-NN selection behind its outliers, or None. Two controls stand in the
            place of a selection: `"noise"`, Gaussian noise for every outlier, and `"halves"`, two
            halves of ID latents for the latents (see `gaussian_like`, `halves`).
        distil: both distillation terms.
        distance: distillation of a distance of the teacher's into the energy: to the nearest ID
            images (`"knn"`) or to the means of the classes (`"mahalanobis"`), or None. In its
            place can stand the teacher's own energy (`"energy"`).
        micl: (pairing, fit) of both MICL terms, or None.
        exposure: outlier exposure on what? `"decoded"` outliers; `"matched"`, the same beside ID
            images out of the same decoder; `"real"` images of the validation-OOD classes, whose
            validation metrics then say nothing; `"latent"`, outliers that are never decoded.
        latent_vector: how MICL sees a latent, a key of `LATENT_VECTORS`.
        answers: on which images beside the batch does the teacher answer too? On as many of each
            kind: `"outliers"`, the decoded ones and as many ID images out of the same decoder;
            `"halves"` of two ID images; `"id"`, ID images once more, a control. Its distance is
            among the answers where the arm has one.
        hedge: r of `distillation.hedged`, by which these answers are the less sure the farther an
            image lies from what the teacher knows, by that distance; 0 leaves them as they are.
    """

    question: str = field(compare=False)
    outliers: str | None = None
    distil: bool = True
    distance: str | None = None
    micl: tuple[str, str] | None = None
    exposure: str | None = None
    latent_vector: str = "column_means"
    answers: tuple[str, ...] = ()
    hedge: int = 0

    @property
    def asks_teacher(self) -> bool:
        """Whether it learns anything from the teacher, by its answers or by outliers made of it."""
        return bool(self.distil or self.distance or self.answers or self.outliers)

    @property
    def synthesised(self) -> str | None:
        """The selection that synthesis starts from: both controls are made from the farthest."""
        return "farthest" if self.outliers in ("noise", "halves") else self.outliers

    @property
    def decodes(self) -> bool:
        """Whether it looks at ID images that have been through the autoencoder."""
        return self.exposure == "matched" or "outliers" in self.answers

    @property
    def encodes(self) -> bool:
        """Whether ID images have to be encoded for it, to be looked at or to be decoded again."""
        return self.exposure == "latent" or self.outliers == "halves" or self.decodes

    @property
    def unseen(self) -> tuple[str, ...]:
        """Fields of a `Preset` that have no part in it: they may differ, and its runs do not."""
        unseen = [] if self.asks_teacher else ["teacher"]
        unseen += [] if self.distance else ["distance"]
        unseen += [] if self.outliers else ["n_per_class", "knn", "diffusion"]
        unseen += [] if self.outliers or self.encodes else ["pipeline"]
        return tuple(unseen)


ARMS: dict[str, Arm] = {
    "ce": Arm("the baseline", distil=False),
    "kd": Arm("is it the teacher?"),
    "kd-distance": Arm("is it what the teacher knows?", distance="knn"),
    "kd-distance-twice": Arm("is it that more images are seen?", distance="knn", answers=("id",)),
    "oal-as-released": Arm("what does the code do?", "as_released", micl=("random", "bound")),
    "oal-paper": Arm("what does the text say?", "farthest", micl=("class", "likelihood")),
    "oal-noise": Arm("does the synthesis matter?", "noise", micl=("class", "likelihood")),
    "oe-pixels": Arm("is latent better than pixel?", "farthest", exposure="decoded"),
    "oe-pixels-matched": Arm("the outlier, or the decoder?", "farthest", exposure="matched"),
    "oe-real": Arm("what can outlier exposure give at all?", exposure="real"),
    "oal-latent": Arm(
        "how far can latent outliers go?", "farthest", distance="knn", exposure="latent"
    ),
    "oal": Arm(
        "what if the teacher answers on more than ID images?", "farthest", distance="knn",
        answers=("outliers", "halves"), hedge=4,
    ),
}  # fmt: skip


def get_arm(name: str, preset: Preset | None = None) -> Arm:
    """Look up an arm, as `"oal"`; or a variation of one, as `"oal+distance=knn+hedge=0"`.

    Args:
        name: that of an arm, and fields of `Arm` to be changed; `-` stands between several words.
        preset: whose distance takes the place of the arm's, where it has one.

    Raises:
        ValueError: if there is none of that name, or no such field.
    """
    plain, *changes = name.split("+") if isinstance(name, str) else [name]
    if not isinstance(name, str) or plain not in ARMS:
        hint = "; several answers are joined by -, as answers=halves-id" if plain in ANSWERS else ""
        raise ValueError(f"unknown arm {plain!r}; choose from {', '.join(ARMS)}{hint}")
    arm = ARMS[plain]
    if preset is not None:
        check_preset(preset)
        need_choice(DISTANCES, **{f"preset {preset.name}: distance": preset.distance})
        arm = replace(arm, distance=arm.distance and preset.distance)
    for change in changes:
        key, _, text = change.partition("=")
        if key not in CHANGES:
            raise ValueError(
                f"arm {name!r}: {change!r} is no change of it; write <field>=<value> with one of "
                f"{', '.join(CHANGES)}"
            )
        arm = replace(arm, **{key: _read(key, text)})
    try:
        check_arm(arm)
    except ValueError as error:
        raise ValueError(f"arm {name!r:.160}: {error}") from None
    return arm


# What a variation of an arm may change; `distil` takes the teacher away, and `ce` stands for that.
CHANGES = tuple(f.name for f in fields(Arm) if f.name not in ("question", "distil"))


def _read(key: str, text: str) -> str | int | tuple[str, ...] | None:
    """A field's value as it is written in a name."""
    if key == "answers":
        return tuple(word for word in text.split("-") if word not in ("", "None"))
    if text == "None":
        return None
    if key == "micl":
        return tuple(text.split("-"))
    return int(text) if text.isdecimal() and len(text) < 10 else text


def needed_models(arms: Sequence[Arm]) -> list[str]:
    """Which of a preset's models these arms need: `"teacher"`, `"pipeline"`, both or none."""
    parts = ["teacher"] * any(arm.asks_teacher for arm in arms)
    return parts + ["pipeline"] * any(arm.outliers or arm.encodes for arm in arms)


def column_means(latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n w"]:
    """The released code's view of a latent: the mean over channels, then over rows.

    A 4 x 64 x 64 latent becomes 64 numbers; where things are, and in which channel, is lost.
    """
    need_floats(latents=latents)
    if latents.ndim != 4:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; expected (n, c, h, w)")
    return latents.mean(dim=(1, 2))


LATENT_VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "column_means": column_means,
    "flattened": lambda latents: latents.flatten(1),
    "pooled": lambda latents: F.adaptive_avg_pool2d(latents, 4).flatten(1),  # (n, c, 4, 4)
    "spatial": lambda latents: latents.mean(1).flatten(1),  # (n, h, w): where, in no channel
}


def gaussian_like(outliers: Outliers, generator: torch.Generator) -> Outliers:
    """Gaussian noise in the place of every outlier, with the same mean and spread: a control."""
    need_generator(generator, or_none=False)
    _check_outliers(outliers)
    if min(outliers.vectors.numel(), outliers.latents.numel()) < 2:
        raise ValueError("one number has no spread to imitate; pass more outliers")

    def noise(x: Tensor) -> Tensor:
        return x.mean() + x.std() * torch.randn(x.shape, generator=generator)

    images = noise(outliers.images.float()).round().clamp(0, 255).to(torch.uint8)
    return Outliers(
        noise(outliers.vectors), outliers.vector_classes, noise(outliers.latents),
        outliers.latent_classes, images,
    )  # fmt: skip


def halves(
    x: Num[Tensor, "m c h w"] | LazyImages, labels: Int[Tensor, " m"], n: int,
    generator: torch.Generator,
) -> tuple[Num[Tensor, "n c h w"] | LazyImages, Int[Tensor, " n"]]:  # fmt: skip
    """Half of one ID image or latent beside half of one of another class: no diffusion is needed.

    The cut is upright or level. The class is that of the left or upper half. What is cut together
    out of images that are read late is read late, too.

    Raises:
        ValueError: if all are of one class, for no n, or labels that are not one for each.

    Source: CutMix (Yun et al., ICCV 2019, section 3.1) with a cut through the middle.
    """
    need_integers(labels=labels)
    need_count(n=n)
    need_generator(generator, or_none=False)
    if len(x.shape) != 4 or labels.shape != (len(x),) or (len(labels) and labels.min() < 0):
        raise ValueError(
            f"images or latents of shape {tuple(x.shape)} and labels of shape "
            f"{tuple(labels.shape)}; expected (m, c, h, w), and a class of 0 or more for each"
        )
    if labels.unique().numel() < 2:
        raise ValueError("images of one class have no other half to offer; pass two classes")
    labels = labels.long()  # of bytes an index would be a mask
    first = torch.randint(len(labels), (n,), generator=generator)
    order, counts = labels.argsort(stable=True), labels.bincount()
    own = counts[labels[first]]
    # a place in the row of all that are of another class: those of its own are stepped over
    place = (torch.rand(n, generator=generator, dtype=torch.double) * (len(labels) - own)).long()
    place += own * (place >= (counts.cumsum(0) - counts)[labels[first]])
    second = order[place]
    upright = torch.rand(n, generator=generator) < 0.5
    h, w = (side // 2 for side in x.shape[2:])

    def cut(index: Tensor) -> Tensor:
        made, other, up = x[first[index]].clone(), x[second[index]], upright[index]
        made[up, :, :, w:] = other[up, :, :, w:]
        made[~up, :, h:] = other[~up, :, h:]
        return made

    if isinstance(x, LazyImages):
        return LazyImages(n, x.shape[-1], cut), labels[first]
    return cut(torch.arange(n)), labels[first]


def build_terms(
    arm: Arm,
    *,
    outliers: Outliers | None,
    teacher_dim: int,
    student_dim: int,
    weights: LossWeights,
    settings: TrainSettings,
    known: tuple[TeacherOutputs, Int[Tensor, " n"]] | None = None,
    autoencoded: Autoencoded | None = None,
    real: UInt8[Tensor, "m 3 h w"] | LazyImages | None = None,
    answers: Views | None = None,
    device: str | torch.device = "cpu",
) -> nn.ModuleList:
    """Put an arm's loss terms together; the loss is the sum of weight times term.

    Args:
        arm: what it is made of.
        outliers: for arms with `arm.outliers`.
        teacher_dim: width of the teacher's features.
        student_dim: width of the student's.
        weights: of the terms.
        settings: learning rates, and the student's width.
        known: what the teacher says of ID training images, and their labels; for `arm.distance`.
        autoencoded: for `arm.exposure` of `"matched"` or `"latent"`.
        real: OOD images for `arm.exposure` of `"real"`.
        answers: images for `arm.answers`, and what the teacher says of them.
        device: where the distances of these images are computed.

    Raises:
        ValueError: if the arm needs something that it does not get, or gets what cannot be: a
            weight below 0, no outliers, NaN, labels of another length.
    """
    check_arm(arm)
    need_kind(TrainSettings, "as get_preset('shapes').train", settings=settings)
    _check_weights(weights)
    need_count(teacher_dim=teacher_dim, student_dim=student_dim)
    check_device(device)
    _check_parts(
        arm, outliers=outliers, teacher_dim=teacher_dim, known=known, autoencoded=autoencoded,
        real=real, answers=answers,
    )  # fmt: skip
    terms: list[Term] = [CrossEntropy()]
    if arm.distil:
        terms.append(LogitKD(weights.kd_logits))
        terms.append(FeatureKD(weights.kd_features, teacher_dim, student_dim, settings.adapter_lr))
    if arm.distance:
        terms.append(DistanceKD(weights.kd_distance, *known, arm.distance))
    if arm.answers:
        images, logits = answers.images.flatten(0, 1), answers.teacher_logits.flatten(0, 1)
        said = TeacherOutputs(answers.teacher_features.flatten(0, 1), logits)
        distances = _distances(terms[-1].distance, said, device) if arm.distance else None
        if arm.hedge:
            of_id = _distances(terms[-1].distance, known[0], device)
            logits = hedged(logits, distances, of_id, arm.hedge)
        terms.append(Answers(weights.answers, images, logits, distances))
    if arm.micl:
        terms += _micl(arm, outliers, teacher_dim, student_dim, weights, settings)
    if arm.exposure == "latent":
        stem = LatentStem(outliers.latents.shape[1], settings.width)
        terms.append(
            LatentExposure(
                weights.latent, weights.latent_exposure, stem, id_latents=autoencoded.latents,
                labels=autoencoded.labels, outliers=outliers.latents, lr=settings.latent_lr,
            )
        )  # fmt: skip
    elif arm.exposure:
        images = real if arm.exposure == "real" else outliers.images
        terms.append(OutlierExposure(weights.exposure, images))
    if arm.exposure == "matched":
        terms.append(
            Reconstructions(weights.reconstructions, autoencoded.images, autoencoded.labels)
        )
    return nn.ModuleList(terms)


OUTLIERS = (None, *get_args(Selection), "noise", "halves")
MICL = (None, *product(PAIRINGS, FITS))
EXPOSURES = (None, "decoded", "matched", "real", "latent")
ANSWERS = ("outliers", "halves", "id")


def check_arm(arm: Arm) -> None:
    """Refuse an arm of parts that are not there, or that do not go together.

    Raises:
        ValueError: naming the first.
    """
    if not isinstance(arm, Arm):
        raise ValueError(f"arm {arm!r}; expected an Arm, as get_arm('oal')")
    need_choice(OUTLIERS, outliers=arm.outliers)
    need_choice(EXPOSURES, exposure=arm.exposure)
    need_choice((None, *DISTANCES), distance=arm.distance)
    need_choice(LATENT_VECTORS, latent_vector=arm.latent_vector)
    if not isinstance(arm.distil, bool):
        raise ValueError(f"distil={arm.distil!r:.80}; expected True or False")
    if not isinstance(arm.answers, tuple) or any(kind not in ANSWERS for kind in arm.answers):
        raise ValueError(
            f"answers {arm.answers!r:.80}: expected a tuple of {', '.join(ANSWERS)}, as ('halves',)"
        )
    if len(set(arm.answers)) < len(arm.answers):
        raise ValueError(
            f"answers {arm.answers!r:.80}: one kind stands there twice; name each once"
        )
    need_whole(hedge=arm.hedge)
    if arm.hedge < 0 or (arm.hedge and not (arm.answers and arm.distance)):
        raise ValueError(
            f"hedge={arm.hedge} with answers={arm.answers!r} and distance={arm.distance!r}: "
            "answers are hedged by a distance, so name both, or set hedge=0"
        )
    if arm.micl not in MICL:
        raise ValueError(f"micl {arm.micl!r}: expected (pairing, fit), as ('class', 'likelihood')")
    exposed = arm.exposure in ("decoded", "matched", "latent") or "outliers" in arm.answers
    if not arm.outliers and (arm.micl or exposed):
        raise ValueError(
            f"an arm with micl={arm.micl}, exposure={arm.exposure!r} and answers={arm.answers!r} "
            "needs outliers: name their selection, as Arm(outliers='farthest')"
        )
    if arm.latent_vector != "column_means" and arm.micl is None:
        raise ValueError(
            f"latent_vector={arm.latent_vector!r} is how MICL sees a latent, and micl is None"
        )


def _check_parts(
    arm: Arm, *, outliers: Outliers | None, teacher_dim: int,
    known: tuple[TeacherOutputs, Tensor] | None, autoencoded: Autoencoded | None,
    real: Tensor | LazyImages | None, answers: Views | None,
) -> None:  # fmt: skip
    """Refuse parts that an arm needs and does not get, and parts that do not go together."""
    if outliers is not None:
        need_kind(Outliers, "as Materials.outliers gives", outliers=outliers)
        _check_outliers(outliers)
    elif arm.outliers:
        raise ValueError(f"an arm on {arm.outliers!r} outliers needs them: pass outliers=")
    if arm.micl and outliers.vectors.shape[1] != teacher_dim:
        raise ValueError(
            f"outliers have {outliers.vectors.shape[1]} numbers each and the teacher's features "
            f"{teacher_dim}; take both from one teacher"
        )
    if arm.exposure in ("decoded", "matched"):
        check_images(outliers.images, "decoded outliers")
    if autoencoded is not None:
        need_kind(Autoencoded, "as Materials.autoencoded gives", autoencoded=autoencoded)
        _check_labelled(autoencoded.latents, autoencoded.labels, "encoded ID images")
    elif arm.exposure in ("matched", "latent"):
        raise ValueError(f"exposure {arm.exposure!r} needs encoded ID images: pass autoencoded=")
    if arm.exposure == "matched":
        if autoencoded.images is None:
            raise ValueError("exposure 'matched' needs decoded ID images: Autoencoded(images=...)")
        check_images(autoencoded.images, "decoded ID images")
        if len(autoencoded.images) != len(autoencoded.labels):
            raise ValueError(
                f"{len(autoencoded.images)} decoded ID images have {len(autoencoded.labels)} "
                "labels; expected one for each"
            )
    if arm.exposure == "latent" and autoencoded.latents.shape[1:] != outliers.latents.shape[1:]:
        raise ValueError(
            f"encoded ID images have latents of {tuple(autoencoded.latents.shape[1:])} and "
            f"outliers of {tuple(outliers.latents.shape[1:])}; take both from one pipeline"
        )
    if arm.exposure == "real":
        if real is None:
            raise ValueError("exposure 'real' needs OOD images: pass real=")
        check_images(real, "real OOD images")
    if answers is not None:
        need_kind(Views, "as views.draw_views gives", answers=answers)
    elif arm.answers:
        raise ValueError(
            f"answers on {', '.join(arm.answers)} are the teacher's to give: pass answers="
        )
    if arm.distance:
        if known is None:
            raise ValueError("the teacher's distance needs what it knows of ID images: pass known=")
        _check_known(known, teacher_dim)


def _check_weights(weights: LossWeights) -> None:
    need_kind(LossWeights, "as get_preset('shapes').weights", weights=weights)
    need_weight(**vars(weights))


def _check_known(known: tuple[TeacherOutputs, Tensor], teacher_dim: int) -> None:
    if not isinstance(known, tuple) or len(known) != 2:
        raise ValueError(
            f"known is a {type(known).__name__}; expected (TeacherOutputs, labels), what the "
            "teacher says of ID images and their classes"
        )
    need_kind(TeacherOutputs, "what the teacher says", **{"the first of known": known[0]})
    _check_labelled(known[0].features, known[1], "features of known")
    need_finite(**{"logits of known": known[0].logits})
    if known[0].features.shape[1:] != (teacher_dim,):
        raise ValueError(
            f"known holds features of shape {tuple(known[0].features.shape)}; expected "
            f"(n, {teacher_dim}), as teacher_dim says"
        )


def _check_outliers(outliers: Outliers) -> None:
    _check_labelled(outliers.vectors, outliers.vector_classes, "k-NN outliers")
    _check_labelled(outliers.latents, outliers.latent_classes, "latent outliers")


def _check_labelled(x: Tensor, classes: Tensor, name: str) -> None:
    """Refuse an empty set, NaN, and classes that are not one whole number of 0 or more each."""
    need_floats(**{name: x})
    need_integers(**{f"classes of the {name}": classes})
    if not len(x) or classes.shape != x.shape[:1] or classes.min() < 0:
        raise ValueError(
            f"{name} have shape {tuple(x.shape)} and their classes {tuple(classes.shape)}; "
            "expected at least one, and a class of 0 or more for each"
        )
    if not x.isfinite().all():
        raise ValueError(f"{name} hold NaN or infinity; find what produced them")


def _distances(
    measure: nn.Module, said: TeacherOutputs, device: str | torch.device
) -> Float[Tensor, " m"]:
    """Measure in parts: m images times all that the teacher knows would be too large.

    The training moves the module to its device anyway.
    """
    measure.to(device)
    parts = zip(said.features.split(1000), said.logits.split(1000), strict=True)
    return torch.cat([measure(TeacherOutputs(f.to(device), t.to(device))).cpu() for f, t in parts])


def _micl(
    arm: Arm, outliers: Outliers, teacher_dim: int, student_dim: int, weights: LossWeights,
    settings: TrainSettings,
) -> list[Term]:  # fmt: skip
    pairing, fit = arm.micl
    how = {"pairing": pairing, "fit": fit}
    how["lr"] = settings.q_fit_lr if fit == "likelihood" else settings.q_lr
    seen = LATENT_VECTORS[arm.latent_vector](outliers.latents)
    # Widths of the released networks; only their ends follow the data.
    q_knn = ClubNet(teacher_dim, student_dim, (256,), (256,))
    q_diffusion = ClubNet(seen.shape[1], student_dim, (32, 16, 256), (256,))
    return [
        Micl("MICL k-NN", weights.micl_knn, q_knn, outliers.vectors, outliers.vector_classes,
             **how),
        Micl("MICL diffusion", weights.micl_diffusion, q_diffusion, seen,
             outliers.latent_classes, **how),
    ]  # fmt: skip
