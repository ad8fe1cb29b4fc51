"""Panel 5: the truth is the closed form, CLUB is the library's, and each does what it must."""

import math
import re

import pytest

from oal_lite.mutual_information import gaussian_mutual_information
from oal_lite.widgets import information, information_panel, train_tracks

RHOS, STEPS = (0.0, 0.8), (0, 30, 100)


@pytest.fixture(scope="module")
def panel():
    return information_panel(train_tracks(4, rhos=RHOS, steps=STEPS))


def nats(panel, pattern):
    return float(re.search(pattern + r" (-?[\d,.]+\d)", panel.sentence.value)[1].replace(",", ""))


def test_the_truth_is_the_closed_form(panel):
    for rho in RHOS:
        panel.move(rho=rho)
        expected = -2 * math.log(1 - rho**2)
        assert nats(panel, "true mutual information is") == pytest.approx(expected, abs=0.006)
    panel.reset()


def test_a_fitted_q_bounds_and_a_minimised_q_does_not(panel):
    truth = gaussian_mutual_information(0.8, 4)
    panel.move(rho=0.8, trained=100)
    assert nats(panel, "after 100 steps:") > truth
    assert "(no bound)" in panel.sentence.value
    assert nats(panel, "likelihood,") < 0
    panel.move(trained=0)
    assert "q untrained" in panel.sentence.value and "(not yet a bound)" in panel.sentence.value
    panel.reset()


def test_both_protocols_start_from_the_same_untrained_q():
    first, second = (information.club_track(0.8, 4, p, steps=(0,)) for p in ("fitted", "minimised"))
    assert first == second


def test_info_nce_stays_below_its_ceiling_and_grows_with_the_batch(panel):
    values = []
    for n in (4, 16, 128):
        panel.move(n=n)
        values.append(nats(panel, "InfoNCE"))
        assert values[-1] <= math.log(n) and f"ln {n} = {math.log(n):.2f}" in panel.sentence.value
    assert values == sorted(values)
    panel.reset()


@pytest.mark.usefixtures("own_errors")
def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="protocol='guessed'"):
        information.club_track(0.5, 2, "guessed")


def test_the_whole_panel_walks(panel):
    assert panel.check().startswith("11 positions of 3 controls")


def test_a_bug_put_into_the_callback_is_caught_by_the_check(panel, monkeypatch):
    panel._draw.cache_clear()
    monkeypatch.setattr(information, "_tracks", lambda *a: 1 / (a[-1] - 30))
    with pytest.raises(ZeroDivisionError):
        panel.check()
    panel._draw.cache_clear()
