"""Detection metrics from two sets of scores, with intervals and tests around them.

A score is high for an image that looks out-of-distribution (OOD). Every metric is computed from
whole counts at each distinct score, in float64, so ties are exact and no point is dropped.

FPR95 depends on a convention: which class is called positive. ``positive="ood"`` is the definition
of OpenOOD v1.5 and the default here; ``positive="id"`` is the one of OpenOOD v1.0. The same scores
can give 0.93 under one and 0.43 under the other, so a table of FPR95 must say which it prints.
AUROC is the same under both, and AUPR carries its positive class in its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import integrate, stats
from torch import Tensor

from oal_lite.arguments import need_choice, need_content, need_number, need_whole

Numbers = Tensor | np.ndarray | Sequence
Positive = Literal["ood", "id"]
Counts = Int[np.ndarray, "rows u"]
Curves = Float[np.ndarray, "rows u"]
Values = Float[np.ndarray, " rows"]

# Resamples are drawn in blocks of about this many counts: 32 MB an array, whatever the data size.
_BLOCK = 2**22


@dataclass(frozen=True)
class DetectionMetrics:
    """How well scores separate in-distribution (ID) from OOD images; all metrics lie in [0, 1].

    Attributes:
        auroc: Chance that an OOD image scores above an ID image, a tie counting one half.
        fpr95: Share of the negatives called positive, at the first threshold that finds at least
            95 % of the positives. ``positive`` says which class that is.
        aupr_in: Area under precision-recall with ID positive, trapezoid rule, as OpenOOD reports.
        aupr_out: The same with OOD positive.
        average_precision_in: Step-wise area with ID positive, as scikit-learn's
            ``average_precision_score``. It is the less optimistic of the two on tied scores.
        average_precision_out: The same with OOD positive.
        positive: The class that is positive for ``fpr95``, ``"ood"`` or ``"id"``.
        n_id: Number of ID images.
        n_ood: Number of OOD images.
    """

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float
    average_precision_in: float
    average_precision_out: float
    positive: Positive
    n_id: int
    n_ood: int

    def as_dict(self) -> dict[str, float | int | str]:
        """The fields by name, for a table row or a result file."""
        return asdict(self)


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two arms whose values are paired by seed; differences are first minus second.

    Attributes:
        mean_difference: Mean of the differences, in the metric's own unit.
        low: Lower end of the Student t interval of the mean difference.
        high: Upper end of it.
        p_value: Two-sided p-value of the paired t test.
        wilcoxon_p: Two-sided p-value of the Wilcoxon signed-rank test. It cannot fall below
            2 / 2^n, so five seeds never reach 0.05.
        n: Number of pairs.
    """

    mean_difference: float
    low: float
    high: float
    p_value: float
    wilcoxon_p: float
    n: int


def detection_metrics(
    id_scores: Numbers, ood_scores: Numbers, positive: Positive = "ood"
) -> DetectionMetrics:
    """All detection metrics of one set of ID scores against one set of OOD scores.

    With P positives and N negatives, and TP(t), FP(t) those at or beyond threshold t:

        AUROC = (#{ood > id} + #{ood = id} / 2) / (n_id n_ood)
        FPR95 = FP(t*) / N,  t* the first threshold with TP(t*) / P >= 0.95
        AUPR  = trapezoid area under precision TP / (TP + FP) over recall TP / P, from (0, 1)

    Args:
        id_scores: Scores of ID images, shape (n_id,), high = OOD.
        ood_scores: Scores of OOD images, shape (n_ood,), high = OOD.
        positive: The class that is positive for FPR95.

    Returns:
        The metrics, as fractions in [0, 1].

    Raises:
        ValueError: If scores are empty, not one-dimensional or not finite, or ``positive`` is
            neither ``"ood"`` nor ``"id"``.

    Source: OpenOOD v1.5 (Zhang et al., arXiv:2306.09301), ``openood/evaluators/metrics.py``.
    """
    check_positive(positive)
    thresholds, id_places, ood_places = _rank(id_scores, ood_scores)
    id_counts = np.bincount(id_places, minlength=thresholds.size)[None]
    ood_counts = np.bincount(ood_places, minlength=thresholds.size)[None]
    values = {name: _measure(name, id_counts, ood_counts, positive).item() for name in _METRICS}
    return DetectionMetrics(**values, positive=positive, n_id=id_places.size, n_ood=ood_places.size)


