"""The embedded benchmark: what a seed fixes, and what it leaves alone."""

import pytest
import torch
from torch.testing import assert_close

from oal_lite.benchmarks import ImageSet, generator_for, load

SIZES = dict(n_train=23, n_val=10, n_test=12, n_ood=4)


@pytest.fixture(scope="module")
def benchmark_():
    return load("shapes", seed=5, **SIZES)


def all_sets(b):
    ood = [*b.near.items(), *b.far.items(), *b.validation_ood.items()]
    return {"train": b.train, "val": b.val, "test": b.test, **dict(ood)}


def test_sizes_are_the_asked_ones_and_classes_are_balanced(benchmark_):
    b = benchmark_
    assert [len(s) for s in (b.train, b.val, b.test)] == [23, 10, 12]
    assert {len(s) for g in (b.near, b.far, b.validation_ood) for s in g.values()} == {4}
    assert torch.bincount(b.train.labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert torch.bincount(b.val.labels).tolist() == [1] * 10
    assert len(b.class_names) == 10 and b.image_size == 32


def test_all_sets_hold_byte_images_of_one_size(benchmark_):
    for name, s in all_sets(benchmark_).items():
        assert s.images.dtype == torch.uint8 and s.images.shape[1:] == (3, 32, 32), name
        assert len(s.images) == len(s.labels), name
        assert s.images.float().std() > 10, f"{name} is blank"


def test_ood_images_carry_the_label_minus_one(benchmark_):
    b = benchmark_
    for group in (b.near, b.far, b.validation_ood):
        assert all((s.labels == -1).all() for s in group.values())
    assert ImageSet.ood(b.val.images).labels.tolist() == [-1] * 10


def test_the_groups_share_neither_a_name_nor_an_image(benchmark_):
    b = benchmark_
    names = [*b.class_names, *b.near, *b.far, *b.validation_ood]
    assert len(names) == len(set(names)) == 10 + 6 + 4 + 6
    images = torch.cat([s.images for s in all_sets(b).values()])
    assert len(images.unique(dim=0)) == len(images)


def test_a_seed_fixes_every_pixel_and_another_changes_every_set(benchmark_):
    again, other = (all_sets(load("shapes", seed=s, **SIZES)) for s in (5, 6))
    for name, s in all_sets(benchmark_).items():
        assert_close(s.images, again[name].images, atol=0, rtol=0)
        assert not torch.equal(s.images, other[name].images), name


def test_more_ood_images_leave_the_id_images_as_they_are(benchmark_):
    more = load("shapes", seed=5, **SIZES | {"n_ood": 7})
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(more, split).images, getattr(benchmark_, split).images)
    longer = load("shapes", seed=5, **SIZES | {"n_train": 40})
    assert torch.equal(longer.test.images, benchmark_.test.images)


def test_noise_is_uniform_and_photos_are_smooth():
    far = load("shapes", n_train=10, n_val=10, n_test=10, n_ood=50).far
    noise, photos = far["noise"].images.float(), far["photos"].images.float()
    assert noise.mean().item() == pytest.approx(127.5, abs=1)
    assert noise.std().item() == pytest.approx(73.9, abs=1)  # sqrt((256^2 - 1) / 12)
    assert photos.diff(dim=-1).abs().mean() < 0.2 * noise.diff(dim=-1).abs().mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("imagenet"), "unknown benchmark 'imagenet'; choose one of shapes"),
        (lambda: load("shapes", n_train=9), "n_train=9 is too few: 10 classes need one image each"),
        (lambda: load("shapes", n_val=0), "n_val=0 is too few"),
        (lambda: load("shapes", n_test=-5), "n_test=-5 is too few"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- one seed, split by stage ------------------------------------------------------------------


def test_the_same_stage_has_the_same_numbers_and_any_other_has_its_own():
    keys = [(0,), (1,), (0, "train"), (0, "test"), (0, "train", "star"), (10, "train"), (-1,)]
    draws = [torch.rand(64, generator=generator_for(*key)) for key in keys]
    for key, draw in zip(keys, draws, strict=True):
        assert torch.equal(draw, torch.rand(64, generator=generator_for(*key)))
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.5  # 4 standard deviations of chance; a shared stream has 1


def test_a_stage_is_not_moved_by_what_another_draws():
    first = generator_for(3, "views")
    torch.rand(100, generator=generator_for(3, "knn"))
    torch.manual_seed(99)
    torch.rand(100)
    assert torch.equal(
        torch.rand(8, generator=first), torch.rand(8, generator=generator_for(3, "views"))
    )
