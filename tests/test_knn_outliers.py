import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from oal_lite import knn_outliers, knn_pruning
from oal_lite.knn_outliers import (
    boundary_points,
    candidates_around,
    draw_noise,
    kth_distance,
    round_generator,
    sample_outliers,
    sample_outliers_per_class,
    sample_outliers_plain,
    select_candidates,
    unit,
)

SELECTIONS = ["farthest", "as_released", "random"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def class_features(n, d, seed=0, dtype=torch.float32):
    """One class as a network sees it: a common direction, a few strong axes, a little noise."""
    g = seeded(1000 + seed)  # no noise of these tests starts with the same numbers
    axes = torch.randn(5, d, generator=g) * torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2])[:, None]
    spread = torch.randn(n, 5, generator=g) @ axes + 0.3 * torch.randn(n, d, generator=g)
    return (3 * (torch.randn(d, generator=g) + spread)).to(dtype)


def candidates_and_distances(features, *, k, n_boundary, n_candidates, sigma, generator):
    """All candidates (b, s, d) and, by scikit-learn, their k-th squared distances (b, s)."""
    z = unit(features.double())
    boundary = boundary_points(features.double(), k, n_boundary)
    noise = draw_noise(n_candidates, z.shape[1], generator, z.device)
    candidates = candidates_around(z[boundary], noise, sigma)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z.numpy())
    distances = search.kneighbors(candidates.flatten(0, 1).numpy())[0][:, -1] ** 2
    return candidates, torch.from_numpy(distances).view(n_boundary, n_candidates)


def own_block_ranks(outliers, candidates, distances):
    """For each outlier, how many candidates of its own block lie farther than it does."""
    b, s, d = candidates.shape
    blocks = outliers.double().view(b, -1, d)
    gaps = torch.cdist(blocks, candidates)
    assert gaps.amin(2).max() < 1e-5, "an outlier is no candidate of its own boundary point"
    kept = distances.gather(1, gaps.argmin(2))
    return (distances[:, None] > kept[..., None]).sum(-1)


# --- the pieces, against scikit-learn ----------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 40])
def test_kth_distance_and_boundary_match_scikit_learn(k):
    z = unit(class_features(40, 6, dtype=torch.float64))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z.numpy())
    expected = search.kneighbors(z.numpy())[0][:, -1] ** 2
    np.testing.assert_allclose(kth_distance(z, z, k), expected, atol=1e-12)
    # Ties are real: all at k = 1, and at k = n two points may be each other's farthest.
    order = np.argsort(-expected.round(10), kind="stable")
    features = z * torch.rand(40, 1, generator=seeded()).double().add(0.1)
    assert boundary_points(features, k, 9).tolist() == order[:9].tolist()


def test_kth_distance_of_vectors_off_the_sphere():
    bank = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    queries = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert kth_distance(queries, bank, 2).tolist() == [25.0, 16.0]


def test_boundary_ties_go_to_the_lower_index():
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert boundary_points(square, k=2, n_boundary=3).tolist() == [0, 1, 2]


