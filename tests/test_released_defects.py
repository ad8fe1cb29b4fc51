"""Three places where the released code departs from its text, seen in the arms that carry it.

`oal-as-released` does what the code does, `oal-paper` what the text says. Each defect has one
test here that shows the difference between the two; details are tested beside the modules
(`test_knn_outliers.py`, `test_mutual_information.py`, `test_recipes.py`).
"""

from itertools import product

import pytest
import torch

from oal_lite.knn_outliers import select_candidates
from oal_lite.mutual_information import gaussian_mutual_information, sample_correlated_gaussians
from oal_lite.presets import LossWeights, TrainSettings
from oal_lite.recipes import ARMS, Outliers, build_terms
from oal_lite.terms import Micl, Step

RELEASED, PAPER = ARMS["oal-as-released"], ARMS["oal-paper"]


def micl_of(arm, vectors, classes, *, feature_dim, settings=None):
    """The k-NN outlier term of an arm, as a training run builds it."""
    n = len(vectors)
    outliers = Outliers(vectors, classes, torch.zeros(n, 4, 8, 8), classes,
                        torch.zeros(n, 3, 32, 32, dtype=torch.uint8))  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        terms = build_terms(
            arm, outliers=outliers, teacher_dim=vectors.shape[1], student_dim=feature_dim,
            weights=LossWeights(), settings=settings or TrainSettings(),
        )  # fmt: skip
    return next(t for t in terms if isinstance(t, Micl))


def step_of(features, labels, seed=0):
    """What the term sees of a batch; the teacher and the head have no part in it."""
    n, k = len(labels), int(labels.max()) + 1
    return Step(labels, torch.zeros(n, k), features, torch.zeros(n, 1), torch.zeros(n, k),
                torch.Generator().manual_seed(seed))  # fmt: skip


def test_d1_the_released_selection_keeps_candidates_of_any_rank():
    """D1: "keep the farthest" keeps random ones, because a matrix is viewed in the wrong shape.

    50 boundary points have 1,500 candidates each; the two with the largest distance should stay.
    A percentile of 1 says that a kept candidate is the farthest of its point, 0.5 that it is any.
    """
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(50, 1, generator=generator)  # some points lie farther out than others
    distances = spread + 0.1 * torch.randn(50, 1500, generator=generator)
    percentile = {}
    for arm in (RELEASED, PAPER):
        kept = select_candidates(distances, keep=2, selection=arm.outliers)
        own = distances[kept // 1500]
        beaten = own < distances.flatten()[kept][:, None]
        percentile[arm] = beaten.double().mean().item()
    assert percentile[PAPER] > 0.998
    # The mean of 100 even ranks has a standard error of 0.03.
    assert percentile[RELEASED] == pytest.approx(0.5, abs=0.12)


def test_d2_the_released_loss_has_no_expected_gradient_on_the_student():
    """D2: with random pairs MICL pushes the student nowhere.

    The released term pairs every feature with an outlier drawn at random. Three outliers can be
    paired with four features in 3^4 = 81 ways, all equally likely. The gradient of each single
    pairing is not zero, so training sees noise; their mean is zero up to rounding. The text's
    pairing, by class, can be drawn in fewer ways, and there the gradients do not cancel.
    """
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    features = torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1])
    mean_gradient, gradients = {}, None
    for arm in (RELEASED, PAPER):
        term = micl_of(arm, vectors, classes, feature_dim=5).double()
        ways = list(product(range(3), repeat=4))
        if term.pairing == "class":
            ways = [w for w in ways if classes[list(w)].tolist() == labels.tolist()]
        gradients = torch.stack([
            torch.autograd.grad(term.q.bound(term.vectors[list(way)], features), features)[0]
            for way in ways
        ])  # fmt: skip
        assert len(ways) == (81 if arm is RELEASED else 4)
        assert gradients.flatten(1).norm(dim=1).median() > 1e-2
        mean_gradient[arm] = gradients.mean(0).norm().item()
    assert mean_gradient[RELEASED] < 1e-12
    assert mean_gradient[PAPER] > 1e-2


def test_d3_the_released_q_destroys_the_bound_that_it_should_tighten():
    """D3: q(feature | outlier) is never fitted; it minimises the "upper bound" itself.

    A bound from above must not fall below the mutual information, here 2.04 nats by construction
    (correlated Gaussians stand for outliers and features, one pair per "class"). Trained as the
    released arm does, q drives the number far below zero, and nothing is bounded. Fitted by
    likelihood, as CLUB prescribes and the arm of the text does, it stays above the truth.
    """
    n, rates = 512, TrainSettings(q_lr=0.05, q_fit_lr=0.01)
    generator = torch.Generator().manual_seed(2)
    outliers, features = sample_correlated_gaussians(n, 4, 0.8, generator)
    truth, classes = gaussian_mutual_information(0.8, 4), torch.arange(n)
    bound = {}
    for arm in (RELEASED, PAPER):
        term = micl_of(arm, outliers, classes, feature_dim=4, settings=rates)
        term.pairing = "class"  # true pairs for both: the only difference left is how q is trained
        main = torch.optim.SGD(term.main_parameters(), lr=term.lr) if arm is RELEASED else None
        assert bool(term.main_parameters()) == (arm is RELEASED)
        for i in range(150):
            step = step_of(features, classes, seed=i)
            term.before(step)
            value = term(step)
            if main is not None:
                main.zero_grad()
                value.backward()
                main.step()
        bound[arm] = value.item()
    assert truth == pytest.approx(2.04, abs=0.01)
    assert bound[RELEASED] < -10
    # With the true conditional the bound is 4 rho^2 / (1 - rho^2) = 7.1.
    assert truth < bound[PAPER] < 9
