"""Training of the teacher."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from oal_lite.benchmarks import generator_for
from oal_lite.checkpoint import Keeper
from oal_lite.files import write_folder
from oal_lite.pretrain import loop
from oal_lite.pretrain.models import build_teacher
from oal_lite.pretrain.settings import PretrainSettings, Source, source_for
from oal_lite.teacher import Teacher, to_float
from oal_lite.views import augment


def train_teacher(
    settings: PretrainSettings, out: Path, device: str = "cpu", source: Source | None = None
) -> dict:
    """Train the teacher with cross-entropy, save `out/teacher`; returns manifest entries.

    A CvT by Muon and AdamW, a ResNet by SGD with Nesterov momentum, as the students.
    """
    started = time.perf_counter()
    source = source or source_for("shapes", settings)
    data = source.images
    torch.manual_seed(settings.seed)  # transformers' own initialisation reads the global generator
    model = build_teacher(settings.teacher, source.class_names, settings.teacher_width)
    model.to(device).train()
    if torch.device(device).type == "cuda":
        model.to(memory_format=torch.channels_last)
    prepared = Teacher(model).prepared
    model.train().requires_grad_(True)  # the wrapper has frozen it
    optimizers = _optimizers(model, settings)
    schedules = [loop.cosine(o, settings.teacher_steps) for o in optimizers]
    generator = generator_for(settings.seed, "teacher batches")
    parts = {"model": model, "generator": generator}
    parts |= {f"optimizer {i}": o for i, o in enumerate(optimizers)}
    parts |= {f"schedule {i}": s for i, s in enumerate(schedules)}
    keeper = Keeper(loop.unfinished(out, "teacher"), parts, loop.belongs_to(settings, source))
    done = (keeper.restore() or {"steps": 0})["steps"]
    all_images, all_labels = data.images.to(device), data.labels.to(device)
    bar = tqdm(range(done, settings.teacher_steps), desc="teacher")
    for step in bar:
        pick = torch.randint(len(data), (settings.batch_size,), generator=generator).to(device)
        images = all_images[pick]
        if settings.crop:
            images = augment(images, generator, padding=settings.crop)
        x = prepared(to_float(images))
        with loop.half(device):
            logits = model(x.flip(-1) if step % 2 else x).logits
        loss = F.cross_entropy(logits.float(), all_labels[pick])
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if loop.due(step, settings.teacher_steps):
            keeper.save({"steps": step + 1})
    loop.need_finite(model)
    write_folder(out / "teacher", model.eval().save_pretrained)
    val = source.val
    accuracy = (Teacher(model)(val.images).logits.argmax(1) == val.labels).float().mean().item()
    return {"id_val_accuracy": accuracy, "seconds": round(time.perf_counter() - started)}


def _optimizers(model: nn.Module, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    if settings.teacher == "resnet":
        return [
            torch.optim.SGD(
                model.parameters(), lr=settings.teacher_lr, momentum=0.9, nesterov=True,
                weight_decay=5e-4,
            )
        ]  # fmt: skip
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    return [
        torch.optim.Muon(matrices, lr=settings.teacher_lr, weight_decay=0.05),
        torch.optim.AdamW(others, lr=settings.teacher_lr / 20, weight_decay=0.05),
    ]
