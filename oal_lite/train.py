"""The training loop: one student, one list of loss terms, on accelerate."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from oal_lite.arguments import (
    check_device,
    need_choice,
    need_generator,
    need_integers,
    need_kind,
    need_number,
    need_tensor,
    need_whole,
)
from oal_lite.batches import in_batches
from oal_lite.checkpoint import Keeper
from oal_lite.data_parallel import Share, launched
from oal_lite.images import LazyImages, check_images
from oal_lite.presets import TrainSettings
from oal_lite.teacher import to_float
from oal_lite.terms import Step, Term
from oal_lite.views import FreshViews, LazyViews, Views


@dataclass
class History:
    """What happened in training: per epoch, the mean of every loss term and the ID accuracies."""

    terms: list[dict[str, float]] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def predict(
    student: nn.Module,
    images: UInt8[Tensor, "n 3 h w"] | LazyImages,
    *,
    batch_size: int | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n d"]]:
    """Logits and features of images, in evaluation mode, on the CPU.

    Args:
        student: as of `fit`; it stays as it is.
        images: 8-bit RGB.
        batch_size: images at a time, or fewer where memory does not suffice; it does not change
            the result. If None, 100 on a CPU, whose caches hold no more, and 500 on a GPU.

    Raises:
        ValueError: for what are no images, or a batch size below one.
        FloatingPointError: if the student answers with NaN or infinity.
    """
    check_images(images)
    training = student.training
    student.eval()
    device = next(student.parameters()).device
    if batch_size is None:
        batch_size = 100 if device.type == "cpu" else 500
    with _full_precision():
        out = in_batches(
            lambda part: student(_input(images[part], device)), len(images), batch_size
        )
    student.train(training)
    logits, features = (torch.cat(x).float().cpu() for x in zip(*out, strict=True))
    if not logits.isfinite().all():
        raise FloatingPointError(
            "the student's logits hold NaN or infinity: its weights or statistics do; train it "
            "again at a lower learning rate"
        )
    return logits, features


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions of a GPU in all digits of float32, where torch's default keeps three of them."""
    convolution = torch.backends.cudnn.conv
    before, convolution.fp32_precision = convolution.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def _input(images: Tensor, device: torch.device) -> Tensor:
    return to_float(images.to(device)).contiguous(memory_format=torch.channels_last)


def _optimizer(student: nn.Module, terms: list[Term], s: TrainSettings) -> torch.optim.SGD:
    groups = [{"params": list(student.parameters()), "lr": s.lr}]
    groups += [{"params": t.main_parameters(), "lr": t.lr} for t in terms if t.main_parameters()]
    return torch.optim.SGD(
        groups, lr=s.lr, momentum=s.momentum, nesterov=True, weight_decay=s.weight_decay
    )


