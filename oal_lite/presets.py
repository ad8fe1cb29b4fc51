"""Every setting of a run, in frozen dataclasses; a preset is one full set with a name.

The numbers of the paper's released code stand in the comments where a preset departs from them.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

ASSETS = Path(__file__).parent / "assets"
TINY = "tiny"  # in a model's place: one with random weights, made on the fly (`tiny_models`)
PROMPT = "A high-quality image of the {}"
WITHOUT = "-without-"  # in a preset's name, before the classes that are held out


@dataclass(frozen=True)
class KnnSettings:
    """k-NN outliers in the teacher's feature space (see `knn_outliers`)."""

    k: int = 300  # neighbour whose distance counts
    n_boundary: int = 50  # points of a class that get noise
    n_candidates: int = 1500  # noises, shared by the boundary points
    sigma: float = 0.07  # their standard deviation per coordinate, on the unit sphere
    keep: int = 2  # candidates kept per boundary point
    rounds: int = 10  # repetitions with fresh noise: 50 * 2 * 10 = 1,000 outliers per class


@dataclass(frozen=True)
class DiffusionSettings:
    """Latent outliers (see `diffusion_outliers`)."""

    prompt: str = PROMPT
    steps: int = 20  # of DPM-Solver++; released: 50 of PLMS
    guidance: float = 7.5  # as released
    n_latents: int = 300
    aligned: bool = True  # False turns the outliers at random first: teacher and tokens then differ
    batch_size: int = 100


@dataclass(frozen=True)
class TrainSettings:
    """The student and its optimiser."""

    width: int = 16  # channels of the first stage; the paper's ResNet-18 has 64
    stem: str = "small"  # "large" for 224 px
    start_epochs: int = 12  # cross-entropy alone, shared by all arms of a seed; released: 100
    start_lr: float = 0.1  # as released
    epochs: int = 4  # of each arm, from that start; released: 100
    batch_size: int = 64  # released: 128
    lr: float = 0.01  # of each arm; released: 0.005
    adapter_lr: float = 0.02  # twice its student's, as released
    latent_lr: float = 0.05  # of the latent entrance, which starts from random weights
    q_lr: float = 1e-4  # of q where it minimises the bound, as released
    q_fit_lr: float = 1e-3  # of Adam where q is fitted by likelihood
    momentum: float = 0.9
    weight_decay: float = 5e-4
    own_batch: bool = True  # outliers leave batch normalisation's running statistics to ID images
    mixed_precision: str = "no"  # "half": bf16 or fp16 where there is a GPU
    n_views: int = 4  # augmented copies drawn before training; the teacher sees the same ones
    fresh_start: bool = False  # the start asks no teacher: augment anew at every step, in memory
    fuse: str = "no"  # "start" or "all" trainings let torch.compile fuse layers, on a GPU only
    keep_every: int = 1  # epochs after which an unfinished training is kept


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; cross-entropy has weight 1. Those of KD and MICL are released."""

    kd_logits: float = 4.0
    kd_features: float = 8.0
    kd_distance: float = 4.0  # of the teacher's distance to what it knows; ours
    answers: float = 4.0  # of its logits and its distance on other images; ours
    micl_knn: float = 0.1
    micl_diffusion: float = 0.2
    exposure: float = 0.5  # of outlier exposure (Hendrycks et al., ICLR 2019)
    reconstructions: float = 1.0  # of cross-entropy on ID images out of the autoencoder
    latent: float = 1.0  # of cross-entropy on encoded ID images, and of what follows
    latent_exposure: float = 0.5  # of outlier exposure on latents, times `latent`


MODELS = ("teacher", "pipeline")  # the fields of a preset that name one


@dataclass(frozen=True)
class Preset:
    """One full set of settings."""

    name: str
    benchmark: str
    teacher: str | PurePath  # folder or hub id; "tiny" in a smoke run
    pipeline: str | PurePath  # the same
    benchmark_sizes: dict[str, int] = field(default_factory=dict)
    pretrain: str | None = None  # its models' settings in `pretrain.SETTINGS`, if trained here
    data_root: str | None = None  # folder in OpenOOD's layout, for real images
    embedded_far: bool = False  # far-OOD of the embedded benchmark where the official is not there
    download: bool = False  # may models be fetched from the hub?
    held_out: tuple[str, ...] = ()  # ID classes that no model sees: see `Benchmark.hold_out`
    data_seed: int = 0  # the images are the same in every run; the run's seed moves all the rest
    n_per_class: int = 500  # ID features per class that the k-NN step looks at
    distance: str = "knn"  # `Arm.distance` of every arm that has one
    knn: KnnSettings = KnnSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    train: TrainSettings = TrainSettings()
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        """Let a model's folder be given as a path; from here on it is a name."""
        for part in MODELS:
            if isinstance(model := getattr(self, part), PurePath):
                object.__setattr__(self, part, str(model))


