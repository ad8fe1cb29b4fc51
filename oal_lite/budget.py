"""What a run will cost, before it is started: downloads, disk, arithmetic, minutes.

FLOPs are counted (one multiply-add is 2 FLOP): the student's here, on tensors without numbers;
those of ViT-B/16 and Stable Diffusion v1 once and for all, in `costs.COUNTED`. Minutes are an
estimate, FLOPs over a stated share of the device's peak; they are not a measurement.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from oal_lite import openood, weights
from oal_lite.arguments import need_count
from oal_lite.benchmarks import need_no_root
from oal_lite.costs import COUNTED
from oal_lite.images import IN_MEMORY
from oal_lite.presets import MODELS, TINY, Preset, check_preset
from oal_lite.recipes import Arm, get_arm, needed_models
from oal_lite.students import ResNet18

PETA = 1e15
# Peak of dense half-precision arithmetic in FLOP/s, from the maker's data sheets.
PEAK = {"T4": 65e12, "A100": 312e12, "H200": 989e12}
UTILISATION = 0.25  # assumed share of that peak
# Seconds that one process takes for a step of a ResNet-18 on an H100, whatever the step computes:
# measured on 2026-11-26 with 128 images of 32 px in bfloat16 (8,700 images a second).
STEP = 0.0147
N_IMAGES = {  # OpenOOD v1.5: train, and all that is scored
    "cifar10": (50_000, 164_660), "cifar100": (50_000, 161_000), "imagenet200": (258_951, 100_000),
}  # fmt: skip


def student_flop(preset: Preset, size: int, n_classes: int) -> tuple[float, float]:
    """FLOP of one image through the student: forward, and forward with backward.

    Raises:
        ValueError: for an image side or a number of classes below one.
    """
    need_count(size=size, n_classes=n_classes)
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        student = ResNet18(n_classes, width=preset.train.width, stem=preset.train.stem)
        image = torch.empty(1, 3, size, size)
    student.eval()  # batch normalisation in training wants more than one value
    with FlopCounterMode(display=False) as forward:
        logits, _ = student(image)
    with FlopCounterMode(display=False) as both:
        logits = student(image)[0]
        logits.sum().backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())


def flop(preset: Preset, arms: list[str], seeds: int) -> dict[str, float]:
    """FLOP of every stage of a run on one of OpenOOD's data sets.

    Raises:
        ValueError: for a preset of another benchmark, no arm or an unknown one, or no seed.
    """
    _check(preset, arms, seeds)
    if preset.benchmark not in openood.LAYOUTS:
        raise ValueError(
            f"benchmark {preset.benchmark!r} is not counted; choose a preset of one of "
            f"{', '.join(openood.LAYOUTS)}"
        )
    layout, n_train = openood.LAYOUTS[preset.benchmark], _n_train(preset)
    n_scored = N_IMAGES[preset.benchmark][1]
    n_scored = min(n_scored, 10 * preset.benchmark_sizes.get("n_ood", n_scored))
    s, d = preset.train, preset.diffusion
    teacher = COUNTED["ViT-B/16, one image"]
    unet = COUNTED["UNet, one sample, one step"]
    encoder, decoder = COUNTED["encoder, one image"], COUNTED["decoder, one latent"]
    forward, both = student_flop(preset, layout.crop, layout.n_classes)
    recipes = [get_arm(a) for a in arms]
    selections = {r.synthesised for r in recipes if r.outliers}
    # outlier exposure doubles the batch, and so do images on which the teacher answers too
    passes = sum(1 + bool(r.exposure) + bool(r.answers) for r in recipes)
    guided = 2 if d.guidance > 1 else 1
    if not _paper_size(preset.teacher):
        teacher = 0.0
    if not _paper_size(preset.pipeline):
        unet = encoder = decoder = 0.0
    views = n_train * s.n_views * teacher
    id_features = preset.n_per_class * layout.n_classes * teacher
    stages = {
        "teacher on all views": any(r.asks_teacher for r in recipes) * views,
        "teacher's answers": _asked(recipes) * views,
        "teacher on ID features": bool(selections) * id_features,
        "diffusion latents": len(selections) * d.n_latents * d.steps * guided * unet,
        "decoding": len(selections) * d.n_latents * decoder,
        "student, common start": s.start_epochs * n_train * both,
        "student, arms": passes * s.epochs * n_train * both,
        "scoring": len(arms) * n_scored * forward,
    }
    an_image = encoder * any(r.encodes for r in recipes) + decoder * any(r.decodes for r in recipes)
    shared = {"autoencoder, ID images": n_train * an_image}  # the same for every seed
    return {name: seeds * value for name, value in stages.items()} | shared


def disk(preset: Preset, arms: list[str], seeds: int) -> float:
    """Bytes that a run on one of OpenOOD's data sets leaves in the folder of runs, roughly.

    Counted are what the teacher says of the views and of an arm's further images (it is not kept
    where images do not fit into memory and are read late), the k-NN outliers with their latents,
    and the ID images as latents and decoded again; the latter two once for all seeds.

    Raises:
        ValueError: for no arm or an unknown one, or no seed.
    """
    _check(preset, arms, seeds)
    recipes, layout = [get_arm(a) for a in arms], openood.LAYOUTS[preset.benchmark]
    features = preset.train.n_views * (768 + layout.n_classes) * 4  # of ViT-B/16, single precision
    latent = 4 * (64 if _paper_size(preset.pipeline) else 8) ** 2 * 4
    picture = 3 * layout.crop**2
    an_image = latent * any(r.encodes for r in recipes) + picture * any(r.decodes for r in recipes)
    looks = 0 if _read_late(preset) else any(r.asks_teacher for r in recipes) + _asked(recipes)
    knn = preset.knn
    vectors = layout.n_classes * knn.n_boundary * knn.keep * knn.rounds * 768 * 4
    outliers = vectors + preset.diffusion.n_latents * (latent + picture)
    outliers *= len({r.synthesised for r in recipes if r.outliers})
    return float(_n_train(preset) * (seeds * looks * features + an_image) + seeds * outliers)


def _n_train(preset: Preset) -> int:
    n = N_IMAGES[preset.benchmark][0]
    return min(n, preset.benchmark_sizes.get("n_train", n))


def _read_late(preset: Preset) -> bool:
    """Whether the training images are too many to be held in memory."""
    return _n_train(preset) * 3 * openood.LAYOUTS[preset.benchmark].crop ** 2 > IN_MEMORY


def _asked(recipes: Sequence[Arm]) -> int:
    """How many sets of further images the teacher answers on; arms with the same ones share it."""
    return len({(r.answers, r.outliers) for r in recipes if r.answers})


def _paper_size(model: str) -> bool:
    """Whether this is a model whose size is known here: one of the hub's, not a folder."""
    return weights.HUB_ID.fullmatch(model) is not None and not Path(model).is_dir()