def fit(
    student: nn.Module,
    terms: nn.ModuleList,
    views: Views,
    *,
    settings: TrainSettings,
    generator: torch.Generator,
    val: tuple[Tensor | LazyImages, Tensor] | None = None,
    mixed_precision: str = "no",
    fuse: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    checkpoint: str | Path | None = None,
) -> History:
    """Train a student in place: SGD with Nesterov momentum, learning rate on half a cosine.

    Loss of a step: sum over terms of weight * term. Where a term asks for extra images or maps they
    go through the student beside the ID images, as a batch of their own (`settings.own_batch`).
    Processes that `accelerate launch` has started share the batches out (`data_parallel`).

    Args:
        student: a `students.ResNet18`, or another module that is called as one is, and has its
            `entry_size`.
        terms: from `recipes.build_terms`.
        views: from `views.draw_views`.
        settings: epochs, batch size, rates.
        generator: order, choice of view, outliers of each step.
        val: images and labels to follow the ID accuracy; never used to choose anything.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`, as accelerate names them; `"half"` is the
            one of the two that the GPU is built for, and nothing on a CPU.
        fuse: on a GPU, let torch.compile fuse the layers of the student's stages. The first step
            then takes tens of seconds, and all others less memory traffic; rounding may differ.
        device: where to train; accelerate's choice (the GPU if there is one) if None.
        progress: show a bar.
        on_epoch: called with the history so far after every epoch, to draw live curves.
        checkpoint: file that holds the whole state of the training, written after every
            `settings.keep_every` epochs and the last. Where it is there, training goes on from it,
            and ends as if it had never stopped: on a CPU to the last bit. It is left behind at the
            end.

    Returns:
        The history. The student is left in evaluation mode, with the weights of the last step.

    Raises:
        ValueError: if there are fewer images than one batch, for settings that cannot be, for a
            device that is not there, or a checkpoint that is damaged or of another training.
        FloatingPointError: if a loss is not finite, with the names and values of the terms.
    """
    if on_epoch is not None and not callable(on_epoch):
        raise ValueError(f"on_epoch={on_epoch!r}; expected a function of the history, or None")
    need_generator(generator, or_none=False)
    _check_terms(terms)
    _check_settings(settings)
    _check_views(views, val)
    _check_classes(student, views, val)
    if len(views.labels) < settings.batch_size:
        raise ValueError(
            f"{len(views.labels)} training images are fewer than one batch of {settings.batch_size}"
        )
    if device is not None:
        check_device(device)
        _choose(torch.device(device))
    cpu = device is not None and torch.device(device).type == "cpu"
    accelerator = _accelerator(_precision(mixed_precision, cpu), cpu)
    fused = _fuse(student) if fuse and accelerator.device.type == "cuda" else []
    loop = _Loop(student, terms, views, settings, generator, accelerator)
    keeper = Keeper(checkpoint, loop.parts(), {
        **asdict(settings), "images": len(views.labels), "views": len(views.images),
        "terms": [[t.name, t.weight] for t in terms], "mixed_precision": mixed_precision,
    })  # fmt: skip

    history, done, started = History(), 0, time.perf_counter()
    if saved := keeper.restore():
        history, done = History(**saved["history"]), saved["epochs"]
        started -= history.seconds
    loop.student.train()
    terms.train()
    bar = tqdm(range(done, settings.epochs), desc="epochs", disable=not progress, leave=False,
               initial=done, total=settings.epochs)  # fmt: skip
    for epoch in bar:
        means, accuracy = loop.epoch()
        history.terms.append(means)
        history.train_accuracy.append(accuracy)
        if val is not None:
            with torch.compiler.set_stance("force_eager") if fused else nullcontext():
                right = predict(loop.student, val[0])[0].argmax(1) == val[1]
            history.val_accuracy.append(right.float().mean().item())
            bar.set_postfix(val_accuracy=f"{history.val_accuracy[-1]:.3f}")
        history.seconds = time.perf_counter() - started
        due = (epoch + 1) % settings.keep_every == 0 or epoch + 1 == settings.epochs
        if accelerator.is_main_process and due:
            keeper.save({"epochs": epoch + 1, "history": asdict(history)})
        if on_epoch is not None:
            on_epoch(history)
    for stage in fused:
        stage._compiled_call_impl = None  # what scores it later has other batches and no autocast
    # Scores are taken in full precision: in bfloat16 a logit has two or three digits.
    accelerator.unwrap_model(loop.student, keep_fp32_wrapper=False).eval()
    return history