SHAPES = Preset(
    name="shapes",
    benchmark="shapes",
    teacher=str(ASSETS / "shapes" / "teacher"),
    pipeline=str(ASSETS / "shapes" / "pipeline"),
    pretrain="shapes",
)
# For the study: in four epochs of its own an arm does not get far enough to be told from others.
SHAPES_LONG = replace(SHAPES, name="shapes-long", train=TrainSettings(epochs=8))

# The released settings, at 32 px with OpenOOD's ResNet-18 (the paper's student sees 224 px).
CIFAR10 = Preset(
    name="cifar10",
    benchmark="cifar10",
    # ViT-B/16 of ImageNet-21k, fine-tuned on CIFAR-10; the authors' own weights are not public
    teacher="nateraw/vit-base-patch16-224-cifar10",
    pipeline="CompVis/stable-diffusion-v1-4",  # as released
    knn=KnnSettings(),  # all as released: 1,000 outliers per class
    diffusion=DiffusionSettings(
        steps=50,  # of the pipeline's own PLMS, as released
        batch_size=16,  # 64 x 64 latents; guidance doubles it
    ),
    train=TrainSettings(
        width=64,
        start_epochs=100,
        epochs=100,
        batch_size=128,
        lr=0.005,
        adapter_lr=0.01,
        mixed_precision="half",
        n_views=16,  # released: a fresh one in each of 100 epochs, seen by the teacher each time
    ),
)
# What one GPU does in a quarter of an hour without any model from outside: 44 epochs in all, where
# OpenOOD's rows have 100, the last four of them with the arm's loss; teacher and pipeline from
# `python -m oal_lite.pretrain ... --preset cifar10`. What is not said is as in `shapes`.
CIFAR10_SCRATCH = Preset(
    name="cifar10-scratch",
    benchmark="cifar10",
    teacher="models/cifar10/teacher",
    pipeline="models/cifar10/pipeline",
    pretrain="cifar10",
    embedded_far=True,
    distance="energy",  # as the smaller presets; neither test nor held-out classes were seen here
    train=TrainSettings(
        width=64,
        start_epochs=40,
        epochs=4,
        batch_size=128,
        mixed_precision="half",
        fresh_start=True,
        fuse="start",
        keep_every=20,
    ),
)
# For two CPU cores and no model from outside: a tenth of the images, the student and the lengths
# of `shapes`, and the small models of `python -m oal_lite.pretrain ... --preset cifar10-small`.
CIFAR10_SMALL = Preset(
    name="cifar10-small",
    benchmark="cifar10",
    teacher="models/cifar10-small/teacher",
    pipeline="models/cifar10-small/pipeline",
    pretrain="cifar10-small",
    embedded_far=True,
    distance="energy",  # found on test-OOD, then held against held-out classes: figures/README.md
    benchmark_sizes={"n_train": 5_000},
    train=TrainSettings(fresh_start=True),
)
# Twice the images, and each arm as long as in `shapes-long`.
CIFAR10_MEDIUM = replace(
    CIFAR10_SMALL,
    name="cifar10-medium",
    benchmark_sizes={"n_train": 10_000},
    train=replace(CIFAR10_SMALL.train, epochs=8),
)
CIFAR100 = replace(
    CIFAR10,
    name="cifar100",
    benchmark="cifar100",
    teacher="Ahmed9275/Vit-Cifar100",  # ViT-B/16 of ImageNet-21k, fine-tuned on CIFAR-100
    knn=KnnSettings(rounds=100),  # as released: 10,000 outliers per class
)
IMAGENET200 = replace(
    CIFAR10,
    name="imagenet200",
    benchmark="imagenet200",
    # names 1,000 classes: for the arms that distil, give a teacher fine-tuned on the 200
    teacher="google/vit-base-patch16-224",
    train=replace(
        CIFAR10.train,
        stem="large",
        start_epochs=90,  # as OpenOOD v1.5; the paper's settings for this set were not at hand
        epochs=90,
        batch_size=256,
        n_views=4,
    ),
)
PRESETS = {
    p.name: p
    for p in (
        SHAPES, SHAPES_LONG, CIFAR10, CIFAR10_SCRATCH, CIFAR10_SMALL, CIFAR10_MEDIUM, CIFAR100,
        IMAGENET200,
    )
}  # fmt: skip


