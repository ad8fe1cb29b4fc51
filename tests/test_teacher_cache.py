"""Teacher features on disk: what decides a file, and what becomes of a damaged one."""

import json
import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from oal_lite import teacher_cache
from oal_lite.teacher import Preprocessing, Teacher
from oal_lite.teacher_cache import cached_features, view_key
from oal_lite.views import draw_views


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=6, seed=0):
    return torch.randint(256, (n, 3, 32, 32), generator=seeded(seed), dtype=torch.uint8)


def draw(teacher, folder, seed=0, n_views=2, images=None):
    images = photos() if images is None else images
    labels = torch.arange(len(images)) % 3
    return draw_views(
        images, labels, teacher, n_views=n_views, generator=seeded(seed), cache=folder
    )


def refuse(*args, **kwargs):
    raise AssertionError("the teacher looked again")


def test_the_second_time_the_teacher_does_not_look(tiny_teacher, tmp_path, monkeypatch):
    plain = draw(tiny_teacher, None)
    first = draw(tiny_teacher, tmp_path)
    monkeypatch.setattr(Teacher, "forward", refuse)
    second = draw(tiny_teacher, tmp_path)
    for views in (first, second):
        assert torch.equal(views.images, plain.images)
        assert torch.equal(views.teacher_features, plain.teacher_features)
        assert torch.equal(views.teacher_logits, plain.teacher_logits)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("i", [0, 1])
def test_kept_features_are_those_of_the_very_view(tiny_teacher, tmp_path, i):
    draw(tiny_teacher, tmp_path)
    views = draw(tiny_teacher, tmp_path)
    seen = tiny_teacher(views.images[i])
    assert_close(views.teacher_features[i], seen.features, atol=1e-5, rtol=0)
    assert_close(views.teacher_logits[i], seen.logits, atol=1e-5, rtol=0)
    assert (views.teacher_features[i] - tiny_teacher(photos()).features).abs().max() > 1e-3


def test_everything_that_decides_the_features_is_in_the_key(tiny_teacher, tmp_path, monkeypatch):
    def key(images=None, teacher=tiny_teacher, n_views=2, seed=0, dtype="float32"):
        images = photos() if images is None else images
        made = view_key(images, teacher, n_views=n_views, generator=seeded(seed), dtype=dtype)
        return json.dumps(made, sort_keys=True)

    other_pixel = photos()
    other_pixel[5, 2, 31, 31] ^= 1
    from copy import deepcopy

    other_weight = deepcopy(tiny_teacher)
    other_weight.model.classifier.bias.data[0] += 1e-6
    other_size = deepcopy(tiny_teacher)  # the same weights see the images larger
    other_size.model.config.image_size = 64
    keys = {
        key(), key(other_pixel), key(teacher=other_weight), key(teacher=other_size),
        key(n_views=3), key(seed=1), key(dtype="float16"),
    }  # fmt: skip
    assert len(keys) == 7 and key() in keys
    monkeypatch.setattr(teacher_cache, "code_version", lambda: "another")
    assert key() not in keys


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"}", b" ", 1)),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: np.save(path, np.array([{"a": "pickle"}], dtype=object), allow_pickle=True),
        lambda path: np.save(path, np.load(path).astype(np.float16)),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("{}"),
    ],
)
def test_a_damaged_file_is_made_again(tiny_teacher, tmp_path, caplog, damage):
    plain = draw(tiny_teacher, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = draw(tiny_teacher, tmp_path)
    assert torch.equal(again.teacher_features, plain.teacher_features)
    assert "computed again" in caplog.text
    caplog.clear()
    draw(tiny_teacher, tmp_path)
    assert not caplog.text, "the damaged file was not replaced"


def test_features_without_their_description_do_not_count(tiny_teacher, tmp_path, monkeypatch):
    draw(tiny_teacher, tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    monkeypatch.setattr(Teacher, "forward", refuse)
    with pytest.raises(AssertionError, match="looked again"):
        draw(tiny_teacher, tmp_path)


def test_large_files_are_mapped_and_indexed_like_any_tensor(tmp_path, monkeypatch):
    features = torch.randn(3, 50, 8, generator=seeded())
    key = {"shape": [3, 50, 8], "dtype": "float32"}
    monkeypatch.setattr(teacher_cache, "IN_MEMORY", 100)
    mapped = cached_features(tmp_path, key, lambda: features)
    view, pick = torch.tensor([0, 2, 1]), torch.tensor([4, 49, 0])
    assert torch.equal(mapped[view, pick], features[view, pick])
    mapped.zero_()  # a private copy: the file stays as it is
    assert torch.equal(cached_features(tmp_path, key, refuse), features)


def test_half_precision_halves_the_file(tmp_path):
    features = torch.randn(2, 40, 16, generator=seeded())
    sizes = []
    for dtype in ("float32", "float16"):
        key = {"shape": [2, 40, 16], "dtype": dtype}
        kept = cached_features(tmp_path / dtype, key, lambda: features)
        assert kept.dtype == getattr(torch, dtype)
        assert_close(kept.float(), features, atol=2e-3, rtol=1e-3)
        sizes.append(next((tmp_path / dtype).glob("*.npy")).stat().st_size - 128)
    assert sizes == [2 * 40 * 16 * 4, 2 * 40 * 16 * 2]


def test_an_unknown_number_format_is_named(tiny_teacher, own_errors):
    with pytest.raises(ValueError, match="dtype='int8'; choose one of float32, float16"):
        view_key(photos(), tiny_teacher, n_views=1, generator=seeded(), dtype="int8")


def test_mean_and_spread_of_the_images_are_in_the_key(tiny_teacher):
    shown = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    keys = [
        view_key(
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            teacher,
            n_views=1,
            generator=torch.Generator().manual_seed(0),
        )["teacher"]
        for teacher in (tiny_teacher, Teacher(deepcopy(tiny_teacher.model), shown))
    ]
    assert keys[0] != keys[1]
