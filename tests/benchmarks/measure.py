"""How two forms are timed against each other, how cost grows, and what a process takes."""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch


def timed(call: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """Seconds of one call, the mean over so many: by the clock, and computed by all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        call()
    if torch.cuda.is_available():  # its work is only queued when a call returns
        torch.cuda.synchronize()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def compare(plain: Callable, fast: Callable, *, repeats: int, on_gpu: bool = False) -> dict:
    """Time both in turn, so that a change of the machine's load meets both; medians.

    In its turn the fast form is called as often as fits into one call of the plain one (a second
    at most): a single short call would slip between two interruptions of a busy machine. The
    ratio is the median of the ratios of neighbours, and comes with its extremes; `cpu_ratio` is
    that of the time computed, on which load has no hold (of no meaning for a GPU).
    """
    _, once = timed(plain)  # memory, compiled loops and lazy imports are paid for here
    timed(fast)
    if on_gpu:  # by the clock, and without the kernels that were just loaded
        once = timed(plain)[0]
    times = round(min(once, 1.0) / max(timed(fast)[0 if on_gpu else 1], 1e-6))
    pairs = [(timed(plain), timed(fast, max(1, min(1000, times)))) for _ in range(repeats)]
    ratios = [p[0] / f[0] for p, f in pairs]
    return {
        "plain_seconds": statistics.median(p[0] for p, _ in pairs),
        "fast_seconds": statistics.median(f[0] for _, f in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": None if on_gpu else statistics.median(p[1] / f[1] for p, f in pairs),
        "repeats": repeats,
        "load": os.getloadavg()[0],
    }


def seconds_of(call: Callable[[], object], *, seconds: float = 0.6, groups: int = 5) -> float:
    """Seconds of one call: median over groups of calls that take so many seconds together."""
    for _ in range(3):
        timed(call)  # kernels are loaded and chosen here
    times = max(1, round(seconds / groups / timed(call)[0]))
    return statistics.median(timed(call, times)[0] for _ in range(groups))


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """Gigabytes of a GPU's memory in use at most while the call runs, what was there included."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    timed(call)
    return torch.cuda.max_memory_allocated() / 1e9


def add_rate(findings, name, rate, flop, *, unit="images", batch, memory):
    """A line of the table: samples a second, the arithmetic of each, its share of the peak."""
    peak, done = findings["machine"].get("peak"), rate * flop / 1e12
    findings["throughput"][name] = {
        "rate": rate, "unit": unit, "batch": batch, "flop_each": flop, "tflops": done,
        "share_of_peak": done / peak if peak else None, "peak_memory_gb": memory,
    }  # fmt: skip


def scaling(sizes: Sequence[int], prepare: Callable[[int], Callable], *, repeats: int = 3) -> dict:
    """Median seconds at each size, and the exponent e of seconds ~ size^e, by least squares.

    A sample takes 20 ms at least: a short call is repeated within it.
    """
    calls = [prepare(size) for size in sizes]
    for call in calls:
        timed(call)  # what is paid once
    times = [max(1, math.ceil(0.02 / timed(call)[0])) for call in calls]
    turns = [
        [timed(call, n)[0] for call, n in zip(calls, times, strict=True)] for _ in range(repeats)
    ]
    medians = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    exponent = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
    return {"sizes": list(sizes), "seconds": medians, "exponent": float(exponent)}


def run_python(code: str) -> str:
    """What a fresh Python process prints; the process reads the package of this checkout."""
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, here))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def memory_now() -> float:
    """Resident memory of this process in MB; from here on its peak is recorded anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def memory_peak() -> float:
    """Largest resident memory in MB since `memory_now`.

    Not `getrusage`: its peak is handed on to a child process and never falls.
    """
    return _memory("VmHWM")


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(field)]
    return int(kilobytes) / 1024
