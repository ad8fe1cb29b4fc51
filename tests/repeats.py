"""Every notebook again and again, as strangers run it: does it pass, and in how much memory?

    python tests/repeats.py --times 5 --seed 0

Each run has a kernel of its own, no network, and a home that is read-only but for its cache. From
run to run change the order, the folder it starts in, the kernel's name and whether a GPU is seen.
In the first round every notebook is alone in a fresh copy of the checkout; in each later one all
share a copy, so that they meet the files of those before them. `--full` runs the size that readers
run, and measures its memory.
"""

import argparse
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("the root", "its own folder", "elsewhere")
OLD_KERNEL = "python37"  # as it stands in notebooks that were once saved with such a kernel
LIMIT_MB = 3000
CELL_S = 1800
OWN_PLACES = ("XDG_", "MPL", "HF_", "IPYTHON", "JUPYTER", "NUMBA_CACHE")  # would lead out of here


# --- inside: one notebook, in one kernel ------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What one run of a notebook came to."""

    error: str
    peak_mb: float = 0.0  # of the kernel and its processes together
    seconds: float = 0.0
    no_network: bool = False
    home_read_only: bool = False


def execute(path: str) -> Result:
    """Run a notebook from the current folder, by the kernel that its metadata name."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    notebook, error = nbformat.read(path, as_version=4), ""
    client = NotebookClient(
        notebook, timeout=CELL_S, resources={"metadata": {"path": os.getcwd()}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # without a network, no port
    )  # fmt: skip
    started = time.perf_counter()
    with client.setup_kernel(), Peak(client.km.provisioner.pid) as peak:
        try:
            for i, cell in enumerate(notebook.cells):
                client.execute_cell(cell, i)
        except CellExecutionError as e:
            error = str(e)
    seconds = time.perf_counter() - started
    return Result(error, peak.mb, seconds, not _network(), not _writable(Path.home()))


class Peak:
    """The most memory that a process and its children held together while this context was open.

    What they share counts once, in parts, where the system tells it (Linux); else for each of them.
    """

    def __init__(self, pid: int):
        self.mb = 0.0
        self._kernel, self._over = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            with suppress(psutil.Error):  # the kernel has ended
                together = _own_mb(self._kernel)
                together += sum(map(_own_mb, self._kernel.children(recursive=True)))
                # What the kernel alone held between two looks is known to the system.
                self.mb = max(self.mb, together, _told(self._kernel.pid, "status", "VmHWM"))


def _own_mb(process: psutil.Process) -> float:
    try:
        return _told(process.pid, "smaps_rollup", "Pss:") or process.memory_info().rss / 1e6
    except psutil.Error:  # it ended while it was asked
        return 0.0


def _told(pid: int, file: str, key: str) -> float:
    """Megabytes that a file of `/proc` tells of a process; 0 where there is nothing to read."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


def _network() -> bool:
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2).close()
    except OSError as error:
        return error.errno != errno.ENETUNREACH
    return True


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# --- outside: where and how -------------------------------------------------------------------


@cache
def confined() -> list[str]:
    """A command that starts others without network, and without root's right to write anywhere."""
    user = ["--map-current-user"] if os.getuid() else []
    tries = [["unshare", *user, "--net"]]
    if not os.getuid():  # a folder's mode stops nobody who holds this capability
        tries.append(["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    return [word for t in tries if _works(t) for word in t]


def _works(command: list[str]) -> bool:
    with suppress(OSError):
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return False


class Account:
    """A folder that holds all that a user has: a checkout, a home, a place for temporary files."""

    def __init__(self, folder: Path):
        self.folder, self.checkout, self.home = folder, folder / "checkout", folder / "home"
        ignore = shutil.ignore_patterns(
            ".*", "__pycache__", "runs", "build", "*.egg-info", "models"
        )
        shutil.copytree(ROOT, self.checkout, ignore=ignore)
        for path in (self.home / ".cache", folder / "tmp", folder / "elsewhere", self._kernels):
            path.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "Python 3.7", "language": "python"}
        (self._kernels / "kernel.json").write_text(json.dumps(kernel))
        self.home.chmod(0o555)

    @property
    def _kernels(self) -> Path:
        return self.folder / "jupyter" / "kernels" / OLD_KERNEL

    def run(self, name: str, place: str, old_kernel: bool, hide_gpu: bool, full: bool) -> Result:
        """Run one notebook of this account's checkout."""
        path = self.checkout / "notebooks" / name
        if old_kernel:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            notebook["metadata"]["kernelspec"]["name"] = OLD_KERNEL
            path.write_text(json.dumps(notebook), encoding="utf-8")
        folders = (self.checkout, path.parent, self.folder / "elsewhere")
        temporary = str(self.folder / "tmp")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OWN_PLACES)}
        environment |= {
            "HOME": str(self.home), "TMPDIR": temporary, "PYTHONPATH": str(self.checkout),
            "JUPYTER_RUNTIME_DIR": temporary, "JUPYTER_PATH": str(self.folder / "jupyter"),
            "OAL_LITE_SMOKE": "0" if full else "1",
        }  # fmt: skip
        if hide_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [*confined(), sys.executable, __file__, "--inside", str(path)], capture_output=True,
            cwd=dict(zip(PLACES, folders, strict=True))[place], env=environment, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            return Result(done.stderr[-3000:])
        result = Result(**json.loads(done.stdout.splitlines()[-1]))
        kept = sorted(p.name for p in self.home.iterdir())
        return result if kept == [".cache"] else Result(f"written to its home: {kept}")


