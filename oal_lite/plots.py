"""Figures: every function draws on `ax=` (or makes one) and returns it; `save` writes the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from oal_lite.arguments import (
    need_count,
    need_kind,
    need_names,
    need_number,
    need_path,
    need_room,
    need_whole,
)
from oal_lite.files import write_atomically
from oal_lite.images import check_images
from oal_lite.metrics import (
    Numbers,
    PairedTest,
    Positive,
    as_vector,
    check_positive,
    detection_metrics,
    roc_points,
)
from oal_lite.presets import smoke

# Colour-blind-safe (Okabe and Ito), and never told apart by colour alone.
COLOURS = {"id": "#0072B2", "near": "#D55E00", "far": "#009E73", "synthetic": "#CC79A7"}
STYLES = {"id": "-", "near": "--", "far": ":", "synthetic": "-."}
LABELS = {"id": "ID test", "near": "near-OOD", "far": "far-OOD", "synthetic": "synthetic outliers"}


def set_theme() -> None:
    """The project's look, for notebooks and figures alike."""
    import seaborn as sns

    # 72 dpi keeps a notebook with its pictures below GitHub's 1 MB; files are saved larger
    # Titles stand at the top; looking for ticks in their way takes a tenth of a picture's time.
    rc = {"figure.dpi": 72, "axes.titley": 1.0}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=rc)


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    if ax is not None:
        _need_axes(ax)
        return ax
    return plt.subplots(layout="constrained")[1]


def _need_axes(*axes: object) -> None:
    """Refuse a figure, a list and whatever else cannot be drawn on."""
    for ax in axes:
        need_kind(Axes, "as plt.subplots() makes", ax=ax)


