"""Panel 1: its counts are brute-force counts, its FPR95 is the library's."""

import re

import numpy as np
import pytest

from oal_lite.metrics import detection_metrics
from oal_lite.widgets import threshold, threshold_panel


@pytest.fixture(scope="module")
def scores():
    """Array D of OpenOOD's convention question, as scores (high = OOD)."""
    rng = np.random.default_rng(1)
    return -rng.normal(2, 1, 1000), -rng.normal(0, 2, 200)


def test_the_sentence_counts_right(scores):
    ids, ood = scores
    panel = threshold_panel(ids, ood)
    for tau in (-4.0, 0.3, 2.0):
        panel.move(threshold=tau, positive="ood")
        tau = panel.values["threshold"]
        found, alarms = sum(s >= tau for s in ood), sum(s >= tau for s in ids)
        assert f"{found} of 200 OOD images are found" in panel.sentence.value
        assert f"{alarms} of 1000 ID images are called OOD" in panel.sentence.value
        panel.move(positive="id")
        assert f"{1000 - alarms} of 1000 ID images are called ID" in panel.sentence.value
        assert f"{200 - found} of 200 OOD images are called ID" in panel.sentence.value


def test_the_two_conventions_of_one_set_of_scores(scores):
    panel = threshold_panel(*scores)
    assert "FPR95 = 0.934" in panel.sentence.value
    panel.move(positive="id")
    assert "FPR95 = 0.425" in panel.sentence.value


@pytest.mark.parametrize("positive", ["ood", "id"])
@pytest.mark.parametrize("case", ["ties", "continuous"])
def test_at_the_threshold_of_fpr95_the_point_has_that_rate(scores, positive, case):
    ids, ood = scores
    if case == "ties":
        ids, ood = np.array([-3.0, -2, -2, -1]), np.array([-2.0, -1, 0, 0, 1])
    tau = threshold.threshold_of_fpr95(ids, ood, positive)
    fpr, tpr = threshold.confusion_at(ids, ood, tau, positive).rates(positive)
    expected = detection_metrics(ids, ood, positive).fpr95
    assert fpr == pytest.approx(expected) and tpr >= 0.95
    # One step stricter finds too few.
    beyond = np.nextafter(tau, np.inf if positive == "ood" else -np.inf)
    stricter = threshold.confusion_at(ids, ood, beyond, positive)
    assert stricter.rates(positive)[1] < 0.95


def test_the_whole_panel_walks(scores):
    assert "5 positions of 2 controls" in threshold_panel(*scores).check()


def test_a_bug_put_into_the_callback_is_caught_by_the_check(scores, monkeypatch):
    panel = threshold_panel(*scores)
    panel._draw.cache_clear()
    table = threshold._table

    def broken(ax, cells, names):
        return table(ax, cells, names if cells.ood_found else ())

    monkeypatch.setattr(threshold, "_table", broken)  # wrong only at one end of the slider
    with pytest.raises(IndexError):
        panel.check()


def test_a_control_that_lost_its_effect_is_caught_by_the_check(scores, monkeypatch):
    panel = threshold_panel(*scores)
    panel._draw.cache_clear()
    monkeypatch.setattr(threshold, "_histograms", lambda *_: None)
    monkeypatch.setattr(threshold, "_roc", lambda *_: None)
    monkeypatch.setattr(threshold, "_table", lambda *_: None)
    monkeypatch.setattr(threshold, "_sentence", lambda *_: "always the same")
    with pytest.raises(AssertionError, match="threshold: nothing changes"):
        panel.check()


def test_equal_scores_do_not_break_it():
    panel = threshold_panel(np.ones(5), np.ones(3))
    assert re.search(r"AUROC = 0\.500", panel.sentence.value)


def test_the_mark_on_the_roc_is_the_fpr95_of_the_sentence(scores, monkeypatch):
    drawn, roc = [], threshold._roc
    monkeypatch.setattr(threshold, "_roc", lambda *args: drawn.append(args) or roc(*args))
    panel = threshold_panel(*scores)
    panel.move(positive="id")
    for (_, (fpr, tpr), _, mark, _), fpr95 in zip(drawn, (0.934, 0.425), strict=True):
        assert mark[0] == pytest.approx(fpr95, abs=5e-4) and mark[1] >= 0.95
        assert np.hypot(fpr - mark[0], tpr - mark[1]).min() < 1e-9, "it does not lie on the curve"