def roc_points(
    id_scores: Numbers, ood_scores: Numbers
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Every point of the ROC curve with OOD positive, collinear points included.

    Args:
        id_scores: Scores of ID images, shape (n_id,), high = OOD.
        ood_scores: Scores of OOD images, shape (n_ood,), high = OOD.

    Returns:
        ``(fpr, tpr, thresholds)``, each of shape (distinct scores + 1,). An image is called OOD if
        its score is at or above the threshold. The first point is (0, 0), at threshold infinity.

    Raises:
        ValueError: If scores are empty, not one-dimensional or not finite.
    """
    thresholds, id_places, ood_places = _rank(id_scores, ood_scores)
    fpr, tpr = (
        np.cumsum(np.bincount(places, minlength=thresholds.size)) / places.size
        for places in (id_places, ood_places)
    )
    return np.append(0.0, fpr), np.append(0.0, tpr), np.append(np.inf, thresholds)


def bootstrap_interval(
    id_scores: Numbers,
    ood_scores: Numbers,
    metric: str = "auroc",
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
    positive: Positive = "ood",
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over images, ID and OOD resampled separately.

    It answers "what if other test images had been drawn?" for one trained model. It says nothing
    of the spread between trainings; for that, train several seeds and use `mean_interval`.

    Args:
        id_scores: Scores of ID images, shape (n_id,), high = OOD.
        ood_scores: Scores of OOD images, shape (n_ood,), high = OOD.
        metric: A metric field of `DetectionMetrics`.
        level: Coverage, between 0 and 1.
        n_resamples: Number of resamples.
        seed: A seed, or a NumPy generator to draw from.
        positive: The class that is positive for FPR95.

    Returns:
        ``(low, high)``, the quantiles (1 - level) / 2 and (1 + level) / 2 over the resamples.

    Raises:
        ValueError: On bad scores, an unknown metric or class, a level outside (0, 1), or
            ``n_resamples`` below 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    check_positive(positive)
    _check_level(level)
    need_choice(_METRICS, metric=metric)
    need_whole(n_resamples=n_resamples)
    if n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples} is too few: use at least 1, better 1000.")
    if not isinstance(seed, np.random.Generator):
        need_whole(seed=seed)
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative.")
    thresholds, id_places, ood_places = _rank(id_scores, ood_scores)
    # One stream per side, so that the block size cannot change the result.
    id_rng, ood_rng = np.random.default_rng(seed).spawn(2)
    rows = max(1, _BLOCK // max(thresholds.size, id_places.size, ood_places.size))
    values = []
    for done in range(0, n_resamples, rows):
        n = min(rows, n_resamples - done)
        id_counts = _resample(id_places, id_rng, n, thresholds.size)
        ood_counts = _resample(ood_places, ood_rng, n, thresholds.size)
        values.append(_measure(metric, id_counts, ood_counts, positive))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Numbers, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a metric over seeds with its Student t interval, mean ± t s / sqrt(n).

    Equal values give an interval of zero width.

    Args:
        values: One value per seed, shape (n,), n at least 2.
        level: Coverage, between 0 and 1.

    Returns:
        ``(mean, low, high)``, in the unit of the values.

    Raises:
        ValueError: On fewer than two values, values that are not finite or not one-dimensional,
            or a level outside (0, 1).
    """
    _check_level(level)
    array = as_vector(values, "values")
    if array.size < 2:
        raise ValueError(
            f"values has {array.size} number but an interval needs at least 2: run more seeds, or "
            "report the single value without an interval."
        )
    with np.errstate(over="ignore"):
        mean, error = _mean_and_error(array)
    half = stats.t.ppf((1 + level) / 2, array.size - 1) * error
    if not np.isfinite([mean - half, mean + half]).all():
        raise ValueError(
            f"the values span {array.min():g} to {array.max():g} and level={level} asks for an "
            "interval beyond the range of float64: rescale the values, or lower the level."
        )
    return mean, float(mean - half), float(mean + half)


def paired_test(a: Numbers, b: Numbers, level: float = 0.95) -> PairedTest:
    """Test whether arm ``a`` differs from arm ``b``, their values paired by seed.

    With d_i = a_i - b_i, mean m and standard deviation s: t = m / (s / sqrt(n)) with n - 1 degrees
    of freedom, and the Wilcoxon signed-rank test on d. Differences as small as float64 rounding
    count as zero. Where all differences are equal, s is 0 and t has no value; the limit is taken:
    p is 1 if they are all zero, else 0, and the interval has zero width. Read ``wilcoxon_p`` there,
    as it knows how few the pairs are.

    Args:
        a: Values of the first arm, one per seed, shape (n,), n at least 2.
        b: Values of the second arm, in the same seed order, shape (n,).
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The mean difference, its interval and both p-values. None of them is ever NaN.

    Raises:
        ValueError: On unequal lengths, fewer than two pairs, values that are not finite or not
            one-dimensional, or a level outside (0, 1).

    Source: Demšar, Statistical Comparisons of Classifiers, JMLR 7 (2006), section 3.1.
    """
    _check_level(level)
    first, second = as_vector(a, "a"), as_vector(b, "b")
    if first.size != second.size:
        raise ValueError(
            f"a has {first.size} values and b has {second.size} but pairs need equal lengths: keep "
            "only the seeds that both arms have."
        )
    if first.size < 2:
        raise ValueError(
            f"a and b hold {first.size} pair but a paired test needs at least 2: run more seeds."
        )
    with np.errstate(over="ignore"):  # what overflows is told of by `mean_interval`
        differences = first - second
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(first), np.abs(second))
    differences[np.abs(differences) <= rounding] = 0.0
    mean, low, high = mean_interval(differences, level)
    _, error = _mean_and_error(differences)
    if error > 0:
        p_value = 2 * stats.t.sf(abs(mean) / error, differences.size - 1)
    else:
        p_value = 1.0 if mean == 0 else 0.0
    wilcoxon_p = stats.wilcoxon(differences).pvalue if differences.any() else 1.0
    return PairedTest(mean, low, high, float(p_value), float(wilcoxon_p), differences.size)


