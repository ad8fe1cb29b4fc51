"""The commands that make the shipped small models, at a size of seconds."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from test_openood import make_root
from torch.testing import assert_close

from oal_lite import checkpoint
from oal_lite.benchmarks import ImageSet
from oal_lite.checkpoint import Keeper
from oal_lite.diffusion_outliers import encode, load_pipeline, synthesise, word_embeddings
from oal_lite.files import FORGOTTEN
from oal_lite.presets import get_preset
from oal_lite.pretrain import autoencoder, loop, unet
from oal_lite.pretrain.__main__ import main
from oal_lite.pretrain.models import build_teacher, build_tokenizer
from oal_lite.pretrain.parts import (
    PARTS,
    missing,
    sweep,
    train,
    train_missing,
    write_manifest,
)
from oal_lite.pretrain.settings import PretrainSettings, Source, pretraining_images
from oal_lite.pretrain.teacher import train_teacher
from oal_lite.shapes import ID_SHAPES
from oal_lite.teacher import Teacher, to_float

SIZES = [
    "n_images=40", "batch_size=4", "vae_batch_size=4", "unet_batch_size=4", "teacher_width=8",
    "vae_width=8",
]  # fmt: skip
TINY = [*SIZES, "teacher_steps=2", "vae_steps=2", "unet_steps=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "recognised", lambda *_: {})  # it would train a student
        for part in ("teacher", "diffusion"):
            settings = [a for s in TINY for a in ("--set", s)]
            assert main([part, "--out", str(folder), *settings]) == 0
    return folder


def test_the_commands_leave_models_that_load_and_work_together(made):
    teacher = Teacher.from_pretrained(made / "teacher")
    pipeline = load_pipeline(made / "pipeline")
    outliers = torch.randn(2, teacher.feature_dim)
    assert synthesise(pipeline, outliers, "heart", steps=2).shape == (2, 4, 8, 8)


def test_class_words_stay_the_teachers_class_means_through_training(made):
    teacher = Teacher.from_pretrained(made / "teacher")
    settings = PretrainSettings(n_images=40)
    data = pretraining_images(settings)
    features = F.normalize(teacher(data.images).features, dim=1)
    means = torch.stack([features[data.labels == c].mean(0) for c in range(10)])
    words = word_embeddings(load_pipeline(made / "pipeline"), ID_SHAPES)
    torch.testing.assert_close(words, F.normalize(means, dim=1), atol=2e-3, rtol=0)  # half floats


def test_latents_of_the_training_images_have_unit_variance(made):
    images = pretraining_images(PretrainSettings(n_images=40)).images
    spread = encode(load_pipeline(made / "pipeline"), images[::20]).std().item()
    assert spread == pytest.approx(1, abs=2e-2)  # measured on these, kept as half floats


@pytest.mark.parametrize("p_no_prompt", [0.0, 1.0])
def test_the_unet_learns_the_velocity_and_sees_prompts_as_often_as_is_set(
    p_no_prompt, made, tmp_path, monkeypatch
):
    """From a z - s v, with z = a x + s e and v = a e - s x, the clean latent x comes back."""
    from diffusers import UNet2DConditionModel

    seen, wanted = [], []
    forward, loss = UNet2DConditionModel.forward, F.mse_loss
    monkeypatch.setattr(unet, "recognised", lambda *_: {})
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda *a, **k: seen.append(a[1:]) or forward(*a, **k)
    )
    monkeypatch.setattr(F, "mse_loss", lambda v, to: wanted.append(to) or loss(v, to))
    for part in ("teacher", "pipeline"):
        shutil.copytree(made / part, tmp_path / part)
    settings = PretrainSettings(
        n_images=40, unet_batch_size=4, unet_steps=1, p_no_prompt=p_no_prompt
    )
    unet.train_unet(settings, tmp_path)
    (z, t, context), v = seen[0], wanted[0]
    pipeline = load_pipeline(tmp_path / "pipeline")
    kept = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    clean = kept.sqrt() * z - (1 - kept).sqrt() * v
    latents = encode(pipeline, pretraining_images(settings).images)
    distances = torch.cdist(clean.flatten(1).detach(), latents.flatten(1)).amin(1)
    assert distances.max() < 0.05 * latents.flatten(1).norm(dim=1).mean()
    distinct = context.detach().round(decimals=4).unique(dim=0)
    assert (len(distinct) == 1) == (p_no_prompt == 1)


def test_the_manifest_names_settings_and_every_file(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert {part: manifest[part]["settings"]["unet_steps"] for part in PARTS} == dict.fromkeys(
        PARTS, 2
    )
    assert "teacher/model.safetensors" in manifest["sha256"]
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in manifest["sha256"]


def test_given_words_are_one_token_each_whatever_they_share():
    words = ["star", "start", "art", "tart", *ID_SHAPES]
    tokenizer = build_tokenizer(words)
    for word in words:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    assert len(tokenizer("smart", add_special_tokens=False).input_ids) > 1


@pytest.mark.parametrize("assignment", ["steps=3", "unet_steps", "unet_steps=many"])
def test_a_wrong_setting_is_refused(assignment, capsys):
    assert main(["teacher", "--set", assignment]) == 2
    assert capsys.readouterr().err.startswith(f"error: --set {assignment}: ")


@pytest.mark.parametrize(
    "assignment",
    ["crop=40", "crop=-1", "seed=9999999999999999999999", "vae_width=3", "unet_width=8",
     "unet_width=16", "teacher_steps=99999999999999999999", "noise_shift=nan", "vae_kl=nan",
     "vae_kl=-1",
     "batch_size=0", "teacher_steps=-1", "n_images=5", "teacher_width=0", "vae_lr=nan",
     "unet_lr=-1", "p_no_prompt=1.5", "teacher=vit"],
)  # fmt: skip
def test_a_setting_that_cannot_be_trained_with_is_refused(assignment, tmp_path, capsys):
    assert main(["teacher", "--out", str(tmp_path / "x"), "--set", assignment]) == 2
    name, _, value = assignment.partition("=")
    said = capsys.readouterr().err
    assert said.startswith("error: ") and name in said
    assert ("choose one of" if name == "teacher" else "expected") in said
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_name_is_refused_and_the_current_one_is_not(
    tmp_path, capsys, monkeypatch
):
    asked = []
    monkeypatch.setattr("oal_lite.pretrain.__main__.train", lambda *words: asked.append(words[2]))
    monkeypatch.chdir(tmp_path)
    assert main(["teacher", "--out", " "]) == 2
    assert "--out is empty; name a folder" in capsys.readouterr().err and not asked
    assert main(["teacher", "--out", ".", "--set", "n_images=10"]) == 0
    assert [str(out) for out in asked] == ["."]


def test_weights_that_have_run_away_are_not_saved(tmp_path, capsys):
    more = [a for s in [*SIZES, "teacher_steps=3", "teacher_lr=1e30"] for a in ("--set", s)]
    assert main(["teacher", "--out", str(tmp_path), *more]) == 2
    assert "are NaN or infinite; lower its learning rate" in capsys.readouterr().err
    assert not (tmp_path / "teacher").exists()


def test_no_file_names_a_folder_of_this_machine(made):
    for path in made.rglob("*.json"):
        assert str(made) not in path.read_text(), path


# --- interruption, and real images -------------------------------------------------------------


class Stop(Exception):
    pass


def command(part, folder, *more):
    settings = [a for s in (*SIZES, "teacher_steps=4", "vae_steps=4", "unet_steps=4")
                for a in ("--set", s)]  # fmt: skip
    return main([part, "--out", str(folder), *settings, *more])


def weights_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_an_interrupted_pretraining_goes_on_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "recognised", lambda *_: {})
    monkeypatch.setattr(loop, "KEEP_EVERY", 2)
    for part in ("teacher", "diffusion"):
        command(part, tmp_path / "whole")

    save, saves = Keeper.save, []

    def save_and_stop(self, progress):
        save(self, progress)
        saves.append(progress["steps"])
        if progress["steps"] == 2:
            raise Stop

    monkeypatch.setattr(Keeper, "save", save_and_stop)
    for part in ("teacher", "autoencoder", "unet"):
        with pytest.raises(Stop):
            command(part, tmp_path / "parts")
        command(part, tmp_path / "parts")
    assert saves == [2, 4] * 3, "a step was repeated or left out"
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    assert not list(tmp_path.rglob("unfinished*"))


def test_a_kept_state_belongs_to_its_images_code_and_teacher(tmp_path, monkeypatch):
    settings, pixels = PretrainSettings(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    (tmp_path / "config.json").write_text("{}")

    def state(images=pixels):
        some = ImageSet.ood(images)
        return loop.belongs_to(settings, Source("x", ("cat",), some, some), tmp_path)

    first = state()
    assert state() == first == json.loads(json.dumps(first))
    assert [k for k, v in state(pixels + 1).items() if v != first[k]] == ["images"]
    (tmp_path / "config.json").write_text("{ }")
    assert [k for k, v in state().items() if v != first[k]] == ["learns from"]
    monkeypatch.setattr(loop, "_code", lambda: "another")
    assert [k for k, v in state().items() if v != first[k]] == ["code", "learns from"]


def test_a_teacher_trained_anew_asks_for_another_diffusion_model(made, tmp_path):
    shutil.copytree(made, tmp_path / "m")
    preset = replace(
        get_preset("cifar10-small"), teacher=str(tmp_path / "m/teacher"),
        pipeline=str(tmp_path / "m/pipeline"),
    )  # fmt: skip
    assert missing(preset) == []
    command("teacher", tmp_path / "m", "--set", "seed=2")
    assert missing(preset) == ["autoencoder", "unet"], "its words are the old teacher's"
    (tmp_path / "m/manifest.json").unlink()
    assert missing(preset) == [], "nothing is noted"


def test_models_of_cifar10_are_trained_from_its_images_alone(tmp_path, monkeypatch):
    root = make_root(tmp_path / "data", each=4, ood=("cifar100",))
    monkeypatch.setattr(unet, "recognised", lambda *_: {})
    sizes = ("teacher_width=4", "vae_width=8", "unet_width=80", "vae_batch_size=4",
             "unet_batch_size=4")  # fmt: skip
    small = [a for s in sizes for a in ("--set", s)]
    more = ["--preset", "cifar10", "--data-root", str(root), *small]
    for part in ("teacher", "diffusion"):
        with pytest.warns(UserWarning, match="averages leave them out"):
            command(part, tmp_path / "m", *more)
    teacher = Teacher.from_pretrained(tmp_path / "m/teacher")
    assert isinstance(teacher.model.classifier, torch.nn.Sequential)  # a ResNet
    pipeline = load_pipeline(tmp_path / "m/pipeline")
    assert teacher.feature_dim == 32 and teacher.model.config.id2label[9] == "truck"
    assert synthesise(pipeline, torch.randn(1, 32), "truck", steps=1).shape == (1, 4, 8, 8)
    manifest = json.loads((tmp_path / "m/manifest.json").read_text())
    assert manifest["unet"]["measured"]["trained_on"] == "cifar10"


@pytest.mark.parametrize(
    ("preset", "sentence"),
    [
        ("imagenet200", "no pretraining for preset 'imagenet200'; choose one of"),
        ("cifar10", "cifar10 is read from files"),
    ],
)
def test_pretraining_without_settings_or_images_is_refused(preset, sentence, tmp_path, capsys):
    assert command("teacher", tmp_path, "--preset", preset) == 2
    assert sentence in capsys.readouterr().err


def no_images():
    some = ImageSet.ood(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return Source("shapes", ("cat",), some, some)


def test_hashes_of_models_that_are_trained_anew_are_forgotten_first(tmp_path, monkeypatch):
    def noted():
        return json.loads((tmp_path / "manifest.json").read_text())["sha256"]

    def training(settings, out, device, source):
        assert noted() == {}, "it cannot match them"
        if saves[-1]:
            (out / "teacher").mkdir()
            (out / "teacher/config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setitem(PARTS, "teacher", training)
    saves = []
    for saved, left in ((False, {"teacher/x": "1"}), (True, {})):
        saves.append(saved)
        (tmp_path / "manifest.json").write_text('{"sha256": {"teacher/x": "1"}, "teacher": {}}')
        with pytest.raises(KeyboardInterrupt):
            train(["teacher"], PretrainSettings(), tmp_path, "cpu", no_images(), print)
        assert noted() == left, "what is untouched keeps its sums"


def test_what_a_kill_left_in_a_models_folder_is_in_no_manifest_and_swept_when_old(tmp_path):
    for name, age in (("old", FORGOTTEN + 60), ("young", 5)):
        left = tmp_path / "teacher" / f".{name}.tmp"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half a fi")
        then = time.time() - age
        os.utime(left, (then, then))
    (tmp_path / "teacher" / "config.json").write_text("{}")
    (tmp_path / "unfinished-unet.safetensors").write_bytes(b"")
    some = ImageSet.ood(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    source = Source("shapes", ("cat",), some, some, ("dog", "horse"))
    write_manifest(tmp_path, "teacher", PretrainSettings(), source, {})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["sha256"]) == ["teacher/config.json"]
    command = "python -m oal_lite.pretrain teacher --preset shapes --hold-out dog,horse"
    assert manifest["teacher"]["command"] == command
    sweep(tmp_path)
    assert [p.name for p in (tmp_path / "teacher").glob(".*")] == [".young.tmp"]


def test_what_a_preset_lacks_is_trained_and_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    preset = replace(
        get_preset("cifar10-scratch"), teacher=str(folder / "teacher"),
        pipeline=str(folder / "pipeline"), data_root="here",
    )  # fmt: skip
    trained = []

    def pretend(part, *marks):
        def train(settings, out, device, source):
            trained.append((part, settings.teacher, source.name))
            for mark in marks:
                (out / mark).parent.mkdir(parents=True, exist_ok=True)
                (out / mark).write_text("{}")
            loop.unfinished(out, part).write_text("state")
            if len(trained) == 2:
                raise KeyboardInterrupt
            return {}

        return train

    marks = {"teacher": ["teacher/config.json"], "autoencoder": ["pipeline/vae/config.json"],
             "unet": ["pipeline/model_index.json"]}  # fmt: skip
    for part in PARTS:
        monkeypatch.setitem(PARTS, part, pretend(part, *marks[part]))
    some = ImageSet.ood(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    images = Source("cifar10", ("cat",), some, some)
    monkeypatch.setattr("oal_lite.pretrain.parts.source_for", lambda *_: images)
    assert missing(preset) == ["teacher", "autoencoder", "unet"]
    with pytest.raises(KeyboardInterrupt):
        train_missing(preset, "cpu", print)
    assert missing(preset) == ["autoencoder", "unet"], "the teacher is there"
    train_missing(preset, "cpu", print)
    assert [t[0] for t in trained] == ["teacher", "autoencoder", "autoencoder", "unet"]
    assert {t[1:] for t in trained} == {("resnet", "cifar10")}, "settings of CIFAR-10"
    assert missing(preset) == [] and not list(folder.glob("unfinished*"))
    train_missing(preset, "cpu", print)
    assert len(trained) == 4


@pytest.mark.parametrize("text", ["{", "[1]", '{"unet": 3}'])
def test_a_damaged_manifest_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is damaged .*; restore it, or train"):
        train(["teacher"], PretrainSettings(), tmp_path, "cpu", no_images(), print)


def test_models_from_outside_are_not_pretrained():
    with pytest.raises(ValueError, match="preset 'cifar10' takes its models from outside"):
        missing(get_preset("cifar10"))
    elsewhere = replace(get_preset("cifar10-scratch"), teacher="a/teacher", pipeline="b/pipeline")
    with pytest.raises(ValueError, match="what is pretrained lies in one folder"):
        missing(elsewhere)
    assert missing(get_preset("shapes")) == [], "they ship with the package"


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """A folder of models to be trained on, whose samples nobody judges."""
    monkeypatch.setattr(unet, "recognised", lambda *_: {})
    for part in ("teacher", "pipeline"):
        shutil.copytree(made / part, tmp_path / part)
    return tmp_path


def test_what_is_saved_is_the_average_of_the_weights(copied):
    unet.train_unet(PretrainSettings(n_images=40, unet_batch_size=4, unet_steps=3), copied)
    kept = checkpoint.load(loop.unfinished(copied, "unet"))["parts"]
    last, average = (
        x.half().float()
        for x in (kept["both"]["0.conv_in.weight"], kept["average"]["module.0.conv_in.weight"])
    )
    saved = load_pipeline(copied / "pipeline").unet.conv_in.weight
    assert torch.equal(saved, average) and not torch.equal(last, average)


def trained_on(folder, monkeypatch, **settings):
    """What the UNet's first step sees: embeddings, words, and the images behind noise and words."""
    words, seen, wanted = [], [], []
    swap, forward, loss = unet.swapped_word, UNet2DConditionModel.forward, F.mse_loss
    monkeypatch.setattr(unet, "swapped_word", lambda *a: words.append(a) or swap(*a))
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda *a, **k: seen.append(a[1:]) or forward(*a, **k)
    )
    monkeypatch.setattr(F, "mse_loss", lambda v, to: wanted.append(to) or loss(v, to))
    settings = PretrainSettings(n_images=40, unet_steps=1, **settings)
    unet.train_unet(settings, folder)
    images, teacher = (
        pretraining_images(settings).images,
        Teacher.from_pretrained(folder / "teacher"),
    )
    features = F.normalize(teacher(images).features, dim=1) * settings.token_scale
    pipeline = load_pipeline(folder / "pipeline")
    kept = pipeline.scheduler.alphas_cumprod[seen[0][1]].view(-1, 1, 1, 1)
    clean = kept.sqrt() * seen[0][0] - (1 - kept).sqrt() * wanted[0]
    latents = encode(pipeline, images)
    image = torch.cdist(clean.flatten(1).detach(), latents.flatten(1)).argmin(1)
    gaps = torch.cdist(words[0][2].detach(), features)
    return image, gaps.argmin(1), gaps.amin(1) < 1e-3


