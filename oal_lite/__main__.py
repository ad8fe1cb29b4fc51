"""The whole method on one benchmark: `python -m oal_lite`.

Teacher features, k-NN outliers, diffusion latents, training of the arms, scores, table, figures.
"""

import argparse
import sys
import time

DEFAULT_ARMS = "ce,kd,oal-as-released,oal-paper"


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show it."""
    p = argparse.ArgumentParser(prog="python -m oal_lite", description=__doc__)
    p.add_argument("--preset", default="shapes", help="set of settings (default: shapes)")
    p.add_argument(
        "--arms", default=DEFAULT_ARMS, help=f"comma-separated (default: {DEFAULT_ARMS})"
    )
    p.add_argument("--seeds", type=int, default=1, help="how many: 0 .. N-1 (default: 1)")
    p.add_argument("--out", default="figures", help="folder for results and figures")
    p.add_argument("--runs", default="runs", help="folder of finished runs, read when there")
    p.add_argument(
        "--device", default=None, help="cpu, cuda, ... (default: the GPU if there is one)"
    )
    p.add_argument(
        "--workers", type=int, default=None,
        help="processes side by side; any number gives the same results (default: one for each"
        " CPU core, one on a GPU)",
    )  # fmt: skip
    p.add_argument("--data-root", help="folder of real images in OpenOOD v1.5's layout")
    p.add_argument("--teacher", help="folder or hub id, in place of the preset's")
    p.add_argument("--pipeline", help="the same for the Stable Diffusion pipeline")
    p.add_argument(
        "--download", action="store_true", help="allow models to be fetched from the hub"
    )
    p.add_argument(
        "--dry-run", action="store_true", help="print downloads, disk, FLOPs, minutes; run nothing"
    )
    p.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean nothing")
    p.add_argument("--fresh", action="store_true", help="repeat runs that are finished already")
    return p


def _settings(arguments: argparse.Namespace):  # noqa: ANN202 - presets is imported inside
    """The preset and the arms that the command line asks for."""
    from dataclasses import replace

    from oal_lite.presets import get_preset
    from oal_lite.recipes import get_arm

    if arguments.seeds < 1:
        raise ValueError(f"--seeds {arguments.seeds}: at least one seed is needed")
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: at least one process is needed")
    preset = get_preset(arguments.preset, quick=arguments.quick)
    given = {k: getattr(arguments, k) for k in ("teacher", "pipeline", "data_root")}
    preset = replace(
        preset, download=arguments.download, **{k: v for k, v in given.items() if v is not None}
    )
    arms = [a.strip() for a in arguments.arms.split(",") if a.strip()]
    if not arms:
        raise ValueError("--arms names no arm")
    for arm in arms:
        get_arm(arm)
    return preset, arms


def main(argv: list[str] | None = None) -> int:
    """Run the main job; returns the exit status."""
    arguments = parser().parse_args(argv)
    started = time.perf_counter()

    def say(sentence: str) -> None:
        seconds = time.perf_counter() - started
        sys.stdout.write(f"[{seconds:6.1f} s] {sentence}\n")
        sys.stdout.flush()

    say("loading libraries")
    from pathlib import Path

    from oal_lite import budget, report, study
    from oal_lite.files import make_folder
    from oal_lite.train import check_device
    from oal_lite.workers import default_workers

    try:
        preset, arms = _settings(arguments)
        if arguments.dry_run:
            text = budget.describe(
                preset, arms, seeds=arguments.seeds, data_root=arguments.data_root
            )
            sys.stdout.write(text + "\n")
            return 0
        device = arguments.device or study.default_device()
        check_device(device)
        study.find_models(preset, arms, progress=say)
        make_folder(Path(arguments.out))  # before hours of training, not after
        results = study.run(
            preset, arms, range(arguments.seeds), runs=arguments.runs, device=device,
            fresh=arguments.fresh, progress=say,
            workers=arguments.workers or default_workers(device, len(arms) * arguments.seeds),
        )  # fmt: skip
        say("figures")
        materials = study.Materials(preset, 0, device=device, runs=arguments.runs, progress=say)
        written = report.write(results, materials, arguments.out, device=device)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where this one stopped\n")
        return 130
    sys.stdout.write(f"\n{report.markdown(results)}\n\n")
    for path in written:
        say(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
