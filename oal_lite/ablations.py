"""Ablations: what is each piece worth? A table of named questions, and the arms that answer them.

An ablation takes one arm and changes one thing at a time. A change is a line such as
`{"knn.sigma": 0.17}`: a field of the preset's stage, or of the arm itself (`"arm.outliers"`).
The label of a run is made from its changes, so it says what was run and cannot say anything else.

    python -m oal_lite.study --preset shapes --ablation selection --seeds 8
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from oal_lite.presets import Preset
from oal_lite.recipes import Arm, check_arm, get_arm

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Ablation:
    """One question.

    Attributes:
        question: in words.
        arms: names of the unchanged arms; perhaps none.
        variations: (arm, changes), each another run.
    """

    question: str
    arms: tuple[str, ...]
    variations: tuple[tuple[str, Changes], ...]

    @property
    def baselines(self) -> tuple[str, ...]:
        """Labels to which all others are compared: the arms, or the first variation."""
        return self.arms or (label(*self.variations[0]),)


def _each(arm: str, key: str, *values: Any) -> tuple[tuple[str, Changes], ...]:
    return tuple((arm, {key: value}) for value in values)


ABLATIONS: dict[str, Ablation] = {
    "selection": Ablation(
        "does it matter which candidates the k-NN step keeps?", ("oal-paper", "oal-latent"),
        (
            *_each("oal-paper", "arm.outliers", "as_released", "random"),
            *_each("oal-latent", "arm.outliers", "as_released", "random"),
        ),
    ),
    "synthesis": Ablation(
        "does it matter that the outliers are outliers?", ("oal-latent", "kd"),
        (
            *_each("oal-latent", "arm.outliers", "noise", "halves"),
            *_each("oal-latent", "weights.latent_exposure", 0.0),
        ),
    ),
    "hedge": Ablation(
        "should the teacher be the less sure, the farther an image lies?",
        ("oal", "kd-distance-twice"),
        (*_each("oal", "arm.hedge", 0), *_each("kd-distance-twice", "arm.hedge", 4)),
    ),
    "asked": Ablation(
        "is diffusion needed, or do halves of ID images do as well?", ("oal", "kd-distance-twice"),
        (
            *_each("oal", "arm.answers", ("halves",)),
            *_each("oal", "arm.outliers", "halves", "noise"),
            *_each("oal", "arm.hedge", 0),
            ("oal", {"arm.hedge": 0, "arm.answers": ("halves",)}),
        ),
    ),
    "answers": Ablation(
        "do latents add to the answers, and what do the answers alone?",
        ("oal", "oal-latent", "kd-distance-twice", "kd-distance", "kd"),
        (
            *_each("oal", "arm.hedge", 0),
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent"}),
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent", "arm.answers": ("id",)}),
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent", "arm.answers": ("outliers",)}),
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent", "arm.answers": ("halves",)}),
            *_each("kd", "arm.answers", ("id",)),
        ),
    ),
    "length": Ablation(
        "would longer training do as well, and what do outliers add to it?",
        ("oal-latent", "kd-distance-twice", "kd-distance", "kd"),
        (
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent"}),
            ("oal", {"arm.hedge": 0, "arm.exposure": "latent", "train.epochs": 8}),
            *_each("oal-latent", "train.epochs", 8),
            *_each("kd-distance-twice", "train.epochs", 8),
            *_each("kd-distance", "train.epochs", 8),
            *_each("kd", "train.epochs", 8),
        ),
    ),
    "knows": Ablation(
        "what does the teacher know best: its distance, or its own energy?",
        ("oal", "kd-distance-twice", "kd"),
        (
            *_each("oal", "arm.distance", "knn", "energy"),
            *_each("kd-distance-twice", "arm.distance", "knn", "energy"),
        ),
    ),
    "followed": Ablation(
        "which of the teacher's scores should a student follow? (no outlier, no diffusion model)",
        (), _each("kd-distance-twice", "arm.distance", "knn", "energy"),
    ),
    "distance": Ablation(
        "is it the teacher's distance, or the outliers?", ("oal-latent", "kd-distance", "kd"),
        (
            *_each("oal-latent", "arm.distance", None, "mahalanobis"),
            *_each("kd-distance", "arm.distance", "mahalanobis"),
            *_each("oal-latent", "weights.kd_distance", 1.0, 10.0),
        ),
    ),
    "pairing": Ablation(
        "random pairs, or pairs of one class?", ("oal-paper",),
        _each("oal-paper", "arm.micl", ("random", "likelihood")),
    ),
    "q": Ablation(
        "does it matter that q is fitted?", ("oal-paper",),
        _each("oal-paper", "arm.micl", ("class", "bound"), ("random", "bound")),
    ),
    "kinds": Ablation(
        "k-NN outliers, diffusion outliers, or both?", ("oal-paper", "kd"),
        (
            *_each("oal-paper", "weights.micl_diffusion", 0.0),
            *_each("oal-paper", "weights.micl_knn", 0.0),
        ),
    ),
    "latent-vector": Ablation(
        "does MICL see more in a latent than 8 column means?", ("oal-paper",),
        _each("oal-paper", "arm.latent_vector", "pooled", "spatial", "flattened"),
    ),
    "number": Ablation(
        "how many outliers are needed, as latents and as images?",
        ("oal-latent", "oe-pixels-matched"),
        (
            *_each("oal-latent", "diffusion.n_latents", 30, 100, 1000, 3000),
            *_each("oe-pixels-matched", "diffusion.n_latents", 30, 100, 1000),
        ),
    ),
    "sigma": Ablation(
        "how far should noise push a boundary point?", ("oal-latent", "oal-paper"),
        (
            *_each("oal-latent", "knn.sigma", 0.035, 0.17, 0.3),
            *_each("oal-paper", "knn.sigma", 0.17),
        ),
    ),
    "k": Ablation(
        "whose distance tells the boundary?", ("oal-latent",),
        _each("oal-latent", "knn.k", 10, 100, 450),
    ),
    "distillation": Ablation(
        "logits, features, or both?", ("kd", "ce"),
        (*_each("kd", "weights.kd_features", 0.0), *_each("kd", "weights.kd_logits", 0.0)),
    ),
    "guidance": Ablation(
        "how hard should the prompt pull, and is it better than no outliers?", ("oal-latent",),
        (
            *_each("oal-latent", "diffusion.guidance", 1.0, 3.0),
            *_each("oal-latent", "weights.latent_exposure", 0.0),
        ),
    ),
    "statistics": Ablation(
        "may outliers move the statistics of batch normalisation?",
        ("oal-latent", "oe-pixels-matched"),
        (
            *_each("oal-latent", "train.own_batch", False),
            *_each("oe-pixels-matched", "train.own_batch", False),
        ),
    ),
    "alignment": Ablation(
        "does it matter that a feature means something as a token?", ("oal-latent",),
        _each("oal-latent", "diffusion.aligned", False),
    ),
    "decoding": Ablation(
        "latents, or the same outliers decoded, at which cost?",
        ("oal-latent", "oe-pixels-matched", "oe-pixels"),
        _each("oe-pixels-matched", "arm.distance", "knn"),
    ),
}  # fmt: skip


def get_ablation(name: str) -> Ablation:
    """Look up an ablation.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ABLATIONS:
        raise ValueError(f"unknown ablation {name!r}; choose from {', '.join(ABLATIONS)}")
    return ABLATIONS[name]


