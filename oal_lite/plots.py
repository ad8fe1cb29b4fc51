"""Figures: every function draws on `ax=` (or makes one) and returns it; `save` writes the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.axes import Axes
from torch import Tensor

from oal_lite.files import write_atomically
from oal_lite.metrics import PairedTest, detection_metrics, roc_points
from oal_lite.presets import smoke

# Colour-blind-safe (Okabe and Ito), and never told apart by colour alone.
COLOURS = {"id": "#0072B2", "near": "#D55E00", "far": "#009E73", "synthetic": "#CC79A7"}
STYLES = {"id": "-", "near": "--", "far": ":", "synthetic": "-."}
LABELS = {"id": "ID test", "near": "near-OOD", "far": "far-OOD", "synthetic": "synthetic outliers"}


def set_theme() -> None:
    """The project's look, for notebooks and figures alike."""
    import seaborn as sns

    # 72 dpi keeps a notebook with its pictures below GitHub's 1 MB; files are saved larger
    rc = {"figure.dpi": 72}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=rc)


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    return ax if ax is not None else plt.subplots(layout="constrained")[1]


def save(figure, path: str | Path, *, dpi: int = 130) -> Path:  # noqa: ANN001
    """Write a figure to `path` through a temporary file, so that no half picture is left."""
    path = Path(path)
    write_atomically(
        path, lambda p: figure.savefig(p, dpi=dpi, format=path.suffix[1:], bbox_inches="tight")
    )
    return path


def keep(figure, name: str, *, dpi: int = 110) -> None:  # noqa: ANN001
    """Write a notebook's figure to `figures/<name>.png` of the checkout; nothing in smoke size.

    The checkout is the nearest folder at or above the current one that holds `pyproject.toml`.
    Outside of one (a notebook that was carried away) nothing is written. Nothing is returned, so
    that no path is printed where this is a cell's last line.
    """
    folder = Path.cwd()
    roots = [f for f in (folder, *folder.parents) if (f / "pyproject.toml").exists()]
    if roots and not smoke():
        save(figure, roots[0] / "figures" / f"{name}.png", dpi=dpi)


def image_grid(
    images: UInt8[Tensor, "n 3 h w"], *, columns: int = 10, ax: Axes | None = None,
    titles: Sequence[str] | None = None, gap: int = 2,
) -> Axes:  # fmt: skip
    """Images side by side in rows of `columns`; optional titles name the rows."""
    ax = _axes(ax)
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full(
        (rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, dtype=torch.uint8
    )
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = image.permute(1, 2, 0)
    ax.imshow(sheet.numpy(), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([h / 2 + i * (h + gap) for i in range(rows)] if titles else [], titles)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def score_histograms(
    scores: Mapping[str, Tensor], *, ax: Axes | None = None, bins: int = 60
) -> Axes:
    """Densities of OOD scores by group (`id`, `near`, `far`), with the FPR95 threshold of near.

    The threshold is the largest that still flags 95 % of near-OOD; ID images to its right are
    the false alarms that FPR95 counts.
    """
    ax = _axes(ax)
    values = {k: np.asarray(v, dtype=float) for k, v in scores.items()}
    low, high = np.quantile(np.concatenate(list(values.values())), [0.001, 0.999])
    edges = np.linspace(low, high, bins + 1)
    for group, x in values.items():
        ax.hist(
            x, edges, density=True, histtype="step", linewidth=1.8, color=COLOURS[group],
            linestyle=STYLES[group], label=f"{LABELS[group]} (n = {len(x):,})",
        )  # fmt: skip
    if "near" in values and "id" in values:
        threshold = np.quantile(values["near"], 0.05, method="lower")
        fpr = detection_metrics(values["id"], values["near"]).fpr95
        note = f"95 % of near-OOD lie right of here,\nand so do {fpr:.0%} of ID (sets pooled)"
        ax.axvline(threshold, color="0.35", linewidth=1, label=note)
    ax.set(xlabel="energy score (high = OOD)", ylabel="density")
    ax.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return ax


def roc(curves: Mapping[str, tuple[Tensor, Tensor]], *, ax: Axes | None = None) -> Axes:
    """ROC of each named (ID scores, OOD scores); OOD is the positive class.

    The horizontal line is TPR = 95 %: FPR95 is where a curve meets it.
    """
    ax = _axes(ax)
    lines = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))]
    for i, (name, (id_scores, ood_scores)) in enumerate(curves.items()):
        fpr, tpr, _ = roc_points(id_scores, ood_scores)
        auroc = detection_metrics(id_scores, ood_scores).auroc
        ax.plot(fpr, tpr, linestyle=lines[i % len(lines)], label=f"{name}: {100 * auroc:.1f}")
    ax.axhline(0.95, color="0.6", linewidth=0.8)
    ax.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    ax.set(xlabel="false positive rate (ID called OOD)", ylabel="true positive rate (OOD found)")
    ax.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    ax.legend(title="AUROC, %", fontsize="x-small", loc="lower right")
    return ax


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, ax: Axes | None = None) -> Axes:
    """A results table as a picture."""
    ax = _axes(ax)
    ax.axis("off")
    drawn = ax.table(
        [list(r) for r in rows], colLabels=list(header), loc="center", cellLoc="right",
        colWidths=[0.24] + [0.76 / (len(header) - 1)] * (len(header) - 1),
    )  # fmt: skip
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(10)
    drawn.scale(1, 1.6)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("0.85")
        if row == 0:
            cell.set_text_props(weight="bold")
        if column == 0:
            cell.set_text_props(ha="left")
    return ax


def differences(
    tests: Mapping[str, PairedTest | None], *, unit: str, ax: Axes | None = None
) -> Axes:
    """Paired differences in points, one row each with its 95 % interval; zero is marked.

    Args:
        tests: by name; None, where there is nothing to compare, leaves its row empty.
        unit: what the points are of, for the axis: `"near AUROC − kd"`.
        ax: to draw on.
    """
    ax = _axes(ax)
    for row, test in enumerate(tests.values()):
        if test is not None:
            mean, low, high = (100 * x for x in (test.mean_difference, test.low, test.high))
            ax.errorbar(
                mean, row, xerr=[[mean - low], [high - mean]], fmt="o", capsize=4,
                color=COLOURS["id"],
            )  # fmt: skip
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set(xlabel=f"{unit}, points", yticks=range(len(tests)), yticklabels=list(tests))
    ax.set_ylim(len(tests) - 0.5, -0.5)
    return ax


def training_curves(history: Mapping, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Loss terms (left, unweighted) and ID accuracy (right) over the epochs of one run."""
    import matplotlib.pyplot as plt

    if axes is None:
        axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")[1]
    epochs = np.arange(1, len(history["terms"]) + 1)
    for i, name in enumerate(history["terms"][0]):
        values = [t[name] for t in history["terms"]]
        axes[0].plot(epochs, values, marker="osD^v"[i % 5], markersize=4, label=name)
    axes[0].axhline(0, color="0.7", linewidth=0.8)
    axes[0].set(xlabel="epoch", ylabel="loss term, unweighted (nats)", yscale="symlog")
    axes[0].legend(fontsize="x-small")
    axes[1].plot(epochs, history["train_accuracy"], marker="o", markersize=4, label="train")
    axes[1].plot(epochs, history["val_accuracy"], marker="s", markersize=4, label="validation")
    axes[1].set(xlabel="epoch", ylabel="ID accuracy", ylim=(0, 1.01))
    axes[1].legend(fontsize="x-small")
    return axes
