"""Kill, start again, compare: is what comes out the same as if nothing had happened?

    python tests/interruptions.py --kills 20 --seed 0

kills pretraining, synthesis, training and study at random moments, by SIGKILL or by Ctrl-C, and
prints what it saw. The test suite does the same at a smaller size with moments that are counted
(`test_interruptions.py`); here they are seconds, as in life.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORGET = {"seconds", "made", "cost"}  # what may differ between equal runs: times and dates

PRETRAIN = """
import sys
from oal_lite.pretrain import __main__ as command, loop, unet
loop.KEEP_EVERY, unet.recognised = 4, lambda *_: {}
sizes = ["n_images=400", "batch_size=16", "teacher_steps=16", "vae_steps=12", "unet_steps=12"]
more = [a for s in sizes for a in ("--set", s)]
for part in ("teacher", "diffusion"):
    status = command.main([part, "--out", sys.argv[1], *more])
    if status:
        raise SystemExit(status)
"""
SYNTHESIS = """
import sys
from oal_lite.materials import Materials
from oal_lite.presets import get_preset
materials = Materials(get_preset("shapes", quick=True), 0, runs=sys.argv[1])
try:
    for selection in ("farthest", "as_released"):
        materials.outliers(selection)
    materials.id_latents
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def _hear_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: they, and their children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Job:
    """One command that fills a folder; `{folder}` in its arguments is put in."""

    name: str
    arguments: tuple[str, ...]

    def start(self, folder: Path, **how) -> subprocess.Popen:
        """Begin it in a session of its own: a Ctrl-C reaches its workers and nobody else."""
        argv = [sys.executable, *(a.replace("{folder}", str(folder)) for a in self.arguments)]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.Popen(
            argv, cwd=folder.parent, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=_hear_ctrl_c,
            **how,
        )  # fmt: skip

    def finish(self, folder: Path) -> str:
        """Run it to its end; returns what it said.

        Raises:
            AssertionError: if it fails.
        """
        process = self.start(folder)
        said, _ = process.communicate()
        assert process.returncode == 0, f"{self.name}: status {process.returncode}\n{said[-2000:]}"
        return said


def command(name: str, module: str, *more: str) -> Job:
    """A job of one of the package's command lines."""
    where = ("--runs", "{folder}/runs", "--out", "{folder}/out", "--device", "cpu")
    return Job(name, ("-m", module, "--quick", *where, *more))


JOBS = (
    Job("pretraining", ("-c", PRETRAIN, "{folder}")),
    Job("synthesis", ("-c", SYNTHESIS, "{folder}")),
    command("training", "oal_lite", "--arms", "ce,oal-paper", "--workers", "1"),
    command("training, 2 workers", "oal_lite", "--workers", "2"),
    command("study, 2 workers", "oal_lite.study", "--arms", "kd,oal,oe-pixels-matched", "--seeds",
            "2", "--workers", "2"),
)  # fmt: skip


# --- what is in a folder ----------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file's content without its times, by path; pictures and states left out."""
    return {str(p.relative_to(folder)): _hash(p) for p in _files(folder) if p.suffix != ".png"}


def _hash(path: Path) -> str:
    if path.suffix == ".json":
        path_text = json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True)
        return hashlib.sha256(path_text.encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value):
    if isinstance(value, dict):
        # a record's own checksum covers its times; a manifest's sums are those of its files
        forget = FORGET | ({"sha256"} if isinstance(value.get("sha256"), str) else set())
        return {k: _timeless(v) for k, v in value.items() if k not in forget and "second" not in k}
    if isinstance(value, list):
        return [_timeless(v) for v in value]
    return value


def _files(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [
        p for p in found if not p.name.startswith((".", "unfinished-")) and not _hidden(p, folder)
    ]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "tmp")) for part in path.relative_to(folder).parts)


