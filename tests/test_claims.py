"""Claims are judged by one rule: where the whole interval lies."""

import pytest

from oal_lite.claims import CLAIMS, FAILS, HOLDS, OPEN, UNTESTABLE, Claim, differences, verdict
from oal_lite.recipes import ARMS
from oal_lite.report import COLUMNS

GAIN = Claim("better", "new", "old", "near AUROC")
FPR = Claim("fewer false alarms", "new", "old", "near FPR95")
KEPT = Claim("kept", "new", "old", "near AUROC", margin=-0.05)


def table(new, old, seeds=None):
    def column(values, s):
        return {c: {"values": values, "seeds": s} for c in ("near AUROC", "near FPR95")}

    seeds = seeds or list(range(len(new)))
    return {"new": column(new, seeds), "old": column(old, list(range(len(old))))}


@pytest.mark.parametrize(
    ("claim", "new", "phrase"),
    [
        (GAIN, [0.90, 0.91, 0.92], HOLDS), (GAIN, [0.70, 0.71, 0.72], FAILS),
        (GAIN, [0.90, 0.71, 0.82], OPEN), (FPR, [0.90, 0.91, 0.92], FAILS),
        (FPR, [0.70, 0.71, 0.72], HOLDS), (KEPT, [0.79, 0.80, 0.81], HOLDS),
        (KEPT, [0.70, 0.71, 0.72], FAILS),
    ],
)  # fmt: skip
def test_the_place_of_the_interval_decides(claim, new, phrase):
    assert verdict(claim, table(new, [0.80, 0.812, 0.82]))[0] == phrase


def test_what_is_missing_is_not_testable_and_said():
    assert verdict(GAIN, {}) == (UNTESTABLE, "no runs of new, old")
    assert verdict(GAIN, table([0.9], [0.8])) == (UNTESTABLE, "too few seeds")


def test_only_seeds_that_both_have_are_compared():
    test = differences(table([0.5, 0.6, 0.9], [0.4, 0.5], seeds=[1, 0, 7]), "new", "old",
                       "near AUROC")  # fmt: skip
    assert test.n == 2
    assert test.mean_difference == pytest.approx((0.6 - 0.4 + 0.5 - 0.5) / 2)


def test_every_claim_speaks_of_arms_and_columns_that_exist():
    for claim in CLAIMS:
        assert {claim.arm, claim.baseline} <= set(ARMS)
        assert claim.column in COLUMNS
