"""The claims table, on a study of made-up numbers."""

import pytest

from oal_lite.ablations import ABLATIONS, label
from oal_lite.claims import OURS, PAPER, Claim, gain, markdown, rows, verdict
from oal_lite.recipes import ARMS


def cell(*values, seeds=None):
    return {"values": list(values), "seeds": list(seeds or range(len(values)))}


STUDY = {
    "sections": {
        "arms": {
            "table": {
                "ce": {"near AUROC": cell(0.80, 0.82, 0.84), "near FPR95": cell(0.5, 0.5, 0.5)},
                "oal": {"near AUROC": cell(0.86, 0.88, 0.93), "near FPR95": cell(0.4, 0.41, 0.39)},
                "kd": {"near AUROC": cell(0.84, 0.80, 0.9, seeds=(2, 1, 9))},
                "one": {"near AUROC": cell(0.9)},
            }
        }
    }
}  # fmt: skip


def test_a_gain_is_paired_by_seed_in_points_with_its_t_interval():
    test = gain(Claim("", "oal", "ce"), STUDY)
    # +6, +6, +9: standard error 1, t quantile 4.30265 at two degrees of freedom.
    assert test.mean_difference == pytest.approx(7)
    assert (test.low, test.high) == pytest.approx((7 - 4.30265, 7 + 4.30265), abs=1e-4)


def test_only_common_seeds_count_and_fewer_than_two_are_no_test():
    # seeds 1 and 2: 0.88 - 0.80 and 0.93 - 0.84
    assert gain(Claim("", "oal", "kd"), STUDY).mean_difference == pytest.approx(8.5)
    assert gain(Claim("", "oal", "one"), STUDY) is None
    assert gain(Claim("", "oal", "magic"), STUDY) is None
    assert gain(Claim("", "oal", "ce", section="number"), STUDY) is None


def test_where_lower_is_better_a_gain_is_a_fall_and_may_be_relative():
    assert gain(Claim("", "oal", "ce", "near FPR95"), STUDY).mean_difference == pytest.approx(10)
    relative = gain(Claim("", "oal", "ce", "near FPR95", relative=True), STUDY)
    assert relative.mean_difference == pytest.approx(20)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(0, "holds"), (7, "holds"), (7.1, "does not hold"), (-1, "holds")],
)
def test_a_clear_gain_meets_the_margins_up_to_its_mean(margin, expected):
    claim = Claim("", "oal", "ce", margin=margin)
    assert verdict(claim, gain(claim, STUDY)) == expected


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0, "does not hold (interval holds zero)"),
        (-1, "does not hold (interval holds zero)"),
        (-40, "holds"),  # a loss of up to 40 points is allowed, and the interval is above it
    ],
)
def test_an_interval_that_holds_zero_is_no_gain_and_may_still_be_no_loss(margin, expected):
    claim = Claim("", "kd", "ce", margin=margin)  # -2 and 0 points
    assert verdict(claim, gain(claim, STUDY)) == expected


def test_a_clear_loss_does_not_hold():
    claim = Claim("", "ce", "oal")
    assert verdict(claim, gain(claim, STUDY)) == "does not hold"


def test_rows_say_what_was_compared_and_what_could_not_be():
    claims = (
        Claim("better", "oal", "ce"),
        Claim("fewer alarms", "oal", "ce", "near FPR95", 15, relative=True),
        Claim("absent", "oal", "magic"),
        Claim("elsewhere"),
    )
    assert rows(STUDY, claims) == [
        ["better", "`oal` − `ce`: near AUROC, points", "+7.0 [+2.7, +11.3]", "holds"],
        ["fewer alarms", "`oal` − `ce`: fall of near FPR95, %", "+20.0 [+15.0, +25.0]", "holds"],
        ["absent", "`oal` − `magic`: near AUROC, points", "", "not run"],
        ["elsewhere", "needs its data and models", "", "not testable here"],
    ]
    assert markdown(STUDY, claims).splitlines()[2].startswith("| better | ")


def test_every_claim_is_about_arms_that_the_study_runs():
    known = {"arms": set(ARMS)}
    for name, ablation in ABLATIONS.items():
        known[name] = {*ablation.arms, *(label(a, c) for a, c in ablation.variations)}
    for claim in (*PAPER, *OURS):
        if claim.a:
            assert {claim.a, claim.b} <= known[claim.section], claim
