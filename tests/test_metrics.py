"""Detection metrics against published numbers, scikit-learn, SciPy and counting by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from oal_lite import metrics
from oal_lite.metrics import (
    bootstrap_interval,
    detection_metrics,
    mean_interval,
    paired_test,
    roc_points,
)


def _normal_pair(seed, id_mean, n_ood, ood_std):
    rng = np.random.default_rng(seed)
    return rng.normal(id_mean, 1, 1000), rng.normal(0, ood_std, n_ood)


# Confidences (high = ID), as the reference implementations take them; the score is their negative.
CONFIDENCES = {
    "A": ([3, 2, 2, 1], [2, 1, 0, 0, -1]),
    "B": (list(range(2, 12)), list(range(-5, 0))),
    "C": _normal_pair(0, 1.5, 1000, 1),
    "D": _normal_pair(1, 2, 200, 2),
    "E": (np.ones(20), np.ones(10)),
}
# AUROC, FPR95 with OOD positive, FPR95 with ID positive, AUPR in, out, average precision in, out.
REFERENCE = {
    "A": (0.87500, 0.75000, 0.40000, 0.86458, 0.92250, 0.79167, 0.88500),
    "B": (1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0),
    "C": (0.84981, 0.58100, 0.52700, 0.84631, 0.84698, 0.84642, 0.84716),
    "D": (0.81309, 0.93400, 0.42500, 0.92178, 0.68945, 0.92220, 0.68989),
    "E": (0.50000, 1.0, 1.0, 0.83333, 0.66667, 0.66667, 0.33333),
}

# Few distinct values, so that ties are the rule.
tied_scores = st.lists(st.integers(-4, 4).map(lambda i: i / 2), min_size=1, max_size=30)


def _scores(name):
    id_confidence, ood_confidence = CONFIDENCES[name]
    return -np.asarray(id_confidence, float), -np.asarray(ood_confidence, float)


@pytest.mark.parametrize("name", REFERENCE)
def test_published_numbers(name):
    ood_positive = detection_metrics(*_scores(name))
    id_positive = detection_metrics(*_scores(name), positive="id")
    got = (
        ood_positive.auroc,
        ood_positive.fpr95,
        id_positive.fpr95,
        ood_positive.aupr_in,
        ood_positive.aupr_out,
        ood_positive.average_precision_in,
        ood_positive.average_precision_out,
    )
    assert got == pytest.approx(REFERENCE[name], abs=6e-6)


def test_positive_class_moves_fpr95_and_nothing_else():
    ood_positive = detection_metrics(*_scores("D"), positive="ood").as_dict()
    id_positive = detection_metrics(*_scores("D"), positive="id").as_dict()
    changed = {key for key in ood_positive if ood_positive[key] != id_positive[key]}
    assert changed == {"fpr95", "positive"}


@settings(max_examples=60, deadline=None)
@given(tied_scores, tied_scores)
def test_matches_brute_force_and_scikit_learn(id_scores, ood_scores):
    got = detection_metrics(id_scores, ood_scores)
    wins = sum((o > i) + 0.5 * (o == i) for o in ood_scores for i in id_scores)
    assert got.auroc == wins / (len(id_scores) * len(ood_scores))

    # Lower the threshold until 95 % of the OOD images are found.
    for threshold in sorted(set(id_scores + ood_scores), reverse=True):
        if np.mean(np.array(ood_scores) >= threshold) >= 0.95:
            assert got.fpr95 == np.mean(np.array(id_scores) >= threshold)
            break

    is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
    scores = np.r_[id_scores, ood_scores]
    assert got.auroc == pytest.approx(roc_auc_score(is_ood, scores), abs=1e-12)
    for label, score, area, step in (
        (is_ood, scores, got.aupr_out, got.average_precision_out),
        (1 - is_ood, -scores, got.aupr_in, got.average_precision_in),
    ):
        precision, recall, _ = precision_recall_curve(label, score)
        assert area == pytest.approx(auc(recall, precision), abs=1e-12)
        assert step == pytest.approx(average_precision_score(label, score), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(tied_scores, tied_scores)
def test_auroc_of_swapped_sides_sums_to_one(id_scores, ood_scores):
    total = (
        detection_metrics(id_scores, ood_scores).auroc
        + detection_metrics(ood_scores, id_scores).auroc
    )
    assert total == pytest.approx(1, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(tied_scores, tied_scores)
def test_only_the_order_of_scores_matters(id_scores, ood_scores):
    def stretch(scores):
        return np.exp(3 * np.array(scores)) - 7

    before = detection_metrics(id_scores, ood_scores)
    assert detection_metrics(stretch(id_scores), stretch(ood_scores)) == before


@settings(max_examples=40, deadline=None)
@given(tied_scores, tied_scores)
def test_positive_id_is_positive_ood_seen_from_the_other_side(id_scores, ood_scores):
    id_positive = detection_metrics(id_scores, ood_scores, positive="id")
    mirrored = detection_metrics([-s for s in ood_scores], [-s for s in id_scores])
    assert id_positive.fpr95 == mirrored.fpr95
    assert id_positive.aupr_in == mirrored.aupr_out


def test_large_energies_keep_their_order():
    # A float32 sigmoid would map all of these to one value and give 0.5.
    assert detection_metrics([-31.0, -30.5], [-30.2, -30.1]).auroc == 1


def test_threshold_at_exactly_95_percent_counts_as_reached():
    ood = [1.0] * 19 + [-1.0]
    assert detection_metrics([0.0, 0.0], ood).fpr95 == 0


def test_input_types_agree():
    id_scores, ood_scores = _scores("A")
    expected = detection_metrics(id_scores, ood_scores)
    assert detection_metrics(id_scores.tolist(), ood_scores.tolist()) == expected
    tensors = [torch.tensor(s, dtype=torch.float32, requires_grad=True) for s in _scores("A")]
    assert detection_metrics(*tensors) == expected
    assert detection_metrics(*(t.to(torch.bfloat16) for t in tensors)) == expected


def test_as_dict_holds_plain_values():
    row = detection_metrics(*_scores("A")).as_dict()
    assert (row["positive"], row["n_id"], row["n_ood"]) == ("ood", 4, 5)
    assert all(type(value) in (float, int, str) for value in row.values())


def test_roc_points_are_exact_and_keep_collinear_points():
    id_scores, ood_scores = _scores("A")
    fpr, tpr, thresholds = roc_points(id_scores, ood_scores)
    assert thresholds.tolist() == [np.inf, 1, 0, -1, -2, -3]
    assert tpr.tolist() == [0, 0.2, 0.6, 0.8, 1, 1]
    assert fpr.tolist() == [0, 0, 0, 0.25, 0.75, 1]
    assert auc(fpr, tpr) == pytest.approx(0.875)


@pytest.mark.parametrize("metric", ["auroc", "fpr95", "aupr_in", "average_precision_out"])
def test_bootstrap_equals_resampling_the_scores_themselves(metric):
    id_scores, ood_scores = np.round(_scores("C")[0][:60], 1), np.round(_scores("C")[1][:40], 1)
    id_rng, ood_rng = np.random.default_rng(3).spawn(2)
    slow = [
        getattr(
            detection_metrics(
                id_scores[id_rng.integers(60, size=60)], ood_scores[ood_rng.integers(40, size=40)]
            ),
            metric,
        )
        for _ in range(50)
    ]
    fast = bootstrap_interval(id_scores, ood_scores, metric, level=0.8, n_resamples=50, seed=3)
    assert fast == pytest.approx(tuple(np.quantile(slow, [0.1, 0.9])), abs=1e-12)


def test_bootstrap_interval_has_the_width_that_theory_gives():
    id_scores, ood_scores = _scores("C")
    low, high = bootstrap_interval(id_scores, ood_scores, n_resamples=400)
    # DeLong's standard error: the variance of each image's own win rate.
    wins = ood_scores[:, None] > id_scores[None, :]
    error = np.sqrt(wins.mean(0).var(ddof=1) / 1000 + wins.mean(1).var(ddof=1) / 1000)
    assert low < wins.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_bootstrap_is_reproducible_and_blind_to_the_block_size(monkeypatch):
    first = bootstrap_interval(*_scores("D"), metric="fpr95", n_resamples=30, seed=5)
    generator = np.random.default_rng(5)
    assert bootstrap_interval(*_scores("D"), "fpr95", n_resamples=30, seed=generator) == first
    monkeypatch.setattr(metrics, "_BLOCK", 4000)
    assert bootstrap_interval(*_scores("D"), "fpr95", n_resamples=30, seed=5) == first
    assert bootstrap_interval(*_scores("D"), "fpr95", n_resamples=30, seed=6) != first


def test_bootstrap_of_separated_scores_has_no_width():
    assert bootstrap_interval(*_scores("B"), n_resamples=20) == (1, 1)


def test_mean_interval_matches_scipy():
    values = [0.71, 0.74, 0.69, 0.80]
    mean, low, high = mean_interval(values, level=0.9)
    expected = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected), abs=1e-12)
    assert mean_interval([0.1, 0.1, 0.1]) == (0.1, 0.1, 0.1)


def test_paired_test_matches_scipy():
    a, b = [0.83, 0.85, 0.86, 0.84, 0.90], [0.80, 0.84, 0.81, 0.85, 0.83]
    got = paired_test(a, b)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert got.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert got.mean_difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
    assert got.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue, abs=1e-12)
    assert got.n == 5
    assert paired_test(b, a).mean_difference == -got.mean_difference


def test_paired_test_of_equal_differences_is_never_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = paired_test([0.5, 0.7, 0.9], [0.5, 0.7, 0.9])
        shifted = paired_test([1.5, 2.5, 3.5, 4.5], [1.0, 2.0, 3.0, 4.0])
    assert (same.mean_difference, same.p_value, same.wilcoxon_p) == (0, 1, 1)
    assert (same.low, same.high) == (0, 0)
    assert (shifted.mean_difference, shifted.low, shifted.high) == (0.5, 0.5, 0.5)
    assert (shifted.p_value, shifted.wilcoxon_p) == (0, 2 / 2**4)


def test_paired_test_takes_rounding_for_no_difference():
    assert paired_test([0.1 + 0.2, 0.1 + 0.2], [0.3, 0.3]).p_value == 1


def test_five_seeds_cannot_reach_five_percent_by_wilcoxon():
    assert paired_test([1.0, 2, 3, 4, 5], [0.0] * 5).wilcoxon_p == pytest.approx(2 / 2**5)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection_metrics([1, np.nan], [1]), r"id_scores holds 1 of 2.* nan at index 1"),
        (lambda: detection_metrics([1], [0, 1, -np.inf]), r"ood_scores.* -inf at index 2"),
        (lambda: detection_metrics([], [1]), "id_scores is empty"),
        (lambda: detection_metrics([1], torch.zeros(2, 3)), r"ood_scores has shape \(2, 3\)"),
        (lambda: detection_metrics(0.5, [1]), r"id_scores has shape \(\)"),
        (lambda: detection_metrics(["a"], [1]), "id_scores of type list does not convert"),
        (lambda: detection_metrics([1], [2], positive="OOD"), "positive='OOD' is not a class"),
        (lambda: roc_points([1], []), "ood_scores is empty"),
        (lambda: bootstrap_interval([1], [2], metric="f1"), "metric='f1'; choose one of"),
        (lambda: bootstrap_interval([1], [2], n_resamples=0), "n_resamples=0"),
        (lambda: bootstrap_interval([1], [2], level=95), "level=95"),
        (lambda: bootstrap_interval([1], [2], positive="x"), "positive='x'"),
        (lambda: mean_interval([0.5]), "at least 2"),
        (lambda: mean_interval([0.5, 0.6], level=0), "level=0"),
        (lambda: paired_test([1], [2]), "at least 2"),
        (lambda: paired_test([1, 2, 3], [1, 2]), "a has 3 values and b has 2"),
        (lambda: paired_test([1, np.nan], [1, 2]), "a holds 1 of 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_paired_test_has_the_level_that_is_asked_for():
    a, b = [0.83, 0.85, 0.86, 0.84, 0.90], [0.80, 0.84, 0.81, 0.85, 0.83]
    got, interval = paired_test(a, b, level=0.8), stats.ttest_rel(a, b).confidence_interval(0.8)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
