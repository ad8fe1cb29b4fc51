"""Panels 6 and 7: gradients against autograd, shares by hand, runs read from their files."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from oal_lite import recipes, study
from oal_lite.mutual_information import ClubNet
from oal_lite.presets import LossWeights, TrainSettings
from oal_lite.students import ResNet18
from oal_lite.terms import Step
from oal_lite.widgets import arms, loss_terms


@pytest.fixture
def batch():
    """A tiny student, the terms of the released arm, and one step."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = ResNet18(3, width=2)
        outliers = recipes.Outliers(
            torch.randn(12, 8), torch.arange(12) % 3, torch.randn(6, 4, 8, 8), torch.arange(6) % 3,
            torch.zeros(6, 3, 8, 8, dtype=torch.uint8),
        )  # fmt: skip
        terms = recipes.build_terms(
            recipes.get_arm("oal-as-released"), outliers=outliers, teacher_dim=8, student_dim=16,
            weights=LossWeights(), settings=TrainSettings(),
        )  # fmt: skip
    logits, features = student(torch.randn(6, 3, 8, 8, generator=generator))
    step = Step(
        torch.arange(6) % 3, logits, features, torch.randn(6, 8, generator=generator),
        torch.randn(6, 3, generator=generator), generator,
    )  # fmt: skip
    return student, terms, step


def test_products_of_gradients_are_those_of_autograd(batch):
    student, terms, step = batch
    pulls = loss_terms.measure_pulls(student, terms, step, pairings=(1, 8))
    grads = torch.autograd.grad(terms[0](step), list(student.parameters()), retain_graph=True)
    expected = sum(g.square().sum() for g in grads)
    for gram in pulls.gram.values():
        torch.testing.assert_close(gram[0, 0], expected)
        torch.testing.assert_close(gram, gram.T)
    assert pulls.weights == (1.0, 4.0, 8.0, 0.1, 0.2)


def test_the_micl_gradient_over_all_pairings_is_zero(batch):
    _, terms, step = batch
    x = terms[3].vectors[:4]
    features = step.features[:4]
    mean = torch.zeros_like(features)
    for order in permutations(range(4)):
        y = features.detach().double().requires_grad_(True)
        bound = terms[3].q.double().bound(x[list(order)].double(), y)
        mean = mean + torch.autograd.grad(bound, y)[0] / 24
    assert mean.abs().max() < 1e-12


def test_the_mean_micl_gradient_falls_with_the_number_of_pairings():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        q, x, y = ClubNet(5, 4), torch.randn(16, 5), torch.randn(16, 4)
    one, many = (
        loss_terms.pairing_gradient(q, x, y, n, generator=torch.Generator().manual_seed(2)).norm()
        for n in (1, 400)
    )
    assert many < one / 8


def test_shares_by_hand():
    gram = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    lengths, parts = loss_terms.shares(gram, [1, 1])
    torch.testing.assert_close(lengths, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(parts, torch.tensor([0.2, 0.8]))
    _, against = loss_terms.shares(torch.tensor([[1.0, -2.0], [-2.0, 9.0]]), [1, 1])
    torch.testing.assert_close(against, torch.tensor([-1 / 6, 7 / 6]))
    assert not loss_terms.shares(gram, [0, 0])[1].any()


def test_the_panel_of_loss_terms_answers_and_a_term_that_is_off_pulls_nothing(batch):
    pulls = loss_terms.measure_pulls(*batch, pairings=(1, 8))
    panel = loss_terms.loss_terms_panel(pulls)
    assert panel.check() == "24 positions of 10 controls drawn without an error"
    panel.move(on3=False, on4=False)
    assert "have 0.00% of the summed lengths" in panel.sentence.value
    panel.move(on0=False, on1=False, on2=False)
    assert "no step at all" in panel.sentence.value


def test_no_terms_are_refused(batch):
    with pytest.raises(ValueError, match="no loss terms"):
        loss_terms.measure_pulls(batch[0], [], batch[2])


def test_finished_runs_are_those_of_the_preset_and_the_panel_shows_them(tiny_preset, tmp_path):
    made = study.run(tiny_preset, ["ce", "kd"], [0, 1], runs=tmp_path, device="cpu")
    other = replace(tiny_preset, train=replace(tiny_preset.train, lr=0.123))
    assert arms.finished_runs(tmp_path, other) == []
    unseen = replace(tiny_preset, n_per_class=1)  # neither arm makes outliers
    assert len(arms.finished_runs(tmp_path, unseen)) == 4
    found = arms.finished_runs(tmp_path, tiny_preset)
    assert [(r.record["arm"], r.record["seed"]) for r in found] == [
        ("ce", 0), ("kd", 0), ("ce", 1), ("kd", 1)
    ]  # fmt: skip
    panel = arms.arms_panel(found)
    assert "controls drawn without an error" in panel.check()
    panel.move(arm="kd", score="msp", seed=1)
    from oal_lite.metrics import detection_metrics
    from oal_lite.report import grouped_scores

    groups = grouped_scores(made[3], "msp")
    expected = detection_metrics(groups["id"], groups["near"])
    assert f"{expected.auroc:.1%} of pairs" in panel.sentence.value
    assert f"{expected.fpr95:.1%} of the ID images are called OOD" in panel.sentence.value
    assert set(panel.controls) == {"arm", "score", "seed"}
    assert "seed" not in arms.arms_panel(found[:2]).controls


def test_a_panel_without_runs_is_refused():
    with pytest.raises(ValueError, match="no finished run"):
        arms.arms_panel([])