def test_the_feature_in_the_words_place_is_that_of_the_very_image(copied, monkeypatch):
    image, word, own = trained_on(
        copied, monkeypatch, unet_batch_size=8, p_image_feature=1.0, p_no_prompt=0.0
    )
    assert own.all() and torch.equal(image, word)


def test_prompts_are_left_out_whether_or_not_they_hold_a_feature(copied, monkeypatch):
    """Two draws: of a half with a feature of its own, a half has no prompt."""
    *_, own = trained_on(
        copied, monkeypatch, unet_batch_size=64, p_image_feature=0.5, p_no_prompt=0.5
    )
    assert 0.1 < own.float().mean() < 0.4


def test_every_weight_of_the_teacher_is_trained(tmp_path):
    settings = PretrainSettings(n_images=40, batch_size=8, teacher_width=8, teacher_steps=3)
    train_teacher(settings, tmp_path)
    torch.manual_seed(settings.seed)
    before = dict(build_teacher("cvt", ID_SHAPES, 8).named_parameters())
    after = dict(Teacher.from_pretrained(tmp_path / "teacher").model.named_parameters())
    assert before.keys() == after.keys()
    assert not [n for n, p in before.items() if p.any() and torch.equal(p, after[n])]


@pytest.mark.parametrize(
    ("train", "weights"),
    [
        (train_teacher, "teacher/model"),
        (autoencoder.train_vae, "pipeline/vae/diffusion_pytorch_model"),
        (unet.train_unet, "pipeline/unet/diffusion_pytorch_model"),
    ],
)
def test_the_seed_alone_decides_the_weights(train, weights, copied):
    settings = PretrainSettings(
        n_images=40, batch_size=4, vae_batch_size=4, unet_batch_size=4, teacher_width=8,
        vae_width=8, teacher_steps=2, vae_steps=2, unet_steps=2,
    )  # fmt: skip
    found = []
    for seed, drawn_before in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(drawn_before)
        train(replace(settings, seed=seed), copied)
        found.append((copied / f"{weights}.safetensors").read_bytes())
        for left in copied.glob("unfinished*"):
            left.unlink()
    assert found[0] == found[1] != found[2]


