"""Arms x seeds with error bars, and the ablations: `python -m oal_lite.study`.

Finished runs are read again, so a study that was interrupted goes on where it stopped, and two
processes with different seeds (`--first`) share the work. A last call with all seeds collects.
A call with fewer arms or seeds than the file of results holds leaves that file as it is.
The results of the preset `shapes-long` go into `study.json`, with the ablations of `shapes`, whose
trainings are shorter; those of another preset go into a file of its name.
"""

import argparse
import sys
from functools import partial

from oal_lite import command
from oal_lite.presets import MODELS, Preset

PRESET = "shapes-long"
DEFAULT_ARMS = (
    "ce,kd,kd-distance,kd-distance-twice,oal-as-released,oal-paper,oal-noise,oe-pixels,"
    "oe-pixels-matched,oe-real,oal-latent,oal"
)
BASELINES = ("kd", "ce", "oal-paper")
WORKERS = 8  # at most, where --workers does not say


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m oal_lite.study", description=__doc__)
    command.add_arguments(p, preset=PRESET, arms=DEFAULT_ARMS, seeds=8, workers=WORKERS)
    p.add_argument(
        "--ablation", default=None,
        help="comma-separated names of ablations, or 'all', in place of the arms; 'list' lists",
    )  # fmt: skip
    p.add_argument(
        "--validation", action="store_true",
        help="for a choice: the tables show validation-OOD alone, no test-OOD",
    )  # fmt: skip
    p.add_argument(
        "--hold-out", metavar="CLASS,CLASS;...",
        help="the same on classes that no model sees and that become validation-OOD, in place of "
        "all OOD sets; groups of them take turns, by the seed modulo their number",
    )  # fmt: skip
    p.add_argument("--first", type=int, default=0, help="the first of the seeds (default: 0)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.guarded(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing; write the study's file; print its tables and the claims.

    Raises:
        ValueError, OSError: for what the arguments ask for and cannot have.
    """
    from pathlib import Path

    from oal_lite import claims, report, study
    from oal_lite.ablations import ABLATIONS
    from oal_lite.arguments import check_device
    from oal_lite.data_parallel import is_first
    from oal_lite.files import make_folder
    from oal_lite.recipes import needed_models
    from oal_lite.workers import default_workers

    say = command.clock() if is_first() else str  # of several processes one speaks
    if arguments.ablation == "list":
        for name, ablation in ABLATIONS.items():
            sys.stdout.write(f"{name:14} {ablation.question}\n")
        return
    preset, arms = command.read(arguments)
    groups, choice = _groups(arguments), arguments.validation or arguments.hold_out is not None
    if choice:
        arms = _choosing(arms, asked=arguments.arms != DEFAULT_ARMS)
        _check_validation(preset, groups)
    turns, sections = _turns(arguments, preset, groups), _sections(arguments, arms, groups)
    device = arguments.device or study.default_device()
    check_device(device)
    recipes = {
        label: arm for *_, jobs in sections for some, _ in jobs(preset)
        for label, arm in some.items()
    }  # fmt: skip
    models = needed_models([*recipes.values()])
    pretrain = [command.pretrains(arguments, turn, models) for turn, _ in turns]
    for (turn, _), trains in zip(turns, pretrain, strict=True):
        if not trains:
            study.find_models(turn, recipes, progress=say)
    path = Path(arguments.out) / results_file(preset.name, ablation=bool(arguments.ablation))
    make_folder(path.parent)
    kept = set()  # sections that hold more than what is asked for now
    for name, *_, jobs in sections:
        asked = {
            (arm, seed, turn.held_out) for turn, seeds in turns for some, _ in jobs(turn)
            for arm in some for seed in seeds
        }  # fmt: skip
        if lost := report.trained(path, name, choice=choice) - asked:
            kept.add(name)
            say(
                f"{path} holds {len(lost)} trainings of {name!r} that are not asked for now, such "
                f"as {', seed '.join(map(str, min(lost)[:2]))}; it stays as it is. For a file of "
                "these alone name another folder with --out"
            )
    how = {"runs": arguments.runs, "device": device, "progress": say}
    for (turn, seeds), trains in zip(turns, pretrain, strict=True):
        every_job = [job for *_, jobs in sections for job in jobs(turn)]
        trainings = len(seeds) * sum(len(some) for some, _ in every_job)
        workers = arguments.workers or default_workers(device, trainings, WORKERS)
        if workers > 1:
            study.side_by_side(every_job, seeds, workers=workers, pretrain=trains, **how)
        elif trains:
            command.pretrain(turn, device, say, models)
    for name, question, baselines, jobs in sections:
        results = [
            run for turn, seeds in turns for some, changed in jobs(turn)
            for run in study.run(changed, some, seeds, **how)
        ]  # fmt: skip
        if not is_first():
            continue
        section = report.section(results, question=question, baselines=baselines, choice=choice)
        if name not in kept:
            report.add_section(path, name, section, choice=choice)
            say(f"wrote {name!r} into {path}")
        sys.stdout.write(f"\n{question}\n\n{section['markdown']}\n\n")
    if is_first() and not choice:
        sys.stdout.write(f"\n{claims.markdown(report.read_study(path))}\n")


def results_file(preset: str, *, ablation: bool) -> str:
    """Name of the file for a preset's results.

    A smoke run, or another benchmark, must not write over the study that the notebooks show.
    """
    shown = preset == PRESET or (preset == "shapes" and ablation)
    return "study.json" if shown else f"{preset}.json"


def _groups(arguments: argparse.Namespace) -> list[list[str]]:
    """The groups of classes that are held out in turn; none where nothing is asked for."""
    if arguments.hold_out is None:
        return []
    groups = [command.words(text) for text in arguments.hold_out.split(";")]
    if [] in groups:
        raise ValueError(
            f"--hold-out {arguments.hold_out!r}: a group without a class; expected names as in "
            "'cat,dog' or, for groups that take turns, 'cat,dog;ship,truck'"
        )
    return groups


def _choosing(arms: list[str], *, asked: bool) -> list[str]:
    """The arms that a choice may look at: not those that have trained on validation-OOD."""
    from oal_lite.recipes import get_arm

    fit = [arm for arm in arms if get_arm(arm).exposure != "real"]
    if asked and fit != arms:
        odd = next(arm for arm in arms if arm not in fit)
        raise ValueError(
            f"{odd} trains on validation-OOD, which then says nothing of it; leave it out of --arms"
        )
    return fit


def _check_validation(preset: Preset, groups: list[list[str]]) -> None:
    """Refuse classes that are not there, and a choice without validation-OOD, before all else."""
    from oal_lite.materials import Materials

    benchmark = Materials(preset, 0, progress=str).benchmark
    for group in groups:
        benchmark.hold_out(group)
    if not groups and not benchmark.validation_ood:
        raise ValueError(
            f"{benchmark.name} has no validation-OOD at hand; hold classes out: --hold-out "
            f"{','.join(benchmark.class_names[:2])}"
        )


def _turns(
    arguments: argparse.Namespace, preset: Preset, groups: list[list[str]]
) -> list[tuple[Preset, list[int]]]:
    """The preset and its seeds; or one without each group of classes, and the seeds of it."""
    from dataclasses import replace

    from oal_lite.presets import hold_out

    seeds = list(range(arguments.first, arguments.first + arguments.seeds))
    if not groups:
        return [(preset, seeds)]
    given = {k: v for k in MODELS if (v := getattr(arguments, k)) is not None}
    if given and len(groups) > 1:
        raise ValueError(
            f"--{min(given)} with {len(groups)} groups of held-out classes: one model cannot have "
            "missed each of them; give one group, or no model"
        )
    turns = [(replace(hold_out(preset, group), **given), []) for group in groups]
    for seed in seeds:
        turns[seed % len(turns)][1].append(seed)
    return [turn for turn in turns if turn[1]]


def _sections(
    arguments: argparse.Namespace, arms: list[str], groups: list[list[str]]
) -> list[tuple]:
    """Name, question, baselines and jobs (of a preset) of every section that was asked for."""
    from oal_lite import ablations
    from oal_lite.recipes import get_arm

    if arguments.ablation is None:

        def plain(preset: Preset) -> list[tuple[dict, Preset]]:
            return [({arm: get_arm(arm, preset) for arm in arms}, preset)]

        sections = [("arms", "What is each arm worth?", BASELINES, plain)]
    else:
        names = command.words(arguments.ablation)
        if not names:
            raise ValueError("--ablation names no ablation; 'list' lists them")
        names = list(ablations.ABLATIONS) if names == ["all"] else names
        chosen = [(name, ablations.get_ablation(name)) for name in names]
        sections = [
            (name, a.question, a.baselines, partial(ablations.jobs, a)) for name, a in chosen
        ]
    # beside what has seen all classes, and what was made without others
    pairs = sorted(" and ".join(sorted(group)) for group in groups)
    held_out = f", held out: {'; '.join(pairs)}" if pairs else ""
    return [(name + held_out, *rest) for name, *rest in sections]
