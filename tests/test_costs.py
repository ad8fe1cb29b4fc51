"""Costs by hand, and the panels that show numbers known without a computer."""

import pytest

from oal_lite.costs import AS_RELEASED, HERE, Plan, cost, hours
from oal_lite.widgets import cost_panel, energy_panel


def test_the_released_way_is_what_was_counted():
    stages = cost(AS_RELEASED)
    assert stages["teacher"] == pytest.approx(175.5e15, rel=1e-3)
    assert stages["student"] == pytest.approx(53.25e15, rel=1e-3)
    assert stages["diffusion"] == pytest.approx(300 * 51 * 2 * 803e9)
    share = stages["teacher"] / (stages["teacher"] + stages["student"])
    assert share == pytest.approx(0.77, abs=0.005)


def test_kept_views_make_the_teacher_cheap_and_change_no_student():
    assert cost(HERE)["teacher"] == pytest.approx(cost(AS_RELEASED)["teacher"] / 25)
    assert cost(HERE)["student"] == cost(AS_RELEASED)["student"]
    assert cost(HERE)["decoding"] == 0


def test_hours_by_hand_and_their_refusals():
    assert hours(Plan(n_train=0, n_latents=1, steps=0), 2.515) == pytest.approx(1 / 3600)
    with pytest.raises(ValueError, match="speed above 0"):
        hours(HERE, 0)
    with pytest.raises(ValueError, match="at least 0"):
        cost(Plan(epochs=-1))


def test_the_panels_answer():
    panel = cost_panel()
    assert "without an error" in panel.check()
    panel.move(views=0)
    assert "most of it for the teacher" in panel.sentence.value
    panel = energy_panel()
    assert "without an error" in panel.check()
    panel.move(f1=0, f2=0, f3=0)
    assert "S = -1.1" in panel.sentence.value and "33% sure" in panel.sentence.value
    assert "A tie" in panel.sentence.value