def rounds(names: list[str], times: int, rng: random.Random):
    """Order, place, kernel and GPU of every run; each notebook starts in every place in turn."""
    places = {name: rng.sample(PLACES, len(PLACES)) for name in names}
    for i in range(times):
        yield [
            (name, places[name][i % len(PLACES)], rng.random() < 0.5, rng.random() < 0.5)
            for name in rng.sample(names, len(names))
        ]  # fmt: skip


def repeat(names: list[str], times: int, rng: random.Random, full: bool) -> dict[str, list[Result]]:
    """Run all notebooks so many times; say what happens."""
    found, started = defaultdict(list), time.monotonic()
    for i, runs in enumerate(rounds(names, times, rng)):
        with tempfile.TemporaryDirectory() as folder:
            account = Account(Path(folder) / "all")
            for j, (name, place, old_kernel, hide_gpu) in enumerate(runs):
                own = account if i else Account(Path(folder) / f"alone{j}")
                result = own.run(name, place, old_kernel, hide_gpu, full)
                found[name].append(result)
                say = "FAILED" if result.error else "passed"
                how = f"from {place}{', old kernel' * old_kernel}{', GPU hidden' * hide_gpu}"
                print(
                    f"[{time.monotonic() - started:5.0f} s] {i + 1}/{times} {j + 1:2}/{len(runs)} "
                    f"{name.removesuffix('.ipynb')}: {say}, {result.peak_mb:.0f} MB, "
                    f"{result.seconds:.0f} s; {how}\n{result.error}".strip(),
                    flush=True,
                )
    return found


def table(found: dict[str, list[Result]]) -> str:
    """Passes, the highest peak and the median seconds of each notebook."""
    rows = ["| notebook | passed | peak, MB | seconds |", "|---|---:|---:|---:|"]
    for name, results in sorted(found.items()):
        passed = sum(not r.error for r in results)
        rows.append(
            f"| {name.removesuffix('.ipynb')} | {passed} of {len(results)} | "
            f"{max(r.peak_mb for r in results):.0f} | {median(r.seconds for r in results):.0f} |"
        )
    return "\n".join(rows)


def main() -> int:
    """Repeat all notebooks, or those whose names hold a word; status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="comma-separated, by a part of their names")
    parser.add_argument("--full", action="store_true", help="in full size, not in smoke size")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(asdict(execute(arguments.inside))))
        return 0
    folder, words = ROOT / "notebooks", arguments.only.split(",")
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("[0-9]*.ipynb"))
    names = [n for n in names if any(w in n for w in words)]
    found = repeat(names, arguments.times, random.Random(arguments.seed), arguments.full)
    print(f"\n{table(found)}\n")
    runs = [r for results in found.values() for r in results]
    for what, how_many in (
        ("the network was cut off", sum(r.no_network for r in runs)),
        ("the home was read-only", sum(r.home_read_only for r in runs)),
    ):
        print(f"{what} in {how_many} of {len(runs)} runs")
    failed = sum(bool(r.error) for r in runs)
    large = sorted({n for n, results in found.items() for r in results if r.peak_mb > LIMIT_MB})
    print(f"{failed} of {len(runs)} runs failed; above {LIMIT_MB} MB: {', '.join(large) or 'none'}")
    return int(bool(failed or large))


if __name__ == "__main__":
    raise SystemExit(main())
