"""Batches that fit: one for which memory does not suffice is tried again, half as large."""

import logging
from collections.abc import Callable
from typing import TypeVar

from tqdm.auto import tqdm

from oal_lite.arguments import need_whole

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def in_batches(
    work: Callable[[slice], Result], n: int, batch_size: int, *, bar: str | None = None
) -> list[Result]:
    """Do some work on n things, a batch at a time, and return what each batch gave.

    Only for work whose results do not depend on the size of the batch. A size that has proved too
    large is not tried again in this call.

    Args:
        work: gets a slice of 0 to n - 1.
        n: how many things.
        batch_size: at most so many at a time, at least 1.
        bar: what a progress bar is called; none if None.

    Raises:
        ValueError: for a negative n, or a batch size below one.
        RuntimeError: torch's own, where memory does not suffice for one thing alone.
    """
    need_whole(n=n, batch_size=batch_size)
    if n < 0 or batch_size < 1:
        raise ValueError(f"n={n}, batch_size={batch_size}; expected at least 0 and 1")
    results, done = [], 0
    with tqdm(total=n, desc=bar, leave=False, disable=bar is None) as shown:
        while done < n:
            part = slice(done, min(done + batch_size, n))
            size, short = part.stop - part.start, False
            try:
                results.append(work(part))
            except RuntimeError as error:
                from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

                short = size > 1 and should_reduce_batch_size(error)
                if not short:
                    raise
            if short:  # the error, which holds on to the failed batch, is gone by now
                batch_size = size // 2
                log.warning("memory does not suffice for %d at a time; trying %d", size, batch_size)
                clear_device_cache(garbage_collection=True)
            else:
                done = part.stop
                shown.update(size)
    return results
