"""Killed in the middle, started again, compared: what comes out is what would have come anyway.

The moments are counted, in backward passes and renamed files, and drawn from a seed. The same at
the size of a smoke run, by the clock and twenty times, is `make interruptions`.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.reduction import DupFd

import pytest
from interruptions import alive, all_gone, contents, damaged, made_again, marks, stop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

if sys.platform != "win32":
    # One process imports the libraries, which takes seconds; every job is a fork of it.
    FORKS = multiprocessing.get_context("forkserver")
    FORKS.set_forkserver_preload(["oal_lite.study", "oal_lite.pretrain.unet", "oal_lite.report"])

# Sends a signal to itself at a moment: a number of backward passes and of renamed files.
COUNT = """
import os, signal, sys, torch
left, how = int(sys.argv[2]), getattr(signal, sys.argv[3])
def counted(function):
    def call(*args, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), how)
        return function(*args, **more)
    return call
torch.Tensor.backward, os.replace = counted(torch.Tensor.backward), counted(os.replace)
"""
MAIN = """
import sys
from oal_lite import presets, __main__ as command
from oal_lite.presets import *
presets.PRESETS["tiny"] = {preset}
where = ["--runs", sys.argv[1] + "/runs", "--out", sys.argv[1] + "/out", "--device", "cpu"]
what = ["--preset", "tiny", "--arms", "ce,oal-paper", *sys.argv[4:]]
raise SystemExit(command.main([*what, *where]))
"""
PRETRAIN = """
import sys
from oal_lite.pretrain import __main__ as command, loop, unet
loop.KEEP_EVERY, unet.recognised = 2, lambda *_: {}
sizes = ["n_images=40", "batch_size=4", "vae_batch_size=4", "unet_batch_size=4", "vae_width=8",
         "teacher_width=8", "teacher_steps=5", "vae_steps=5", "unet_steps=5"]
for part in ("teacher", "diffusion"):
    more = [a for s in sizes for a in ("--set", s)]
    if status := command.main([part, "--out", sys.argv[1], *more]):
        raise SystemExit(status)
"""


def run_script(code, arguments, said):
    """As `python -c code arguments` would, in a session of its own, all it says into one pipe."""
    os.setsid()
    pipe = said.detach()
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.close(pipe)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell's "&" began it
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


class Forked:
    """A job on its way: what is used of `subprocess.Popen`."""

    def __init__(self, code, arguments):
        read, write = os.pipe()
        self.stdout = os.fdopen(read)
        self._process = FORKS.Process(target=run_script, args=(code, arguments, DupFd(write)))
        self._process.start()
        os.close(write)
        self.pid, self.kill = self._process.pid, self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def communicate(self):
        with self.stdout:
            said = self.stdout.read()
        self._process.join()
        return said, None


def start(code, folder, *more, at=0, how="SIGKILL"):
    """Begin a job that fills a folder and stops itself at a moment, or not at all."""
    return Forked(COUNT + code, [str(folder), str(at), how, *more])


def finish(code, folder, *more):
    said, status = ends(code, folder, 0, "SIGKILL", *more)
    assert status == 0, said


@pytest.fixture(scope="module")
def main(tiny_preset):
    preset = replace(tiny_preset, train=replace(tiny_preset.train, epochs=2, start_epochs=2))
    return MAIN.replace("{preset}", repr(preset))


@pytest.fixture(scope="module")
def whole(main, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "x"
    folder.mkdir()
    finish(main, folder, "--workers", "1")
    return contents(folder)


def nothing_left(folder):
    return not [p for p in folder.rglob("*") if p.name.startswith(("unfinished-", "."))]


def ends(code, folder, at, how, *more):
    """Run a job that stops itself; returns what it said and its status."""
    process = start(code, folder, *more, at=at, how=how)
    said, _ = process.communicate()
    assert not damaged(folder)
    return said, process.returncode


def test_a_run_that_is_killed_three_times_ends_as_if_it_had_not(main, whole, tmp_path):
    rng, folder, made = random.Random(0), tmp_path / "x", {}
    folder.mkdir()
    for how, expected in (("SIGKILL", -signal.SIGKILL), ("SIGINT", 130), ("SIGKILL", -9)):
        said, status = ends(main, folder, rng.randint(4, 9), how, "--workers", "1")
        assert status == expected, said
        assert "Traceback" not in said
        assert (how == "SIGINT") == ("interrupted; the same command goes on" in said)
        now = marks(folder)
        assert not made_again(made, now)
        made = now
    finish(main, folder, "--workers", "1")
    assert not made_again(made, marks(folder))
    assert contents(folder) == whole
    left = {p.name for p in folder.rglob("*") if p.name.startswith(("unfinished-", "."))}
    assert all(name.endswith(".tmp") for name in left), "more than a torn file under another name"


def until(process, words):
    """Read what a process says until a line holds the words."""
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"it never said {words!r}")


def test_workers_end_with_their_parent_and_the_next_run_goes_on(main, whole, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    process = start(main, folder, "--workers", "2")
    until(process, ": done in")
    stop(process, signal.SIGKILL)
    assert all_gone(process.pid), alive(process.pid)
    assert not damaged(folder)
    made = marks(folder)
    assert made
    process = start(main, folder, "--workers", "2")
    until(process, ": begun")
    said = stop(process, signal.SIGINT)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert all_gone(process.pid), alive(process.pid)
    finish(main, folder, "--workers", "1")
    assert not made_again(made, marks(folder))
    assert contents(folder) == whole


def test_a_worker_that_is_killed_is_told_in_a_sentence(tmp_path):
    code = """
import os, signal
from oal_lite.workers import Task, work
def die(): os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    work([Task("training of x", die, ())], 1, print)
"""
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ChildProcessError: one of 1 processes was killed"), done.stderr
    assert "give the same command again" in last


def test_two_runs_at_once_in_one_folder_do_not_hurt_each_other(main, whole, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    both = [start(main, folder, "--workers", "1") for _ in range(2)]
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert contents(folder) == whole
    assert nothing_left(folder)


def test_pretraining_that_is_killed_twice_ends_as_if_it_had_not(tmp_path):
    rng, folders = random.Random(1), [tmp_path / "whole", tmp_path / "parts"]
    for folder in folders:
        folder.mkdir()
    finish(PRETRAIN, folders[0])
    for how in ("SIGKILL", "SIGINT"):
        said, status = ends(PRETRAIN, folders[1], rng.randint(6, 14), how)
        assert status == (130 if how == "SIGINT" else -9), said
    finish(PRETRAIN, folders[1])
    assert contents(folders[1]) == contents(folders[0])