def get_preset(name: str, *, quick: bool = False) -> Preset:
    """Look up a preset; `quick` shrinks it to a smoke run whose numbers mean nothing.

    Raises:
        ValueError: if there is no preset of that name, or `quick` is neither True nor False.
    """
    if not isinstance(quick, bool):
        raise ValueError(f"quick={quick!r}; expected True or False")
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if not quick:
        return preset
    if preset.benchmark == "shapes":
        return replace(
            preset,
            name=f"{name}-quick",
            benchmark_sizes={"n_train": 500, "n_val": 100, "n_test": 200, "n_ood": 50},
            n_per_class=50,
            knn=replace(preset.knn, k=30, n_candidates=300, rounds=2),
            diffusion=replace(preset.diffusion, n_latents=30, steps=10),
            train=replace(preset.train, start_epochs=2, epochs=2, n_views=2),
        )
    from oal_lite.openood import LAYOUTS

    n_classes = LAYOUTS[preset.benchmark].n_classes
    return replace(
        preset,
        name=f"{name}-quick",
        teacher=TINY,
        pipeline=TINY,
        pretrain=None,
        benchmark_sizes={"n_train": 300, "n_val": 50, "n_test": 100, "n_ood": 50},
        n_per_class=20,
        knn=replace(preset.knn, k=2, n_boundary=2, n_candidates=50, rounds=5),
        diffusion=replace(preset.diffusion, n_latents=2 * n_classes, steps=2, batch_size=20),
        train=replace(
            preset.train, width=8, start_epochs=1, epochs=1, batch_size=50, n_views=1,
            mixed_precision="no",
        ),
    )  # fmt: skip


def check_preset(preset: Preset) -> None:
    """Refuse what is no preset, and a name that cannot be that of a folder.

    Raises:
        ValueError: with the way to get one.
    """
    if not isinstance(preset, Preset):
        raise ValueError(f"preset {preset!r:.80}; expected a Preset, as get_preset('shapes')")
    check_name(preset.name, "preset")
    kinds = {"knn": KnnSettings, "diffusion": DiffusionSettings, "train": TrainSettings,
             "weights": LossWeights, "benchmark": str, "teacher": str | PurePath,
             "pipeline": str | PurePath, "benchmark_sizes": Mapping, "pretrain": str | None,
             "embedded_far": bool, "download": bool, "held_out": tuple}  # fmt: skip
    for name, kind in kinds.items():
        value = getattr(preset, name)
        if not isinstance(value, kind):
            wanted = getattr(kind, "__name__", kind)
            raise ValueError(
                f"preset {preset.name}: {name}={value!r:.80}; expected {wanted}, as in "
                "get_preset('shapes')"
            )
    for name in MODELS:
        parts = [len(part.encode()) for part in PurePath(getattr(preset, name)).parts]
        if sum(parts) > 4000 or max(parts, default=0) > 255:
            raise ValueError(
                f"{name} {str(getattr(preset, name))[:60]!r}... is a name too long for a folder"
            )
    if type(preset.n_per_class) is not int or preset.n_per_class < 1:
        raise ValueError(
            f"preset {preset.name}: n_per_class={preset.n_per_class!r:.80}; expected a whole "
            "number of at least 1"
        )


def check_name(name: str, of: str) -> None:
    """Refuse a name that cannot become a part of a file's.

    Raises:
        ValueError: naming whose it is.
    """
    fits = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= 150
    if not fits or "/" in name or name in (".", ".."):
        raise ValueError(
            f"{of} {name!r:.160}: its name becomes a part of a file's, so it has to be 1 to 150 "
            "characters (bytes) without '/'"
        )


def without(classes: Sequence[str]) -> str:
    """The end of a name that says which classes are held out: `"-without-cat-dog"`, or nothing."""
    words = "-".join(re.sub(r"[^\w.-]", "_", name) for name in sorted(classes))
    if len(words) > 80:  # a file's name has to end somewhere
        digest = hashlib.sha256("\n".join(sorted(classes)).encode()).hexdigest()[:8]
        words = f"{len(classes)}-classes-{digest}"
    return f"{WITHOUT}{words}" if words else ""


def models_folder(preset: str, held_out: Sequence[str] = ()) -> Path:
    """Where the models lie that are trained here for a preset, without the classes held out."""
    return Path("models") / f"{preset}{without(held_out)}"


def hold_out(preset: Preset, classes: Sequence[str]) -> Preset:
    """The same settings with classes held out of the ID task (see `Benchmark.hold_out`).

    The models that are trained here have a folder of their own: they must not see these classes.
    Models from outside stay; what they have seen is theirs to say.

    Raises:
        ValueError: for what are no names, or where others are held out already.
    """
    from oal_lite.arguments import need_names  # it imports torch, which a command's --help need not

    check_preset(preset)
    need_names(classes=classes)
    if not classes:
        return preset
    if preset.held_out:
        raise ValueError(f"{', '.join(preset.held_out)} are held out already; name all at once")
    own = {}
    if preset.pretrain is not None:
        folder = models_folder(preset.pretrain, classes)
        own = {part: str(folder / part) for part in MODELS}
    name = preset.name + without(classes)
    return replace(preset, name=name, held_out=tuple(sorted(classes)), **own)


def pretrain_command(part: str, name: str, held_out: Sequence[str] = ()) -> str:
    """The command that trains a part of a preset's own models."""
    classes = f" --hold-out {shlex.quote(','.join(held_out))}" if held_out else ""
    return f"python -m oal_lite.pretrain {part} --preset {name}{classes}"


def smoke() -> bool:
    """Whether the environment asks for smoke size (`OAL_LITE_SMOKE=1`), as the tests do."""
    return os.environ.get("OAL_LITE_SMOKE") == "1"
