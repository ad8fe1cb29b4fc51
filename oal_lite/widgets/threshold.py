"""Panel 1: one threshold, and everything that follows from it."""

import math
from dataclasses import dataclass

import ipywidgets
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from oal_lite.metrics import (
    Numbers,
    Positive,
    as_vector,
    check_positive,
    detection_metrics,
    roc_points,
)
from oal_lite.plots import COLOURS, STYLES, threshold_of_fpr95
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


@dataclass(frozen=True)
class Confusion:
    """Images by what they are and what they are called at one threshold.

    Attributes:
        ood_found: OOD images called OOD.
        ood_missed: OOD images called ID.
        false_alarms: ID images called OOD.
        id_kept: ID images called ID.
    """

    ood_found: int
    ood_missed: int
    false_alarms: int
    id_kept: int

    def rates(self, positive: Positive) -> tuple[float, float]:
        """False and true positive rate, with OOD or with ID as the positive class."""
        check_positive(positive)
        ood, ids = self.ood_found + self.ood_missed, self.false_alarms + self.id_kept
        if positive == "ood":
            return self.false_alarms / ids, self.ood_found / ood
        return self.ood_missed / ood, self.id_kept / ids


def confusion_at(
    id_scores: Numbers, ood_scores: Numbers, threshold: float, positive: Positive = "ood"
) -> Confusion:
    """Count the four cells at a threshold; a score that equals it is called positive.

    So an image is called OOD at s >= threshold where OOD is positive, at s > threshold where ID is.

    Raises:
        ValueError: for scores or a positive class that are none, and a threshold of NaN.
    """
    check_positive(positive)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN; every comparison with it is false: pass a number")
    ids, ood = as_vector(id_scores, "id_scores"), as_vector(ood_scores, "ood_scores")
    called = (lambda s: s >= threshold) if positive == "ood" else (lambda s: s > threshold)
    found, alarms = int(called(ood).sum()), int(called(ids).sum())
    return Confusion(found, ood.size - found, alarms, ids.size - alarms)


def threshold_panel(
    id_scores: Numbers, ood_scores: Numbers, *, names: tuple[str, str] = ("ID", "OOD")
) -> Panel:
    """Move the threshold tau: histograms, the point on the ROC, the confusion table, FPR95.

    Args:
        id_scores: scores of ID images, high = OOD.
        ood_scores: scores of OOD images, high = OOD.
        names: what the two sets are called in the picture.

    Raises:
        ValueError: if scores are empty, not one-dimensional or not finite.
    """
    ids, ood = as_vector(id_scores, "id_scores"), as_vector(ood_scores, "ood_scores")
    fpr, tpr, _ = roc_points(ids, ood)
    # With ID positive, the same points seen from the other corner.
    curves = {"ood": (fpr, tpr), "id": (1 - tpr[::-1], 1 - fpr[::-1])}
    metrics = {p: detection_metrics(ids, ood, p) for p in curves}
    stars = {p: threshold_of_fpr95(ids, ood, p) for p in curves}
    both = np.concatenate([ids, ood])
    low, high = both.min(), both.max()
    step = float(f"{(high - low) / 100:.1g}") or 1.0

    def render(threshold: float, positive: Positive) -> tuple[Figure, str]:
        cells = confusion_at(ids, ood, threshold, positive)
        figure, axes = stage(
            (10, 3.4), 3, width_ratios=(1.5, 1, 0.9),
            left=0.07, right=0.96, bottom=0.17, top=0.86, wspace=0.28,
        )  # fmt: skip
        _histograms(axes[0], ids, ood, names, threshold, stars[positive])
        point = cells.rates(positive)
        mark = confusion_at(ids, ood, stars[positive], positive).rates(positive)
        _roc(axes[1], curves[positive], point, mark, positive)
        _table(axes[2], cells, names)
        return figure, _sentence(cells, threshold, positive, metrics[positive], stars[positive])

    controls = {
        "threshold": ipywidgets.FloatSlider(
            float(np.median(both)), min=float(low) - step, max=float(high) + step, step=step,
            description="τ, threshold", readout_format=".2f",
        ),
        "positive": ipywidgets.Dropdown(
            options=[("OOD (OpenOOD v1.5)", "ood"), ("ID (OpenOOD v1.0)", "id")],
            description="positive class",
        ),
    }  # fmt: skip
    return Panel(
        controls, render,
        alt=f"Histograms of {names[0]} and {names[1]} scores cut by a threshold, the ROC curve "
        "with the point of that threshold, and the confusion table",
    )  # fmt: skip


