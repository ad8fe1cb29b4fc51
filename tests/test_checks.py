"""The exercise checks accept what is right, in any sensible form, and name what is wrong."""

import math

import pytest
import torch

from oal_lite import checks, knn_outliers, metrics, mutual_information, scores
from oal_lite.checks.answers import NotRight, NotWritten

RIGHT = {
    "check_energy": lambda logits: -torch.logsumexp(logits, 1),
    "check_auroc": lambda i, o: ((o[:, None] > i) + 0.5 * (o[:, None] == i)).mean(),
    "check_fpr95": lambda i, o: metrics.detection_metrics(i, o).fpr95,
    "check_kth_distance": lambda q, b, k: torch.cdist(q, b).square().kthvalue(k, 1).values,
    "check_own_percentile": lambda d, p: (
        (d[p // d.shape[1]] < d.flatten()[p][:, None]).double().mean(1)
    ),
    "check_sigma_for_cosine": lambda cosine, d: math.tan(math.acos(cosine)) / d**0.5,
    "check_gaussian_mutual_information": lambda rho, d: -d / 2 * math.log(1 - rho**2),
    "check_club": mutual_information.club_naive,
    "check_most_information_from_class_pairs": math.log,
}


def found(ood, count):
    """The threshold that finds so many OOD images."""
    return ood.sort().values[len(ood) - count]


SLIPS = [
    ("check_energy", lambda x: torch.logsumexp(x, 1), "sign"),
    ("check_energy", lambda x: -x.exp().sum(1).log(), "overflows"),
    ("check_energy", lambda x: -x.exp().sum(1), "logarithm"),
    ("check_energy", scores.msp, "does not normalise"),
    ("check_energy", scores.max_logit, "largest logit"),
    ("check_energy", lambda x: None, "return"),
    ("check_energy", lambda x: "high", "expected a number"),
    ("check_energy", lambda x: -torch.logsumexp(x, 1)[:2], "shape"),
    ("check_auroc", lambda i, o: (o[:, None] > i).float().mean(), "ties do not count"),
    ("check_auroc", lambda i, o: (o[:, None] >= i).float().mean(), "ties count as wins"),
    ("check_auroc", lambda i, o: 1 - metrics.detection_metrics(i, o).auroc, "ID wins"),
    ("check_fpr95", lambda i, o: metrics.detection_metrics(i, o, "id").fpr95, "positive class"),
    ("check_fpr95", lambda i, o: 1 - metrics.detection_metrics(i, o).fpr95, "one minus"),
    (
        "check_fpr95",
        lambda i, o: (i > o.sort().values[int(0.05 * len(o))]).float().mean(),
        "a score that equals it",
    ),
    ("check_fpr95", lambda i, o: (i >= o.quantile(0.05)).float().mean(), "FIRST"),
    (
        "check_fpr95",
        lambda i, o: (i >= found(o, int(0.95 * len(o)) + 1)).float().mean(),
        "too many",
    ),
    ("check_fpr95", lambda i, o: (i >= o.min()).float().mean(), "every OOD image"),
    ("check_fpr95", lambda i, o: (i >= found(o, round(0.95 * len(o)))).float().mean(), "only 11"),
    (
        "check_fpr95",
        lambda i, o: (i >= o.quantile(0.05, interpolation="lower")).float().mean(),
        "too many",
    ),
    ("check_kth_distance", lambda q, b, k: torch.cdist(q, b).kthvalue(k, 1).values, "square"),
    (
        "check_kth_distance",
        lambda q, b, k: torch.cdist(q, b).square().topk(k, 1).values[:, -1],
        "FARTHEST",
    ),
    (
        "check_kth_distance",
        lambda q, b, k: torch.cdist(q, b).square().sort(1).values[:, min(k, 29)],
        "off by one",
    ),
    (
        "check_own_percentile",
        lambda d, p: (d.flatten() < d.flatten()[p][:, None]).double().mean(1),
        "own boundary point",
    ),
    (
        "check_own_percentile",
        lambda d, p: (d[p // 40] <= d.flatten()[p][:, None]).double().mean(1),
        "count by <",
    ),
    (
        "check_own_percentile",
        lambda d, p: (d[p // 40] > d.flatten()[p][:, None]).double().mean(1),
        "FARTHER",
    ),
    (
        "check_sigma_for_cosine",
        lambda cosine, d: math.sqrt(1 / cosine**2 - 1),
        "length of the whole noise",
    ),
    ("check_sigma_for_cosine", lambda cosine, d: (1 / cosine**2 - 1) / d, "take the root"),
    ("check_sigma_for_cosine", lambda cosine, d: ((1 / cosine - 1) / d) ** 0.5, "square the"),
    ("check_sigma_for_cosine", lambda cosine, d: 0.01748, "128 dimensions gives 0.0175, expected"),
    (
        "check_gaussian_mutual_information",
        lambda rho, d: -d * math.log(1 - rho**2),
        "one half",
    ),
    (
        "check_gaussian_mutual_information",
        lambda rho, d: -d / 2 * math.log2(1 - rho**2),
        "bits",
    ),
    ("check_gaussian_mutual_information", lambda rho, d: -math.log(1 - rho**2) / 2, "by d"),
    (
        "check_club",
        lambda mu, logvar, y: -((y - mu).square() / logvar.exp() / 2).sum(1).mean(),
        "log-likelihood",
    ),
    ("check_club", lambda m, v, y: -mutual_information.club(m, v, y), "sign"),
    ("check_club", lambda m, v, y: mutual_information.club(m, v / 2, y), "not by its root"),
    ("check_club", lambda m, v, y: mutual_information.club(m, v, y) / y.shape[1], "sum over"),
    ("check_most_information_from_class_pairs", math.log2, "bits"),
    ("check_most_information_from_class_pairs", lambda n: n, "logarithm"),
    ("check_most_information_from_class_pairs", lambda n: 2.3026, "2 classes"),
]


def test_every_check_is_tried_here():
    assert set(RIGHT) <= set(checks.__all__)
    assert {name for name, _, _ in SLIPS} == set(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes_and_is_told_so(name):
    assert getattr(checks, name)(RIGHT[name]).startswith("Right")


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(("name", "wrong", "hint"), SLIPS)
def test_a_plausible_wrong_answer_fails_with_a_hint(name, wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        getattr(checks, name)(wrong)


def test_the_librarys_own_functions_pass():
    assert checks.check_energy(scores.energy)
    assert checks.check_kth_distance(knn_outliers.kth_distance)
    assert checks.check_club(mutual_information.club)
    assert checks.check_gaussian_mutual_information(mutual_information.gaussian_mutual_information)


def test_an_unwritten_exercise_says_so_in_one_sentence():
    def stub(logits):
        raise NotImplementedError("write your answer here")

    with pytest.raises(NotImplementedError, match="^Not written yet: put your answer") as caught:
        checks.check_energy(stub)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_an_error_in_the_readers_code_is_told_with_its_line():
    def broken(logits):
        return logits.logsum(1)

    with pytest.raises(NotRight, match=r"stops at `return logits.logsum\(1\)`: Attri"):
        checks.check_energy(broken)


@pytest.mark.parametrize(("answer", "told"), [(lambda: 1, "argument"), (3, "not callable")])
@pytest.mark.usefixtures("own_errors")
def test_an_answer_that_cannot_be_called_so_is_told(answer, told):
    with pytest.raises(NotRight, match=f"cannot use your answer: TypeError: .*{told}"):
        checks.check_energy(answer)


def test_jupyter_shows_a_hint_and_no_line_of_the_check(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.user_ns["check"] = checks.check_auroc
    shell.run_cell("check(lambda i, o: (o[:, None] > i).float().mean())")
    InteractiveShell.clear_instance()
    told = capsys.readouterr()
    text = told.out + told.err
    assert "auroc is not right yet: ties do not count at all; a tie is worth one half." in text
    assert "slips" not in text
    assert len(text.strip().splitlines()) == 1


def test_an_error_of_torch_is_not_taken_for_an_exercise_that_waits():
    with pytest.raises(NotWritten, match="Not written yet"):
        checks.check_energy(stub)
    with pytest.raises(NotRight, match="Your code stops at `return .*NotImplementedError: "):
        checks.check_energy(energy_of_integers)


def stub(logits):
    raise NotImplementedError("write it")


def energy_of_integers(logits):
    return -logits.long().softmax(1)
