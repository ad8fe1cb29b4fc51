"""Claims are judged by one rule: where the whole interval lies."""

import re

import pytest

from oal_lite.ablations import ABLATIONS, label
from oal_lite.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    OPEN,
    PIECES,
    TARGETS,
    UNTESTABLE,
    Claim,
    differences,
    in_points,
    markdown,
    rows,
    verdict,
)
from oal_lite.recipes import ARMS
from oal_lite.report import COLUMNS, ENTROPY, OWN_SCORE

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


def test_a_group_without_sets_gives_no_difference():
    assert differences(table([0.9, None], [0.8, 0.7]), "new", "old", "near AUROC") is None
    assert differences(table([0.9, 0.8], [0.8, None]), "new", "old", "near AUROC") is None


def test_a_column_that_an_older_study_lacks_gives_no_difference():
    assert differences(table([0.9, 0.8], [0.8, 0.7]), "new", "old", "near AUROC, entropy") is None


def test_only_seeds_that_both_have_are_compared():
    test = differences(table([0.5, 0.6, 0.9], [0.4, 0.5], seeds=[1, 0, 7]), "new", "old",
                       "near AUROC")  # fmt: skip
    assert test.n == 2
    assert test.mean_difference == pytest.approx((0.6 - 0.4 + 0.5 - 0.5) / 2)


def test_a_difference_is_written_in_points_with_its_interval():
    # +6, +6, +9 points: 7 with a spread of sqrt(3), so 4.303 * sqrt(3) / sqrt(3) on both sides
    numbers = table([0.86, 0.88, 0.93], [0.80, 0.82, 0.84])
    test = differences(numbers, "new", "old", "near AUROC")
    assert in_points(test) == "+7.0 [+2.7, +11.3]" and in_points(None) == "–"


def test_every_claim_speaks_of_a_column_that_a_study_has():
    known = {*COLUMNS, *OWN_SCORE, *ENTROPY, "training seconds"}
    assert {claim.column for claim in (*CLAIMS, *PIECES, *TARGETS)} <= known


def test_a_claim_is_judged_by_the_number_in_its_words():
    for group in (CLAIMS, PIECES, TARGETS):
        before = None  # the target of the sentence that "..." goes on
        for claim in group:
            said = re.search(r"(one|half a|[\d.]+) (?:points?|%)", claim.text)
            points = {"one": 1, "half a": 0.5}.get(said[1]) or float(said[1]) if said else None
            if said and re.search("no more|not below|within", claim.text):
                allowed = [(-points / 100, None)]
            elif said:
                allowed = [(0, points / 100)]
            else:
                allowed = [(0, None), (0, before)] if claim.text.startswith("...") else [(0, None)]
            assert (claim.margin, claim.target) in allowed, claim.text
            before = claim.target


def test_a_target_has_to_be_reached_by_the_mean_and_the_interval_has_to_be_clear():
    # +6, +6, +9 points: the mean is 7, the interval 2.7 to 11.3
    numbers = table([0.86, 0.88, 0.93], [0.80, 0.82, 0.84])
    phrases = {
        target: verdict(Claim("", "new", "old", "near AUROC", target=target), numbers)[0]
        for target in (0.05, 0.069, 0.08, 0.12)
    }
    assert phrases == {0.05: HOLDS, 0.069: HOLDS, 0.08: OPEN, 0.12: FAILS}


def test_a_relative_difference_is_in_percent_of_the_baselines_mean():
    numbers = table([0.40, 0.41, 0.39], [0.5, 0.5, 0.5])
    claim = Claim("", "new", "old", "near FPR95", target=0.15, relative=True)
    assert verdict(claim, numbers) == (
        HOLDS, "-20.0 [-25.0, -15.0] % of near FPR95, 3 seeds",
    )  # fmt: skip


def test_nothing_is_relative_to_zero():
    numbers = table([0.1, 0.2, 0.1], [0.0, 0.0, 0.0])
    claim = Claim("", "new", "old", "near FPR95", relative=True)
    assert verdict(claim, numbers)[0] == UNTESTABLE


def test_every_row_is_read_from_its_own_section():
    study = {
        "table": table([0.9, 0.91, 0.92], [0.80, 0.812, 0.82]),
        "ablations": {"number": {"table": table([0.7, 0.71, 0.72], [0.80, 0.812, 0.82])}},
    }
    claims = (
        Claim("better", "new", "old", "near AUROC"),
        Claim("also with few", "new", "old", "near AUROC", section="number"),
        Claim("elsewhere", "new", "old", "near AUROC", section="kinds"),
    )
    first, second, third = rows(study, claims)
    assert first[:2] == ["better", "`new` − `old`"] and first[2].startswith("+9.9 [")
    assert [r[3] for r in (first, second, third)] == [HOLDS, FAILS, UNTESTABLE]
    header, _, *lines = markdown(study, claims).splitlines()
    assert header == "| claim | experiment | difference [95 % interval] | verdict |"
    assert lines[1] == "| " + " | ".join(second) + " |"


def test_every_claim_is_about_arms_that_the_study_runs():
    known = {"arms": set(ARMS)}
    for name, ablation in ABLATIONS.items():
        known[name] = {*ablation.arms, *(label(a, c) for a, c in ablation.variations)}
    for claim in (*CLAIMS, *PIECES, *TARGETS):
        if "paper size" not in claim.arm:
            assert {claim.arm, claim.baseline} <= known[claim.section], claim


def test_seconds_of_a_shared_gpu_decide_nothing():
    claim = Claim("faster", "new", "old", "training seconds")
    column = {"training seconds": {"values": [1.0, 1.1, 1.2], "seeds": [0, 1, 2]}}
    slower = {"training seconds": {"values": [2.0, 2.1, 2.3], "seeds": [0, 1, 2]}}
    study = {"table": {"new": column, "old": slower}}
    phrases = [rows(study | {"machine": m}, [claim])[0][3] for m in ("x86_64 cpu", "x86_64 cuda")]
    assert phrases == [HOLDS, UNTESTABLE]
