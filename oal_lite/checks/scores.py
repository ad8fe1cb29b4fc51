"""Exercises of notebook 01: scores and detection metrics."""

from collections.abc import Callable

import torch

from oal_lite import scores
from oal_lite.checks.answers import compare, exercise
from oal_lite.metrics import detection_metrics

LOGITS = [[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [5.0, 5.0, -5.0], [-3.0, -2.0, -1.0]]
# Small cases. The first has ties between the sets. Of 40 OOD images 38 are 95 %, of 12 only all
# are, and ID scores lie at every threshold that one might read FPR95 at instead.
CASES = (
    ([-3.0, -2.0, -2.0, -1.0, -0.5], [-2.0, -1.0, -0.7, 0.0, 1.0]),
    ([3.0, 4.0, 5.0, 6.0], [float(i) for i in range(3, 43)]),
    ([0.0, 1.0, 2.0, 3.0], [float(i) for i in range(1, 13)]),
)


@exercise
def check_energy(energy: Callable) -> str:
    """`energy(logits)` is -log sum_c exp logits_c of every row, high = OOD."""
    logits = torch.tensor(LOGITS)
    truth = scores.energy(logits)
    compare(
        energy(logits), truth, "energy(logits)",
        slips={
            "the sign is the other way round: a score is high for OOD, so −log Σ exp.": -truth,
            "you summed over images; sum over the classes of one image, dim=1.":
                torch.full_like(truth, float(-logits.flatten().logsumexp(0))),
            "the sum of exponentials still wants its logarithm.": -logits.exp().sum(1),
            "this is the largest logit; the energy counts all of them.": scores.max_logit(logits),
            "this is the softmax probability; the energy does not normalise.": scores.msp(logits),
        },
    )  # fmt: skip
    large = energy(torch.tensor([[300.0, 0.0]]))
    compare(
        large, [-300.0], "energy of the logits (300, 0)",
        slips={"exp(300) overflows in float32; use torch.logsumexp.": [-torch.inf]},
    )  # fmt: skip
    return "Right: the energy of all four rows, also where exp would overflow."


@exercise
def check_auroc(auroc: Callable) -> str:
    """`auroc(id_scores, ood_scores)` is the share of pairs that OOD wins, a tie counting half."""
    for ids, ood in CASES:
        pairs = [(i, o) for i in ids for o in ood]
        strict = sum(o > i for i, o in pairs) / len(pairs)
        generous = sum(o >= i for i, o in pairs) / len(pairs)
        truth = detection_metrics(ids, ood).auroc
        compare(
            auroc(torch.tensor(ids), torch.tensor(ood)), truth, "auroc",
            slips={
                "you count pairs that ID wins; OOD should have the higher score.": 1 - truth,
                "ties do not count at all; a tie is worth one half.": strict,
                "ties count as wins; a tie is worth one half.": generous,
            },
        )  # fmt: skip
    return "Right: pairs won, ties counted one half."


@exercise
def check_fpr95(fpr95: Callable) -> str:
    """`fpr95(id_scores, ood_scores)` is the ID share called OOD where 95 % of OOD are found."""
    for ids, ood in CASES:
        truth, n = detection_metrics(ids, ood).fpr95, len(ood)
        enough, rounded = -(-95 * n // 100), round(0.95 * n)
        strict = sum(s > _threshold(ood, enough) for s in ids) / len(ids)
        compare(
            fpr95(torch.tensor(ids), torch.tensor(ood)), truth, "fpr95",
            slips={
                "ID is your positive class; find 95 % of the OOD images instead.":
                    detection_metrics(ids, ood, "id").fpr95,
                "you give the share of ID images that are called ID, so one minus the answer.":
                    1 - truth,
                f"your threshold finds one OOD image too many; of {n}, {enough} are enough.":
                    _false_alarms(ids, ood, 95 * n // 100 + 1),
                "your threshold finds every OOD image; the first that finds 95 % is meant.":
                    _false_alarms(ids, ood, n),
                f"your threshold finds only {rounded} of {n} OOD images, less than 95 %.":
                    _false_alarms(ids, ood, rounded),
                "the threshold must be the FIRST that finds at least 95 %, at an OOD score; and "
                "a score that equals it is called OOD.": strict,
            },
        )  # fmt: skip
    return "Right: the first threshold with at least 95 % of OOD found, equal scores included."


def _threshold(ood: list[float], found: int) -> float:
    """The largest threshold that finds so many OOD images."""
    return sorted(ood)[len(ood) - found]


def _false_alarms(ids: list[float], ood: list[float], found: int) -> float:
    """Share of the ID images called OOD where so many OOD images are found."""
    return sum(s >= _threshold(ood, found) for s in ids) / len(ids)
