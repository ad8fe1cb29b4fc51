"""What the benchmarks found is written to figures/: numbers after each, and a picture at the end.

Run by `make bench`, apart from the tests: the run-time checks of shapes that the tests switch on
would be timed with the rest.
"""

import datetime
import json
import os
import platform
import tempfile
from pathlib import Path

import pytest
import torch

# TFLOP/s in bf16 or fp16 on dense matrices, by NVIDIA's datasheets; the same for both.
PEAKS = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H200": 989, "NVIDIA A100-SXM4-80GB": 312}


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where ratios and scaling are measured: cpu or cuda"
    )
    parser.addoption(
        "--tiny", action="store_true", help="what is sized for a GPU, so small that a CPU runs it"
    )


def pytest_configure(config):
    if config.getoption("--device") != "cpu" and not torch.cuda.is_available():
        pytest.exit(f"--device {config.getoption('--device')}: torch finds no GPU here", 2)


@pytest.fixture(scope="session")
def device(request):
    """Where the benchmarks run."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def tiny(request):
    """Whether only to try the code out; no number of it means anything."""
    return request.config.getoption("--tiny")


@pytest.fixture(scope="session")  # before what loads a model
def on_cpu(device):
    """For what measures a process, a CPU, or models too small for a GPU."""
    if device.type != "cpu":
        pytest.skip("the same whatever the GPU, or too small to fill one: measured on a CPU")


@pytest.fixture(scope="session")  # before what loads a model
def on_gpu(device, tiny):
    """For what takes minutes on a CPU."""
    if device.type == "cpu" and not tiny:
        pytest.skip("sized for a GPU: --device cuda")


@pytest.fixture(scope="session")
def findings(device, tiny):
    """Tables to fill: ratios, single values with their limit, scaling, samplers, throughput."""
    tables = "ratios", "limits", "scaling", "samplers", "throughput"
    found = {"machine": _machine(device), **{table: {} for table in tables}}
    yield found
    from picture import draw

    path = _write(found, device, tiny)
    draw(json.loads(path.read_text())).savefig(path.with_suffix(".png"), dpi=120)


@pytest.fixture(autouse=True)
def kept(findings, device, tiny):
    """On a GPU written after every benchmark: what is stopped half-way leaves what it has found."""
    yield
    if device.type != "cpu":
        _write(findings, device, tiny)


_found_last = {}  # for the summary, which knows no fixtures


def _write(found, device, tiny):
    _found_last.update(found)
    found["machine"]["load_at_the_end"] = os.getloadavg()
    folder = Path(__file__).parents[2] / "figures"
    folder = Path(os.environ.get("OAL_LITE_BENCH_OUT", tempfile.gettempdir() if tiny else folder))
    folder.mkdir(parents=True, exist_ok=True)
    kind = "-tiny" if tiny else "" if device.type == "cpu" else f"-{device.type}"
    path = folder / f"performance{kind}.json"
    path.write_text(json.dumps(found, indent=1))
    return path


def _machine(device):
    machine = {
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        machine["peak"] = PEAKS.get(machine["device"])
    return machine


@pytest.fixture
def keep_ratio(findings, benchmark, device):
    """Time plain against fast, keep it under a name, and let pytest-benchmark show the fast one."""
    from measure import compare, timed

    def keep(name, plain, fast, *, repeats, against, target=None):
        """The findings of one comparison; target is what the project asks for, if it does."""
        found = compare(plain, fast, repeats=repeats, on_gpu=device.type == "cuda")
        findings["ratios"][name] = {**found, "against": against, "target": target}
        benchmark.extra_info.update(ratio=round(found["ratio"], 1), load=found["load"])
        benchmark.pedantic(lambda: timed(fast), rounds=min(repeats, 3))
        return found

    return keep


@pytest.fixture
def keep_rate(findings, device):
    """Time a call, and keep how many samples it does a second, beside what was counted."""
    from measure import add_rate, peak_memory, seconds_of

    def keep(name, call, *, batch, flop, unit="images", seconds=0.6):
        """The call works on `batch` samples, and each takes so many floating-point operations."""
        memory = peak_memory(call, device)
        took = seconds_of(call, seconds=seconds)
        add_rate(findings, name, batch / took, flop, unit=unit, batch=batch, memory=memory)

    return keep


def pytest_terminal_summary(terminalreporter):
    """The lines of the tables, where no file comes back from the machine."""
    for name, row in _found_last.get("ratios", {}).items():
        low, high = row["ratio_range"]
        terminalreporter.write_line(f"{name}: {row['ratio']:.1f} [{low:.1f}, {high:.1f}] times")
    for name, row in _found_last.get("throughput", {}).items():
        share = f", {row['share_of_peak']:.1%} of the peak" if row["share_of_peak"] else ""
        terminalreporter.write_line(
            f"{name}: {row['rate']:.4g} {row['unit']} a second, {row['tflops']:.4g} TFLOP/s{share}"
        )
    for name, row in _found_last.get("limits", {}).items():
        terminalreporter.write_line(f"{name}: {row['value']:.4g}")
