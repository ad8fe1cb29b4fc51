"""What the command lines share: arguments and their checks, a clock, how an error is told."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from oal_lite.presets import Preset, check_name, get_preset


def add_arguments(
    parser: argparse.ArgumentParser, *, preset: str, arms: str, seeds: int, workers: int
) -> None:
    """Add what every command that trains arms with seeds understands; with defaults of its own.

    Nothing heavy is imported for it, so `--help` answers at once.
    """
    add = parser.add_argument
    add("--preset", default=preset, help=f"set of settings (default: {preset})")
    add(
        "--arms",
        default=arms,
        help=f"comma-separated, or variations as oal+hedge=0 (default: {arms})",
    )
    add("--seeds", type=int, default=seeds, help=f"how many, from 0 on (default: {seeds})")
    add("--out", default="figures", help="folder for results and figures")
    add("--runs", default="runs", help="folder of finished runs, read when there")
    add("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    add(
        "--workers", type=int,
        help="processes side by side; any number gives the same results (default: one for each"
        f" CPU core and free gigabyte, at most {workers}; one on a GPU)",
    )  # fmt: skip
    add("--data-root", help="folder of real images in OpenOOD v1.5's layout")
    add("--teacher", help="folder or hub id, in place of the preset's")
    add("--pipeline", help="the same for the Stable Diffusion pipeline")
    add(
        "--pretrain", action="store_true",
        help="first train the preset's own teacher and diffusion model, where they are not there",
    )  # fmt: skip
    add("--download", action="store_true", help="allow models to be fetched from the hub")
    add("--quick", action="store_true", help="a smoke run; its numbers mean nothing")


def read(arguments: argparse.Namespace) -> tuple[Preset, list[str]]:
    """The preset and the arms that the command line asks for.

    Raises:
        ValueError: for a number below one, a folder without a name, an unknown preset or arm, or
            no arm at all.
    """
    from dataclasses import replace

    from oal_lite.recipes import get_arm

    if arguments.seeds < 1:
        raise ValueError(f"--seeds {arguments.seeds}: at least one seed is needed")
    if arguments.seeds > 10_000:
        raise ValueError(f"--seeds {arguments.seeds}: expected no more than 10000")
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: at least one process is needed")
    for name in ("out", "runs", "teacher", "pipeline", "data_root"):  # Path("") is the current one
        if getattr(arguments, name) is not None and not getattr(arguments, name).strip():
            name = name.replace("_", "-")
            raise ValueError(f"--{name} is empty; name a folder, or leave it out")
    preset = get_preset(arguments.preset, quick=arguments.quick)
    given = {k: getattr(arguments, k) for k in ("teacher", "pipeline", "data_root")}
    preset = replace(
        preset, download=arguments.download, **{k: v for k, v in given.items() if v is not None}
    )
    arms = words(arguments.arms)
    if not arms:
        raise ValueError("--arms names no arm")
    for arm in arms:
        get_arm(arm)
        check_name(arm, "arm")
    return preset, arms


def words(text: str) -> list[str]:
    """What a comma-separated argument names."""
    return [word.strip() for word in text.split(",") if word.strip()]


def pretrains(arguments: argparse.Namespace, preset: Preset, models: Sequence[str]) -> bool:
    """Whether these of the preset's own models are asked for and have to be trained yet.

    Raises:
        ValueError: if they are asked for, and are not trained here.
    """
    if not arguments.pretrain:
        return False
    from oal_lite.data_parallel import launched
    from oal_lite.pretrain.parts import missing

    wanted = bool(missing(preset, models))
    if wanted and launched() > 1:
        raise ValueError(
            f"--pretrain in {launched()} processes of `accelerate launch` would train each model "
            "as often; train them first, by python -m oal_lite.pretrain"
        )
    return wanted


def pretrain(
    preset: Preset, device: str, say: Callable[[str], None], models: Sequence[str]
) -> None:
    """Train these of the preset's own models, as far as they are not there.

    Raises:
        ValueError: for images that cannot be read.
    """
    from oal_lite.pretrain.parts import missing, train_missing

    say(f"pretraining: {', '.join(missing(preset, models))}")
    train_missing(preset, device, say, models)


def clock() -> Callable[[str], None]:
    """A function that says a sentence, with the seconds that have passed since this call."""
    started = time.perf_counter()

    def say(sentence: str) -> None:
        sys.stdout.write(f"[{time.perf_counter() - started:6.1f} s] {sentence}\n")
        sys.stdout.flush()

    return say


def guarded(job: Callable[[], None]) -> int:
    """Do a command's job and return its exit status: an error is one sentence, not a traceback."""
    for stream in (sys.stdout, sys.stderr):  # no terminal that lacks a sign shall end a study
        if (stream.encoding or "utf-8").lower() != "utf-8":
            with suppress(OSError):  # a pipe cannot always be told
                stream.reconfigure(errors="replace")
    try:
        job()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        first = (str(error) or "MemoryError").splitlines()[0]
        sys.stderr.write(f"error: there is not enough memory ({first:.200}); ask for less\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where this one stopped\n")
        return 130
    return 0
