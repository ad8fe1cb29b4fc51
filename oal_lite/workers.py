"""Several processes for one study: what does not wait for each other runs side by side.

The common start of a seed, the teacher's look at the views, and the outliers of each selection
need nothing of one another; an arm needs some of them, and no other arm. All hand over their
results as files in the folder of runs, where they would be kept anyway, so this module only says
who may begin when. Each process computes in one thread: at the sizes of the shapes preset, two
trainings side by side take little more time than one of them in two threads.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from time import perf_counter

from oal_lite.data_parallel import launched
from oal_lite.images import LazyImages
from oal_lite.presets import Preset
from oal_lite.recipes import Arm
from oal_lite.threads import one_thread_on_cpu

OF_ALL_SEEDS = ("id_latents", "reconstructions")  # made once: no seed has a part in them
GIGABYTE = 10**9  # about what a process takes
# Where Linux writes what memory a container may use, what it uses, and how much of that are files
# that it would let go: control groups, versions 2 and 1.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One piece of work: a name, a function with arguments, and the names of what comes before."""

    name: str
    function: Callable
    arguments: tuple
    needs: tuple[str, ...] = ()


def default_workers(device: str, trainings: int, most: int) -> int:
    """As many as there are cores, trainings and free gigabytes; one where a GPU does the work.

    One, too, where `accelerate launch` has started several: they train each student together.

    One gigabyte is left to this process and to what else runs here.
    """
    if launched() > 1 or not str(device).startswith("cpu"):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, trainings, most, _free_memory() // GIGABYTE - 1))


def _free_memory() -> int:
    """Bytes that can be had: of the machine, or of the container if that has less left."""
    import psutil

    free = psutil.virtual_memory().available
    for folder, limit, used, idle in CGROUPS:
        with suppress(OSError, ValueError, KeyError):  # not there; or the limit says "max"
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free = min(free, left + int(stat[idle]))
    return free


def study_tasks(
    preset: Preset,
    trainings: Sequence[tuple[int, str, Arm]],
    *,
    runs: str,
    device: str,
    fresh: bool = False,
    after: Sequence[Task] = (),
    models: Mapping[str, Task] | None = None,
) -> list[Task]:
    """What trainings (seed, label, arm) take, in the order in which it should begin.

    Everything that several arms share comes before the arms of its seed. Unless `fresh`, a
    training that was interrupted goes on where it stopped.

    What other settings share in part, such as the start of a seed, is made once: the last task of
    the same kind in `after` comes first, and what it leaves in files is then found. `models` are
    the tasks of `pretraining`, where teacher or pipeline are not there: the start waits for
    neither, and what needs no diffusion model goes on beside its training.
    """
    # by their names without the mark that follows; later ones take the place of earlier
    before = {t.name.partition(" (")[0]: t.name for t in after if t.function is _prepare}
    mark = f" ({len(after)})" if after else ""  # names of tasks are unique in one pool
    tasks: dict[str, Task] = {}  # by name, so that what is shared is there once
    lowest = min((seed for seed, *_ in trainings), default=0)
    for seed, label, arm in trainings:
        needs = ["start"] + ["views"] * arm.asks_teacher
        needs += [f"outliers-{arm.synthesised}"] if arm.outliers else []
        needs += ["id_latents"] if arm.encodes else []
        needs += ["reconstructions"] if arm.decodes else []
        names = {what: what if what in OF_ALL_SEEDS else f"{what}, seed {seed}" for what in needs}
        for what, name in names.items():
            first = (before[name],) if name in before else ()
            if what == "reconstructions":
                first += ("id_latents" + mark,)
            model = {"start": None, "views": "teacher"}.get(what, "pipeline")
            if models and model in models:
                first += (models[model].name,)
            arguments = (what, preset, lowest if what in OF_ALL_SEEDS else seed, runs, device)
            tasks.setdefault(name + mark, Task(name + mark, _prepare, arguments, first))
        name = f"{label}, seed {seed}"
        tasks[name] = Task(
            name, _train, (label, preset, seed, runs, device, arm, fresh),
            tuple(name + mark for name in names.values()),
        )  # fmt: skip
    return sorted(tasks.values(), key=lambda t: (t.arguments[2], t.function is _train))


