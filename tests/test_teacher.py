"""The teacher: whichever transformer it is, its features are one matrix product from its logits."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from oal_lite.pretrain.models import build_teacher
from oal_lite.teacher import Teacher, to_float


def photos(n=5, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def vit_model():
    """A random ViT for 32 px, the paper's kind of teacher."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=7, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViTForImageClassification(config)


@pytest.fixture(params=["cvt", "vit"])
def teacher(request, tiny_teacher, vit_model):
    return tiny_teacher if request.param == "cvt" else Teacher(vit_model)


def test_bytes_map_to_the_interval_from_minus_one_to_one():
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert_close(to_float(bytes_).flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_logits_are_the_classifier_applied_to_the_features(teacher):
    out = teacher(photos())
    head = teacher.model.classifier
    assert out.features.shape == (5, teacher.feature_dim) == (5, head.in_features)
    assert_close(out.features @ head.weight.T + head.bias, out.logits)
    assert out.logits.std(0).min() > 0, "the teacher does not look at the images"
    assert_close(out.logits, teacher.model(pixel_values=to_float(photos())).logits)


def test_features_of_a_vit_are_its_class_token_after_the_last_layer_norm(vit_model):
    out = Teacher(vit_model)(photos())
    hidden = vit_model.vit(pixel_values=to_float(photos())).last_hidden_state
    assert_close(out.features, hidden[:, 0])
    normalised = (out.features - vit_model.vit.layernorm.bias) / vit_model.vit.layernorm.weight
    assert_close(normalised.mean(1), torch.zeros(5), atol=1e-5, rtol=0)


def test_the_batch_size_does_not_change_the_result(teacher, capsys):
    whole = teacher(photos(7))
    parts = teacher(photos(7), batch_size=3, progress=True)
    assert_close(parts.features, whole.features, atol=1e-5, rtol=1e-5)
    assert_close(parts.logits, whole.logits, atol=1e-5, rtol=1e-5)
    assert "teacher features" in capsys.readouterr().err


def test_images_of_another_size_are_resized_where_the_model_asks(vit_model):
    teacher, large = Teacher(vit_model), photos(size=48)
    x = F.interpolate(to_float(large), size=32, mode="bilinear", antialias=True)
    assert teacher.image_size == 32
    assert_close(teacher(large).logits, vit_model(pixel_values=x).logits)


def test_a_model_without_a_fixed_size_sees_the_images_as_they_are(tiny_teacher):
    large = photos(size=48)
    assert tiny_teacher.image_size == 0
    expected = tiny_teacher.model(pixel_values=to_float(large)).logits
    assert_close(tiny_teacher(large).logits, expected)


def test_the_teacher_is_frozen(teacher):
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.model.modules())
    out = teacher(photos())
    assert not out.features.requires_grad and not out.logits.requires_grad


def test_a_saved_teacher_loads_with_the_same_answers(tmp_path, vit_model):
    vit_model.save_pretrained(tmp_path)
    again = Teacher.from_pretrained(tmp_path)
    assert_close(again(photos()).logits, Teacher(vit_model)(photos()).logits, atol=0, rtol=0)


@pytest.mark.parametrize("head", [None, nn.Sequential(nn.Linear(4, 2), nn.ReLU())])
def test_a_model_without_a_linear_classifier_is_named(head):
    class Headless(nn.Module):
        classifier = None

    model = Headless()
    if head is not None:
        model.classifier = head
    with pytest.raises(ValueError, match="Headless has no linear layer named 'classifier'"):
        Teacher(model)


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nothing-here"):
        Teacher.from_pretrained(tmp_path / "nothing-here")


def test_a_head_that_flattens_first_gives_the_features_behind_its_linear_layer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Teacher(build_teacher("resnet", ["cat", "dog", "bird"], 4))
    assert (teacher.feature_dim, teacher.n_classes, teacher.image_size) == (32, 3, 128)
    out = teacher(photos())
    assert out.features.shape == (5, 32) and out.features.min() >= 0, "pooled after a ReLU"
    assert_close(teacher.logits(out.features), out.logits)
    enlarged = F.interpolate(to_float(photos()), size=128, mode="bilinear")
    assert_close(teacher.model(pixel_values=enlarged).logits, out.logits, rtol=1e-3, atol=1e-4)
    assert not any("_head" in name for name in teacher.state_dict()), "a weight has two names"
    with pytest.raises(ValueError, match="teacher='vgg'; choose one of cvt, resnet"):
        build_teacher("vgg", ["cat"], 4)


# --- how a model was shown images --------------------------------------------------------------


def described(folder, **words):
    """A folder that says how its model was shown images, as transformers writes it."""
    (folder / "preprocessor_config.json").write_text(json.dumps(words))
    return folder


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def test_a_model_sees_images_with_the_mean_and_spread_of_its_folder(tmp_path, vit_model):
    vit_model.save_pretrained(tmp_path)
    teacher = Teacher.from_pretrained(described(tmp_path, **IMAGENET))
    pixels = photos().double() / 255
    mean, std = (torch.tensor(x).double().view(3, 1, 1) for x in IMAGENET.values())
    shown = ((pixels - mean) / std).float()
    assert_close(teacher(photos()).logits, vit_model(pixel_values=shown).logits)
    plain = Teacher.from_pretrained(described(tmp_path, do_normalize=False, **IMAGENET))
    assert_close(plain(photos()).logits, vit_model(pixel_values=pixels.float()).logits)
    assert torch.equal(Teacher(vit_model).prepared(to_float(photos())), to_float(photos()))


def test_a_model_whose_config_names_no_size_gets_that_of_its_folder(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_teacher("resnet", ["cat", "dog"], 4)
    del model.config.image_size
    model.save_pretrained(tmp_path)
    for words, size in (({"size": {"shortest_edge": 48}}, 48), ({"size": 40}, 40), ({}, 0),
                        ({"size": 64, "crop_size": {"height": 56, "width": 56}}, 56)):  # fmt: skip
        assert Teacher.from_pretrained(described(tmp_path, **words)).image_size == size


@pytest.mark.parametrize(
    "words",
    [{"image_mean": [0.5]}, {"image_std": [1.0, 0.0, 1.0]}, {"image_mean": ["a", 0, 0]},
     {"size": -3}, {"size": {}, "crop_size": "large"}, {"image_std": [float("nan"), 1, 1]}],
)  # fmt: skip
def test_a_description_that_cannot_be_is_refused(words, tmp_path, vit_model):
    vit_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="preprocessor_config.json does not say how images are pr"):
        Teacher.from_pretrained(described(tmp_path, **words))
    (tmp_path / "preprocessor_config.json").write_text("[")
    with pytest.raises(ValueError, match="preprocessor_config.json does not say"):
        Teacher.from_pretrained(tmp_path)


def test_a_model_names_its_classes_in_the_order_of_its_logits():
    assert Teacher(build_teacher("resnet", ["cat", "dog"], 4)).class_names == ["cat", "dog"]
