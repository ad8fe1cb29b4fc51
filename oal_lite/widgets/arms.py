"""Panel 7: an arm and a score, and what the two of them do: histograms, ROC, table.

Nothing is trained here: the panel reads the files of finished runs (see `study`).
"""

from collections.abc import Sequence
from pathlib import Path

import ipywidgets

from oal_lite import plots
from oal_lite.files import read_record, read_tensors
from oal_lite.metrics import detection_metrics
from oal_lite.presets import Preset
from oal_lite.recipes import ARMS, get_arm
from oal_lite.report import grouped_scores, need_runs
from oal_lite.run_files import RECORD
from oal_lite.study import Run, record_of
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


def finished_runs(runs: str | Path, preset: Preset, *, n_seeds: int = 20) -> list[Run]:
    """The runs of a preset that lie whole in a folder, made by this very code.

    Args:
        runs: folder of the run files, as `study.run` fills it.
        preset: all settings; runs with other settings do not count.
        n_seeds: seeds 0 to n_seeds - 1 are looked for.

    Raises:
        ValueError: if a file is damaged.
    """
    found = []
    for seed in range(n_seeds):
        for arm in ARMS:
            path = record_of(runs, preset, arm, get_arm(arm, preset), seed)
            scores = path.with_suffix(".safetensors")
            if path.exists() and scores.exists():
                found.append(Run(read_record(path, RECORD), read_tensors(scores)))
    return found


def draw(run: Run, score: str):  # noqa: ANN201
    """Histograms of one run's scores by group, its ROC curves, and the metrics of every set."""
    groups = grouped_scores(run, score)
    figure, (left, middle, right) = stage(
        (10, 4), 3, width_ratios=(1.25, 1, 0.85),
        left=0.095, right=0.99, bottom=0.34, top=0.88, wspace=0.25,
    )  # fmt: skip
    plots.score_histograms(groups, ax=left)
    left.set_xlabel(f"{score} score (high = OOD)")
    left.legend(fontsize=9, loc="upper left", bbox_to_anchor=(-0.2, -0.27), ncols=2)
    ood = [g for g in ("near", "far") if g in groups]
    plots.roc({plots.LABELS[g]: (groups["id"], groups[g]) for g in ood}, ax=middle)
    middle.set(xlabel="FPR (ID called OOD)", ylabel="TPR (OOD found)")
    sets = run.record["metrics"][score]
    lines = [f"{'set, %':10}{'AUROC':>7}{'FPR95':>7}"]
    for group in ood:
        lines += [f"{group}-OOD"] + [
            f"  {name:8}{100 * m['auroc']:7.1f}{100 * m['fpr95']:7.1f}"
            for name, m in sets[group].items()
        ]
    right.axis("off")  # plain text: a table would take long to draw
    right.text(0, 1, "\n".join(lines), family="monospace", fontsize=10, va="top", linespacing=1.5)
    record = run.record
    figure.suptitle(f"{record['arm']}, seed {record['seed']}, score {score}", fontsize=12)
    first = plots.LABELS[ood[0]]
    found = detection_metrics(groups["id"], groups[ood[0]])
    sentence = (
        f"<b>{record['arm']}</b> with the score <b>{score}</b>: a {first} image scores above an "
        f"ID image in {found.auroc:.1%} of pairs. To catch 95 % of {first}, {found.fpr95:.1%} of "
        f"the ID images are called OOD by mistake (sets pooled)."
    )
    return figure, sentence


def arms_panel(results: Sequence[Run]) -> Panel:
    """Choose arm, score and seed of finished runs.

    Raises:
        ValueError: if there is no run, or one without near- and far-OOD or without its scores.
    """
    if isinstance(results, Sequence) and not results:
        raise ValueError("no finished run to show; train one with study.run first")
    need_runs(results)
    for r in results:
        if not grouped_scores(r).keys() & {"near", "far"}:
            raise ValueError(
                f"the run of {r.record['arm']} has no near- or far-OOD set to show, as where all "
                "OOD is held out"
            )
    runs = {(r.record["arm"], r.record["seed"]): r for r in results}
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    seeds = sorted(set.intersection(*({s for a, s in runs if a == arm} for arm in arms)))
    if not seeds:
        raise ValueError(f"the arms {', '.join(arms)} have no seed in common; leave one out")
    controls = {
        "arm": ipywidgets.Dropdown(options=arms, description="arm"),
        "score": ipywidgets.Dropdown(
            options=list(results[0].record["metrics"]), value="energy", description="S(x), score"
        ),
    }
    if len(seeds) > 1:  # a slider with one place would be no slider
        controls["seed"] = ipywidgets.SelectionSlider(options=seeds, description="seed of the run")

    def render(arm: str, score: str, seed: int = seeds[0]):  # noqa: ANN202
        return draw(runs[arm, seed], score)

    return Panel(
        controls, render, alt="Histograms of OOD scores, ROC curves and a table for one arm"
    )
