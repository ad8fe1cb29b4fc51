"""The whole method on one benchmark: `python -m oal_lite`.

Teacher features, k-NN outliers, diffusion latents, training of the arms, scores, table, figures.
"""

import argparse
import sys

from oal_lite import command

DEFAULT_ARMS = "ce,kd,oal-as-released,oal-paper"
WORKERS = 2  # and this process: less than three gigabytes, however many cores there are


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m oal_lite", description=__doc__)
    command.add_arguments(p, preset="shapes", arms=DEFAULT_ARMS, seeds=1, workers=WORKERS)
    p.add_argument(
        "--dry-run", action="store_true", help="print downloads, disk, FLOPs, minutes; run nothing"
    )
    p.add_argument("--fresh", action="store_true", help="repeat runs that are finished already")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the main job; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.guarded(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Train the arms, print the table, write the figures.

    Raises:
        ValueError, OSError: for what the arguments ask for and cannot have.
    """
    say = command.clock()
    say("loading libraries")
    from pathlib import Path

    from oal_lite import budget, report, study
    from oal_lite.arguments import check_device
    from oal_lite.data_parallel import is_first
    from oal_lite.files import make_folder
    from oal_lite.materials import Materials
    from oal_lite.recipes import get_arm, needed_models
    from oal_lite.workers import default_workers

    preset, arms = command.read(arguments)
    if arguments.dry_run:
        text = budget.describe(preset, arms, seeds=arguments.seeds, data_root=arguments.data_root)
        sys.stdout.write(text + "\n")
        return
    device = arguments.device or study.default_device()
    check_device(device)
    make_folder(Path(arguments.out))  # before hours of training, not after
    models = needed_models([get_arm(arm) for arm in arms])
    if command.pretrains(arguments, preset, models):
        command.pretrain(preset, device, say, models)
    study.find_models(preset, arms, progress=say)
    results = study.run(
        preset, arms, range(arguments.seeds), runs=arguments.runs, device=device,
        fresh=arguments.fresh, progress=say,
        workers=arguments.workers or default_workers(device, len(arms) * arguments.seeds, WORKERS),
    )  # fmt: skip
    if not is_first():  # of several processes one writes
        return
    say("figures")
    materials = Materials(preset, 0, device=device, runs=arguments.runs, progress=say)
    written = report.write(results, materials, arguments.out)
    sys.stdout.write(f"\n{report.markdown(results)}\n\n")
    for path in written:
        say(f"wrote {path}")


if __name__ == "__main__":
    raise SystemExit(main())