def vary(arm: Arm, preset: Preset, changes: Changes) -> tuple[Arm, Preset]:
    """Apply changes such as `{"knn.sigma": 0.17, "arm.outliers": "random"}`.

    Raises:
        ValueError: for a field that is not there.
    """
    for key, value in changes.items():
        stage, _, name = key.partition(".")
        part = arm if stage == "arm" else getattr(preset, stage, None)
        known = {f.name for f in fields(part)} if hasattr(part, "__dataclass_fields__") else set()
        if name not in known:
            raise ValueError(
                f"unknown setting {key!r}; write 'arm.<field of Arm>' or '<stage>.<field>', with a "
                "stage of the preset: knn, diffusion, train, weights"
            )
        if stage == "arm":
            arm = replace(arm, **{name: value})
        else:
            preset = replace(preset, **{stage: replace(part, **{name: value})})
    check_arm(arm)
    return arm, preset


def label(arm: str, changes: Changes) -> str:
    """Name of a varied arm: `"oal+knn.sigma=0.17"`. It is also part of a file's name."""
    parts = [arm]
    for key, value in changes.items():
        shown = "-".join(value) if isinstance(value, tuple) else value
        parts.append(f"{key.removeprefix('arm.')}={shown}")
    return "+".join(parts)


def jobs(ablation: Ablation, preset: Preset) -> list[tuple[dict[str, Arm], Preset]]:
    """What to run: arms by label, and the preset to run them with, for `study.run`.

    A variation that asks for what the preset has anyway is its unchanged arm, and is left out.
    """
    plain = {name: get_arm(name, preset) for name in ablation.arms}
    found = [(plain, preset)] if plain else []
    for name, changes in ablation.variations:
        arm, changed = vary(get_arm(name, preset), preset, changes)
        if (arm, changed) != (plain.get(name), preset):
            found.append(({label(name, changes): arm}, changed))
    return found