def damaged(folder: Path) -> list[str]:
    """Files that cannot be read back: the unfinished states are looked at, too."""
    from safetensors import safe_open

    wrong = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder)):
        try:
            if path.suffix == ".safetensors":
                with safe_open(str(path), framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118
                        file.get_tensor(name)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except Exception as error:  # whatever it is, it is reported
            wrong.append(f"{path.name}: {error}")
    return wrong


def marks(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished run file: unchanged where nothing was made again."""
    found = {}
    for path in _files(folder / "runs") if (folder / "runs").exists() else []:
        status = path.stat()
        found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found


def made_again(before: dict, after: dict) -> list[str]:
    """Files that were written anew though they were finished.

    A file that has a record or a description beside it is finished when that is there, as it goes
    last: who is killed between the two writes both.
    """
    return [
        path for path, mark in before.items()
        if after.get(path) != mark and _record(path) not in after.keys() - before.keys()
    ]  # fmt: skip


def _record(path: str) -> str:
    return str(Path(path).with_suffix(".json"))


def alive(session: int) -> list[str]:
    """Processes that still live in a session."""
    listed = subprocess.run(
        ["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed]
    return [r[2] for r in rows if len(r) > 2 and int(r[0]) == session and r[1][0] != "Z"]


def all_gone(session: int, seconds: float = 60) -> bool:
    """Whether every process of a session ends within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(session):
            return True
        time.sleep(0.2)
    return False


def stop(process: subprocess.Popen, how: signal.Signals) -> str:
    """SIGKILL the process alone, or send Ctrl-C to all of its session; returns what it said."""
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, how)
    said, _ = process.communicate()
    return said


# --- twenty kills -----------------------------------------------------------------------------


def torture(job: Job, kills: int, rng: random.Random, folder: Path) -> list[str]:
    """Kill a job again and again, finish it, compare; returns what was wrong."""
    started = time.monotonic()
    job.finish(folder / "whole")
    seconds, wrong = time.monotonic() - started, []
    print(f"{job.name}: {seconds:.0f} s without interruption", flush=True)
    parts = folder / "parts"
    parts.mkdir()
    for i in range(kills):
        how = rng.choice([signal.SIGKILL, signal.SIGINT])
        moment = rng.uniform(0.1, 0.95) * seconds / (1 if i == 0 else 1.3)
        before, process = marks(parts), job.start(parts)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            said = stop(process, how)
            if how == signal.SIGINT and "Traceback" in said and "oal_lite/" in said:
                wrong.append(f"traceback at Ctrl-C after {moment:.0f} s: {said[-1500:]}")
        else:
            said = process.stdout.read()
            how = None
        if not all_gone(process.pid):
            wrong.append(f"processes left: {alive(process.pid)}")
        wrong += damaged(parts)
        kept = marks(parts)
        wrong += [f"made again: {p}" for p in made_again(before, kept)]
        end = f"{how.name} after {moment:.1f} s" if how else "it had ended before the signal"
        print(f"  {end}; {len(kept) or len(_files(parts))} finished files", flush=True)
    before = marks(parts)
    job.finish(parts)
    wrong += [f"made again: {p}" for p in made_again(before, marks(parts))]
    whole, rest = contents(folder / "whole"), contents(parts)
    if whole != rest:
        differ = sorted(k for k in whole.keys() | rest.keys() if whole.get(k) != rest.get(k))
        wrong.append(f"differ from the uninterrupted: {differ}")
    left = [p.name for p in parts.rglob("*") if p.name.startswith(("unfinished-", "."))]
    print(f"  {len(rest)} files equal; left behind: {left or 'nothing'}", flush=True)
    return wrong


def main() -> int:
    """Torture all jobs; status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", help="comma-separated, by a part of their names")
    arguments = parser.parse_args()
    rng, bad = random.Random(arguments.seed), 0
    wanted = (arguments.jobs or "").split(",")
    jobs = [j for j in JOBS if any(w in j.name for w in wanted)]
    each = -(-arguments.kills // len(jobs))
    for job in jobs:
        folder = Path(tempfile.mkdtemp())
        (folder / "whole").mkdir()
        try:
            wrong = torture(job, each, rng, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for sentence in wrong:
            print(f"  WRONG: {sentence}", flush=True)
        bad += len(wrong)
    print(f"{each * len(jobs)} kills, {bad} faults")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