def work(tasks: Sequence[Task], workers: int, progress: Callable[[str], None]) -> None:
    """Do all tasks in so many processes, each as soon as what it needs is done.

    On Ctrl-C the processes are ended at once: what they had finished lies in files, and unfinished
    trainings have their checkpoints. They also end when this process is killed.

    Raises:
        Exception: the first that a task raises; what has not begun by then is not begun.
        ChildProcessError: if a process was killed (by want of memory, for example).
    """
    waiting, running, done, started = list(tasks), {}, set(), {}
    # Not forked: a copy of a process whose libraries run threads may hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        while waiting or running:
            ready = [t for t in waiting if done.issuperset(t.needs)]
            for task in ready[: workers - len(running)]:
                waiting.remove(task)
                progress(f"{task.name}: begun")
                with _ctrl_c_held_back():
                    future: Future = pool.submit(task.function, *task.arguments)
                running[future], started[task.name] = task.name, perf_counter()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()  # raises what the task has raised, while it counts as running
                name = running.pop(future)
                done.add(name)
                progress(f"{name}: done in {perf_counter() - started[name]:.0f} s")
    except BrokenProcessPool:
        raise ChildProcessError(
            f"one of {workers} processes was killed, perhaps for want of memory, during "
            f"{' or '.join(running.values()) or 'its start'}; give the same command again, perhaps "
            "with fewer --workers: what is finished is kept"
        ) from None
    except KeyboardInterrupt:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Start processes to which Ctrl-C does not come; to this one it comes a moment later.

    A terminal sends Ctrl-C to parent and children alike, and each child would print a traceback.
    The signal mask is inherited, so a child is safe from its first moment on. The mask alone does
    not save this process from stopping half-way, with a child that waits for its orders: a thread
    of NumPy's takes the signal instead, and Python hands it to the main thread all the same.
    """
    heard: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # no other is interrupted
    handler = signal.getsignal(signal.SIGINT) if main else None
    if handler is not None:
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    before = None
    if hasattr(signal, "pthread_sigmask"):  # not on Windows; there `_begin` does it, if late
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if heard and callable(handler):
            handler(signal.SIGINT, None)


def _begin() -> None:
    """Leave Ctrl-C to the parent, end with it, and be quiet.

    Bars of several processes would write over each other, and one warning is enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import warnings

    import diffusers.utils
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*averages leave them out")  # the parent says it


def _end_with_parent() -> None:
    """Wait until the parent is gone, and go too; else its workers would wait for it for ever."""
    parent_process().join()
    os._exit(1)


def _prepare(what: str, preset: Preset, seed: int, runs: str, device: str) -> None:
    from oal_lite.materials import Materials

    materials = Materials(preset, seed, device=device, runs=Path(runs), bars=False)
    with one_thread_on_cpu(device):
        if what.startswith("outliers-"):
            materials.outliers(what.removeprefix("outliers-"))
        # what the teacher says of images that are read late, no file keeps
        elif what != "views" or not isinstance(materials.benchmark.train.images, LazyImages):
            getattr(materials, what)


def pretraining(preset: Preset, device: str, models: Sequence[str]) -> dict[str, Task]:
    """Tasks that train the preset's own models that are named, each after those before it."""
    tasks: dict[str, Task] = {}
    for i, model in enumerate(models):
        name, before = f"model: {model}", tuple(task.name for task in tasks.values())
        tasks[model] = Task(name, _pretrain, (preset, device, models[: i + 1]), before)
    return tasks


def _pretrain(preset: Preset, device: str, models: Sequence[str]) -> None:
    from oal_lite.pretrain.parts import train_missing

    train_missing(preset, device, str, models)


def _train(
    label: str, preset: Preset, seed: int, runs: str, device: str, arm: Arm, fresh: bool
) -> None:
    from oal_lite.study import run

    run(preset, {label: arm}, [seed], runs=runs, device=device, fresh=fresh, bars=False)
