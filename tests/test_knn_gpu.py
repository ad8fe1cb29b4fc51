"""k-NN outliers on a GPU: the picks of brute force in float64, whatever the GPU rounds and counts.

Where there is none these are skipped. They need neither the fixtures nor the run-time checks of the
other tests: `pytest --noconftest tests/test_knn_gpu.py`.
"""

import pytest
import torch

from oal_lite import knn_pruning
from oal_lite.knn_outliers import (
    round_generator,
    sample_outliers,
    sample_outliers_per_class,
    sample_outliers_plain,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZES = [
    dict(n=500, d=768, k=300, n_boundary=50, n_candidates=1500, sigma=0.07, keep=2),
    dict(n=200, d=64, k=120, n_boundary=20, n_candidates=301, sigma=0.07, keep=2),
    dict(n=60, d=16, k=60, n_boundary=60, n_candidates=50, sigma=0.3, keep=1),
    dict(n=30, d=2, k=4, n_boundary=6, n_candidates=200, sigma=1.0, keep=3),
    dict(n=30, d=2, k=4, n_boundary=6, n_candidates=50, sigma=0.0, keep=3),
    dict(n=1, d=3, k=1, n_boundary=1, n_candidates=1, sigma=0.1, keep=1),
]


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def class_features(n, d):
    """One class as a network sees it: a common direction, a few strong axes, a little noise."""
    g = seeded(1000)
    axes = torch.randn(5, d, generator=g) * torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2])[:, None]
    spread = torch.randn(n, 5, generator=g) @ axes + 0.3 * torch.randn(n, d, generator=g)
    return (3 * (torch.randn(d, generator=g) + spread)).cuda()


def same(fast, plain):
    assert fast.is_cuda
    torch.testing.assert_close(fast.double(), plain.to(fast.device), atol=1e-6, rtol=0)


@pytest.mark.parametrize("selection", ["farthest", "as_released", "random"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s['n']}x{s['d']}")
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_fast_equals_plain(home, sizes, selection):
    sizes = dict(sizes)
    features = class_features(sizes.pop("n"), sizes.pop("d"))
    how = sizes | dict(selection=selection)
    fast = sample_outliers(features, **how, generator=seeded(device=home))
    same(fast, sample_outliers_plain(features.double(), **how, generator=seeded(device=home)))


@pytest.mark.parametrize("d", [48, 384, 768])
def test_fast_equals_plain_where_products_are_in_tf32(d, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    features, how = class_features(500, d), dict(k=300, generator=None)
    how["generator"] = seeded()
    fast = sample_outliers(features, **how)
    how["generator"] = seeded()
    same(fast, sample_outliers_plain(features.double(), **how))


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_classes_and_rounds_are_those_of_one_class_and_one_round(home):
    features, labels = class_features(400, 64), torch.arange(400, device="cuda") % 2
    how = dict(k=100, n_boundary=20, n_candidates=300)
    outliers, classes = sample_outliers_per_class(
        features, labels, n_classes=2, rounds=3, **how, generator=seeded(7, home)
    )
    seed = int(torch.randint(2**62, (), generator=seeded(7, home), device=home))
    for c in range(2):
        for r in range(3):
            generator = round_generator(seed, c, r, home)
            alone = sample_outliers_plain(
                features[labels == c].double(), **how, generator=generator
            )
            same(outliers.view(2, 3, 40, 64)[c, r], alone)
    assert classes.tolist() == [0] * 120 + [1] * 120


def test_noise_of_the_cpu_gives_the_outliers_of_the_cpu():
    features, how = class_features(200, 64), dict(k=120, n_boundary=20, n_candidates=300)
    on_gpu = sample_outliers(features, **how, generator=seeded())
    on_cpu = sample_outliers(features.cpu(), **how, generator=seeded())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu)


def test_the_compiled_loop_counts_as_plain_torch_does():
    pytest.importorskip("triton")
    on_gpu = knn_pruning._on_gpu(torch.device("cuda", 0))
    assert on_gpu is not knn_pruning.fewer_than_plain, "Triton could not be used"
    g = seeded(device="cuda")
    for b, s, n in ((7, 31, 90), (50, 900, 500), (8, 4, 128), (1, 1, 1), (3, 5, 129)):
        gram, drift = (torch.randn(x, n, generator=g, device="cuda") for x in (b, s))
        line = 3 * torch.randn(s, b, generator=g, device="cuda")
        line[0, 0] = gram[0, n // 2] + drift[0, n // 2]  # on the line counts as nearer
        for k in {1, -(-n // 2), n}:
            few = on_gpu(k, gram, drift, line)
            assert torch.equal(few, knn_pruning.fewer_than_plain(k, gram, drift, line))


def test_the_bound_of_memory_changes_nothing(monkeypatch):
    features, how = class_features(90, 12), dict(k=20, n_boundary=6, n_candidates=40)
    whole = sample_outliers(features, **how, generator=seeded())
    monkeypatch.setattr(knn_pruning, "MEMORY", 1)
    assert torch.equal(sample_outliers(features, **how, generator=seeded()), whole)


@pytest.mark.parametrize(("n", "limit"), [(500, 300), (5000, 1000)])
def test_memory_is_bounded(n, limit):
    features = class_features(n, 768)
    labels = torch.zeros(n, dtype=torch.long, device="cuda")
    how = dict(n_classes=1, rounds=10, k=n * 3 // 5)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sample_outliers_per_class(features, labels, **how, generator=seeded(device="cuda"))
    assert torch.cuda.max_memory_allocated() - before < limit * 1e6
