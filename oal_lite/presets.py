"""Every setting of a run, in frozen dataclasses; a preset is one full set with a name.

The numbers of the paper's released code stand in the comments where a preset departs from them.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PROMPT = "A high-quality image of the {}"


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


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; cross-entropy has weight 1. These are the released ones."""

    kd_logits: float = 4.0
    kd_features: float = 8.0
    micl_knn: float = 0.1
    micl_diffusion: float = 0.2
    exposure: float = 0.5  # of outlier exposure (Hendrycks et al., ICLR 2019)
    reconstructions: float = 1.0  # of cross-entropy on ID images out of the autoencoder
    latent: float = 1.0  # of cross-entropy on encoded ID images, and of what follows
    latent_exposure: float = 0.5  # of outlier exposure on latents, times `latent`


@dataclass(frozen=True)
class Preset:
    """One full set of settings."""

    name: str
    benchmark: str
    teacher: str  # folder or hub id
    pipeline: str  # folder or hub id
    benchmark_sizes: dict[str, int] = field(default_factory=dict)
    data_seed: int = 0  # the images are the same in every run; the run's seed moves all the rest
    n_per_class: int = 500  # ID features per class that the k-NN step looks at
    knn: KnnSettings = KnnSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    train: TrainSettings = TrainSettings()
    weights: LossWeights = LossWeights()


PRESETS = {
    "shapes": Preset(
        name="shapes",
        benchmark="shapes",
        teacher=str(ASSETS / "shapes" / "teacher"),
        pipeline=str(ASSETS / "shapes" / "pipeline"),
    )
}


def get_preset(name: str, *, quick: bool = False) -> Preset:
    """Look up a preset; `quick` shrinks it to a smoke run whose numbers mean nothing.

    Raises:
        ValueError: if there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if not quick:
        return preset
    return replace(
        preset,
        name=f"{name}-quick",
        benchmark_sizes={"n_train": 1000, "n_val": 200, "n_test": 400, "n_ood": 100},
        n_per_class=100,
        knn=replace(preset.knn, k=60, n_candidates=300, rounds=2),
        diffusion=replace(preset.diffusion, n_latents=60, steps=10),
        train=replace(preset.train, start_epochs=3, epochs=2, n_views=2),
    )


def smoke() -> bool:
    """Whether the environment asks for smoke size (`OAL_LITE_SMOKE=1`), as the tests do."""
    return os.environ.get("OAL_LITE_SMOKE") == "1"
