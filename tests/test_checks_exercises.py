"""Checks of notebooks 03, 04, 06 and 07: a right answer is praised, likely wrong ones are met."""

import statistics

import pytest
import torch
from scipy import stats

from oal_lite import checks
from oal_lite.distillation import logit_kd
from oal_lite.knn_outliers import unit
from oal_lite.maps import knn_purity
from oal_lite.widgets.loss_terms import shares


def paired(a, b):
    d = [x - y for x, y in zip(a, b, strict=True)]
    half = stats.t.ppf(0.975, len(d) - 1) * statistics.stdev(d) / len(d) ** 0.5
    return statistics.mean(d), statistics.mean(d) - half, statistics.mean(d) + half


def unpaired(a, b):
    mean = statistics.mean(a) - statistics.mean(b)
    variance = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    half = stats.t.ppf(0.975, 2 * len(a) - 2) * variance**0.5
    return mean, mean - half, mean + half


def around(a, b, spread, quantile):
    d = [x - y for x, y in zip(a, b, strict=True)]
    half = quantile * spread(d) / len(d) ** 0.5
    return statistics.mean(d), statistics.mean(d) - half, statistics.mean(d) + half


RIGHT = {
    "check_guide": lambda empty, prompted, w: empty + w * (prompted - empty),
    "check_column_means": lambda z: z.mean(1).mean(1),
    "check_purity": lambda x, y, k: knn_purity(x, y, k).mean(),
    "check_chance": lambda counts: (
        sum(n * (n - 1) for n in counts) / (sum(counts) * (sum(counts) - 1))
    ),
    "check_distillation": logit_kd,
    "check_shares": lambda gram, w: shares(gram, w.tolist())[1],
    "check_group_mean": lambda sets: sum(s["auroc"] for s in sets.values()) / len(sets),
    "check_paired": paired,
}
WRONG = [
    ("check_guide", lambda empty, prompted, w: prompted + w * (prompted - empty), "w = 0"),
    ("check_guide", lambda empty, prompted, w: w * (prompted - empty), "only the difference"),
    ("check_guide", lambda empty, prompted, w: empty + w * (empty - prompted), "is prompted − emp"),
    ("check_guide", lambda *_: None, "return"),
    ("check_column_means", lambda z: z.mean((2, 3)), "per channel"),
    ("check_column_means", lambda z: z.mean((1, 3)), "per row"),
    ("check_column_means", lambda z: z.sum((1, 2)), "sums, not means"),
    ("check_column_means", lambda z: z.mean(1), "over rows, too"),
    ("check_column_means", lambda z: z.flatten(), r"shape \(360,\), expected \(3, 6\)"),
    ("check_column_means", lambda z: z.median(1).values.median(1).values, "expected"),
    ("check_purity", lambda x, y, k: (y[(x @ x.T).topk(k).indices] == y[:, None]).float().mean(),
     "own neighbour"),
    ("check_purity", lambda x, y, k: (
        y[(unit(x) @ unit(x).T).fill_diagonal_(0).topk(k).indices] == y[:, None]
    ).float().mean(), "cosine of −∞"),
    ("check_purity", lambda x, y, k: knn_purity(x, y, k), "the mean over all points"),
    ("check_purity", lambda x, y, k: k * knn_purity(x, y, k).mean(), "divide by k"),
    ("check_purity", lambda x, y, k: (
        y[torch.cdist(x, x).fill_diagonal_(9).topk(k, largest=False).indices] == y[:, None]
    ).float().mean(), "take the cosine"),
    ("check_chance", lambda counts: sum((n / sum(counts)) ** 2 for n in counts), "yourself"),
    ("check_chance", lambda counts: (counts[0] - 1) / (sum(counts) - 1), "Larger groups"),
    ("check_chance", lambda counts: (
        sum((n - 1) / (sum(counts) - 1) for n in counts) / len(counts)
    ), "mean over groups"),
    ("check_distillation", lambda s, t: logit_kd(t, s), r"KL\(student"),
    ("check_distillation", lambda s, t: 2 * logit_kd(s, t), "sum over the batch"),
    ("check_distillation", lambda s, t: -(t.softmax(1) * s.log_softmax(1)).sum(1).mean(),
     "cross-entropy"),
    ("check_distillation", lambda s, t: logit_kd(s, t) / 3, "over classes, too"),
    ("check_shares", lambda gram, w: (lengths := w * gram.diagonal().sqrt()) / lengths.sum(),
     "right angle"),
    ("check_shares", lambda gram, w: w**2 * gram.diagonal() / (w**2 * gram.diagonal()).sum(),
     "against each other"),
    ("check_shares", lambda gram, w: w * (gram @ w), "divide by G"),
    ("check_shares", lambda gram, w: (gram @ w) / (w @ gram @ w), "weight of the term itself"),
    ("check_group_mean", lambda sets: sum(s["auroc"] * s["n_ood"] for s in sets.values()) / 1000,
     "weighted by the number"),
    ("check_group_mean", lambda sets: sum(s["auroc"] for s in sets.values()), "the sum"),
    ("check_group_mean", lambda sets: statistics.median(s["auroc"] for s in sets.values()),
     "0.2, 0.3 and 1"),
    ("check_paired", lambda a, b: around(a, b, statistics.stdev, 3.182446), "five seeds"),
    ("check_paired", lambda a, b: around(a, b, statistics.pstdev, 1.959964), "and the quantile"),
    ("check_paired", unpaired, "seed by seed"),
    ("check_paired", lambda a, b: (0.015, 0.01, 0.02), "expected"),
    ("check_paired", lambda a, b: tuple(-x for x in paired(b, a)), "expected"),
    ("check_paired", lambda a, b: paired(b, a), "a − b"),
    ("check_paired", lambda a, b: around(a, b, statistics.pstdev, 3.1824), "ddof=1"),
    ("check_paired", lambda a, b: around(a, b, statistics.stdev, 1.96), "not 1.96"),
    ("check_paired", lambda a, b: around(a, b, statistics.stdev, 2 * 3.1824), "root of n"),
    ("check_paired", lambda a, b: paired(a, b)[0], "three numbers"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_praised(name):
    assert getattr(checks, name)(RIGHT[name]).startswith("Right")


@pytest.mark.parametrize("name", ["check_guide", "check_column_means", "check_purity"])
@pytest.mark.parametrize("form", ["tolist", "numpy", "double"])
def test_a_right_answer_may_come_as_a_list_or_an_array(name, form):
    def answer(*given):
        return getattr(RIGHT[name](*given), form)()

    assert getattr(checks, name)(answer).startswith("Right")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_likely_wrong_answer_gets_its_hint(name, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        getattr(checks, name)(answer)