# --- the fast form makes the picks of brute force in float64 -----------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    ("n", "d", "k", "n_boundary", "n_candidates", "sigma", "keep"),
    [
        (200, 64, 120, 20, 300, 0.07, 2),
        (150, 768, 90, 10, 200, 0.07, 2),
        (60, 16, 60, 60, 50, 0.3, 1),  # k = n, and every point on the boundary
        (40, 8, 5, 7, 31, 0.1, 31),  # every candidate kept; a count that b does not divide
        (30, 2, 4, 6, 200, 1.0, 3),  # the noise cancels some points almost entirely
        (30, 2, 4, 6, 50, 0.0, 3),  # no noise: all candidates of a point are tied
        (30, 5, 4, 6, 50, 1e4, 3),  # nothing but noise
        (1, 3, 1, 1, 1, 0.1, 1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_equals_plain(selection, n, d, k, n_boundary, n_candidates, sigma, keep, seed):
    features = class_features(n, d, seed)
    sizes = dict(k=k, n_boundary=n_boundary, n_candidates=n_candidates, sigma=sigma, keep=keep)
    fast = sample_outliers(features, **sizes, selection=selection, generator=seeded(seed))
    plain = sample_outliers_plain(
        features.double(), **sizes, selection=selection, generator=seeded(seed)
    )
    assert fast.shape == (n_boundary * keep, d) and fast.dtype == features.dtype
    torch.testing.assert_close(fast.double(), plain, atol=1e-6, rtol=0)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fast_equals_plain_at_any_small_size(data):
    n, d = data.draw(st.integers(1, 12), "n"), data.draw(st.integers(1, 5), "d")
    n_candidates = data.draw(st.integers(1, 20), "n_candidates")
    sizes = dict(
        k=data.draw(st.integers(1, n), "k"),
        n_boundary=data.draw(st.integers(1, n), "n_boundary"),
        n_candidates=n_candidates,
        sigma=data.draw(st.sampled_from([0.0, 1e-9, 0.07, 1.0, 50.0]), "sigma"),
        keep=data.draw(st.integers(1, n_candidates), "keep"),
        selection=data.draw(st.sampled_from(SELECTIONS), "selection"),
    )
    # Small integers make coinciding features and exactly tied distances common.
    cell = st.integers(-2, 2)
    rows = st.lists(cell, min_size=d, max_size=d).filter(any)
    features = torch.tensor(data.draw(st.lists(rows, min_size=n, max_size=n), "features"))
    seed = data.draw(st.integers(0, 99), "seed")
    fast = sample_outliers(features.double(), **sizes, generator=seeded(seed))
    plain = sample_outliers_plain(features.double(), **sizes, generator=seeded(seed))
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("d", [4, 256])
def test_fast_is_exact_where_autocast_degrades_its_products(d):
    features = class_features(120, d)
    sizes = dict(k=70, n_boundary=15, n_candidates=300)
    with torch.autocast("cpu", torch.bfloat16):
        fast = sample_outliers(features, **sizes, generator=seeded())
    plain = sample_outliers_plain(features.double(), **sizes, generator=seeded())
    torch.testing.assert_close(fast.double(), plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
def test_the_compiled_loop_counts_as_plain_torch_does(threads):
    g = seeded()
    gram, drift = torch.randn(7, 90, generator=g), torch.randn(31, 90, generator=g)
    line = 3 * torch.randn(31, 7, generator=g)
    line[0, 0] = gram[0, 3] + drift[0, 3]  # on the line counts as nearer
    for k in (1, 40, 90):
        few = knn_pruning.fewer_than(k, gram, drift, line, threads)
        assert torch.equal(few, knn_pruning.fewer_than_plain(k, gram, drift, line))
        assert 0 < few.sum() < few.numel()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_bound_of_memory_changes_nothing(selection, monkeypatch):
    features, labels = class_features(90, 12), torch.arange(90) % 2
    sizes = dict(n_classes=2, rounds=5, k=20, n_boundary=6, n_candidates=40, selection=selection)
    whole = sample_outliers_per_class(features, labels, **sizes, generator=seeded())
    for memory in (1, 40 * 600 * 2):
        monkeypatch.setattr(knn_pruning, "MEMORY", memory)
        parts = sample_outliers_per_class(features, labels, **sizes, generator=seeded())
        assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1], whole[1])


@pytest.mark.parametrize(("selection", "share"), [("farthest", 0.05), ("as_released", 0.25)])
def test_few_candidates_are_left_to_be_measured_exactly(selection, share, monkeypatch):
    """Else the fast form would be right, and slow."""
    left, plain = [], knn_pruning.undefeated

    def spy(*tensors, **how):
        left.append(len((found := plain(*tensors, **how))[0]))
        return found

    monkeypatch.setattr(knn_outliers, "undefeated", spy)
    sizes = dict(k=20, n_boundary=5, n_candidates=300, keep=2)
    for seed in range(3):
        features = class_features(200, 64, seed)
        sample_outliers(features, **sizes, selection=selection, generator=seeded(seed))
    assert len(left) == 3 and 10 <= min(left) <= max(left) <= share * 5 * 300, left


def test_fast_equals_plain_without_the_compiled_loop(monkeypatch):
    plain = knn_pruning.fewer_than_plain  # as on a GPU
    monkeypatch.setattr(knn_pruning, "fewer_than", lambda *tensors: plain(*tensors[:4]))
    features = class_features(120, 32)
    sizes = dict(k=70, n_boundary=15, n_candidates=300)
    fast = sample_outliers(features, **sizes, generator=seeded())
    plain = sample_outliers_plain(features.double(), **sizes, generator=seeded())
    torch.testing.assert_close(fast.double(), plain, atol=1e-6, rtol=0)


def test_sampling_leaves_torch_as_many_threads_as_it_had(monkeypatch):
    features, labels, threads = class_features(60, 8), torch.zeros(60, dtype=torch.long), []

    def note(*_):
        threads.append(torch.get_num_threads())
        raise MemoryError

    monkeypatch.setattr(knn_pruning, "fewer_than", note)
    monkeypatch.setattr(knn_pruning, "MEMORY", 1)  # a round at a time
    sizes, before = dict(k=9, n_boundary=3, n_candidates=20), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for rounds in (2, 1):  # noise of the second is drawn beside the first, or none is
            with pytest.raises(MemoryError):
                sample_outliers_per_class(features, labels, n_classes=1, rounds=rounds, **sizes)
            threads.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 3, 3, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton is tested in test_knn_gpu.py")
def test_where_triton_cannot_run_plain_torch_counts_and_says_so(caplog):
    knn_pruning._on_gpu.cache_clear()
    assert knn_pruning._on_gpu(torch.device("mps")) is knn_pruning.fewer_than_plain
    assert not caplog.records
    assert knn_pruning._on_gpu(torch.device("cuda", 0)) is knn_pruning.fewer_than_plain
    assert "Triton cannot be used on cuda:0" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_outliers_keep_the_dtype(dtype):
    features = class_features(30, 8, dtype=dtype)
    for sample in (sample_outliers, sample_outliers_plain):
        assert sample(features, k=9, n_boundary=3, n_candidates=20).dtype == dtype


# --- what each selection means -----------------------------------------------------------------

SIZES = dict(k=90, n_boundary=20, n_candidates=300, sigma=0.07)


def test_farthest_keeps_the_first_and_second_of_each_own_block():
    features = class_features(150, 32)
    block = candidates_and_distances(features, **SIZES, generator=seeded(3))
    outliers = sample_outliers(features, **SIZES, keep=2, generator=seeded(3))
    assert own_block_ranks(outliers, *block).tolist() == [[0, 1]] * 20


def test_as_released_keeps_candidates_of_any_rank():
    percentiles = {}
    for selection in SELECTIONS:
        ranks = []
        for seed in range(8):
            features = class_features(150, 32, seed)
            block = candidates_and_distances(features, **SIZES, generator=seeded(seed))
            outliers = sample_outliers(
                features, **SIZES, selection=selection, generator=seeded(seed)
            )
            ranks.append(own_block_ranks(outliers, *block))
        percentiles[selection] = 1 - torch.stack(ranks).double().mean().item() / 300
    # 320 ranks: the mean of as many even ones has a standard error of 0.016.
    assert percentiles["farthest"] > 0.99
    assert abs(percentiles["as_released"] - 0.5) < 0.065
    assert abs(percentiles["random"] - 0.5) < 0.065


@pytest.mark.parametrize("n_candidates", [300, 301])
def test_as_released_is_the_view_of_the_released_code(n_candidates):
    features, b, keep = class_features(150, 32), 20, 2
    sizes = SIZES | dict(n_candidates=n_candidates)
    candidates, distances = candidates_and_distances(features, **sizes, generator=seeded(5))

    # In numpy, step by step as that code goes: (1500, 50) where (50, 1500) lies in memory.
    scrambled = distances.numpy().ravel().reshape(n_candidates, b)
    kept = []
    for j in range(b):
        rows = np.argsort(-scrambled[:, j], kind="stable")[:keep]
        kept.extend(j * n_candidates + r for r in rows)

    picks = select_candidates(distances, keep, "as_released")
    assert picks.tolist() == kept
    outliers = sample_outliers(features, **sizes, selection="as_released", generator=seeded(5))
    torch.testing.assert_close(outliers.double(), candidates.flatten(0, 1)[kept], atol=1e-6, rtol=0)


def test_selections_by_hand():
    distances = torch.tensor([[1.0, 9.0, 3.0], [8.0, 5.0, 5.0]])
    assert select_candidates(distances, 2, "farthest").tolist() == [1, 2, 3, 4]
    # As (3, 2): [[1, 9], [3, 8], [5, 5]]; the columns' two largest are rows 2, 1 and rows 0, 1.
    assert select_candidates(distances, 2, "as_released").tolist() == [2, 1, 3, 4]


def test_random_picks_are_distinct_and_even():
    counts = torch.zeros(6)
    for seed in range(200):
        picks = select_candidates(torch.zeros(4, 6), 3, "random", seeded(seed)).view(4, 3)
        assert (picks // 6 == torch.arange(4)[:, None]).all()
        assert all(len(set(row)) == 3 for row in picks.tolist())
        counts += torch.bincount(picks.flatten() % 6, minlength=6)
    # 2,400 picks, 400 a position, binomial standard deviation 14.
    assert (counts - 400).abs().max() < 60


def test_all_selections_see_the_same_noise():
    features = class_features(30, 8)
    everything = [
        sample_outliers(
            features, k=9, n_boundary=1, n_candidates=12, keep=12, selection=s, generator=seeded(4)
        )
        for s in SELECTIONS
    ]
    in_order = [torch.stack(sorted(e, key=lambda row: row[0].item())) for e in everything]
    torch.testing.assert_close(in_order[1], in_order[0])
    torch.testing.assert_close(in_order[2], in_order[0])
    assert not torch.equal(everything[2], everything[0])


def test_at_paper_width_the_noise_swamps_the_point():
    features = class_features(60, 768)
    noise = draw_noise(400, 768, seeded(), features.device)
    assert (0.07 * noise).norm(dim=1).mean().item() == pytest.approx(1.94, abs=0.01)

    sizes = dict(k=36, n_boundary=20, n_candidates=300, sigma=0.07, keep=2)
    points = unit(features)[boundary_points(features.double(), 36, 20)].repeat_interleave(2, dim=0)
    cosines = {
        s: (sample_outliers(features, **sizes, selection=s, generator=seeded()) * points).sum(1)
        for s in SELECTIONS
    }
    assert cosines["as_released"].mean().item() == pytest.approx(0.458, abs=0.02)
    assert cosines["random"].mean().item() == pytest.approx(0.458, abs=0.02)
    assert cosines["farthest"].mean().item() == pytest.approx(0.458, abs=0.05)
    # The search prefers noise that leads away from the class, and so from the point itself.
    assert cosines["farthest"].mean() < cosines["random"].mean()


def test_outliers_are_unit_vectors_and_follow_the_generator():
    features = class_features(50, 16)
    sizes = dict(k=30, n_boundary=10, n_candidates=60)
    for selection in SELECTIONS:
        first, again, other = (
            sample_outliers(features, **sizes, selection=selection, generator=seeded(seed))
            for seed in (0, 0, 1)
        )
        torch.testing.assert_close(first.norm(dim=1), torch.ones(20))
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_length_of_the_features_does_not_matter_and_no_gradient_is_kept():
    features = class_features(50, 16).requires_grad_()
    sizes = dict(k=30, n_boundary=10, n_candidates=60)
    outliers = sample_outliers(features, **sizes, generator=seeded())
    assert not outliers.requires_grad
    stretched = features * torch.rand(50, 1, generator=seeded()).add(0.5)
    torch.testing.assert_close(sample_outliers(stretched, **sizes, generator=seeded()), outliers)


# --- class by class ----------------------------------------------------------------------------


def test_classes_and_rounds_are_independent():
    labels = torch.arange(3).repeat(40)[torch.randperm(120, generator=seeded())]
    features = class_features(120, 8) + 2 * torch.nn.functional.one_hot(labels, 8)
    sizes = dict(k=20, n_boundary=5, n_candidates=30, keep=2)
    outliers, classes = sample_outliers_per_class(
        features, labels, n_classes=3, rounds=3, **sizes, generator=seeded(7)
    )
    assert outliers.shape == (90, 8)
    assert classes.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert len(outliers.unique(dim=0)) > 80, "rounds or classes share their noise"

    seed = int(torch.randint(2**62, (), generator=seeded(7)))
    alone = sample_outliers(features[labels == 2], **sizes, generator=round_generator(seed, 2, 1))
    assert torch.equal(outliers.view(3, 3, 10, 8)[2, 1], alone)

    fewer, _ = sample_outliers_per_class(
        features, labels, n_classes=3, rounds=1, **sizes, generator=seeded(7)
    )
    assert torch.equal(outliers.view(3, 3, 10, 8)[:, 0], fewer.view(3, 10, 8))


def test_every_class_and_every_round_has_noise_of_its_own():
    features = class_features(40, 8)
    twice, labels = torch.cat([features, features]), torch.arange(2).repeat_interleave(40)
    sizes = dict(k=5, n_boundary=3, n_candidates=50, keep=2, rounds=2)
    outliers, _ = sample_outliers_per_class(twice, labels, n_classes=2, **sizes, generator=seeded())
    of = outliers.view(2, 2, 6, 8)  # classes, rounds; the classes are the same points
    for first, second in ((of[0, 0], of[1, 0]), (of[0, 0], of[0, 1]), (of[0, 1], of[1, 0])):
        assert not torch.isclose(first[:, None], second).all(-1).any()


def test_progress_shows_a_bar_only_when_asked(capsys):
    features, labels = class_features(20, 4), torch.arange(20) % 2
    sizes = dict(n_classes=2, rounds=1, k=5, n_boundary=2, n_candidates=9)
    sample_outliers_per_class(features, labels, **sizes)
    assert capsys.readouterr() == ("", "")
    sample_outliers_per_class(features, labels, **sizes, progress=True)
    assert "2/2" in capsys.readouterr().err


# --- bad input ---------------------------------------------------------------------------------


def features_with(value):
    features = class_features(20, 4)
    features[7] = value
    return features


@pytest.mark.parametrize("sample", [sample_outliers, sample_outliers_plain])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=21), "k = 21: expected 1 to 20"),
        (dict(k=0), "k = 0: expected 1 to 20"),
        (dict(n_boundary=0), "n_boundary = 0: expected 1 to 20"),
        (dict(n_boundary=21), "n_boundary = 21: expected 1 to 20"),
        (dict(keep=0), "keep = 0: expected 1 to 9"),
        (dict(keep=10), "keep = 10: expected 1 to 9"),
        (dict(sigma=-0.1), "sigma = -0.1: expected a finite number"),
        (dict(sigma=float("inf")), "sigma = inf: expected a finite number"),
        (dict(sigma=float("nan")), "sigma = nan: expected a finite number"),
        (dict(selection="nearest"), "'nearest'; choose one of farthest, as_released, random"),
        (dict(features=features_with(float("nan"))), r"rows \[7\] have NaN or infinite"),
        (dict(features=features_with(float("inf"))), r"rows \[7\] have NaN or infinite"),
        (dict(features=features_with(0.0)), r"rows \[7\] have zero length"),
        (dict(features=torch.ones(20)), r"shape \(20,\) .* floating-point matrix"),
        (dict(features=torch.ones(20, 2, 2)), r"shape \(20, 2, 2\) .* floating-point matrix"),
        (dict(features=torch.ones(20, 4).long()), "torch.int64: expected a floating-point"),
    ],
)
def test_bad_input_is_named(own_errors, sample, change, message):
    arguments = dict(k=5, n_boundary=3, n_candidates=9, features=class_features(20, 4)) | change
    with pytest.raises(ValueError, match=message):
        sample(**arguments)


