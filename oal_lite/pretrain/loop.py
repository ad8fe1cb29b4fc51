"""What the three trainings share: a learning rate's course, and how to go on after a stop."""

import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from torch import nn

from oal_lite.files import bytes_of, sha256_of
from oal_lite.pretrain.settings import PretrainSettings, Source
from oal_lite.run_files import code_version, content_of

KEEP_EVERY = 500  # steps after which an unfinished training is kept


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up over 5 % of the steps, then fall to zero along half a cosine."""
    warm = max(1, steps // 20)
    return torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm)),
        ],
        milestones=[warm],
    )


def due(step: int, steps: int) -> bool:
    """Whether to keep the state after this step, counted from 0: now and then, and at last."""
    return (step + 1) % KEEP_EVERY == 0 or step + 1 == steps


def half(device: str | torch.device) -> torch.autocast:
    """A context of bfloat16 arithmetic on a GPU; on a CPU it changes nothing."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def need_finite(model: nn.Module) -> None:
    """Refuse to save a model that is none.

    Raises:
        FloatingPointError: if a weight is NaN or infinite.
    """
    if not all(x.isfinite().all() for x in model.state_dict().values()):
        raise FloatingPointError(
            f"weights of {type(model).__name__} are NaN or infinite; lower its learning rate"
        )


def unfinished(out: Path, part: str) -> Path:
    """Where an unfinished training keeps its state, to go on from after an interruption."""
    return out / f"unfinished-{part}.safetensors"


def belongs_to(settings: PretrainSettings, source: Source, *models: Path) -> dict:
    """What must be the same for a kept state to be gone on from.

    Args:
        settings: of the training.
        source: of its images.
        models: folders of those that it learns from.
    """
    return {
        **asdict(settings), "source": source.name, "code": _code(),
        "images": hashlib.sha256(bytes_of(source.images.images)).hexdigest(),
        "learns from": [content_of(model) for model in models],
    }  # fmt: skip


@cache
def _code() -> str:
    """Hash of the package's sources and of these; read once, as in `code_version`."""
    sums = [sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(" ".join([code_version(), *sums]).encode()).hexdigest()[:8]
