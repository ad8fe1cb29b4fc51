"""One training in several processes, each with a GPU: every process takes a share of each batch.

    accelerate launch --multi_gpu --num_processes 4 -m oal_lite.study --preset imagenet200 ...

All processes draw the same batches, from generators of the same seed. Process r of P sends every
P-th row, from row r on, through the student. What it says of them is gathered, and then every
process evaluates the whole loss on the whole batch, as one process would. So a loss that looks at a
batch as a whole, as MICL and the distance do, means the same in any number of processes. Only batch
normalisation does not: it sees the rows of its own process.

The gradient of the loss by a weight of the student is a sum over the rows of the batch; process r
knows the part g_r that passes through its own. The gathered rows hand back P g_r, so that the mean
over all processes, (1/P) sum_r P g_r, is the gradient. For a weight of the loss itself every
process knows the whole gradient, and the mean leaves it as it is.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import torch
from jaxtyping import Float
from torch import Tensor


def launched() -> int:
    """How many processes `accelerate launch` has started together; 1 without it."""
    return _of_launch("WORLD_SIZE", 1, least=1)


def is_first() -> bool:
    """Whether this is the one that writes files and speaks."""
    return _of_launch("RANK", 0, least=0) == 0


def _of_launch(name: str, default: int, *, least: int) -> int:
    """A number that `accelerate launch` gives its processes."""
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise ValueError(
            f"{name}={text!r}; expected a whole number of at least {least}: unset it, or start "
            "with accelerate launch"
        )
    return int(text)


def meet(*, cpu: bool) -> None:
    """Let the processes know each other; nothing where there is one, or where they do already.

    On a GPU each of them gets its own, which is "cuda" from then on.
    """
    if launched() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu)


def wait_for(path: Path) -> None:
    """Wait until another process has written a file, which is there only when it is whole."""
    while not path.exists():
        sleep(0.1)


@dataclass(frozen=True)
class Share:
    """A process's part of every batch.

    Attributes:
        rank: r, of this process, from 0 on.
        processes: P.
    """

    rank: int = 0
    processes: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """Rows r, r + P, r + 2P, ... of all.

        Raises:
            ValueError: if they cannot be shared out evenly.
        """
        if len(rows) % self.processes:
            raise ValueError(
                f"a batch of {len(rows)} cannot be shared by {self.processes} processes; choose a "
                "batch size that is a multiple of twice their number, or start fewer"
            )
        return rows[self.rank :: self.processes]

    def gather(self, rows: Float[Tensor, "b d"]) -> Float[Tensor, "n d"]:
        """The rows of all processes in the order that they have in the batch."""
        return rows if self.processes == 1 else _Gather.apply(rows, self)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one message."""
        if self.processes == 1:
            return
        tensors = list(tensors)
        together = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(together)
        together /= self.processes
        for t, mean in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, P times the gradient of this one's own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor, share: Share) -> Tensor:  # noqa: ANN001
        ctx.share = share
        parts = [torch.empty_like(rows) for _ in range(share.processes)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        return ctx.share.processes * ctx.share.of(gradient), None
