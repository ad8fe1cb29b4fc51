"""The commands that make the shipped small models, at a size of seconds."""

import json

import pytest
import torch
import torch.nn.functional as F

from oal_lite import pretrain
from oal_lite.diffusion_outliers import load_pipeline, synthesise, word_embeddings
from oal_lite.shapes import ID_SHAPES
from oal_lite.teacher import Teacher

TINY = [
    "n_images=40", "batch_size=4", "teacher_steps=2", "vae_steps=2", "unet_steps=2"
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "recognised", lambda *_: {})  # it would train a student
        for part in ("teacher", "diffusion"):
            settings = [a for s in TINY for a in ("--set", s)]
            assert pretrain.main([part, "--out", str(folder), *settings]) == 0
    return folder


def test_the_commands_leave_models_that_load_and_work_together(made):
    teacher = Teacher.from_pretrained(made / "teacher")
    pipeline = load_pipeline(made / "pipeline")
    outliers = torch.randn(2, teacher.feature_dim)
    assert synthesise(pipeline, outliers, "heart", steps=2).shape == (2, 4, 8, 8)


def test_class_words_stay_the_teachers_class_means_through_training(made):
    teacher = Teacher.from_pretrained(made / "teacher")
    settings = pretrain.PretrainSettings(n_images=40)
    data = pretrain.pretraining_images(settings)
    features = F.normalize(teacher(data.images).features, dim=1)
    means = torch.stack([features[data.labels == c].mean(0) for c in range(10)])
    words = word_embeddings(load_pipeline(made / "pipeline"), ID_SHAPES)
    torch.testing.assert_close(words, F.normalize(means, dim=1), atol=2e-3, rtol=0)  # half floats


def test_the_manifest_names_settings_and_every_file(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert {
        part: manifest[part]["settings"]["unet_steps"] for part in pretrain.PARTS
    } == dict.fromkeys(pretrain.PARTS, 2)
    assert "teacher/model.safetensors" in manifest["sha256"]
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in manifest["sha256"]


def test_given_words_are_one_token_each_whatever_they_share():
    words = ["star", "start", "art", "tart", *ID_SHAPES]
    tokenizer = pretrain.build_tokenizer(words)
    for word in words:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    assert len(tokenizer("smart", add_special_tokens=False).input_ids) > 1


@pytest.mark.parametrize("assignment", ["steps=3", "unet_steps", "unet_steps=many"])
def test_a_wrong_setting_is_refused(assignment):
    with pytest.raises(ValueError):
        pretrain.main(["teacher", "--set", assignment])


def test_no_file_names_a_folder_of_this_machine(made):
    for path in made.rglob("*.json"):
        assert str(made) not in path.read_text(), path
