"""Batches that are made smaller where memory does not suffice; memory is what a test says it is."""

import logging
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from oal_lite.batches import in_batches
from oal_lite.diffusion_outliers import decode, encode, synthesise

SHORT = "CUDA out of memory. Tried to allocate 2.00 GiB."


def worker(limit, message=SHORT):
    """Work that suffices for `limit` things, and the sizes that it was given."""
    tried = []

    def work(part):
        tried.append(part.stop - part.start)
        if tried[-1] > limit:
            raise torch.OutOfMemoryError(message)
        return list(range(part.start, part.stop))

    return work, tried


def test_half_as_many_are_tried_until_they_fit_and_what_was_too_many_is_not_tried_again(caplog):
    work, tried = worker(limit=3)
    with caplog.at_level(logging.WARNING):
        assert in_batches(work, 9, 8) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    assert "memory does not suffice for 8 at a time; trying 4" in caplog.text


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 50))
def test_everything_is_done_once_and_in_order(n, batch_size, limit):
    work, tried = worker(limit)
    with patch("accelerate.utils.memory.clear_device_cache"):  # hundreds take half a minute
        assert sum(in_batches(work, n, batch_size), []) == list(range(n))
    assert max(tried, default=0) <= batch_size


def test_where_one_alone_is_too_many_torch_says_so():
    work, tried = worker(limit=0)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        in_batches(work, 5, 4)
    assert tried == [4, 2, 1]


def test_another_error_is_no_reason_to_try_again():
    work, tried = worker(limit=3, message="shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_batches(work, 5, 4)
    assert tried == [4]


@pytest.fixture
def small(tiny_pipeline, monkeypatch):
    """A pipeline whose networks take three images at a time, or six under guidance."""
    for network, limit in ((tiny_pipeline.unet, 6), (tiny_pipeline.vae, 3)):
        for name in {"forward", "encode", "decode"} & set(dir(network)):
            plain = getattr(network, name)

            def limited(x, *args, plain=plain, limit=limit, **how):
                if len(x) > limit:
                    raise torch.OutOfMemoryError(SHORT)
                return plain(x, *args, **how)

            monkeypatch.setattr(network, name, limited)
    return tiny_pipeline


def test_latents_and_images_are_those_of_a_smaller_batch(small):
    g = torch.Generator().manual_seed(0)
    outliers = torch.randn(5, 32, generator=g)
    made = [
        synthesise(small, outliers, "heart", steps=2, batch_size=size,
                   generator=torch.Generator().manual_seed(1))
        for size in (5, 2)
    ]  # fmt: skip
    assert_close(made[0], made[1], rtol=1e-4, atol=1e-5)
    images = decode(small, made[0], batch_size=5)
    assert_close(images, decode(small, made[0], batch_size=1), rtol=0, atol=1)
    assert_close(encode(small, images, batch_size=5), encode(small, images, batch_size=1))