class _Loop:
    """One training, put together: a student, its loss terms, its images, and what moves them.

    Args:
        student, terms, views, settings, generator: as of `fit`.
        accelerator: says on which device, in which precision and among how many processes.
    """

    def __init__(
        self, student: nn.Module, terms: nn.ModuleList, views: Views, settings: TrainSettings,
        generator: torch.Generator, accelerator,  # noqa: ANN001 - imported where it is made
    ):  # fmt: skip
        self.accelerator, self.device = accelerator, accelerator.device
        self.share = Share(accelerator.process_index, accelerator.num_processes)
        student.to(self.device, memory_format=torch.channels_last)
        self.terms = terms.to(self.device)
        self.views = views.to(self.device)  # once: a copy at every step would hold up a GPU
        self.settings, self.generator = settings, generator
        self.side = student.entry_size(views.images.shape[-1])
        optimizer = _optimizer(student, list(terms), settings)
        steps = settings.epochs * (len(views.labels) // settings.batch_size)
        self.optimizer, self.schedule = accelerator.prepare(optimizer, _schedule(optimizer, steps))
        # for evaluation, so that it is not wrapped: several processes share a batch by `Share`
        self.student = accelerator.prepare_model(student, evaluation_mode=True)

    def parts(self) -> dict:
        """All that a checkpoint has to hold, by name."""
        parts = {"student": self.accelerator.unwrap_model(self.student), "terms": self.terms,
                 "optimizer": self.optimizer, "schedule": self.schedule,
                 "generator": self.generator}  # fmt: skip
        for name, module in self.terms.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, torch.optim.Optimizer):  # of a term, for a network of its own
                    parts[f"{name}.{key}"] = value
        if isinstance(self.views.images, FreshViews):
            parts["views"] = self.views.images.generator
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def epoch(self) -> tuple[dict[str, float], float]:
        """Go once through the images, in a new order: every term's mean, and the ID accuracy.

        Raises:
            FloatingPointError: if a loss or a weight is not finite.
        """
        n, size = len(self.views.labels), self.settings.batch_size
        order = torch.randperm(n, generator=self.generator)[: n // size * size].view(-1, size)
        totals, correct = dict.fromkeys((t.name for t in self.terms), 0.0), 0.0
        for pick in order.to(self.views.labels.device):
            step = self.look(pick)
            # sums stay on the device: reading a number back at every step would stall a GPU
            for name, value in self.learn(step).items():
                totals[name] = totals[name] + value.detach()
            correct = correct + (step.logits.argmax(1) == step.labels).float().mean()
        with torch.no_grad():  # statistics of batch normalisation are those of shares
            kept = (x for part in (self.student, self.terms) for x in part.state_dict().values())
            self.share.average(x for x in kept if x.is_floating_point())
        means = {name: float(total) / len(order) for name, total in totals.items()}
        if not all(map(math.isfinite, means.values())):
            raise FloatingPointError(f"a loss is not finite: {means}; lower the learning rate")
        if not all(p.isfinite().all() for p in self.student.parameters()):
            raise FloatingPointError(
                f"weights are not finite after losses of {means}; lower the learning rate"
            )
        return means, float(correct) / len(order)

    def look(self, pick: Int[Tensor, " b"]) -> Step:
        """Send one view of each of these images through the student, and what the terms ask for."""
        views, size, share = self.views, len(pick), self.share
        view = torch.randint(len(views.images), (size,), generator=self.generator)
        view = view.to(pick.device)
        asked = {t.name: t.extra_images(size, self.generator) for t in self.terms}
        images = {name: x for name, x in asked.items() if x is not None}
        with self.accelerator.autocast():
            asked = {t.name: t.extra_maps(size, self.side, self.generator) for t in self.terms}
            maps = {name: m for name, m in asked.items() if m is not None}
            shown = [share.of(x).to(self.device) for x in images.values()]
            said = self.student(
                _input(_share_of_views(views.images, view, pick, share), self.device),
                _input(torch.cat(shown), self.device) if shown else None,
                torch.cat([share.of(x) for x in maps.values()]) if maps else None,
                own_batch=self.settings.own_batch,
            )
        extras = images | maps
        sizes = [size, *map(len, extras.values())]
        (logits, *more_logits), (features, *more_features) = (
            share.gather(x.float()).split(sizes) for x in said
        )
        return Step(
            labels=views.labels[pick].long(),
            logits=logits,
            features=features,
            teacher_features=views.teacher_features[view, pick].float(),
            teacher_logits=views.teacher_logits[view, pick],
            generator=self.generator,
            extra=dict(zip(extras, zip(more_logits, more_features, strict=True), strict=True)),
        )

    def learn(self, step: Step) -> dict[str, Float[Tensor, ""]]:
        """Take one step down the weighted sum of the terms; their values, unweighted."""
        for term in self.terms:
            term.before(step)
        values = {term.name: term(step) for term in self.terms}
        loss = sum(term.weight * values[term.name] for term in self.terms)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        trained = (p for group in self.optimizer.param_groups for p in group["params"])
        self.share.average(p.grad for p in trained if p.grad is not None)
        self.optimizer.step()
        self.schedule.step()
        return values


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=steps,
        # no warm-up in a very short run: one of a single step is a division by zero in torch
        pct_start=min(0.1, 100 / steps) if steps > 10 else 0.0, cycle_momentum=False,
    )  # fmt: skip


def _fuse(student: nn.Module) -> list[nn.Module]:
    """Let torch.compile fuse the layers of each of the student's stages, when it is first used."""
    # of sizes it does not know yet torch complains by dozens, and goes on
    logging.getLogger("torch.utils._sympy.interp").setLevel(logging.ERROR)
    stages = [student.stem, *student.stages]
    for stage in stages:
        stage.compile()
    return stages


def _choose(device: torch.device) -> None:
    """Make the GPU with this number torch's own choice, since accelerate asks for no number."""
    if device.type == "cuda" and device.index is not None and launched() == 1:
        torch.cuda.set_device(device)


def _accelerator(precision: str, cpu: bool):  # noqa: ANN202 - accelerate is imported inside
    """An accelerator that forgets the device and precision of the last training in this process.

    accelerate keeps both for good and refuses a second training with others. Where several
    processes train together the launcher has set them, and they stay.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration

    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    # a batch is one for all processes, so the learning rate falls once for each
    loading = DataLoaderConfiguration(split_batches=True)
    return Accelerator(cpu=cpu, mixed_precision=precision, dataloader_config=loading)


def _precision(wanted: str, cpu: bool) -> str:
    need_choice(("no", "half", "bf16", "fp16"), mixed_precision=wanted)
    if wanted != "half":
        return wanted
    if cpu or not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _share_of_views(
    images: Tensor | LazyViews | FreshViews, view: Tensor, pick: Tensor, share: Share
) -> Tensor:
    """One process's share of a batch; what is drawn at a look is drawn for the whole batch."""
    if isinstance(images, FreshViews):
        return share.of(images[view, pick])
    return images[share.of(view), share.of(pick)]


