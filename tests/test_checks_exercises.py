"""Checks of notebooks 03, 04, 06 and 07: a right answer is praised, likely wrong ones are met."""

import statistics

import pytest
from scipy import stats

from oal_lite import checks
from oal_lite.distillation import logit_kd
from oal_lite.maps import knn_purity
from oal_lite.widgets.loss_terms import shares


def paired(a, b):
    d = [x - y for x, y in zip(a, b, strict=True)]
    half = stats.t.ppf(0.975, len(d) - 1) * statistics.stdev(d) / len(d) ** 0.5
    return statistics.mean(d), statistics.mean(d) - half, statistics.mean(d) + half


def unpaired(a, b):
    mean = statistics.mean(a) - statistics.mean(b)
    half = 2.4 * (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    return mean, mean - half, mean + half


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
    ("check_guide", lambda *_: None, "return"),
    ("check_column_means", lambda z: z.mean((2, 3)), r"become \(3, 6\)"),
    ("check_column_means", lambda z: z.sum((1, 2)), "numbers are not"),
    ("check_purity", lambda x, y, k: (y[(x @ x.T).topk(k).indices] == y[:, None]).float().mean(),
     "own neighbour"),
    ("check_chance", lambda counts: sum((n / sum(counts)) ** 2 for n in counts), "yourself"),
    ("check_chance", lambda counts: (counts[0] - 1) / (sum(counts) - 1), "Larger groups"),
    ("check_distillation", lambda s, t: logit_kd(t, s), r"KL\(student"),
    ("check_distillation", lambda s, t: 2 * logit_kd(s, t), "sum over the batch"),
    ("check_shares", lambda gram, w: (lengths := w * gram.diagonal().sqrt()) / lengths.sum(),
     "right angle"),
    ("check_shares", lambda gram, w: w**2 * gram.diagonal() / (w**2 * gram.diagonal()).sum(),
     "against each other"),
    ("check_group_mean", lambda sets: sum(s["auroc"] * s["n_ood"] for s in sets.values()) / 1000,
     "weighted by the number"),
    ("check_paired", unpaired, "seed by seed"),
    ("check_paired", lambda a, b: (0.015, 0.01, 0.02), "Student t"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_praised(name):
    assert getattr(checks, name)(RIGHT[name]).startswith("Right")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_likely_wrong_answer_gets_its_hint(name, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        getattr(checks, name)(answer)