def test_boundary_points_names_bad_input(own_errors):
    with pytest.raises(ValueError, match="k = 300: expected 1 to 20"):
        boundary_points(class_features(20, 4))
    with pytest.raises(ValueError, match="zero length"):
        boundary_points(features_with(0.0), k=5, n_boundary=3)


def test_select_candidates_names_bad_input(own_errors):
    with pytest.raises(ValueError, match="keep = 7: expected 1 to 6"):
        select_candidates(torch.zeros(4, 6), 7)
    with pytest.raises(ValueError, match="'nearest'; choose one of"):
        select_candidates(torch.zeros(4, 6), 2, "nearest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_classes=3), "class 2: k = 5: expected 1 to 0"),
        (dict(n_classes=1), r"labels hold \[1\]: expected 0 to n_classes - 1 = 0"),
        (dict(labels=torch.arange(20) % 2 - 1), r"labels hold \[-1\]"),
        (dict(labels=torch.zeros(19).long()), r"labels have shape \(19,\)"),
        (dict(rounds=0), "rounds=0"),
        (dict(features=features_with(0.0)), r"rows \[7\] have zero length"),
        (dict(features=torch.ones(20)), r"shape \(20,\) .* floating-point matrix"),
    ],
)
def test_per_class_names_bad_input(own_errors, change, message):
    arguments = dict(
        features=class_features(20, 4), labels=torch.arange(20) % 2, n_classes=2, rounds=1
    )
    with pytest.raises(ValueError, match=message):
        sample_outliers_per_class(**arguments | change, k=5, n_boundary=3, n_candidates=9)
