"""How the small models are trained, and on what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from oal_lite import presets, shapes
from oal_lite.arguments import need_choice
from oal_lite.benchmarks import ImageSet, generator_for, load
from oal_lite.presets import PRESETS, get_preset
from oal_lite.pretrain.models import TEACHERS

ASSETS = presets.ASSETS / "shapes"
GROUPS = {"vae_width": 8, "unet_width": 80}  # by which group normalisation in `models` divides


@dataclass(frozen=True)
class PretrainSettings:
    """Sizes and lengths of the small models' training; every number a reader may want to change."""

    seed: int = 1
    n_images: int = 40_000  # rendered for pretraining alone; the student gets 5,000 others
    batch_size: int = 64  # of the teacher
    vae_batch_size: int = 64
    unet_batch_size: int = 64
    crop: int = 0  # the teacher sees images shifted by up to so many pixels
    teacher: str = "cvt"  # or "resnet"
    teacher_width: int = 32  # channels of its first stage; features are 4 (cvt) or 8 times as wide
    teacher_steps: int = 3000
    teacher_lr: float = 0.02  # cvt: of Muon on the matrices; AdamW on the rest gets 1/20 of it
    vae_width: int = 16  # channels of its first level
    unet_width: int = 80  # the same
    vae_steps: int = 2000
    vae_lr: float = 2e-3
    vae_perceptual: float = 0.05  # weight of the error in the teacher's feature maps
    vae_kl: float = 0.02  # of the Kullback-Leibler term, in nats per pixel value
    unet_steps: int = 13_000
    unet_lr: float = 1e-3
    token_scale: float = 1.0  # length of a class word's embedding
    noise_shift: float = 0.4  # t / T = sigmoid(N(0, 1) - this): half of the draws lie below 0.4
    p_image_feature: float = 0.5  # how often the word is replaced by the image's own feature
    p_no_prompt: float = 0.1  # for classifier-free guidance

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ValueError: with the name of the setting, its value and what is expected.
        """
        for name, value in vars(self).items():
            if name == "teacher":
                need_choice(TEACHERS, teacher=value)
                continue
            if name == "n_images" and value < 10:
                raise ValueError(f"n_images={value}; expected at least 10, one of each class")
            if name.startswith("p_") and not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected a probability, 0 to 1")
            if not (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63):
                raise ValueError(f"{name}={value}; expected a finite number below 2**63")
            if name.endswith(("size", "width", "steps")) and value < 1:
                raise ValueError(f"{name}={value}; expected at least 1")
            if name in GROUPS and value % GROUPS[name]:
                raise ValueError(f"{name}={value}; expected a multiple of {GROUPS[name]}")
            if name == "crop" and not 0 <= value < 32:
                raise ValueError(f"crop={value}; expected 0 or more, and less than a side of 32")
            if name in ("vae_perceptual", "vae_kl") and value < 0:
                raise ValueError(f"{name}={value}; expected a weight of 0 or more")
            if name.endswith(("lr", "scale")) and value <= 0:
                raise ValueError(f"{name}={value}; expected a finite number above 0")


SETTINGS = {
    "shapes": PretrainSettings(),
    # For minutes of one GPU: 40 epochs of the teacher, and what fits beside it. Not tuned.
    "cifar10": PretrainSettings(
        n_images=50_000, batch_size=512, vae_batch_size=256, unet_batch_size=1024, crop=4,
        teacher="resnet", teacher_width=64, teacher_steps=3_900, teacher_lr=0.4, vae_width=64,
        vae_steps=1_200, vae_lr=1e-3, vae_kl=0.002, unet_width=160, unet_steps=2_500, unet_lr=1e-3,
    ),
    # For two CPU cores. On one of them, beside another job: teacher (ten epochs) 29 minutes,
    # autoencoder 22, UNet 26. Not tuned.
    "cifar10-small": PretrainSettings(
        n_images=50_000, crop=4, teacher="resnet", teacher_width=16, teacher_steps=7_800,
        teacher_lr=0.1, vae_kl=0.002, unet_steps=4_000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What the models learn from.

    Attributes:
        name: of the preset.
        class_names: one word each.
        images: to train on.
        val: ID validation images.
        held_out: classes of the preset whose images are not among these.
    """

    name: str
    class_names: tuple[str, ...]
    images: ImageSet
    val: ImageSet
    held_out: tuple[str, ...] = ()


def source_for(
    name: str, settings: PretrainSettings, data_root: str | Path | None = None,
    held_out: Sequence[str] = (),
) -> Source:  # fmt: skip
    """The training images of a preset: rendered shapes, or ID images of OpenOOD's layout.

    Raises:
        ValueError: if the preset has no settings here, or as `benchmarks.load` and
            `Benchmark.hold_out`.
    """
    if name not in SETTINGS:
        own = getattr(PRESETS.get(name), "pretrain", None)
        hint = f"; the models of {name} are those of {own}" if own else ""
        raise ValueError(
            f"no pretraining for preset {name!r}; choose one of {', '.join(SETTINGS)}{hint}"
        )
    if name == "shapes":
        benchmark = replace(load("shapes", n_ood=1), train=pretraining_images(settings))
    else:
        # No OOD image is so much as read: one of each set is the least that the reader knows.
        sizes = {"n_train": settings.n_images, "n_test": 10, "n_ood": 1}
        benchmark = load(get_preset(name).benchmark, data_root=data_root, **sizes)
    known = benchmark.hold_out(held_out)
    return Source(name, known.class_names, known.train, known.val, tuple(held_out))


def pretraining_images(settings: PretrainSettings) -> ImageSet:
    """Render the images that the small models learn from: the ten ID shapes, and no other."""
    each = settings.n_images // len(shapes.ID_SHAPES)
    images = [
        shapes.render(name, each, generator=generator_for(settings.seed, "pretrain", name))
        for name in shapes.ID_SHAPES
    ]
    return ImageSet(torch.cat(images), torch.arange(len(images)).repeat_interleave(each))
