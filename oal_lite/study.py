"""From a preset to results: prepare what the arms share, train arms x seeds, score, keep.

A finished run is one small JSON file (settings, metrics, seconds) and one safetensors file (the
OOD scores of every image, for pictures). A run whose files are there, with the same settings and
the same code, is not repeated; so an interrupted study goes on where it stopped.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oal_lite import __version__, openood, tiny_models, weights
from oal_lite.benchmarks import Benchmark, generator_for, load
from oal_lite.diffusion_outliers import decode, encode, load_pipeline, synthesise, word_embeddings
from oal_lite.files import make_folder, read_record, read_tensors, write_atomically
from oal_lite.images import subset
from oal_lite.knn_outliers import sample_outliers_per_class
from oal_lite.metrics import detection_metrics
from oal_lite.presets import TINY, Preset
from oal_lite.recipes import Arm, Autoencoded, Outliers, build_terms, gaussian_like, get_arm
from oal_lite.scores import LOGIT_SCORES
from oal_lite.students import ResNet18
from oal_lite.teacher import Teacher
from oal_lite.terms import CrossEntropy
from oal_lite.train import Views, augmented_copies, check_device, draw_views, fit, predict
from oal_lite.workers import one_thread_on_cpu, study_tasks, work

log = logging.getLogger(__name__)

SHORT = 8 * 2**30  # bytes of a GPU's memory below which attention is computed in slices
RECORD = ("arm", "seed", "preset", "code", "id_accuracy", "metrics")  # what a record must have
GROUPS = ("near", "far", "validation")
# What shows, or only chooses among runs, cannot change one.
SHOWING = (
    "__main__.py", "ablations.py", "budget.py", "claims.py", "contrastive_bounds.py", "costs.py",
    "maps.py", "notebooks.py", "plots.py", "pretrain.py", "report.py", "study_command.py",
)  # fmt: skip


# Every seed of a study sees the same images.
_load_once = lru_cache(maxsize=1)(load)


class Materials:
    """What the arms of one seed share, each part made when first asked for, and once.

    Args:
        preset: all settings.
        seed: of the run; every stage has random numbers of its own, split from it.
        device: where teacher and diffusion model run.
        runs: folder where synthesised outliers are kept, and looked for; None keeps none.
        progress: called with a sentence before every stage that takes a while.
        bars: show progress bars within the stages.
    """

    def __init__(
        self, preset: Preset, seed: int, *, device: str = "cpu", runs: str | Path | None = None,
        progress: Callable[[str], None] = log.info, bars: bool = True,
    ):  # fmt: skip
        self.preset, self.seed, self.device, self.progress = preset, seed, device, progress
        self.bars = bars
        self.runs = None if runs is None else Path(runs)
        self.seconds: dict[str, float] = {}
        self._outliers: dict[str, Outliers] = {}

    def _timed(self, stage: str, sentence: str, make: Callable):  # noqa: ANN202
        self.progress(sentence)
        started = time.perf_counter()
        result = make()
        self.seconds[stage] = round(time.perf_counter() - started, 2)
        return result

    @cached_property
    def benchmark(self) -> Benchmark:
        """The images; the same for every seed."""
        p = self.preset
        return self._timed(
            "benchmark", f"benchmark: {p.benchmark}",
            lambda: _load_once(
                p.benchmark, seed=p.data_seed, data_root=p.data_root, **p.benchmark_sizes
            ),
        )  # fmt: skip

    @property
    def _dtype(self) -> torch.dtype:
        """Of the frozen models: half floats where the preset asks for them and a GPU is at work."""
        half = self.preset.train.mixed_precision != "no" and torch.device(self.device).type != "cpu"
        return torch.float16 if half else torch.float32

    def _model(self, part: str, write: Callable[[Path], None]) -> str | Path:
        """Folder or hub id of a model; a tiny random one (see `tiny_models`) is written first."""
        if getattr(self.preset, part) != TINY:
            return getattr(self.preset, part)
        runs = self.runs or Path(tempfile.mkdtemp())
        folder = run_path(runs, self.preset, f"tiny-{part}", 0, "model")
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
                write(Path(beside) / part)
                try:
                    (Path(beside) / part).rename(folder)
                except OSError:  # another process was first; what it wrote is the same
                    if not folder.exists():
                        raise
        return folder

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        classes = self.benchmark.class_names
        folder = self._model("teacher", lambda f: tiny_models.write_teacher(f, len(classes)))
        teacher = Teacher.from_pretrained(
            folder, device=self.device, dtype=self._dtype, download=self.preset.download
        )
        named = teacher.model.classifier.out_features
        if named != len(classes):
            raise ValueError(
                f"teacher {self.preset.teacher} tells {named} classes apart, the benchmark "
                f"{self.benchmark.name} has {len(classes)}; give one that is fine-tuned on it "
                "(--teacher, or python -m oal_lite.pretrain teacher)"
            )
        return teacher

    @cached_property
    def pipeline(self):  # noqa: ANN201
        """The Stable Diffusion pipeline."""
        words = [*self.preset.diffusion.prompt.split(), *self.benchmark.class_names]
        folder = self._model("pipeline", lambda f: tiny_models.write_pipeline(f, words))
        pipeline = load_pipeline(
            folder, device=self.device, dtype=self._dtype, download=self.preset.download
        )
        cuda = torch.device(self.device).type == "cuda"
        if cuda and torch.cuda.get_device_properties(self.device).total_memory < SHORT:
            pipeline.enable_attention_slicing()
        return pipeline

    @cached_property
    def views(self) -> Views:
        """Augmented training images with the teacher's answers."""
        n, train = self.preset.train.n_views, self.benchmark.train
        return self._timed(
            "teacher views", f"teacher: {n} views of {len(train):,} training images",
            lambda: draw_views(
                train.images, train.labels, self.teacher, n_views=n, progress=self.bars,
                generator=generator_for(self.seed, "views"), cache=self._folder,
            ),
        )  # fmt: skip

    def _unseen_views(self) -> Views:
        """The same views before the teacher has looked; what it would say is NaN.

        Cross-entropy alone needs no more, and can so be trained while the teacher looks.
        """
        train, n = self.benchmark.train, self.preset.train.n_views
        images = augmented_copies(train.images, n, generator_for(self.seed, "views"))
        unsaid = [torch.full((*images.shape[:2], d), torch.nan)
                  for d in (1, len(self.benchmark.class_names))]  # fmt: skip
        return Views(images, train.labels, *unsaid)

    @property
    def _folder(self) -> Path | None:
        return None if self.runs is None else self.runs / self.preset.name

    @cached_property
    def id_features(self) -> tuple[Float[Tensor, "n d"], Tensor]:
        """Teacher features of the first images of each class, and their labels."""
        train = self.benchmark.train
        first = torch.cat(
            [
                (train.labels == c).nonzero()[: self.preset.n_per_class, 0]
                for c in range(len(self.benchmark.class_names))
            ]
        )
        features = self._timed(
            "ID features", f"teacher: ID features of {len(first):,} images",
            lambda: self.teacher(subset(train.images, first), progress=self.bars).features,
        )  # fmt: skip
        return features, train.labels[first]

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """Weights from which every arm of this seed sets out: a short cross-entropy training.

        As in the paper, whose arms start from a cross-entropy checkpoint. The arm `ce` goes on
        from it with cross-entropy, for as many steps and at the same rate as all the others.
        """
        settings = self.preset.train
        settings = replace(settings, epochs=settings.start_epochs, lr=settings.start_lr)

        def make() -> dict[str, Tensor]:
            student = self.student()
            fit(
                student, nn.ModuleList([CrossEntropy()]), self._unseen_views(), settings=settings,
                generator=generator_for(self.seed, "start"), device=self.device,
                mixed_precision=self.preset.train.mixed_precision,
                checkpoint=self.checkpoint("start"), progress=self.bars,
            )  # fmt: skip
            return {k: v.detach().cpu() for k, v in student.state_dict().items()}

        sentence = f"start of all arms: cross-entropy, {settings.epochs} epochs"
        unseen = ("pipeline", "n_per_class", "knn", "diffusion", "weights")
        start = self._kept("start", lambda: self._timed("start", sentence, make), unseen)
        self.forget_checkpoint("start")
        return start

    def checkpoint(self, what: str) -> Path | None:
        """Where an unfinished training keeps its state, to go on from after an interruption."""
        if self.runs is None:
            return None
        return run_path(self.runs, self.preset, f"unfinished-{what}", self.seed, "safetensors")

    def forget_checkpoint(self, what: str) -> None:
        """Delete that state, once the training's results are kept."""
        if path := self.checkpoint(what):
            path.unlink(missing_ok=True)

    def student(self) -> ResNet18:
        """An untrained student, the same for every arm of this seed."""
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from global state
            torch.manual_seed(self.seed)
            return ResNet18(
                len(self.benchmark.class_names),
                width=self.preset.train.width,
                stem=self.preset.train.stem,
            )

    def outliers(self, selection: str) -> Outliers:
        """k-NN outliers by a selection, and the latents that diffusion makes of some of them.

        `"noise"` is the control: Gaussian noise with the mean and spread of the farthest ones.
        """
        if selection not in self._outliers:
            if selection == "noise":
                made = gaussian_like(
                    self.outliers("farthest"), generator_for(self.seed, "noise outliers")
                )
            else:
                made = self._kept(
                    f"outliers-{selection}", lambda: vars(self._synthesise(selection)),
                    ("train", "weights"),
                )  # fmt: skip
                made = Outliers(**made)
            self._outliers[selection] = made
        return self._outliers[selection]

    @cached_property
    def id_latents(self) -> Float[Tensor, "n c h w"]:
        """The training images, encoded; the same for every seed."""
        images = self.benchmark.train.images
        made = self._kept(
            "id-latents", lambda: self._timed(
                "encoding", f"autoencoder: {len(images):,} training images encoded",
                lambda: {"latents": encode(self.pipeline, images, batch_size=self._batch)},
            ), ("knn", "diffusion", "train", "weights"),
        )  # fmt: skip
        return made["latents"]

    @property
    def _batch(self) -> int:
        return self.preset.diffusion.batch_size

    def autoencoded(self, *, decoded: bool) -> Autoencoded:
        """The training images encoded and, where asked, decoded again."""
        images = None
        if decoded:
            images = self._timed(
                "decoding (ID images)", "autoencoder: training images decoded again",
                lambda: decode(
                    self.pipeline, self.id_latents, batch_size=self._batch,
                    size=self.benchmark.image_size,
                ),
            )  # fmt: skip
        return Autoencoded(self.id_latents, self.benchmark.train.labels, images)

    def _kept(
        self, what: str, make: Callable[[], dict[str, Tensor]], unseen: Sequence[str]
    ) -> dict[str, Tensor]:
        """Tensors from the folder of runs if they are there; otherwise made, and put there.

        `unseen` names the parts of the preset on which they do not depend, so that an ablation of
        one stage does not repeat the others.
        """
        if self.runs is None:
            return make()
        from safetensors.torch import save_file

        path = run_path(self.runs, self.preset, what, self.seed, "safetensors", unseen=unseen)
        if not path.exists():
            made = {name: tensor.contiguous() for name, tensor in make().items()}
            write_atomically(path, lambda p: save_file(made, p))
        return read_tensors(path)

    def _synthesise(self, selection: str) -> Outliers:
        settings, names = self.preset.diffusion, self.benchmark.class_names
        features, labels = self.id_features
        vectors, classes = self._timed(
            f"k-NN outliers ({selection})", f"k-NN outliers: selection {selection!r}",
            lambda: sample_outliers_per_class(
                features, labels, n_classes=len(names), selection=selection,
                generator=generator_for(self.seed, "knn"), progress=self.bars,
                **asdict(self.preset.knn),
            ),
        )  # fmt: skip
        picks = spread_over_classes(
            classes, settings.n_latents, generator_for(self.seed, "pick", selection)
        )
        latents = self._timed(
            f"latents ({selection})", f"diffusion: {settings.n_latents} latents",
            lambda: synthesise(
                self.pipeline, self._as_tokens(vectors[picks]),
                [names[c] for c in classes[picks].tolist()],
                prompt=settings.prompt, steps=settings.steps, guidance=settings.guidance,
                batch_size=settings.batch_size, progress=self.bars,
                generator=generator_for(self.seed, "latents", selection),
            ),
        )  # fmt: skip
        images = self._timed(
            f"decoding ({selection})", "diffusion: decoding, for the pixel arm and for looking",
            lambda: decode(
                self.pipeline, latents, batch_size=settings.batch_size,
                size=self.benchmark.image_size,
            ),
        )  # fmt: skip
        # MICL reads the vectors at the length at which they entered the prompt.
        lengths = word_embeddings(self.pipeline, names).norm(dim=1)
        return Outliers(vectors * lengths[classes, None], classes, latents, classes[picks], images)

    def _as_tokens(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Outliers as the prompt gets them; turned by a random rotation where nothing is aligned.

        The released OAL puts a feature of one network into the token space of another (D5). A
        rotation does the same to the shipped models, whose two spaces are one: it keeps lengths
        and angles, and takes away what a direction means.
        """
        if self.preset.diffusion.aligned:
            return vectors
        d = vectors.shape[1]
        noise = torch.randn(d, d, generator=generator_for(self.seed, "rotation"))
        return vectors @ torch.linalg.qr(noise).Q


def spread_over_classes(classes: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Pick n indices at random, the same number from each class (give or take one).

    The released code draws a class at random 100 times and makes three latents of each draw, so
    of CIFAR-100's classes only about 63 are ever seen.

    Raises:
        ValueError: if there are fewer than n.
    """
    if n < 1:
        raise ValueError(f"{n} picks; at least one is needed (n_latents)")
    if n > len(classes):
        raise ValueError(f"{n} picks of {len(classes)} outliers; lower n_latents or raise rounds")
    ranks = torch.rand(len(classes), generator=generator).argsort()
    members = [ranks[classes[ranks] == c] for c in classes.unique()]
    turns = [m[i] for i in range(max(map(len, members))) for m in members if i < len(m)]
    return torch.stack(turns[:n])


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
        sets = self.record["metrics"][score][group]
        if not sets:
            return None
        return sum(m[name] for m in sets.values()) / len(sets)


def code_version() -> str:
    """The package's version and a hash of its sources and of the shipped models' manifest.

    So changed code, or other models, mean new runs. What only shows results does not count.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parent
    sources = [p for p in sorted(package.glob("*.py")) if p.name not in SHOWING]
    for path in [*sources, *sorted(package.glob("assets/*/manifest.json"))]:
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


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
        return _train_one(arm_name, materials, recipe or get_arm(arm_name), device)


def _train_one(
    arm_name: str, materials: Materials, arm: Arm, device: str | None
) -> tuple[Run, nn.Module]:
    preset, seed, benchmark = materials.preset, materials.seed, materials.benchmark
    views = materials.views
    outliers = materials.outliers(arm.outliers) if arm.outliers else None
    autoencoded = real = None
    if arm.exposure in ("matched", "latent"):
        autoencoded = materials.autoencoded(decoded=arm.exposure == "matched")
    elif arm.exposure == "real":
        if not benchmark.validation_ood:
            raise ValueError(f"{arm_name} trains on validation-OOD images, and there are none here")
        real = torch.cat([s.images for s in benchmark.validation_ood.values()])
    student = materials.student()
    student.load_state_dict(materials.start)
    with torch.random.fork_rng(devices=[]):  # adapters and q draw their weights there too
        torch.manual_seed(seed)
        terms = build_terms(
            arm, outliers=outliers, teacher_dim=views.teacher_features.shape[-1],
            student_dim=student.feature_dim, weights=preset.weights, settings=preset.train,
            id_features=(views.teacher_features[0], views.labels), autoencoded=autoencoded,
            real=real,
        )  # fmt: skip
    materials.progress(f"{arm_name}, seed {seed}: {preset.train.epochs} epochs")
    history = fit(
        student, terms, views, settings=preset.train, generator=generator_for(seed, "training"),
        val=(benchmark.val.images, benchmark.val.labels), device=device, progress=materials.bars,
        mixed_precision=preset.train.mixed_precision, checkpoint=materials.checkpoint(arm_name),
    )  # fmt: skip
    accuracy, scores, metrics = evaluate(student, benchmark)
    record = {
        "arm": arm_name, "recipe": asdict(arm), "seed": seed, "preset": _portable(preset),
        "code": code_version(),
        "id_accuracy": accuracy, "metrics": metrics, "history": asdict(history),
        "seconds": {"training": round(history.seconds, 2), **materials.seconds},
        "extra_mb": round(sum(b.nbytes for t in terms for b in t.buffers(recurse=False)) / 1e6, 3),
        "missing": list(benchmark.missing),
    }  # fmt: skip
    # As it will be read from the disk again: no tuples.
    return Run(json.loads(json.dumps(record)), scores), student


def _portable(preset: Preset) -> dict:
    """Settings as plain data; folders of this package by their place in it."""
    root = str(Path(__file__).parent)
    inside = {k: getattr(preset, k).replace(root, "oal_lite") for k in ("teacher", "pipeline")}
    # Of real images it counts what they are, not where they lie.
    if preset.benchmark in openood.LAYOUTS and preset.data_root is not None:
        inside["data_root"] = openood.fingerprint(preset.benchmark, preset.data_root)
    return asdict(replace(preset, **inside, download=False))


# --- arms x seeds -----------------------------------------------------------------------------


def run_path(
    runs: Path, preset: Preset, what: str, seed: int, ending: str, *, unseen: Sequence[str] = ()
) -> Path:
    """Where a run's file lies; the name holds a hash of the code and of all but unseen settings."""
    seen = {name: value for name, value in _portable(preset).items() if name not in unseen}
    key = json.dumps([seen, code_version()], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    return runs / preset.name / f"{what}-seed{seed}-{digest}.{ending}"


def run(
    preset: Preset,
    arms: Sequence[str] | Mapping[str, Arm],
    seeds: Iterable[int],
    *,
    runs: str | Path = "runs",
    device: str | None = None,
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
        arms: names of `recipes.ARMS`, or arms by a label of their own.
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
    from safetensors.torch import save_file

    arms = arms if isinstance(arms, Mapping) else {name: get_arm(name) for name in arms}
    device = device or default_device()
    check_device(device)
    make_folder(Path(runs))
    seeds, results = list(seeds), []
    if workers > 1:
        missing = [
            (seed, label, arm) for seed in seeds for label, arm in arms.items()
            if fresh or not run_path(Path(runs), preset, label, seed, "json").exists()
        ]  # fmt: skip
        tasks = study_tasks(preset, missing, runs=str(runs), device=device, fresh=fresh)
        work(tasks, workers, progress)
        fresh = False
    for seed in seeds:
        materials = Materials(preset, seed, device=device, runs=runs, progress=progress, bars=bars)
        for label, arm in arms.items():
            record_path = run_path(Path(runs), preset, label, seed, "json")
            scores_path = record_path.with_suffix(".safetensors")
            if record_path.exists() and scores_path.exists() and not fresh:
                progress(f"{label}, seed {seed}: read from {record_path}")
                record = read_record(record_path, RECORD)
                results.append(Run(record, read_tensors(scores_path)))
                continue
            if fresh:
                materials.forget_checkpoint(label)
            result, _ = train_one(label, materials, recipe=arm, device=device)
            # The record goes last: where it is, the run is whole.
            write_atomically(scores_path, lambda p, r=result: save_file(r.scores, p))
            write_atomically(
                record_path, lambda p, r=result: p.write_text(json.dumps(r.record, indent=1))
            )
            materials.forget_checkpoint(label)
            results.append(result)
    return results


def find_models(
    preset: Preset, arms: Sequence[str], *, progress: Callable[[str], None] = log.info
) -> None:
    """Make sure that every model the arms need is there before anything is trained.

    Where the preset allows a download it happens here, after its size and licence are told.

    Raises:
        OSError: for a model that is not there, with the way to get it.
        ValueError: for a damaged one.
    """
    parts = ["teacher"] + ["pipeline"] * any(get_arm(a).outliers for a in arms)
    for name in (getattr(preset, part) for part in parts):
        if name == TINY:
            continue
        if preset.download and not Path(name).is_dir() and weights.in_cache(name) is None:
            progress(f"downloading {weights.describe(name)}")
        weights.find(name, download=preset.download)


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    from oal_lite.study_command import main

    raise SystemExit(main())
