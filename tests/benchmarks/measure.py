"""How two forms are timed against each other, how cost grows, and what a process takes."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(plain: Callable, fast: Callable, *, repeats: int) -> dict:
    """Time both in turn, so that a change of the machine's load meets both; medians.

    The ratio is the median of the ratios of neighbours, and comes with its extremes.
    """
    plain(), fast()  # memory, compiled loops and lazy imports are paid for before
    pairs = [(seconds(plain), seconds(fast)) for _ in range(repeats)]
    ratios = [p / f for p, f in pairs]
    return {
        "plain_seconds": statistics.median(p for p, _ in pairs),
        "fast_seconds": statistics.median(f for _, f in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "repeats": repeats,
        "load": os.getloadavg()[0],
    }


def scaling(sizes: Sequence[int], prepare: Callable[[int], Callable], *, repeats: int = 3) -> dict:
    """Median seconds at each size, and the exponent e of seconds ~ size^e, by least squares."""
    calls = [prepare(size) for size in sizes]
    for call in calls:
        call()
    turns = [[seconds(call) for call in calls] for _ in range(repeats)]
    medians = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    exponent = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
    return {"sizes": list(sizes), "seconds": medians, "exponent": float(exponent)}


def run_python(code: str) -> str:
    """What a fresh Python process prints; the process reads the package of this checkout."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
