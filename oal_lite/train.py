"""The training loop: one student, one list of loss terms, on accelerate.

Augmented views are drawn before training, so the teacher can look at each of them once; every
epoch the student then sees one of an image's views at random, with the teacher's answer to that
very view beside it. The released code runs the teacher at every step instead, which takes 77 %
of its arithmetic.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from oal_lite.presets import TrainSettings
from oal_lite.teacher import Teacher, to_float
from oal_lite.terms import Step, Term


@dataclass(frozen=True)
class Views:
    """V augmented copies of n training images, with the teacher's outputs for each copy."""

    images: UInt8[Tensor, "v n 3 h w"]
    labels: Int[Tensor, " n"]
    teacher_features: Float[Tensor, "v n d"]
    teacher_logits: Float[Tensor, "v n k"]


def augment(
    images: UInt8[Tensor, "n 3 h w"], generator: torch.Generator, *, padding: int = 4
) -> UInt8[Tensor, "n 3 h w"]:
    """Flip each image with probability 1/2 and shift it by up to `padding` pixels, reflecting."""
    n, _, h, w = images.shape
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flip.view(n, 1, 1, 1), images.flip(-1), images)
    # reflect padding is not defined on bytes; 8-bit values are exact in float
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    top, left = torch.randint(2 * padding + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(h))[:, None, :, None]
    columns = (left[:, None] + torch.arange(w))[:, None, None, :]
    index = torch.arange(n).view(n, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1)
    return padded[*index, rows, columns]


def draw_views(
    images: UInt8[Tensor, "n 3 h w"],
    labels: Int[Tensor, " n"],
    teacher: Teacher,
    *,
    n_views: int,
    generator: torch.Generator,
    progress: bool = False,
) -> Views:
    """Draw the augmented views of a training set and let the teacher look at each, once.

    Raises:
        ValueError: if `n_views` is below one.
    """
    if n_views < 1:
        raise ValueError(f"n_views={n_views}: at least one view of each image is needed")
    views = torch.stack([augment(images, generator) for _ in range(n_views)])
    seen = teacher(views.flatten(0, 1), progress=progress)
    shape = views.shape[:2]
    return Views(views, labels, seen.features.unflatten(0, shape), seen.logits.unflatten(0, shape))


@dataclass
class History:
    """What happened in training: per epoch, the mean of every loss term and the ID accuracies."""

    terms: list[dict[str, float]] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def predict(
    student: nn.Module, images: UInt8[Tensor, "n 3 h w"], *, batch_size: int = 500
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n d"]]:
    """Logits and features of images, in evaluation mode, on the CPU."""
    training = student.training
    student.eval()
    device = next(student.parameters()).device
    out = [student(_input(x, device)) for x in images.split(batch_size)]
    student.train(training)
    logits, features = zip(*out, strict=True)
    return torch.cat(logits).float().cpu(), torch.cat(features).float().cpu()


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
    val: tuple[Tensor, Tensor] | None = None,
    mixed_precision: str = "no",
    device: str | torch.device | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a student in place: SGD with Nesterov momentum, learning rate on half a cosine.

    Loss of a step: sum over terms of weight * term. Where a term asks for extra images or maps they
    go through the student beside the ID images, as a batch of their own (`settings.own_batch`).

    Args:
        student: maps images to (logits, features).
        terms: from `recipes.build_terms`.
        views: from `draw_views`.
        settings: epochs, batch size, rates.
        generator: order, choice of view, outliers of each step.
        val: images and labels to follow the ID accuracy; never used to choose anything.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`, as accelerate names them.
        device: where to train; accelerate's choice (the GPU if there is one) if None.
        progress: show a bar.
        on_epoch: called with the history so far after every epoch, to draw live curves.

    Returns:
        The history. The student is left in evaluation mode, with the weights of the last step.

    Raises:
        ValueError: if there are fewer images than one batch.
        FloatingPointError: if a loss is not finite, with the names and values of the terms.
    """
    from accelerate import Accelerator

    n = len(views.labels)
    size = settings.batch_size
    if n < size:
        raise ValueError(f"{n} training images are fewer than one batch of {size}")
    cpu = device is not None and torch.device(device).type == "cpu"
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision)
    device = accelerator.device
    side = student.entry_size(views.images.shape[-1])
    student.to(device, memory_format=torch.channels_last)
    terms.to(device)
    optimizer = _optimizer(student, list(terms), settings)
    steps = settings.epochs * (n // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=steps,
        # no warm-up in a very short run: one of a single step is a division by zero in torch
        pct_start=min(0.1, 100 / steps) if steps > 10 else 0.0, cycle_momentum=False,
    )  # fmt: skip
    student, optimizer, schedule = accelerator.prepare(student, optimizer, schedule)

    history, started = History(), time.perf_counter()
    student.train()
    terms.train()
    bar = tqdm(range(settings.epochs), desc="epochs", disable=not progress, leave=False)
    for _ in bar:
        totals, correct = dict.fromkeys((t.name for t in terms), 0.0), 0.0
        order = torch.randperm(n, generator=generator)[: n // size * size].view(-1, size)
        for pick in order:
            view = torch.randint(len(views.images), (size,), generator=generator)
            asked = {t.name: t.extra_images(size, generator) for t in terms}
            images = {name: x for name, x in asked.items() if x is not None}
            with accelerator.autocast():
                asked = {t.name: t.extra_maps(size, side, generator) for t in terms}
                maps = {name: m for name, m in asked.items() if m is not None}
                x, extra = (
                    _input(torch.cat([i.to(device) for i in batch]), device) if batch else None
                    for batch in ([views.images[view, pick]], list(images.values()))
                )
                logits, features = student(
                    x, extra, torch.cat(list(maps.values())) if maps else None,
                    own_batch=settings.own_batch,
                )  # fmt: skip
            extras = images | maps
            parts = [size, *map(len, extras.values())]
            logits, *more_logits = logits.split(parts)
            features, *more_features = features.split(parts)
            step = Step(
                labels=views.labels[pick].to(device),
                logits=logits.float(),
                features=features.float(),
                teacher_features=views.teacher_features[view, pick].to(device),
                teacher_logits=views.teacher_logits[view, pick].to(device),
                generator=generator,
                extra=dict(zip(extras, zip(more_logits, more_features, strict=True), strict=True)),
            )
            for term in terms:
                term.before(step)
            values = {term.name: term(step) for term in terms}
            loss = sum(term.weight * values[term.name] for term in terms)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            # sums stay on the device: reading a number back at every step would stall a GPU
            for name, value in values.items():
                totals[name] = totals[name] + value.detach()
            correct = correct + (step.logits.argmax(1) == step.labels).float().mean()
        means = {name: float(total) / len(order) for name, total in totals.items()}
        if not all(map(torch.isfinite, map(torch.tensor, means.values()))):
            raise FloatingPointError(f"a loss is not finite: {means}; lower the learning rate")
        history.terms.append(means)
        history.train_accuracy.append(float(correct) / len(order))
        if val is not None:
            right = predict(student, val[0])[0].argmax(1) == val[1]
            history.val_accuracy.append(right.float().mean().item())
            bar.set_postfix(val_accuracy=f"{history.val_accuracy[-1]:.3f}")
        if on_epoch is not None:
            on_epoch(history)
    student.eval()
    history.seconds = time.perf_counter() - started
    return history
