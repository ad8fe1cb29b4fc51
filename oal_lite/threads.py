"""How many threads torch computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_on_cpu(device: str | torch.device) -> Iterator[None]:
    """On a CPU, compute in one thread, so that no sum depends on the number of cores."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if str(device).startswith("cpu") else threads)
        yield
    finally:
        torch.set_num_threads(threads)
