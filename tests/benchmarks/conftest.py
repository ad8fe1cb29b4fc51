"""What the benchmarks found is written to figures/ at the end: numbers and a picture.

Run by `make bench`, apart from the tests: the run-time checks of shapes that the tests switch on
would be timed with the rest.
"""

import datetime
import json
import os
import platform
from pathlib import Path

import pytest
import torch

FIGURES = Path(os.environ.get("OAL_LITE_BENCH_OUT", Path(__file__).parents[2] / "figures"))


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where ratios and scaling are measured: cpu or cuda"
    )


@pytest.fixture(scope="session")
def device(request):
    """Where the benchmarks run. The code is the same on a GPU; no GPU has run it yet."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def findings(device):
    """Tables to fill: ratios, single values with their limit, scaling, and what samplers do."""
    found = {"ratios": {}, "limits": {}, "scaling": {}, "samplers": {}}
    yield found
    from picture import draw

    machine = {
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "load_at_the_end": os.getloadavg(),
    }
    FIGURES.mkdir(parents=True, exist_ok=True)
    name = "performance" if device.type == "cpu" else f"performance-{device.type}"
    path = FIGURES / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **found}, indent=1))
    draw(json.loads(path.read_text())).savefig(FIGURES / f"{name}.png", dpi=120)


@pytest.fixture
def keep_ratio(findings, benchmark):
    """Time plain against fast, keep it under a name, and let pytest-benchmark show the fast one."""
    from measure import compare

    def keep(name, plain, fast, *, repeats, against, target=None):
        """The findings of one comparison; target is what the project asks for, if it does."""
        found = compare(plain, fast, repeats=repeats)
        findings["ratios"][name] = {**found, "against": against, "target": target}
        benchmark.extra_info.update(ratio=round(found["ratio"], 1), load=found["load"])
        benchmark.pedantic(fast, rounds=min(repeats, 3))
        return found

    return keep
