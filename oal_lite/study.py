"""Arms x seeds: train, score, keep.

A finished run is one small JSON file (settings, metrics, seconds) and one safetensors file (the
OOD scores of every image, for pictures). A run whose files are there, with the same settings and
the same code, is not repeated; so an interrupted study goes on where it stopped.
"""

import json
import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from oal_lite import weights
from oal_lite.arguments import check_device, need_count, need_whole
from oal_lite.benchmarks import Benchmark, generator_for
from oal_lite.data_parallel import is_first, launched, meet
from oal_lite.files import make_folder, read_record, read_tensors, write_record, write_tensors
from oal_lite.images import join
from oal_lite.materials import Materials
from oal_lite.metrics import detection_metrics
from oal_lite.presets import TINY, Preset, check_name, check_preset, pretrain_command
from oal_lite.recipes import Arm, build_terms, check_arm, get_arm, needed_models
from oal_lite.run_files import RECORD, code_version, portable, run_path
from oal_lite.scores import LOGIT_SCORES
from oal_lite.teacher import TeacherOutputs
from oal_lite.threads import one_thread_on_cpu
from oal_lite.train import fit, predict
from oal_lite.workers import Task, pretraining, study_tasks, work

log = logging.getLogger(__name__)


# --- one run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One trained student's results.

    Attributes:
        record: what the JSON file holds.
        scores: OOD scores (high = OOD) by `"<score>/<set>"`; the ID test set is `"id"`.
    """

    record: dict
    scores: dict[str, Tensor]

    def metric(self, group: str, name: str, score: str = "energy") -> float | None:
        """Unweighted mean over a group's sets (`near`, `far`, `validation`); None without any."""
        sets = _member(_member(self.record["metrics"], score, "score"), group, "group")
        if not sets:
            return None
        return sum(_member(m, name, "metric") for m in sets.values()) / len(sets)


def _member(parts: Mapping, name: str, what: str):  # noqa: ANN202
    if name not in parts:
        raise ValueError(f"this run has no {what} {name!r}; it has {', '.join(parts)}")
    return parts[name]


def evaluate(student: nn.Module, benchmark: Benchmark) -> tuple[float, dict[str, Tensor], dict]:
    """ID test accuracy, the OOD scores of every set, and the metrics of every set against ID test.

    OOD is the positive class and scores are high for OOD, as in OpenOOD v1.5.
    """
    sets: dict[str, Mapping] = {
        "near": benchmark.near, "far": benchmark.far, "validation": benchmark.validation_ood,
    }  # fmt: skip
    logits = {"id": predict(student, benchmark.test.images)[0]}
    for group in sets.values():
        logits |= {name: predict(student, s.images)[0] for name, s in group.items()}
    right = logits["id"].argmax(1) == benchmark.test.labels
    scores = {f"{s}/{k}": f(x) for s, f in LOGIT_SCORES.items() for k, x in logits.items()}
    metrics = {
        score: {
            group: {
                name: detection_metrics(scores[f"{score}/id"], scores[f"{score}/{name}"]).as_dict()
                for name in members
            }
            for group, members in sets.items()
        }
        for score in LOGIT_SCORES
    }
    return right.float().mean().item(), scores, metrics


def train_one(
    arm_name: str, materials: Materials, *, recipe: Arm | None = None, device: str | None = None,
) -> tuple[Run, nn.Module]:  # fmt: skip
    """Train and score one student; the seed is that of the materials.

    The arm is looked up by its name; with a `recipe` of its own the name is only a label.

    Students of one seed start from the same weights and see the same views, whatever the arm, so
    that arms can be compared seed by seed.
    """
    with one_thread_on_cpu(device or default_device()):
        return _train_one(
            arm_name, materials, recipe or get_arm(arm_name, materials.preset), device
        )