def _rank(
    id_scores: Numbers, ood_scores: Numbers
) -> tuple[Float[np.ndarray, " u"], Int[np.ndarray, " i"], Int[np.ndarray, " o"]]:
    """Distinct scores from the highest down, and the place of each image's score among them."""
    id_vector = as_vector(id_scores, "id_scores")
    ood_vector = as_vector(ood_scores, "ood_scores")
    ascending, places = np.unique(np.concatenate([id_vector, ood_vector]), return_inverse=True)
    places = ascending.size - 1 - places
    return ascending[::-1], places[: id_vector.size], places[id_vector.size :]


def _resample(
    places: Int[np.ndarray, " i"], rng: np.random.Generator, n: int, size: int
) -> Int[np.ndarray, "{n} {size}"]:
    """Counts at each distinct score of n samples drawn with replacement, shape (n, size)."""
    drawn = places[rng.integers(places.size, size=(n, places.size))]
    # Each row counts in its own range of bins, so one bincount serves all rows.
    drawn += size * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * size).reshape(n, size)


# The functions below take counts at each distinct score, a row for each resample, ordered from the
# score most typical of the positive class down. A count may be zero, as resamples leave some out.


def _auroc(positives: Counts, negatives: Counts) -> Values:
    n_positives, n_negatives = positives.sum(1), negatives.sum(1)
    beaten = n_negatives[:, None] - negatives.cumsum(1)
    # Twice the number of pairs won, a tie counting one half: an integer, hence exact.
    twice_won = (positives * (2 * beaten + negatives)).sum(1)
    return twice_won / (2 * n_positives * n_negatives)


