"""The shipped small models are what the manifest says, and good enough to teach with."""

import hashlib
import json

import pytest
import torch
import torch.nn.functional as F

from oal_lite.benchmarks import load
from oal_lite.diffusion_outliers import decode, load_pipeline, synthesise, word_embeddings
from oal_lite.pretrain.settings import ASSETS
from oal_lite.shapes import ID_SHAPES
from oal_lite.teacher import Teacher


@pytest.fixture(scope="module")
def manifest():
    return json.loads((ASSETS / "manifest.json").read_text())


@pytest.fixture(scope="module")
def teacher():
    return Teacher.from_pretrained(ASSETS / "teacher")


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(ASSETS / "pipeline")


def test_every_shipped_file_has_the_hash_of_the_manifest(manifest):
    files = [f for f in ASSETS.rglob("*") if f.is_file() and f.name != "manifest.json"]
    hashes = {str(f.relative_to(ASSETS)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert hashes == manifest["sha256"]


def test_weights_are_safetensors_and_small():
    files = [f for f in ASSETS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 15e6
    assert {f.suffix for f in files} == {".json", ".safetensors"}


def test_the_teacher_knows_the_shapes_clearly_better_than_a_student(teacher):
    val = load("shapes", n_ood=1).val
    accuracy = (teacher(val.images).logits.argmax(1) == val.labels).float().mean()
    assert accuracy > 0.99  # the cross-entropy student reaches 97 to 98 %


def test_class_words_are_the_teachers_class_means(teacher, pipeline):
    train = load("shapes", n_ood=1).train
    features = F.normalize(teacher(train.images[::5]).features, dim=1)
    means = torch.stack([features[train.labels[::5] == c].mean(0) for c in range(10)])
    cosine = F.normalize(means, dim=1) @ F.normalize(word_embeddings(pipeline, ID_SHAPES), dim=1).T
    assert (cosine.argmax(1) == torch.arange(10)).all()
    assert (cosine.diagonal() > 0.98).all()


def test_samples_from_plain_words_are_named_as_they_were_asked(teacher, pipeline, manifest):
    """As often as the manifest says, within what 120 samples can tell (three standard errors)."""
    words = word_embeddings(pipeline, ID_SHAPES).repeat_interleave(12, 0)
    images = decode(pipeline, synthesise(pipeline, words, ID_SHAPES, steps=20))
    asked = torch.arange(10).repeat_interleave(12)
    share = (teacher(images).logits.argmax(1) == asked).float().mean()
    measured = manifest["unet"]["measured"]
    expected = measured["named_right_by_teacher"]
    assert min(expected, measured["named_right_by_resnet"]) >= 0.9
    assert abs(share - expected) < 3 * (expected * (1 - expected) / 120) ** 0.5
