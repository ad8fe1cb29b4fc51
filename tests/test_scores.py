"""Post-hoc scores against published numbers, scikit-learn and float64 brute force."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

from oal_lite.scores import (
    LOGIT_SCORES,
    class_gaussians,
    energy,
    entropy,
    knn,
    mahalanobis,
    max_logit,
    msp,
)

LOGITS = torch.tensor([[2, 0, -1], [0, 0, 0], [5, 5, -5], [-3, -2, -1]], dtype=torch.float64)


def _classes(seed=0, d=6):
    """Three Gaussian classes with one full covariance, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    labels = np.arange(90) % 3
    means = 4 * rng.normal(size=(3, d))
    return means[labels] + rng.normal(size=(90, d)) @ mix, labels, rng.normal(size=(40, d)) * 4


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (energy, [-2.16984602, -1.09861229, -5.69316988, 0.59239404]),
        (msp, [-0.84379473, -0.33333333, -0.49998865, -0.66524096]),
        (max_logit, [-2, 0, -5, 1]),
        (entropy, [0.52426662, 1.09861229, 0.69339687, 0.83239558]),
    ],
)
def test_published_numbers(score, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(score(LOGITS), expected, atol=1e-8, rtol=0)


def test_energy_at_temperature_two():
    expected = -torch.tensor([2.9287, 2.1972, 6.3930, 0.3605], dtype=torch.float64)
    torch.testing.assert_close(energy(LOGITS, 2.0), expected, atol=5e-5, rtol=0)


def test_against_scipy():
    logits = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = special.softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(energy(logits), -special.logsumexp(logits.numpy(), axis=1))
    np.testing.assert_allclose(msp(logits), -p.max(1))
    np.testing.assert_allclose(entropy(logits), stats.entropy(p, axis=1))


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_every_logit_score_is_higher_for_a_flat_output(name):
    confident, flat = LOGIT_SCORES[name](torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    assert flat > confident


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_extreme_logits_stay_finite(name):
    assert LOGIT_SCORES[name](torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])).isfinite().all()


def test_energy_shifts_with_the_logits_and_msp_does_not():
    torch.testing.assert_close(energy(LOGITS + 3), energy(LOGITS) - 3)
    torch.testing.assert_close(msp(LOGITS + 3), msp(LOGITS))


def test_knn_published_numbers():
    bank = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    queries = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [-1, -1, -1, -1], [3, -3, 3, -3]])
    expected = torch.tensor([0.8228673, 0.7867602, 0.71564895, 0.90723675])
    torch.testing.assert_close(knn(queries, bank, k=5), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_knn_matches_scikit_learn_whatever_the_chunk(k):
    rng = np.random.default_rng(1)
    bank, queries = rng.normal(size=(30, 5)), rng.normal(size=(23, 5))
    neighbours = NearestNeighbors(n_neighbors=k).fit(
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    )
    expected, _ = neighbours.kneighbors(queries / np.linalg.norm(queries, axis=1, keepdims=True))
    for chunk_size in (1, 10, 1024):
        got = knn(torch.from_numpy(queries), torch.from_numpy(bank), k, chunk_size)
        np.testing.assert_allclose(got, expected[:, -1], rtol=1e-12)


def test_knn_ignores_length_and_keeps_small_distances_in_float32():
    bank = torch.eye(4)
    near = bank[:1] + torch.tensor([[0.0, 1e-5, 0, 0]])
    torch.testing.assert_close(knn(100 * near, bank, 1), torch.tensor([1e-5]), rtol=1e-3, atol=0)
    assert knn(bank, 3 * bank, 1).eq(0).all()


def test_mahalanobis_matches_scikit_learn():
    bank, labels, queries = _classes()
    means = np.stack([bank[labels == c].mean(0) for c in range(3)])
    tied = EmpiricalCovariance(assume_centered=True).fit(bank - means[labels])
    distances = [np.einsum("nd,de,ne->n", queries - m, tied.precision_, queries - m) for m in means]
    queries, bank, labels = (torch.from_numpy(a) for a in (queries, bank, labels))
    exact = mahalanobis(queries, bank, labels, ridge=0.0)
    np.testing.assert_allclose(exact, np.min(distances, axis=0), rtol=1e-9)
    torch.testing.assert_close(mahalanobis(queries, bank, labels), exact, rtol=1e-4, atol=0)
    whiten, means = class_gaussians(bank, labels)
    nearest = torch.cdist(queries @ whiten, means).amin(1).square()
    torch.testing.assert_close(nearest, exact, rtol=1e-4, atol=0)


def test_mahalanobis_is_unmoved_by_scale_and_by_label_names():
    bank, labels, queries = (torch.from_numpy(a) for a in _classes())
    expected = mahalanobis(queries, bank, labels)
    torch.testing.assert_close(mahalanobis(1e3 * queries, 1e3 * bank, labels), expected)
    torch.testing.assert_close(mahalanobis(queries, bank, 10 * labels - 5), expected)


def test_mahalanobis_ridge_copes_with_a_dead_feature():
    bank, labels, queries = (torch.from_numpy(a) for a in _classes())
    dead = torch.zeros(len(bank), 1, dtype=bank.dtype)
    got = mahalanobis(
        torch.cat([queries, dead[: len(queries)]], 1), torch.cat([bank, dead], 1), labels
    )
    torch.testing.assert_close(got, mahalanobis(queries, bank, labels), rtol=1e-4, atol=0)


def test_mahalanobis_keeps_the_dtype_of_the_features():
    bank, labels, queries = (torch.from_numpy(a) for a in _classes())
    assert mahalanobis(queries.float(), bank.float(), labels).dtype == torch.float32


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: msp(torch.zeros(3)), r"logits has shape \(3,\)"),
        (lambda: max_logit(torch.zeros(2, 3, 4)), r"logits has shape \(2, 3, 4\)"),
        (lambda: entropy(torch.zeros(2, 0)), r"logits has shape \(2, 0\)"),
        (lambda: energy(torch.zeros(3)), r"logits has shape \(3,\)"),
        (lambda: energy(torch.zeros(2, 3), temperature=0), "temperature=0"),
        (lambda: energy(torch.zeros(2, 3), temperature=float("nan")), "temperature=nan"),
        (lambda: knn(torch.ones(2, 3), torch.ones(4, 3), k=0), "k=0"),
        (lambda: knn(torch.ones(2, 3), torch.ones(4, 3), k=5), "k=5 .* 4 rows"),
        (lambda: knn(torch.ones(2, 3), torch.ones(4, 2), k=1), "3 columns and the bank 2"),
        (lambda: knn(torch.ones(2, 3), torch.zeros(4, 3), k=1), "bank has 4 zero rows"),
        (lambda: knn(torch.zeros(2, 3), torch.ones(4, 3), k=1), "features has 2 zero rows"),
        (lambda: knn(torch.ones(2, 3), torch.ones(4, 3), 1, chunk_size=0), "chunk_size=0"),
        (
            lambda: mahalanobis(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(3).long()),
            r"labels has shape \(3,\)",
        ),
        (
            lambda: mahalanobis(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(4).long()),
            "singular",
        ),
        (
            lambda: mahalanobis(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(4).long(), -1.0),
            "ridge=-1.0",
        ),
        (
            lambda: mahalanobis(torch.ones(2, 3), torch.ones(4, 5), torch.zeros(4).long()),
            "3 columns and the bank 5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
