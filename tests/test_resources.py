"""What a run leaves behind: its results, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GIGABYTES = 3  # that the main job may take, as the notebooks may

# The first run loads libraries, which keep what they have opened; what the next ones add is ours.
CODE = """
import gc, json, multiprocessing, os, resource, sys, threading
from oal_lite import presets, __main__ as command
from oal_lite.presets import *

def now():
    gc.collect()
    opened = {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
    files = sorted(f for f in opened if os.path.isfile(f))
    return {
        "files": files, "descriptors": len(os.listdir("/proc/self/fd")),
        # tqdm keeps one thread a process, to wake up slow bars
        "threads": [t.name for t in threading.enumerate() if t.name != "tqdm_monitor"],
        "children": [p.pid for p in multiprocessing.active_children()],
    }

if __name__ == "__main__":
    presets.PRESETS["tiny"] = {preset}
    folder, states = sys.argv[1], []
    for i, workers in enumerate(("1", "2", "2", "1")):
        where = ["--runs", f"{folder}/{i}", "--out", f"{folder}/{i}/out", "--device", "cpu"]
        what = ["--preset", "tiny", "--arms", "oal,oe-pixels", "--workers", workers]
        assert command.main([*what, *where]) == 0
        states.append(now())
    # Not getrusage for this process: it hands on the peak of the one that started it.
    with open("/proc/self/status") as status:
        (own,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    most = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    json.dump({"states": states, "peak": most}, open(f"{folder}/found.json", "w"))
"""


def test_runs_leave_no_file_open_no_thread_no_process_and_no_temporary_file(tiny_preset, tmp_path):
    (tmp_path / "script.py").write_text(CODE.replace("{preset}", repr(tiny_preset)))
    temporary, results = tmp_path / "temporary", tmp_path / "results"
    temporary.mkdir()
    results.mkdir()
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(results)], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((results / "found.json").read_text())
    _, warm, *later = found["states"]  # the second is the first with workers
    for state in later:
        assert state == warm
    assert warm["children"] == [] and warm["threads"] == ["MainThread"]
    assert not [f for f in warm["files"] if f.startswith(str(tmp_path))]
    assert list(temporary.iterdir()) == []
    left = [p.name for p in results.rglob("*") if p.name.startswith((".", "unfinished-", "tmp"))]
    assert left == []
    assert found["peak"] < GIGABYTES * 1e6  # in kilobytes; each process for itself