def _fpr95(positives: Counts, negatives: Counts) -> Values:
    tpr = positives.cumsum(1) / positives.sum(1, keepdims=True)
    fpr = negatives.cumsum(1) / negatives.sum(1, keepdims=True)
    first = (tpr >= 0.95).argmax(1)
    return fpr[np.arange(len(fpr)), first]


def _precision_recall(positives: Counts, negatives: Counts) -> tuple[Curves, Curves]:
    found = positives.cumsum(1)
    called = found + negatives.cumsum(1)
    # Where nothing is called yet, precision is 1 by convention: the curve starts at (0, 1).
    precision = np.divide(found, called, out=np.ones(called.shape), where=called > 0)
    return precision, found / found[:, -1:]


def _aupr(positives: Counts, negatives: Counts) -> Values:
    precision, recall = _precision_recall(positives, negatives)
    start = ((0, 0), (1, 0))
    precision = np.pad(precision, start, constant_values=1.0)
    return integrate.trapezoid(precision, np.pad(recall, start), axis=1)


def _average_precision(positives: Counts, negatives: Counts) -> Values:
    precision, recall = _precision_recall(positives, negatives)
    return (precision * np.diff(recall, prepend=0.0, axis=1)).sum(1)


# Name -> the function of (positives, negatives) and its positive class; None: the caller's choice.
_METRICS: dict[str, tuple[Callable[[Counts, Counts], Values], str | None]] = {
    "auroc": (_auroc, "ood"),
    "fpr95": (_fpr95, None),
    "aupr_in": (_aupr, "id"),
    "aupr_out": (_aupr, "ood"),
    "average_precision_in": (_average_precision, "id"),
    "average_precision_out": (_average_precision, "ood"),
}


def _measure(name: str, id_counts: Counts, ood_counts: Counts, positive: str) -> Values:
    function, own_positive = _METRICS[name]
    if (own_positive or positive) == "ood":
        return function(ood_counts, id_counts)
    return function(id_counts[:, ::-1], ood_counts[:, ::-1])


def _mean_and_error(array: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean and its standard error, both exact where all values are equal."""
    if np.ptp(array) == 0:
        return float(array[0]), 0.0
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(array.size))


def as_vector(values: Numbers, name: str) -> Float[np.ndarray, " n"]:
    """Float64 vector of finite numbers.

    Raises:
        ValueError: that says what is wrong with them.
    """
    if isinstance(values, Tensor):
        need_content(**{name: values})
        if values.is_complex():
            raise ValueError(f"{name} are of type {values.dtype}: pass real numbers.")
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} of type {type(values).__name__} does not convert to numbers ({error}): pass a "
            "one-dimensional tensor, array or list of numbers."
        ) from error
    if array.ndim != 1:
        raise ValueError(
            f"{name} has shape {array.shape} but must have one dimension, one number per item: "
            "flatten it or pass one column."
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty: pass at least one number.")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise ValueError(
            f"{name} holds {wrong.size} of {array.size} numbers that are not finite, the first is "
            f"{array[wrong[0]]} at index {wrong[0]}: find what produced them, or leave them out."
        )
    return array


def check_positive(positive: str) -> None:
    """Refuse what is neither `"ood"` nor `"id"`.

    Raises:
        ValueError: naming it.
    """
    if positive not in ("ood", "id"):
        raise ValueError(
            f"positive={positive!r} is not a class: use 'ood' as OpenOOD v1.5 does, or 'id'."
        )


def _check_level(level: float) -> None:
    need_number(level=level)
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, for example 0.95.")
