"""Distillation losses against published numbers, SciPy and their own invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.stats import entropy
from torch.testing import assert_close

from oal_lite.distillation import (
    FeatureAdapter,
    TeacherDistance,
    TeacherEnergy,
    TeacherNeighbours,
    distance_kd,
    feature_kd,
    hedged,
    logit_kd,
)
from oal_lite.scores import entropy as entropy_score
from oal_lite.scores import knn, mahalanobis
from oal_lite.teacher import TeacherOutputs

STUDENT = torch.tensor([[2, 0, -1], [0, 1, 0]], dtype=torch.float64)
TEACHER = torch.tensor([[3, 0, 0], [0, 2, -1]], dtype=torch.float64)


def test_logit_kd_published_numbers():
    assert logit_kd(STUDENT, TEACHER).item() == pytest.approx(0.1065139626, abs=1e-9)
    assert logit_kd(STUDENT, TEACHER, 4.0).item() == pytest.approx(0.2133798325, abs=1e-9)


def test_feature_kd_is_scipys_divergence_from_teacher_to_student():
    teacher, student = (special.softmax(a.numpy(), axis=1) for a in (TEACHER, STUDENT))
    expected = entropy(teacher, student, axis=1).mean()
    assert feature_kd(STUDENT, TEACHER).item() == pytest.approx(expected, abs=1e-12)
    assert feature_kd(TEACHER, STUDENT).item() != pytest.approx(expected, abs=1e-3)


def test_loss_is_zero_for_equal_outputs_and_blind_to_a_shift():
    assert logit_kd(TEACHER, TEACHER, 3.0).item() == pytest.approx(0, abs=1e-12)
    assert feature_kd(TEACHER + 5, TEACHER).item() == pytest.approx(0, abs=1e-12)


def test_batch_mean_does_not_grow_with_the_batch():
    twice = logit_kd(STUDENT.repeat(2, 1), TEACHER.repeat(2, 1))
    torch.testing.assert_close(twice, logit_kd(STUDENT, TEACHER))


def test_gradient_of_logit_kd_is_the_difference_of_the_softmaxes():
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(logit_kd(student, TEACHER, 2.0), student)
    expected = 2 * ((STUDENT / 2).softmax(1) - (TEACHER / 2).softmax(1)) / len(STUDENT)
    torch.testing.assert_close(gradient, expected)


def test_feature_kd_sends_gradient_to_student_and_adapter():
    generator = torch.Generator().manual_seed(0)
    adapter = FeatureAdapter(6, 4)
    student = torch.randn(8, 4, generator=generator, requires_grad=True)
    feature_kd(student, adapter(torch.randn(8, 6, generator=generator))).backward()
    assert student.grad.abs().sum() > 0
    assert adapter.layers[1].weight.grad.abs().sum() > 0


def test_adapter_is_batchnorm_linear_relu_batchnorm():
    adapter = FeatureAdapter(6, 4).double()
    features = torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def normalised(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    linear = adapter.layers[1]
    hidden = (normalised(features) @ linear.weight.T + linear.bias).clamp(min=0)
    torch.testing.assert_close(adapter(features), normalised(hidden))


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = logit_kd(student, torch.tensor([[-1e4, 1e4]]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logit_kd(STUDENT, TEACHER, 0), "temperature=0"),
        (lambda: logit_kd(STUDENT, TEACHER[:1]), r"student \(2, 3\) and teacher \(1, 3\)"),
        (lambda: feature_kd(STUDENT[0], TEACHER[0]), r"student \(3,\)"),
        (lambda: feature_kd(STUDENT[:0], TEACHER[:0]), "n at least 1"),
        (lambda: FeatureAdapter(0, 4), "teacher_dim=0"),
        (lambda: FeatureAdapter(6, 4)(torch.zeros(8, 5)), r"expects \(n, 6\)"),
        (lambda: FeatureAdapter(6, 4)(torch.zeros(1, 6)), "has 1 row"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- distance ----------------------------------------------------------------------------------


def test_distance_kd_by_hand():
    """Two logits -a have the energy a - log 2; (1, 2, 3) and (3, 2, 4) correlate by 0.5."""
    logits = -torch.tensor([[1.0], [2], [3]]).expand(3, 2)
    assert distance_kd(logits, torch.tensor([3.0, 2, 4])).item() == pytest.approx(0.5, abs=1e-6)
    assert distance_kd(logits, torch.tensor([10.0, 20, 30])).item() == pytest.approx(0, abs=1e-6)
    assert distance_kd(logits, torch.tensor([3.0, 2, 1])).item() == pytest.approx(2, abs=1e-6)
    assert distance_kd(logits, torch.ones(3)).item() == 1


def test_distance_kd_moves_the_energy_and_logit_kd_does_not():
    distances = torch.tensor([5.0, 1])
    shift = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    four = torch.cat([STUDENT, 2 * STUDENT]) + shift.repeat(2, 1)
    (gradient,) = torch.autograd.grad(distance_kd(four, distances.repeat(2).double()), shift)
    assert gradient[0] > 0 > gradient[1]  # descent lowers the logits of what is far
    (none,) = torch.autograd.grad(logit_kd(STUDENT + shift, TEACHER), shift)
    assert none.abs().max() < 1e-12


ID_DISTANCES = torch.tensor([4.0, 1, 3, 2])


def test_hedged_answers_by_hand():
    """Three of four ID images lie nearer than 3.5, so h = 9/16 for r = 2; softmax is (0.8, 0.2)."""
    logits = torch.tensor([[4.0, 1.0]]).log().expand(4, 2)
    made = hedged(logits, torch.tensor([0.5, 3.5, 9.0, 3.0]), ID_DISTANCES, 2).exp()
    middle = 7 / 16 * 0.8 + 9 / 16 * 0.5
    expected = torch.tensor([[0.8, 0.2], [middle, 1 - middle], [0.5, 0.5], [0.725, 0.275]])
    assert_close(made, expected)  # the last: two are nearer, the third is as far, so h = 1/4


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6),
    st.lists(st.floats(0, 10, width=32), min_size=2, max_size=2).map(sorted),
    st.integers(1, 20),
)
def test_the_farther_the_less_sure_and_never_of_another_class(numbers, distances, r):
    logits = torch.tensor(numbers[:3]).expand(2, 3)
    p = hedged(logits, torch.tensor(distances), ID_DISTANCES, r).exp()
    assert_close(p.sum(1), torch.ones(2))
    assert p.isfinite().all() and entropy_score(p[1:].log()) >= entropy_score(p[:1].log()) - 1e-5
    order = logits[0].argsort()
    assert (p[:, order].diff() >= -1e-6).all()


def said(features):
    """Features of a teacher whose logits are their first three numbers."""
    return TeacherOutputs(features, features[:, :3])


def test_a_teachers_energy_is_that_of_its_logits_alone():
    outputs = TeacherOutputs(torch.zeros(2, 4), torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    found = TeacherEnergy(outputs, torch.arange(2))(outputs)
    torch.testing.assert_close(found, -torch.tensor([2.0, math.e + math.e**3]).log())


def test_teacher_distance_is_the_root_of_the_mahalanobis_score_even_far_from_the_origin():
    g = torch.Generator().manual_seed(0)
    bank, labels = 30 + torch.randn(200, 8, generator=g), torch.arange(200) % 5
    bank[:, 3] *= 1e-2
    queries = bank[:40] + torch.randn(40, 8, generator=g)
    expected = mahalanobis(queries, bank, labels).sqrt()
    torch.testing.assert_close(
        TeacherDistance(said(bank), labels)(said(queries)), expected, rtol=1e-3, atol=0
    )


def test_teacher_neighbours_are_the_knn_score_of_the_bank():
    g = torch.Generator().manual_seed(0)
    bank, labels = torch.randn(200, 8, generator=g), torch.arange(200) % 5
    queries = torch.cat([3 * bank[:5], torch.randn(40, 8, generator=g)])
    for k in (1, 7, 200):
        found = TeacherNeighbours(said(bank), labels, k)(said(queries))
        torch.testing.assert_close(found, knn(queries, bank, k), rtol=1e-3, atol=1e-3)
    assert TeacherNeighbours(said(bank[:30]), labels[:30]).k == 30, (
        "a small bank has no 50th neighbour"
    )
    with pytest.raises(ValueError, match="k=0; expected at least 1"):
        TeacherNeighbours(said(bank), labels, 0)