def _need_some(value: object, name: str, expected: str) -> None:
    """Refuse what is no mapping, and an empty one."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} are a {type(value).__name__}; expected {expected}")
    if not value:
        raise ValueError(f"{name} are empty, and there is nothing to draw; expected {expected}")


def _finite(values: object, name: str) -> np.ndarray:
    """Numbers as a vector, or a sentence on why they are none."""
    try:
        array = np.asarray(getattr(values, "detach", lambda: values)(), dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} are a {type(values).__name__} of what are no numbers; expected a tensor"
        ) from None
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{name}, of shape {array.shape}, are empty, no vector, or hold NaN or infinity; leave "
            "the group out, or find what produced them"
        )
    return array


def save(figure, path: str | Path, *, dpi: int = 130) -> Path:  # noqa: ANN001
    """Write a figure to `path` through a temporary file, so that no half picture is left.

    Raises:
        ValueError: for what is no figure, an ending of the name that is no format of pictures, or
            so many or few dots per inch that it would be no picture.
        OSError: if the file cannot be written.
    """
    need_path(path=path)
    need_number(dpi=dpi)
    path = Path(path)
    if not isinstance(figure, Figure):
        raise ValueError(f"figure is a {type(figure).__name__}; expected a figure, as ax.figure")
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{path} ends in none of {', '.join(kinds)}; name it *.png, for example")
    pixels = dpi * figure.get_size_inches()
    if not 1 <= min(pixels) <= max(pixels) < 2**16:
        raise ValueError(f"dpi={dpi}: {pixels[0]:.3g} x {pixels[1]:.3g} pixels; the usual is 130")
    write_atomically(
        path,
        lambda p: figure.savefig(p, dpi=dpi, format=path.suffix[1:].lower(), bbox_inches="tight"),
    )
    return path


def keep(figure, name: str, *, dpi: int = 110) -> None:  # noqa: ANN001
    """Write a notebook's figure to `figures/<name>.png` of the checkout; nothing in smoke size.

    The checkout is the nearest folder at or above the current one that holds `pyproject.toml`.
    Outside of one (a notebook that was carried away) nothing is written. Nothing is returned, so
    that no path is printed where this is a cell's last line.
    """
    need_path(name=name)
    folder = Path.cwd()
    roots = [f for f in (folder, *folder.parents) if (f / "pyproject.toml").exists()]
    if roots and not smoke():
        save(figure, roots[0] / "figures" / f"{name}.png", dpi=dpi)


def image_grid(
    images: UInt8[Tensor, "n 3 h w"], *, columns: int = 10, ax: Axes | None = None,
    titles: Sequence[str] | None = None, gap: int = 2,
) -> Axes:  # fmt: skip
    """Images side by side in rows of `columns`; optional titles name the rows.

    Raises:
        ValueError: for what are no images, none at all, fewer than one column, a negative gap, or
            more or fewer titles than rows.
    """
    check_images(images)
    need_whole(columns=columns, gap=gap)
    if columns < 1 or gap < 0:
        raise ValueError(f"columns={columns}, gap={gap}; expected 1 or more, and 0 or more")
    n, _, h, w = images.shape
    rows = -(-n // columns)
    need_room(3 * (rows * (h + gap)) * (columns * (w + gap)), columns=columns, gap=gap)
    need_names(titles=titles or ())
    if titles is not None and len(titles) not in (0, rows):
        raise ValueError(f"{len(titles)} titles for {rows} rows of images; expected one for each")
    ax = _axes(ax)
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


def threshold_of_fpr95(id_scores: Numbers, ood_scores: Numbers, positive: Positive) -> float:
    """The first threshold, from the positive side, that finds at least 95 % of the positives.

    Raises:
        ValueError: for a positive class that is none, and as `metrics.roc_points`.
    """
    check_positive(positive)
    if positive == "ood":
        _, tpr, thresholds = roc_points(id_scores, ood_scores)
        return float(thresholds[(tpr >= 0.95).argmax()])
    ids, ood = as_vector(id_scores, "id_scores"), as_vector(ood_scores, "ood_scores")
    return -threshold_of_fpr95(-ood, -ids, "ood")


def score_histograms(
    scores: Mapping[str, Tensor], *, ax: Axes | None = None, bins: int = 60
) -> Axes:
    """Densities of OOD scores by group (`id`, `near`, `far`), with the FPR95 threshold of near.

    The threshold is the largest that still flags 95 % of near-OOD; ID images to its right are
    the false alarms that FPR95 counts.

    Raises:
        ValueError: for no group, a group of another name, one without scores, or NaN among them.
    """
    _need_some(scores, "scores", "OOD scores by group, as report.grouped_scores gives them")
    need_count(bins=bins)
    need_room(8 * bins, bins=bins)
    if unknown := [k for k in scores if k not in LABELS]:
        raise ValueError(f"unknown group {unknown[0]!r} of scores; choose from {', '.join(LABELS)}")
    values = {k: _finite(v, f"scores of {k!r}") for k, v in scores.items()}
    ax = _axes(ax)
    low, high = np.quantile(np.concatenate(list(values.values())), [0.001, 0.999])
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # all alike: a bar of some width
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    for group, x in values.items():
        ax.hist(
            x, edges, density=True, histtype="step", linewidth=1.8, color=COLOURS[group],
            linestyle=STYLES[group], label=f"{LABELS[group]} (n = {len(x):,})",
        )  # fmt: skip
    if "near" in values and "id" in values:
        threshold = threshold_of_fpr95(values["id"], values["near"], "ood")
        fpr = detection_metrics(values["id"], values["near"]).fpr95
        note = f"95 % of near-OOD lie right of here,\nand so do {fpr:.0%} of ID (sets pooled)"
        ax.axvline(threshold, color="0.35", linewidth=1, label=note)
    ax.set(xlabel="energy score (high = OOD)", ylabel="density")
    ax.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return ax


def roc(curves: Mapping[str, tuple[Tensor, Tensor]], *, ax: Axes | None = None) -> Axes:
    """ROC of each named (ID scores, OOD scores); OOD is the positive class.

    The horizontal line is TPR = 95 %: FPR95 is where a curve meets it. A curve that has the name
    of a group, as "near-OOD", has its colour too.

    Raises:
        ValueError: for no curve, what is no pair of scores, or scores that are empty or NaN.
    """
    _need_some(curves, "curves", "(ID scores, OOD scores) by name")
    for name, pair in curves.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"curve {name!r} is a {type(pair).__name__}; expected (ID scores, OOD scores)"
            )
    ax = _axes(ax)
    lines = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))]
    groups = {LABELS[g]: {"color": COLOURS[g], "linestyle": STYLES[g]} for g in LABELS}
    for i, (name, (id_scores, ood_scores)) in enumerate(curves.items()):
        fpr, tpr, _ = roc_points(id_scores, ood_scores)
        auroc = detection_metrics(id_scores, ood_scores).auroc
        look = groups.get(name, {"linestyle": lines[i % len(lines)]})
        ax.plot(fpr, tpr, label=f"{name}: {100 * auroc:.1f}", **look)
    ax.axhline(0.95, color="0.6", linewidth=0.8)
    ax.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    ax.set(xlabel="false positive rate (ID called OOD)", ylabel="true positive rate (OOD found)")
    ax.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    ax.legend(title="AUROC, %", fontsize="x-small", loc="lower right")
    return ax


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, ax: Axes | None = None) -> Axes:
    """A results table as a picture.

    Raises:
        ValueError: without a row, with fewer than two columns, or a row of another length.
    """
    need_kind(Sequence, "a row of the table each", rows=rows)
    need_names(header=header, **{f"row {i}": row for i, row in enumerate(rows)})
    if len(header) < 2 or not len(rows) or any(len(r) != len(header) for r in rows):
        lengths = ", ".join(map(str, sorted({len(r) for r in rows}))) or "none"
        raise ValueError(
            f"a table with {len(header)} headings and {len(rows)} rows of length {lengths}; "
            "expected two headings or more, one row or more, and a cell for each heading"
        )
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

    Raises:
        ValueError: for no test at all, or what is none.
    """
    _need_some(tests, "tests", "results of metrics.paired_test by name")
    for name, test in tests.items():
        if not isinstance(test, PairedTest | None):
            raise ValueError(
                f"test {name!r} is a {type(test).__name__}; expected a result of "
                "metrics.paired_test, or None"
            )
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
    """Loss terms (left, unweighted) and ID accuracy (right) over the epochs of one run.

    Raises:
        ValueError: for a history without an epoch or a part, or other than two axes.
    """
    import matplotlib.pyplot as plt

    parts = ("terms", "train_accuracy", "val_accuracy")
    _need_some(history, "history", "a run's record['history'] or vars() of a History")
    if lacking := [p for p in parts if p not in history]:
        raise ValueError(f"the history lacks {', '.join(lacking)}; expected {', '.join(parts)}")
    if not len(history["terms"]):
        raise ValueError("the history holds no epoch; draw it after one, or train for one more")
    if axes is not None:
        if not isinstance(axes, Sequence | np.ndarray) or len(axes) != 2:
            raise ValueError(f"axes={axes!r:.80}; expected two: for loss terms, and accuracies")
        _need_axes(*axes)
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")[1]
    epochs = np.arange(1, len(history["terms"]) + 1)
    if not all(history["terms"][0].keys() == t.keys() != set() for t in history["terms"]):
        raise ValueError("the history's epochs have other loss terms, or none; draw one training")
    for i, name in enumerate(history["terms"][0]):
        values = [t[name] for t in history["terms"]]
        axes[0].plot(epochs, values, marker="osD^v"[i % 5], markersize=4, label=name)
    axes[0].axhline(0, color="0.7", linewidth=0.8)
    # Within 2 of zero a symmetric logarithm is linear, but has no ticks to speak of.
    largest = max(abs(v) for terms in history["terms"] for v in terms.values())
    scale = "symlog" if largest > 2 else "linear"
    axes[0].set(xlabel="epoch", ylabel="loss term, unweighted (nats)", yscale=scale)
    axes[0].legend(fontsize="x-small")
    for key, marker, label in (("train", "o", "train"), ("val", "s", "validation")):
        values = history[f"{key}_accuracy"]
        if len(values):  # there was perhaps no validation set
            axes[1].plot(epochs, values, marker=marker, markersize=4, label=label)
    axes[1].set(xlabel="epoch", ylabel="ID accuracy", ylim=(0, 1.01))
    axes[1].legend(fontsize="x-small")
    for ax in axes:
        ax.xaxis.get_major_locator().set_params(integer=True)
    return axes