def _check_terms(terms: nn.ModuleList) -> None:
    """Refuse what is no list of loss terms, each with a name of its own."""
    need_kind(nn.ModuleList, "as recipes.build_terms gives", terms=terms)
    if not len(terms):
        raise ValueError("there are no loss terms; pass those of recipes.build_terms")
    for i, term in enumerate(terms):
        need_kind(Term, "as those of recipes.build_terms", **{f"terms[{i}]": term})
    names = [t.name for t in terms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two terms are named {twice[0]!r}; give each a name of its own")


def _check_classes(student: nn.Module, views: Views, val: tuple | None) -> None:
    """Refuse labels beyond the teacher's classes, and a student that tells others apart."""
    classes = views.teacher_logits.shape[-1]
    for labels, what in ((views.labels, "labels"), (val and val[1], "labels of val")):
        if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            low, high = labels.min().item(), labels.max().item()
            raise ValueError(
                f"{what} run from {low} to {high}; expected 0 to {classes - 1}, the teacher's "
                "classes"
            )
    head = getattr(student, "head", None)
    if isinstance(head, nn.Linear) and head.out_features != classes:
        raise ValueError(
            f"the student tells {head.out_features} classes apart and the teacher {classes}; build "
            "it for as many"
        )
    if not callable(getattr(student, "entry_size", None)):
        raise ValueError(
            f"student is a {type(student).__name__}; expected students.ResNet18, or a module that "
            "is called as one is and has its entry_size"
        )


def _check_settings(s: TrainSettings) -> None:
    """Refuse numbers with which no training can be meant."""
    need_kind(TrainSettings, "as get_preset('shapes').train", settings=s)
    for name, least in {"epochs": 1, "batch_size": 2, "keep_every": 1}.items():
        need_whole(**{name: getattr(s, name)})
        if type(getattr(s, name)) is not int:  # they are written into files, as JSON
            raise ValueError(f"{name} is a {type(getattr(s, name)).__name__}; make an int of it")
        if getattr(s, name) < least:
            raise ValueError(f"{name}={getattr(s, name)}; expected at least {least}")
    for name in ("lr", "adapter_lr", "latent_lr", "q_lr", "q_fit_lr", "momentum", "weight_decay"):
        need_number(**{name: getattr(s, name)})
        if not isinstance(getattr(s, name), int | float):
            raise ValueError(f"{name} is a {type(getattr(s, name)).__name__}; make a float of it")
        if not getattr(s, name) >= 0:
            raise ValueError(f"{name}={getattr(s, name)}; expected a finite number, 0 or more")
    for name in ("own_batch", "fresh_start"):
        if not isinstance(getattr(s, name), bool):
            raise ValueError(f"{name}={getattr(s, name)!r}; expected True or False")
    need_choice(("no", "start", "all"), fuse=s.fuse)
    if s.momentum >= 1:
        raise ValueError(f"momentum={s.momentum}; expected less than 1, or no step ever ends")


def _check_views(views: Views, val: tuple[Tensor | LazyImages, Tensor] | None) -> None:
    """Refuse views whose parts do not belong together, and images that are none."""
    need_kind(Views, "as views.draw_views gives", views=views)
    need_integers(labels=views.labels)
    need_tensor(teacher_features=views.teacher_features, teacher_logits=views.teacher_logits)
    shape = tuple(views.images.shape)
    if len(shape) != 5 or shape[2] != 3 or shape[0] < 1:
        raise ValueError(
            f"views have shape {shape}; expected (views, images, 3, h, w), one or more"
        )
    if isinstance(views.images, Tensor):
        check_images(views.images.flatten(0, 1), "views", least=0)
    parts = [views.teacher_features, views.teacher_logits]
    found = [tuple(views.labels.shape), *(tuple(p.shape[:2]) for p in parts)]
    if found != [shape[1:2], shape[:2], shape[:2]] or any(p.ndim != 3 for p in parts):
        raise ValueError(
            f"{shape[0]} views of {shape[1]} images have labels of shape {found[0]} and teacher's "
            f"features and logits of {', '.join(str(tuple(p.shape)) for p in parts)}; expected one "
            "label for each image, and one row for each view of it"
        )
    if val is None:
        return
    if not isinstance(val, tuple) or len(val) != 2:
        raise ValueError(f"val is a {type(val).__name__}; expected (images, labels), or None")
    need_integers(**{"labels of val": val[1]})
    if val[1].shape != (len(val[0]),):
        raise ValueError(
            f"val holds {len(val[0])} images and labels of shape {tuple(val[1].shape)}"
        )