def _train_one(
    arm_name: str, materials: Materials, arm: Arm, device: str | None
) -> tuple[Run, nn.Module]:
    before = dict(materials.seconds)  # what the arms before this one took is not this one's
    preset, seed, benchmark = materials.preset, materials.seed, materials.benchmark
    views = materials.views_for(asks_teacher=arm.asks_teacher)
    outliers = materials.outliers(arm.outliers) if arm.outliers else None
    autoencoded = real = None
    if arm.exposure in ("matched", "latent"):
        autoencoded = materials.autoencoded(decoded=arm.exposure == "matched")
    elif arm.exposure == "real":
        if not benchmark.validation_ood:
            raise ValueError(f"{arm_name} trains on validation-OOD images, and there are none here")
        real = join([s.images for s in benchmark.validation_ood.values()])
    student = materials.student()
    student.load_state_dict(materials.start)
    known = TeacherOutputs(views.teacher_features[0], views.teacher_logits[0])
    with torch.random.fork_rng(devices=[]):  # adapters and q draw their weights there too
        torch.manual_seed(seed)
        terms = build_terms(
            arm, outliers=outliers, teacher_dim=views.teacher_features.shape[-1],
            student_dim=student.feature_dim, weights=preset.weights, settings=preset.train,
            known=(known, views.labels), autoencoded=autoencoded, real=real,
            answers=materials.answers(arm) if arm.answers else None, device=materials.device,
        )  # fmt: skip
    materials.progress(f"{arm_name}, seed {seed}: {preset.train.epochs} epochs")
    history = fit(
        student, terms, views, settings=preset.train, generator=generator_for(seed, "training"),
        val=(benchmark.val.images, benchmark.val.labels), device=device, progress=materials.bars,
        mixed_precision=preset.train.mixed_precision, fuse=preset.train.fuse == "all",
        checkpoint=materials.checkpoint(arm_name, arm),
    )  # fmt: skip
    accuracy, scores, metrics = evaluate(student, benchmark)
    record = {
        "arm": arm_name, "recipe": asdict(arm), "seed": seed,
        "preset": portable(preset, arm.unseen),
        "code": code_version(), "made": _made(device or default_device()),
        "id_accuracy": accuracy, "metrics": metrics, "history": asdict(history),
        "seconds": {
            "training": round(history.seconds, 2),
            **{k: v for k, v in materials.seconds.items() if k not in before},
        },
        "extra_mb": round(sum(b.nbytes for t in terms for b in t.buffers(recurse=False)) / 1e6, 3),
        "missing": list(benchmark.missing),
    }  # fmt: skip
    # As it will be read from the disk again: no tuples.
    return Run(json.loads(json.dumps(record)), scores), student


def _made(device: str) -> dict[str, str]:
    """When, and on what; seconds, and the last digits, are those of this machine."""
    kind = torch.device(device).type
    chip = f" ({torch.cuda.get_device_name(device)})" if kind == "cuda" else ""
    machine = f"{platform.machine()} {kind}{chip}, torch {torch.__version__}"
    return {"date": date.today().isoformat(), "machine": machine}


# --- arms x seeds -----------------------------------------------------------------------------


def run(
    preset: Preset,
    arms: Sequence[str] | Mapping[str, Arm],
    seeds: Iterable[int],
    *,
    runs: str | Path = "runs",
    device: str | torch.device | None = None,
    fresh: bool = False,
    workers: int = 1,
    progress: Callable[[str], None] = log.info,
    bars: bool = True,
) -> list[Run]:
    """Train every arm with every seed, or read the run if it is there already.

    On a CPU every training computes in one thread: the small convolutions here gain nothing from
    a second one, and so the results are the same whatever the number of cores and of workers.

    Args:
        preset: all settings.
        arms: names as `recipes.get_arm` reads them, or arms by a label of their own.
        seeds: one run each; arms are paired by seed.
        runs: folder of the run files.
        device: `"cpu"`, `"cuda"`, ...; accelerate's choice if None.
        fresh: repeat runs that are there.
        workers: processes that train side by side (`workers`). In a script, more than one
            needs the guard `if __name__ == "__main__"`.
        progress: called with a sentence before every stage.
        bars: show progress bars within the stages; those of several workers are left out.

    Raises:
        ValueError: for an unknown arm, before anything is trained.
    """
    check_preset(preset)
    arms = _arms(arms, preset)
    seeds = _seeds(seeds)
    need_count(workers=workers)
    if workers > 1 and launched() > 1:
        raise ValueError(
            f"workers={workers} and {launched()} processes of `accelerate launch`: these train one "
            "student together, workers one each; choose one of the two"
        )
    if not isinstance(runs, str | Path) or not str(runs).strip():
        raise ValueError(f"runs={runs!r}; expected a folder")
    device = str(device or default_device())
    check_device(device)
    meet(cpu=torch.device(device).type == "cpu")
    make_folder(Path(runs))
    results: list[Run] = []
    if workers > 1:
        side_by_side(
            [(arms, preset)], seeds, runs=runs, device=device, fresh=fresh, workers=workers,
            progress=progress,
        )  # fmt: skip
        fresh = False
    for seed in seeds:
        materials = Materials(
            preset, seed, device=device, runs=runs, progress=progress, bars=bars and is_first()
        )
        for label, arm in arms.items():
            record_path = record_of(runs, preset, label, arm, seed)
            scores_path = record_path.with_suffix(".safetensors")
            if record_path.exists() and scores_path.exists() and not fresh:
                progress(f"{label}, seed {seed}: read from {record_path}")
                record = read_record(record_path, RECORD)
                _need_recipe(record, arm, record_path)
                results.append(Run(record, read_tensors(scores_path)))
                # Where a kill came after the record, the state lies there still.
                materials.forget_checkpoint(label, arm)
                continue
            if fresh:
                materials.forget_checkpoint(label, arm)
            result, _ = train_one(label, materials, recipe=arm, device=device)
            results.append(result)
            if not is_first():
                continue
            # The record goes last: where it is, the run is whole.
            write_tensors(scores_path, result.scores)
            write_record(record_path, result.record)
            materials.forget_checkpoint(label, arm)
    return results


