"""Arms x seeds with error bars, and the ablations: `python -m oal_lite.study`.

Finished runs are read again, so a study that was interrupted goes on where it stopped, and two
processes with different seeds (`--first`) share the work. A last call with all seeds collects.
"""

import argparse
import json
import sys
import time
from pathlib import Path

DEFAULT_ARMS = "ce,kd,oal-as-released,oal-paper,oal-noise,oe-pixels,oe-pixels-matched,oe-real,oal"
BASELINES = ("kd", "ce", "oal-paper")


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show it."""
    p = argparse.ArgumentParser(prog="python -m oal_lite.study", description=__doc__)
    p.add_argument("--preset", default="shapes", help="set of settings (default: shapes)")
    p.add_argument(
        "--arms", default=DEFAULT_ARMS, help=f"comma-separated (default: {DEFAULT_ARMS})"
    )
    p.add_argument(
        "--ablation", default=None,
        help="comma-separated names of ablations, or 'all', in place of the arms; 'list' lists",
    )  # fmt: skip
    p.add_argument("--seeds", type=int, default=8, help="how many (default: 8)")
    p.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    p.add_argument("--out", default="figures", help="folder of study.json and the tables")
    p.add_argument("--runs", default="runs", help="folder of finished runs, read when there")
    p.add_argument("--device", default=None, help="cpu, cuda, ... (default: the GPU if there is)")
    p.add_argument(
        "--workers", type=int, default=None,
        help="processes side by side (default: one per core on a CPU, one on a GPU)",
    )  # fmt: skip
    p.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean nothing")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arguments = parser().parse_args(argv)
    started = time.perf_counter()

    def say(sentence: str) -> None:
        sys.stdout.write(f"[{time.perf_counter() - started:6.1f} s] {sentence}\n")
        sys.stdout.flush()

    from oal_lite import ablations, claims, report, study
    from oal_lite.presets import get_preset
    from oal_lite.workers import default_workers

    if arguments.ablation == "list":
        for name, ablation in ablations.ABLATIONS.items():
            sys.stdout.write(f"{name:14} {ablation.question}\n")
        return 0
    path = Path(arguments.out) / "study.json"
    try:
        if arguments.seeds < 1:
            raise ValueError(f"--seeds {arguments.seeds}: at least one seed is needed")
        preset = get_preset(arguments.preset, quick=arguments.quick)
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        if arguments.workers is not None and arguments.workers < 1:
            raise ValueError(f"--workers {arguments.workers}: at least one process is needed")
        device = arguments.device or study.default_device()
        workers = arguments.workers or default_workers(device, arguments.seeds)
        how = {"runs": arguments.runs, "device": device, "progress": say, "workers": workers}
        for name, question, baselines, todo in _sections(arguments, preset):
            results = [
                run for arms, changed in todo for run in study.run(changed, arms, seeds, **how)
            ]
            section = report.section(results, question=question, baselines=baselines, device=device)
            report.add_section(path, name, section)
            sys.stdout.write(f"\n{question}\n\n{section['markdown']}\n\n")
            say(f"wrote {name!r} into {path}")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"\n{claims.markdown(json.loads(path.read_text()))}\n")
    return 0


def _sections(arguments: argparse.Namespace, preset) -> list[tuple]:  # noqa: ANN001
    """Name, question, baselines and jobs of every section of the study that was asked for."""
    from oal_lite import ablations

    if arguments.ablation is None:
        arms = [a.strip() for a in arguments.arms.split(",") if a.strip()]
        if not arms:
            raise ValueError("--arms names no arm")
        return [("arms", "What is each arm worth?", BASELINES, [(arms, preset)])]
    names = arguments.ablation.split(",")
    names = list(ablations.ABLATIONS) if names == ["all"] else names
    chosen = [(name, ablations.get_ablation(name)) for name in names]
    return [(name, a.question, a.arms, ablations.jobs(a, preset)) for name, a in chosen]
