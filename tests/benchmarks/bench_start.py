"""What it takes to start: the import, the help, the smoke run."""

import statistics
import subprocess
import sys

import pytest
from measure import run_python, timed

pytestmark = pytest.mark.usefixtures("on_cpu")
IMPORT = "import time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"


def bench_import(findings):
    turns = [
        [float(run_python(IMPORT.format(name))) for name in ("torch", "torch, oal_lite")]
        for _ in range(5)
    ]
    extra = statistics.median(both - torch for torch, both in turns)
    findings["limits"]["import oal_lite, over torch's, s"] = {"value": extra, "limit": 0.2}


def bench_help(findings):
    help_ = [sys.executable, "-m", "oal_lite", "--help"]
    found = statistics.median(
        timed(lambda: subprocess.run(help_, capture_output=True, check=True))[0] for _ in range(5)
    )
    findings["limits"]["python -m oal_lite --help, s"] = {"value": found, "limit": 2}


def bench_quick(findings, tmp_path):
    command = [sys.executable, "-m", "oal_lite", "--quick", "--device", "cpu"]
    command += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    found, _ = timed(lambda: subprocess.run(command, capture_output=True, check=True))
    findings["limits"]["python -m oal_lite --quick, s"] = {"value": found, "limit": 60}