def record_of(runs: str | Path, preset: Preset, label: str, arm: Arm, seed: int) -> Path:
    """Where the record of a run lies; a model or setting that its arm never sees may change."""
    return run_path(Path(runs), preset, label, seed, "json", unseen=arm.unseen)


def _need_recipe(record: dict, arm: Arm, path: Path) -> None:
    """Refuse a finished run that another recipe of the same label has left."""
    ours, theirs = json.loads(json.dumps(asdict(arm))), record.get("recipe") or {}
    if odd := [k for k in ours if k != "question" and k in theirs and ours[k] != theirs[k]]:
        raise ValueError(
            f"{path} was made by another recipe with the label {record['arm']!r} ({', '.join(odd)} "
            "differ); give this one a label of its own, or delete the file"
        )


def side_by_side(
    jobs: Sequence[tuple[Sequence[str] | Mapping[str, Arm], Preset]],
    seeds: Sequence[int],
    *,
    runs: str | Path,
    device: str,
    workers: int,
    fresh: bool = False,
    pretrain: bool = False,
    progress: Callable[[str], None] = log.info,
) -> None:
    """Train what several calls of `run` would find missing, in one pool of processes.

    Processes take seconds to start; so does one that waits for the last training of each call.

    Args:
        jobs: arms by label, and the preset to train them with; labels differ between jobs.
        seeds: as of `run`, as are all others.
        runs: folder of the run files.
        device: where to train.
        workers: processes.
        fresh: repeat runs that are there.
        pretrain: train the models that the arms need in the same pool, beside the common starts
            and the arms that need no diffusion model.
        progress: called when a task begins and ends.
    """
    recipes = [arm for arms, preset in jobs for arm in _arms(arms, preset).values()]
    models = pretraining(jobs[0][1], device, needed_models(recipes)) if pretrain else {}
    tasks: list[Task] = []
    for arms, preset in jobs:
        missing = [
            (seed, label, arm) for seed in seeds
            for label, arm in _arms(arms, preset).items()
            if fresh or not record_of(runs, preset, label, arm, seed).exists()
        ]  # fmt: skip
        known = {task.name for task in tasks}
        missing = [m for m in missing if f"{m[1]}, seed {m[0]}" not in known]
        tasks += study_tasks(
            preset, missing, runs=str(runs), device=device, fresh=fresh, after=tasks,
            models=models,
        )  # fmt: skip
    work([*models.values(), *tasks], workers, progress)  # the longest way begins first


def _arms(arms: Sequence[str] | Mapping[str, Arm], preset: Preset) -> dict[str, Arm]:
    if isinstance(arms, str) or not isinstance(arms, Sequence | Mapping):
        raise ValueError(f"arms={arms!r}; expected several names, as ['ce', 'kd'], or Arms by name")
    if not isinstance(arms, Mapping):
        if twice := [name for i, name in enumerate(arms) if name in arms[:i]]:
            raise ValueError(f"arm {twice[0]!r} is named twice; name each once")
        arms = {name: get_arm(name, preset) for name in arms}
    for label, arm in arms.items():
        if not isinstance(arm, Arm) or not isinstance(label, str):
            raise ValueError(f"arm {label!r} is {arm!r}; expected an Arm, by a name")
        check_name(label, "arm")
        check_arm(arm)
    for label, arm in arms.items():
        first = next(other for other in arms if arms[other] == arm)
        if first != label:
            raise ValueError(f"arm {label!r} is {first!r} itself, by another name; leave one out")
    return dict(arms)


def _seeds(seeds: Iterable[int]) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ValueError(f"seeds={seeds!r}; expected several whole numbers, as [0, 1] or range(2)")
    seeds = list(seeds)
    for seed in seeds:
        need_whole(seed=seed)
    seeds = [int(seed) for seed in seeds]  # NumPy's go into no JSON file
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds}; one run twice is no second one: name each seed once")
    return seeds


def find_models(
    preset: Preset,
    arms: Sequence[str] | Mapping[str, Arm],
    *,
    progress: Callable[[str], None] = log.info,
) -> None:
    """Make sure that every model the arms need is there before anything is trained.

    Where the preset allows a download it happens here, after its size and licence are told.

    Raises:
        OSError: for a model that is not there, with the way to get it.
        ValueError: for a damaged one.
    """
    for part in needed_models([*_arms(arms, preset).values()]):
        name = getattr(preset, part)
        if name == TINY:
            continue
        if preset.held_out and preset.pretrain and not Path(name).is_dir():
            part = {"pipeline": "diffusion"}.get(part, part)
            raise FileNotFoundError(
                f"there is no model folder {name!r}, trained without {', '.join(preset.held_out)}; "
                f"make it by {pretrain_command(part, preset.pretrain, preset.held_out)}"
            )
        if preset.download and not Path(name).is_dir() and weights.in_cache(name) is None:
            progress(f"downloading {weights.describe(name)}")
        weights.find(name, download=preset.download)


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    from oal_lite.study_command import main

    raise SystemExit(main())