def describe(
    preset: Preset, arms: list[str], *, seeds: int = 1, data_root: str | Path | None = None
) -> str:
    """The dry run's text: data, downloads, disk, FLOPs by stage, estimated minutes.

    Raises:
        ValueError: for what is no preset, no arm or an unknown one, no seed, or no data folder.
    """
    _check(preset, arms, seeds)
    lines = [f"Dry run: preset {preset.name}, arms {', '.join(arms)}, {seeds} seed(s)."]
    models, gigabytes = _models(preset, needed_models([get_arm(a) for a in arms]))
    lines += _data(preset, data_root) + models
    runs = "less than 1"
    if preset.benchmark in openood.LAYOUTS:
        runs = f"about {disk(preset, arms, seeds) / 1e9 + 1:.0f}"  # one for scores and figures
    lines.append(f"Disk: {gigabytes:.1f} GB for models, {runs} GB for runs and figures.")
    if preset.benchmark not in openood.LAYOUTS:
        return "\n".join([*lines, "FLOPs: this preset runs on any CPU in minutes; see the README."])
    stages = flop(preset, arms, seeds)
    lines.append("Arithmetic (PFLOP):")
    lines += [f"  {name:24} {value / PETA:10.2f}" for name, value in stages.items() if value]
    total = sum(stages.values())
    lines.append(f"  {'in all':24} {total / PETA:10.2f}")
    lines.append(
        f"Estimate, not a measurement: minutes at {UTILISATION:.0%} of the peak in half precision"
    )
    lines += [
        f"  {name:6} {total / (UTILISATION * peak) / 60:10.1f}" for name, peak in PEAK.items()
    ]
    lines.append(
        f"In one process at least {steps(preset, arms, seeds) * STEP / 60:.0f}, however fast the "
        f"GPU: a step of the student waited {1e3 * STEP:.0f} ms for its launches on an H100. "
        + (
            "With --workers, each arm would ask the teacher anew: these images are read late, and "
            "what it says of them is not kept."
            if _read_late(preset)
            else "Give --workers."
        )
    )
    return "\n".join(lines)


def steps(preset: Preset, arms: list[str], seeds: int) -> int:
    """Steps of all trainings of students."""
    s = preset.train
    return seeds * (s.start_epochs + len(arms) * s.epochs) * (_n_train(preset) // s.batch_size)


def _check(preset: Preset, arms: list[str], seeds: int) -> None:
    check_preset(preset)
    if isinstance(arms, str) or not isinstance(arms, Sequence) or not arms:
        raise ValueError(f"arms={arms!r}; expected one or more names, as ['ce', 'kd']")
    for arm in arms:
        get_arm(arm)
    need_count(seeds=seeds)


def _data(preset: Preset, data_root: str | Path | None) -> list[str]:
    if preset.benchmark not in openood.LAYOUTS:
        need_no_root(data_root)
        return [f"Images: {preset.benchmark}, rendered on the fly; nothing is read or downloaded."]
    if data_root is None:
        return ["Images: no --data-root given; this program downloads no images. See OpenOOD v1.5."]
    found = openood.at_hand(preset.benchmark, data_root)
    return [
        f"Images: {', '.join(found) or 'none of the lists'} in {data_root}; none is downloaded."
    ]


def _models(preset: Preset, needed: Sequence[str]) -> tuple[list[str], float]:
    """What is said of the models, and how many gigabytes have to be downloaded."""
    lines, gigabytes = [], 0.0
    for part in MODELS:
        name = getattr(preset, part)
        if part not in needed:
            lines.append(f"{part.capitalize()}: these arms need none.")
        elif name == TINY:
            lines.append(f"{part.capitalize()}: random weights, made on the fly.")
        elif Path(name).is_dir():
            lines.append(
                f"{part.capitalize()}: a folder on this machine; nothing to download, and its "
                "FLOPs are not in the sum."
            )
        elif not _paper_size(name):
            lines.append(
                f"{part.capitalize()}: {name} is not there yet; train it first with --pretrain, "
                "or see python -m oal_lite.pretrain --help; its FLOPs are not in the sum."
            )
        elif weights.in_cache(name):
            lines.append(f"{part.capitalize()}: {name}, in the local cache; nothing to download.")
        else:
            lines.append(f"{part.capitalize()}: would be downloaded, {weights.describe(name)}.")
            gigabytes += weights.KNOWN[name].gigabytes if name in weights.KNOWN else 0.0
    return lines, gigabytes