def test_edges_are_the_differences_to_the_right_and_below():
    right, below = autoencoder._edges(torch.arange(12.0).view(1, 1, 3, 4) ** 2)
    assert right.flatten().tolist() == [1, 3, 5, 9, 11, 13, 17, 19, 21]
    assert below.flatten().tolist() == [16, 24, 32, 40, 48, 56, 64, 72]


def test_the_teachers_maps_are_of_unit_length_at_every_pixel(copied):
    judge = Teacher.from_pretrained(copied / "teacher", device="cpu")
    maps = autoencoder._seen(judge, torch.rand(2, 3, 32, 32) * 2 - 1)
    assert len(maps) > 1 and all(m.ndim == 4 for m in maps)
    for m in maps:
        assert_close(m.square().sum(1), torch.ones(2, *m.shape[2:]))


def test_the_divergence_keeps_the_posterior_near_the_prior(copied):
    settings = PretrainSettings(
        n_images=40, vae_batch_size=8, vae_width=8, vae_steps=20, vae_kl=100.0
    )
    x = to_float(pretraining_images(settings).images)
    torch.manual_seed(settings.seed)
    before = autoencoder.build_vae(8)
    autoencoder.train_vae(settings, copied)
    after = AutoencoderKL.from_pretrained(copied / "pipeline" / "vae", dtype=torch.float32)
    kl = [vae.encode(x).latent_dist.kl().mean().item() for vae in (before, after)]
    assert kl[1] < kl[0] / 2


def test_a_part_without_what_it_learns_from_is_told_apart_from_a_model_of_the_hub(tmp_path, capsys):
    out = tmp_path / "empty"
    for part, first in (("autoencoder", "teacher"), ("unet", "teacher")):
        assert main([part, "--out", str(out), "--set", "n_images=40"]) == 2
        said = capsys.readouterr().err
        assert (
            f"from which {part} learns; train it first: python -m oal_lite.pretrain {first}" in said
        )
        assert f"--out {out}" in said
