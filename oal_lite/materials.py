"""What the arms of one seed share: images, the teacher's answers, a common start, outliers.

Each part is made when it is first asked for. What is costly is kept in the folder of runs, where
another arm, another process or the same command after an interruption finds it.
"""

import hashlib
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from oal_lite import tiny_models
from oal_lite.arguments import need_generator, need_kind, need_whole
from oal_lite.benchmarks import Benchmark, generator_for, load
from oal_lite.data_parallel import is_first, wait_for
from oal_lite.diffusion_outliers import decode, encode, load_pipeline, synthesise, word_embeddings
from oal_lite.files import bytes_of, read_tensors, temporary_folder, write_tensors
from oal_lite.images import LazyImages, join, late, subset
from oal_lite.knn_outliers import sample_outliers_per_class
from oal_lite.presets import TINY, Preset, TrainSettings, check_preset
from oal_lite.recipes import Arm, Autoencoded, Outliers, gaussian_like, halves
from oal_lite.run_files import run_path
from oal_lite.students import ResNet18
from oal_lite.teacher import Teacher
from oal_lite.terms import CrossEntropy
from oal_lite.train import fit
from oal_lite.views import FreshViews, LazyViews, Views, augmented_copies, draw_views

log = logging.getLogger(__name__)

SHORT = 8 * 2**30  # bytes of a GPU's memory below which attention is computed in slices


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
        check_preset(preset)
        need_whole(seed=seed)
        self.preset, self.seed, self.device, self.progress = preset, seed, device, progress
        self.bars = bars
        self.runs = None if runs is None else Path(runs)
        self.seconds: dict[str, float] = {}
        self._own: str | None = None  # what tells images that the caller gave from others
        self._outliers: dict[str, Outliers] = {}
        self._answers: dict[tuple, Views] = {}

    def _timed(self, stage: str, sentence: str, make: Callable):  # noqa: ANN202
        self.progress(sentence)
        started = time.perf_counter()
        result = make()
        self.seconds[stage] = round(time.perf_counter() - started, 2)
        return result

    @cached_property
    def _benchmark(self) -> Benchmark:
        p = self.preset
        return self._timed(
            "benchmark", f"benchmark: {p.benchmark}",
            lambda: _load_once(
                p.benchmark, seed=p.data_seed, data_root=p.data_root,
                embedded_far=p.embedded_far, **p.benchmark_sizes
            ).hold_out(p.held_out),
        )  # fmt: skip

    @property
    def benchmark(self) -> Benchmark:
        """The images; the same for every seed. Yours may be put here before anything is made."""
        return self._benchmark

    @benchmark.setter
    def benchmark(self, own: Benchmark) -> None:
        need_kind(Benchmark, "as Benchmark.from_folders makes", benchmark=own)
        self._benchmark = own
        if self.runs is not None:  # a name of settings alone would find what others left there
            self._own = _content_of(own)

    def _named(self, what: str) -> str:
        """How a part is called in the folder of runs."""
        return f"{what}-of-{self._own}" if self._own else what

    def _path(self, what: str, preset: Preset, seed: int, unseen: Sequence[str]) -> Path:
        """Where tensors are kept that depend on the seed and on all but unseen settings."""
        what = self._named(what)
        return run_path(self.runs, preset, what, seed, "safetensors", unseen=unseen)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the frozen models: half floats where the preset asks for them and a GPU is at work."""
        half = self.preset.train.mixed_precision != "no" and torch.device(self.device).type != "cpu"
        return torch.float16 if half else torch.float32

    def _model(self, part: str, write: Callable[[Path], None]) -> str | Path:
        """Folder or hub id of a model; a tiny random one (see `tiny_models`) is written first."""
        if getattr(self.preset, part) != TINY:
            return getattr(self.preset, part)
        runs = self.runs or Path(self._temporary.name)
        folder = run_path(runs, self.preset, self._named(f"tiny-{part}"), 0, "model")
        if self.runs and not is_first():  # of several processes transformers lets one write
            wait_for(folder)
        elif not folder.exists():
            with temporary_folder(folder.parent) as beside:
                write(beside / part)
                try:
                    (beside / part).rename(folder)
                except OSError:  # another process was first; what it wrote is the same
                    if not folder.exists():
                        raise
        return folder

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory()  # deleted when these materials are

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        classes = self.benchmark.class_names
        folder = self._model("teacher", lambda f: tiny_models.write_teacher(f, len(classes)))
        teacher = Teacher.from_pretrained(
            folder, device=self.device, dtype=self._dtype, download=self.preset.download
        )
        seen = {_plain(n) for n in teacher.class_names}
        if odd := [name for name in self.preset.held_out if _plain(name) in seen]:
            raise ValueError(
                f"teacher {self.preset.teacher} knows {', '.join(odd)}, held out here: for it they "
                "are no OOD; give one that was trained without them"
            )
        if teacher.n_classes != len(classes):
            raise ValueError(
                f"teacher {self.preset.teacher} tells {teacher.n_classes} classes apart, the "
                f"benchmark {self.benchmark.name} has {len(classes)}; give one that is fine-tuned "
                "on it (--teacher, or python -m oal_lite.pretrain teacher)"
            )
        theirs, ours = ([_plain(n) for n in names] for names in (teacher.class_names, classes))
        if theirs != ours and sorted(theirs) == sorted(ours):
            odd = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
            raise ValueError(
                f"teacher {self.preset.teacher} has the classes of {self.benchmark.name} in "
                f"another order: its class {odd} is {theirs[odd]!r}, the benchmark's "
                f"{ours[odd]!r}; put the rows of its last layer, and id2label of its config, into "
                "the benchmark's order"
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
        views = self._timed(
            "teacher views", f"teacher: {n} views of {len(train):,} training images",
            lambda: draw_views(
                self._on_device(train.images), train.labels, self.teacher, n_views=n,
                progress=self.bars, generator=generator_for(self.seed, "views"),
                cache=self._folder,
            ),
        )  # fmt: skip
        right = (views.teacher_logits[0].argmax(1) == train.labels).float().mean().item()
        if self.preset.teacher != TINY and right < 1.5 / len(self.benchmark.class_names):
            warnings.warn(
                f"teacher {self.preset.teacher} names {right:.1%} of the training images right, "
                "hardly more than a guess: are its classes in the benchmark's order, and its "
                "images prepared as it knows them?",
                stacklevel=2,
            )
        return views

    def _on_device(self, images: Tensor | LazyImages) -> Tensor | LazyImages:
        """Images where they are augmented: on the GPU, if they are in memory at all."""
        return images if isinstance(images, LazyImages) else images.to(self.device)

    def _start_views(self) -> Views:
        """Views for the start, where the teacher has no say: what it would say is NaN.

        They are those of the arms, or fresh ones in every epoch (`TrainSettings.fresh_start`).
        """
        train = self.benchmark.train
        if self.preset.train.fresh_start and not isinstance(train.images, LazyImages):
            generator = generator_for(self.seed, "start views")
            return self._unasked(FreshViews(self._on_device(train.images), generator))
        return self.views_for(asks_teacher=False)

    def views_for(self, *, asks_teacher: bool) -> Views:
        """The same views, whether the teacher has looked at them or need not.

        What it would say is NaN where it has not.
        """
        if asks_teacher or "views" in vars(self):
            return self.views
        images = self._on_device(self.benchmark.train.images)
        generator = generator_for(self.seed, "views")
        return self._unasked(augmented_copies(images, self.preset.train.n_views, generator))

    def _unasked(self, images: Tensor | LazyViews | FreshViews) -> Views:
        unsaid = [torch.full((*images.shape[:2], d), torch.nan)
                  for d in (1, len(self.benchmark.class_names))]  # fmt: skip
        return Views(images, self.benchmark.train.labels, *unsaid)

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
        unseen = ("teacher", "pipeline", "n_per_class", "distance", "knn", "diffusion", "weights")
        unfinished = self.checkpoint("start", unseen=unseen)

        def make() -> dict[str, Tensor]:
            student = self.student()
            fit(
                student, nn.ModuleList([CrossEntropy()]), self._start_views(), settings=settings,
                generator=generator_for(self.seed, "start"), device=self.device,
                mixed_precision=settings.mixed_precision, fuse=settings.fuse != "no",
                checkpoint=unfinished, progress=self.bars,
            )  # fmt: skip
            return {k: v.detach().cpu() for k, v in student.state_dict().items()}

        sentence = f"start of all arms: cross-entropy, {settings.epochs} epochs"
        start = self._kept(
            "start", lambda: self._timed("start", sentence, make), unseen,
            {k: tuple(v.shape) for k, v in self.student().state_dict().items()}, together=True,
            # arms of other lengths set out from it, too; no image but the batch's comes in here
            preset=replace(self.preset, train=replace(settings, own_batch=True)),
        )  # fmt: skip
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        return start

    def checkpoint(
        self, what: str, arm: Arm | None = None, *, unseen: Sequence[str] = ()
    ) -> Path | None:
        """Where an unfinished training keeps its state, to go on from after an interruption.

        An arm may have any label; its recipe decides who may go on, and what has no part in it. Of
        another training `unseen` says that.
        """
        if self.runs is None:
            return None
        what = f"unfinished-{what}"
        if arm is not None:
            recipe = json.dumps(asdict(replace(arm, question="")), sort_keys=True)
            what += f"-{hashlib.sha256(recipe.encode()).hexdigest()[:6]}"
            unseen = arm.unseen
        return self._path(what, self.preset, self.seed, unseen)

    def forget_checkpoint(self, what: str, arm: Arm) -> None:
        """Delete that state, once the results are kept."""
        if path := self.checkpoint(what, arm):
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

        `"noise"` and `"halves"` are controls: the farthest ones with Gaussian noise for all of
        them, or with halves of ID latents for the latents.
        """
        if selection not in self._outliers:
            if selection == "noise":
                made = gaussian_like(
                    self.outliers("farthest"), generator_for(self.seed, "noise outliers")
                )
            elif selection == "halves":
                made = self._halves()
            else:
                made = self._kept(
                    f"outliers-{selection}", lambda: vars(self._synthesise(selection)),
                    ("distance", "weights"), dict.fromkeys(f.name for f in fields(Outliers)),
                    preset=self._frozen,
                )  # fmt: skip
                made = Outliers(**made)
            self._outliers[selection] = made
        return self._outliers[selection]

    def _halves(self) -> Outliers:
        latents, classes = halves(
            self.id_latents, self.benchmark.train.labels, self.preset.diffusion.n_latents,
            generator_for(self.seed, "halves"),
        )  # fmt: skip
        images = decode(
            self.pipeline, latents, batch_size=self._batch, size=self.benchmark.image_size
        )
        real = self.outliers("farthest")
        return replace(real, latents=latents, latent_classes=classes, images=images)

    @cached_property
    def id_latents(self) -> Float[Tensor, "n c h w"]:
        """The training images, encoded; the same for every seed."""
        images = self.benchmark.train.images
        return self._autoencoded(
            "id-latents", "encoding", f"autoencoder: {len(images):,} training images encoded",
            lambda: encode(self.pipeline, images, batch_size=self._batch),
        )  # fmt: skip

    @cached_property
    def reconstructions(self) -> UInt8[Tensor, "n 3 h w"]:
        """The same, decoded again."""
        return self._autoencoded(
            "reconstructions", "decoding (ID images)",
            "autoencoder: training images decoded again",
            lambda: decode(
                self.pipeline, self.id_latents, batch_size=self._batch,
                size=self.benchmark.image_size,
            ),
        )  # fmt: skip

    def _autoencoded(
        self, what: str, stage: str, sentence: str, make: Callable[[], Tensor]
    ) -> Tensor:
        made = self._kept(
            what, lambda: self._timed(stage, sentence, lambda: {what: make()}),
            ("teacher", "n_per_class", "distance", "knn", "diffusion", "weights"), {what: None},
            preset=self._frozen, seed=0,
        )  # fmt: skip
        return made[what]

    @property
    def _frozen(self) -> Preset:
        """The settings as teacher and pipeline see them: of the training, the number format."""
        format_ = TrainSettings(mixed_precision=self.preset.train.mixed_precision)
        return replace(self.preset, train=format_)

    @property
    def _batch(self) -> int:
        return self.preset.diffusion.batch_size

    def autoencoded(self, *, decoded: bool) -> Autoencoded:
        """The training images encoded and, where asked, decoded again."""
        images = self.reconstructions if decoded else None
        return Autoencoded(self.id_latents, self.benchmark.train.labels, images)

    def answers(self, arm: Arm) -> Views:
        """What the teacher says of the images of `arm.answers`, one view of each.

        There are about as many as there are views of the training set, the same number of each
        kind. They are drawn anew in every process; what the teacher says of them is kept in the
        folder of runs, as for the views.
        """
        key = (arm.answers, arm.outliers)
        if key not in self._answers:
            n = self.preset.train.n_views * len(self.benchmark.train) // len(arm.answers)
            drawn = [self._asked(kind, n, arm.outliers) for kind in arm.answers]
            images, labels = join([x for x, _ in drawn]), torch.cat([y for _, y in drawn])
            self._answers[key] = self._timed(
                f"answers ({', '.join(arm.answers)})",
                f"teacher: its answers on {len(images):,} more images",
                lambda: draw_views(
                    self._on_device(images), labels, self.teacher, n_views=1, progress=self.bars,
                    generator=generator_for(self.seed, "answer views"), cache=self._folder,
                ),
            )  # fmt: skip
        return self._answers[key]

    def _asked(
        self, kind: str, n: int, selection: str | None
    ) -> tuple[Tensor | LazyImages, Tensor]:
        """About n images of a kind on which the teacher shall answer, and their nearest classes."""
        train, generator = self.benchmark.train, generator_for(self.seed, "answers", kind)
        if kind == "halves":
            return halves(train.images, train.labels, n, generator)
        if kind == "id":
            passes, rest = divmod(n, len(train))  # the images lie in the order of their classes
            index = [torch.arange(len(train))] * passes
            index = torch.cat([*index, torch.randperm(len(train), generator=generator)[:rest]])
            return subset(train.images, index), train.labels[index]
        made, decoded = self.outliers(selection), self.reconstructions
        if isinstance(train.images, LazyImages):  # they are many: n copies would be too many
            decoded = late(decoded)
        known = torch.randint(len(train), (n // 2,), generator=generator)
        unknown = torch.randint(len(made.images), (n // 2,), generator=generator)
        index = torch.cat([known, len(train) + unknown])
        labels = torch.cat([train.labels, made.latent_classes])
        return subset(join([decoded, made.images]), index), labels[index]

    def _kept(
        self, what: str, make: Callable[[], dict[str, Tensor]], unseen: Sequence[str],
        shapes: Mapping[str, tuple | None], *, preset: Preset | None = None,
        seed: int | None = None, together: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Tensors from the folder of runs if they are there; otherwise made, and put there.

        `unseen` names the parts of the preset on which they do not depend, so that an ablation of
        one stage does not repeat the others. `shapes` are those of all tensors, None for any.
        Where they depend on less than this preset and this seed, those that count are given.
        Of several processes (`data_parallel`) the first makes them, unless all do it `together`.

        Raises:
            ValueError: for a file that is damaged, or holds others.
        """
        if self.runs is None:
            return make()
        seed = self.seed if seed is None else seed
        path = self._path(what, preset or self.preset, seed, unseen)
        if not (together or is_first()):
            wait_for(path)
        elif not path.exists():
            write_tensors(path, make())
        kept = read_tensors(path)
        if kept.keys() != shapes.keys() or any(
            shape not in (None, tuple(kept[name].shape)) for name, shape in shapes.items()
        ):
            raise ValueError(f"{path} holds other tensors than these settings make; delete it")
        return kept

    def _synthesise(self, selection: str) -> Outliers:
        settings, names = self.preset.diffusion, self.benchmark.class_names
        # in double precision, which not every accelerator has
        place = self.device if torch.device(self.device).type == "cuda" else "cpu"
        features, labels = (x.to(place) for x in self.id_features)
        made = self._timed(
            f"k-NN outliers ({selection})", f"k-NN outliers: selection {selection!r}",
            lambda: sample_outliers_per_class(
                features, labels, n_classes=len(names), selection=selection,
                generator=generator_for(self.seed, "knn"), progress=self.bars,
                **asdict(self.preset.knn),
            ),
        )  # fmt: skip
        vectors, classes = (x.cpu() for x in made)
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
            f"decoding ({selection})",
            "diffusion: decoding, for arms that see pictures and for looking",
            lambda: decode(
                self.pipeline, latents, batch_size=settings.batch_size,
                size=self.benchmark.image_size,
            ),
        )  # fmt: skip
        # MICL reads the vectors at the length at which they entered the prompt.
        lengths = word_embeddings(self.pipeline, names).float().norm(dim=1).cpu()
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


def _content_of(benchmark: Benchmark) -> str:
    """Hash of all that a training sees; images that are read late are read once for it."""
    digest = hashlib.sha256(json.dumps(benchmark.class_names).encode())
    for images in (benchmark.train, *benchmark.validation_ood.values()):
        digest.update(bytes_of(images.labels))
        for block in torch.arange(len(images)).split(256):
            digest.update(bytes_of(images.images[block]))
    return digest.hexdigest()[:8]


def _plain(name: str) -> str:
    """A class name without what differs between its spellings."""
    return name.lower().replace("_", " ").strip()


def spread_over_classes(classes: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Pick n indices at random, the same number from each class (give or take one).

    The released code draws a class at random 100 times and makes three latents of each draw, so
    of CIFAR-100's classes only about 63 are ever seen.

    Raises:
        ValueError: if there are fewer than n.
    """
    need_whole(n_latents=n)
    need_generator(generator, or_none=False)
    if n < 1:
        raise ValueError(f"{n} picks; at least one is needed (n_latents)")
    if n > len(classes):
        raise ValueError(f"{n} picks of {len(classes)} outliers; lower n_latents or raise rounds")
    ranks = torch.rand(len(classes), generator=generator).argsort()
    members = [ranks[classes[ranks] == c][:n] for c in classes.unique()]
    turns = torch.cat([torch.arange(len(m)) for m in members])
    return torch.cat(members)[turns.argsort(stable=True)[:n]]