def _histograms(ax, ids, ood, names, threshold, star) -> None:  # noqa: ANN001
    both = np.concatenate([ids, ood])
    edges = np.histogram_bin_edges(both, 40)  # has a width even where all scores are equal
    for values, name, group in ((ids, names[0], "id"), (ood, names[1], "near")):
        ax.hist(
            values, edges, density=True, histtype="stepfilled", linewidth=1.6,
            facecolor=to_rgba(COLOURS[group], 0.25), edgecolor=COLOURS[group],
            linestyle=STYLES[group], label=f"{name} (n = {len(values):,})",
        )  # fmt: skip
    ax.axvline(threshold, color="black", linewidth=2, label="τ")
    ax.axvline(star, color="0.4", linewidth=1.2, linestyle=":", label="τ where FPR95 is read")
    ax.set(xlabel="score (high = OOD)", ylabel="density")
    ax.set_title("called ID  ←  τ  →  called OOD", fontsize=10)
    ax.legend(fontsize=8)


def _roc(ax, curve, point, mark, positive) -> None:  # noqa: ANN001
    ax.plot(*curve, color="0.3")
    ax.axhline(0.95, color="0.6", linewidth=0.8)
    ax.plot(*mark, "D", color="0.5", markersize=6, label=f"FPR95 = {mark[0]:.3f}")
    ax.plot(*point, "o", color="black", markersize=9, label="your τ")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.set_title(f"ROC, {positive.upper()} positive", fontsize=10)
    ax.legend(fontsize=8, loc="lower right")


def _table(ax, cells, names) -> None:  # noqa: ANN001
    ax.axis("off")
    rows = (
        (names[0], cells.id_kept, cells.false_alarms),
        (names[1], cells.ood_missed, cells.ood_found),
    )
    for x, head in ((0.58, "called\nID"), (0.93, "called\nOOD")):
        ax.text(x, 0.74, head, ha="center", fontsize=10, weight="bold")
    for y, (name, *counts) in zip((0.55, 0.3), rows, strict=True):
        ax.text(-0.06, y, name, fontsize=10, weight="bold", va="center")
        for x, count, right in zip((0.58, 0.93), counts, (name == names[0], name == names[1]),
                                   strict=True):  # fmt: skip
            box = {"boxstyle": "round,pad=0.5", "facecolor": "#E8F1F8" if right else "#FBE9DE",
                   "edgecolor": "0.8"}  # fmt: skip
            ax.text(x, y, f"{count:,}", ha="center", va="center", fontsize=12, bbox=box)
    ax.text(-0.06, 0.08, "blue: right, orange: wrong", fontsize=9, color="0.35")


def _sentence(cells, threshold, positive, metrics, star) -> str:  # noqa: ANN001
    fpr, tpr = cells.rates(positive)
    if positive == "ood":
        hits = f"{cells.ood_found} of {metrics.n_ood} OOD images are found"
        slips = f"{cells.false_alarms} of {metrics.n_id} ID images are called OOD by mistake"
    else:
        hits = f"{cells.id_kept} of {metrics.n_id} ID images are called ID"
        slips = f"{cells.ood_missed} of {metrics.n_ood} OOD images are called ID by mistake"
    return (
        f"At τ = {threshold:.2f}, {hits} (TPR {tpr:.3f}) and {slips} (FPR {fpr:.3f}). "
        f"TPR first reaches 0.95 at τ = {star:.2f}; the FPR there is "
        f"FPR95 = {metrics.fpr95:.3f}. AUROC = {metrics.auroc:.3f}, whatever τ."
    )
