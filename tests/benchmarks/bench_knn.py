"""k-NN outliers: the fast form against the plain one, how it grows, and what memory it takes."""

import pytest
import torch
from measure import run_python, scaling

from oal_lite.knn_outliers import (
    boundary_points,
    candidates_around,
    draw_noise,
    round_generator,
    sample_outliers,
    sample_outliers_per_class,
    sample_outliers_plain,
    select_candidates,
    unit,
)

SIZES = dict(k=300, n_boundary=50, n_candidates=1500, keep=2)  # as released


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def class_features(n, d, seed=0):
    """One class as a network sees it: a common direction, a few strong axes, a little noise."""
    g = seeded(1000 + seed)
    axes = torch.randn(5, d, generator=g) * torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2])[:, None]
    spread = torch.randn(n, 5, generator=g) @ axes + 0.3 * torch.randn(n, d, generator=g)
    return 3 * (torch.randn(d, generator=g) + spread)


def ten_rounds_plain(features, home):
    seed = int(torch.randint(2**62, (), generator=seeded(0, home), device=home))
    return torch.cat([
        sample_outliers_plain(features, **SIZES, generator=round_generator(seed, 0, r, home))
        for r in range(10)
    ])  # fmt: skip


def ten_rounds(features, home):
    labels = torch.zeros(len(features), dtype=torch.long, device=features.device)
    return sample_outliers_per_class(
        features, labels, n_classes=1, rounds=10, **SIZES, generator=seeded(0, home)
    )[0]


@pytest.mark.parametrize("noise", ["drawn there", "drawn on the CPU"])
def bench_ten_rounds_of_a_class(keep_ratio, device, noise):
    if device.type == "cpu" and noise == "drawn on the CPU":
        pytest.skip("there is the CPU")
    home = device if noise == "drawn there" else torch.device("cpu")
    features = class_features(500, 768).to(device)
    exact = ten_rounds_plain(features[:, :96].double(), home)
    torch.testing.assert_close(
        ten_rounds(features[:, :96], home).double(), exact, atol=1e-6, rtol=0
    )
    aim = 50 if device.type == "cpu" else 30 if home.type != "cpu" else None
    keep_ratio(
        "k-NN, 10 rounds (a class of the preset)" + ", noise from the CPU" * (home != device),
        lambda: ten_rounds_plain(features, home),
        lambda: ten_rounds(features, home),
        repeats=3 if device.type == "cpu" else 7, target=aim,
        against="all candidates built, one matrix product, torch.topk; float32",
    )  # fmt: skip


@pytest.mark.parametrize("selection", ["farthest", "as_released"])
def bench_one_round_alone(keep_ratio, device, selection):
    features, how = class_features(500, 768).to(device), SIZES | dict(selection=selection)
    exact = sample_outliers_plain(features.double(), **how, generator=seeded(0, device))
    fast = sample_outliers(features, **how, generator=seeded(0, device))
    torch.testing.assert_close(fast.double(), exact, atol=1e-6, rtol=0)
    keep_ratio(
        f"k-NN, 1 round ({selection})",
        lambda: sample_outliers_plain(features, **how, generator=seeded(0, device)),
        lambda: sample_outliers(features, **how, generator=seeded(0, device)),
        repeats=5,
        against="the same, but the boundary is found for one round alone",
    )


def plain_with_numpys_selection(features):
    """The plain form with the quickest k-th value there is on a CPU, numpy's partition."""
    z = unit(features)
    boundary = z[boundary_points(features, SIZES["k"], SIZES["n_boundary"])]
    noise = draw_noise(SIZES["n_candidates"], z.shape[1], seeded(), z.device)
    candidates = candidates_around(boundary, noise, 0.07).flatten(0, 1)
    kth = []
    for part in candidates.split(8192):
        cosines = (part @ z.T).numpy()
        cosines.partition(len(z) - SIZES["k"], axis=1)
        kth.append(torch.from_numpy(2 - 2 * cosines[:, len(z) - SIZES["k"]]))
    distances = torch.cat(kth).view(SIZES["n_boundary"], -1)
    return candidates[select_candidates(distances, SIZES["keep"])]


def bench_against_a_quicker_plain_form(keep_ratio, on_cpu):
    features = class_features(500, 768)
    keep_ratio(
        "k-NN, 1 round, numpy's selection in both",
        lambda: plain_with_numpys_selection(features),
        lambda: sample_outliers(features, **SIZES, generator=seeded()),
        repeats=5,
        against="the plain form with numpy.partition for torch.topk",
    )


MEMORY = """
import torch
from measure import memory_peak, memory_now
from oal_lite.knn_outliers import sample_outliers
g = torch.Generator().manual_seed(0)
features = torch.randn({n}, 768, generator=g) + 1
sample_outliers(features[:60], k=9, n_boundary=3, n_candidates=20)  # numba and its machine code
before = memory_now()
sample_outliers(features, generator=g)
print(memory_peak() - before)
"""


@pytest.mark.parametrize(("n", "limit"), [(500, 300), (5000, 1000)])
def bench_memory(findings, on_cpu, n, limit):
    extra = float(run_python(MEMORY.format(n=n)))
    assert extra > 5, "the noise alone takes 4.6 MB: nothing was measured"
    findings["limits"][f"k-NN, extra memory at n = {n}, MB"] = {"value": extra, "limit": limit}


@pytest.mark.parametrize(("n", "limit"), [(500, 300), (5000, 1000)])
def bench_memory_of_a_gpu(findings, device, n, limit):
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    features = class_features(n, 768).to(device)
    ten_rounds(features, device)  # what libraries keep for good
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ten_rounds(features, device)
    extra = (torch.cuda.max_memory_allocated() - before) / 1e6
    findings["limits"][f"k-NN, 10 rounds, extra GPU memory at n = {n}, MB"] = {
        "value": extra, "limit": limit,
    }  # fmt: skip


FIRST = """
import time, torch
from oal_lite.knn_outliers import sample_outliers
features = torch.randn(60, 8) + 1
started = time.perf_counter()
sample_outliers(features, k=9, n_boundary=3, n_candidates=20)
print(time.perf_counter() - started)
"""


def bench_first_call(findings, on_cpu):
    found = float(run_python(FIRST))
    findings["limits"]["k-NN, first call (compiles), s"] = {"value": found, "limit": None}


@pytest.mark.parametrize(
    ("what", "sizes"),
    [
        ("features n", [500, 1000, 2000, 4000]),
        ("dimensions d", [192, 384, 768, 1536]),
        ("noises", [750, 1500, 3000, 6000]),
        ("classes", [1, 2, 4, 8]),
        ("outliers", [100, 200, 400, 800]),
    ],
)
def bench_growth(findings, device, on_cpu, what, sizes):
    def prepare(size):
        n, d, s, c, rounds = 500, 768, 1500, 1, 1
        if what == "features n":
            n = size
        elif what == "dimensions d":
            d = size
        elif what == "noises":
            s = size
        elif what == "classes":
            c, d = size, 192
        else:
            rounds = size // (SIZES["n_boundary"] * SIZES["keep"])
        features = class_features(n * c, d).to(device)
        labels = torch.arange(n * c, device=device) % c
        how = SIZES | dict(k=n * 3 // 5, n_candidates=s)
        return lambda: sample_outliers_per_class(
            features, labels, n_classes=c, rounds=rounds, **how, generator=seeded()
        )

    findings["scaling"][f"k-NN: {what}"] = scaling(sizes, prepare)
