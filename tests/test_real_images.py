"""The path of real images: presets, models that are fetched only when asked, dry run, smoke run."""

import hashlib
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path, PurePath

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_openood import make_root

from oal_lite import budget, presets, tiny_models, weights
from oal_lite.__main__ import main
from oal_lite.diffusion_outliers import decode, load_pipeline, synthesise
from oal_lite.materials import Materials
from oal_lite.presets import get_preset
from oal_lite.run_files import run_path
from oal_lite.study import Run, find_models
from oal_lite.teacher import Teacher

REAL = ("cifar10", "cifar100", "imagenet200")


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a tiny random teacher and pipeline of full shape."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.write_teacher(folder / "teacher", 10)
    tiny_models.write_pipeline(folder / "pipeline", [*presets.PROMPT.split(), "cat", "ice bear"])
    return folder


# --- models ------------------------------------------------------------------------------------


def test_the_tiny_models_have_the_full_shapes(tiny, no_network):
    teacher, pipeline = Teacher.from_pretrained(tiny / "teacher"), load_pipeline(tiny / "pipeline")
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert teacher.image_size == 224
    assert teacher(images).features.shape == (2, tiny_models.WIDTH)
    latents = synthesise(pipeline, torch.randn(1, tiny_models.WIDTH), "ice bear", steps=1)
    assert latents.shape == (1, 4, 64, 64)
    assert decode(pipeline, latents).shape == (1, 3, 512, 512)
    assert decode(pipeline, latents, size=32).shape == (1, 3, 32, 32)


def test_the_shipped_models_load_without_the_network(no_network, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")  # it is no setting that keeps them from asking
    shapes = get_preset("shapes")
    assert Teacher.from_pretrained(shapes.teacher).feature_dim == 128
    assert load_pipeline(shapes.pipeline).unet.config.sample_size == 8


def test_decoding_in_batches_of_any_size_gives_the_same_images(tiny_pipeline):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = decode(tiny_pipeline, latents)
    assert torch.equal(decode(tiny_pipeline, latents, batch_size=2), whole)
    small = decode(tiny_pipeline, latents, size=16).float()
    assert (small - torch.nn.functional.avg_pool2d(whole.float(), 2)).abs().mean() < 12


@pytest.mark.parametrize("name", ["teacher", "pipeline"])
def test_a_hub_id_is_not_fetched_unasked(no_network, name):
    hub_id = getattr(get_preset("cifar10"), name)
    load = Teacher.from_pretrained if name == "teacher" else load_pipeline
    with pytest.raises(FileNotFoundError, match=f"no model '{hub_id}' on this machine .* GB, lic"):
        load(hub_id)
    with pytest.raises(FileNotFoundError, match="cannot download .* HF_HUB_OFFLINE is set"):
        load(hub_id, download=True)


def test_the_message_names_size_and_licence_before_the_download(monkeypatch):
    said, fetched = [], []

    def fetch(name):
        fetched.append((name, list(said)))
        return Path(name)

    monkeypatch.setattr(weights, "_fetch", fetch)
    preset = replace(get_preset("cifar10"), download=True)
    find_models(preset, ["ce"], progress=said.append)
    assert (said, fetched) == ([], []), "plain training asks no model"
    find_models(preset, ["ce", "kd"], progress=said.append)
    assert said == [
        "downloading nateraw/vit-base-patch16-224-cifar10: 0.34 GB, licence Apache-2.0, trained on "
        "ImageNet-21k, CIFAR-10"
    ]
    assert fetched == [(preset.teacher, said)], "fetched before it was said, or too much"
    find_models(preset, ["oal-paper"], progress=said.append)
    assert "4.3 GB, licence CreativeML OpenRAIL-M" in said[-1]


def test_the_cache_is_asked_for_what_was_fetched(monkeypatch):
    """Asked for more, it would call a Stable Diffusion without its safety checker incomplete."""
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **how: asked.append(how) or "."
    )
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    weights.in_cache("owner/name")
    weights._fetch("owner/name")
    assert asked[0] == {"local_files_only": True} | asked[1]
    assert "safety_checker/*" in asked[0]["ignore_patterns"]


def test_no_code_of_a_model_folder_is_run(tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/config.json"
    config = json.loads(path.read_text()) | {"auto_map": {
        "AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}}  # fmt: skip
    path.write_text(json.dumps(config))
    (tmp_path / "teacher/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    Teacher.from_pretrained(tmp_path / "teacher")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_the_place_of_safetensors_is_not_read(tiny, tmp_path):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    state = Teacher.from_pretrained(tiny / "teacher").model.state_dict()
    (tmp_path / "teacher/model.safetensors").unlink()
    torch.save(state, tmp_path / "teacher/pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="cannot be loaded .* expected a config and safet"):
        Teacher.from_pretrained(tmp_path / "teacher")


@pytest.mark.parametrize("part", ["teacher", "pipeline/vae", "pipeline/unet"])
def test_a_model_that_lacks_a_tensor_is_damaged(tiny, tmp_path, part):
    shutil.copytree(tiny / part.split("/")[0], tmp_path / part.split("/")[0])
    (path,) = (tmp_path / part).glob("*.safetensors")
    tensors = load_file(path)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})
    load = Teacher.from_pretrained if part == "teacher" else load_pipeline
    with pytest.raises(ValueError, match=f"lacks {lost}|is damaged .*; restore its files"):
        load(tmp_path / part.split("/")[0])


@pytest.mark.parametrize("config", ["null", '{"id2label": 5}', '{"image_size": "a"}'])
def test_any_damage_of_a_config_is_one_sentence(tiny, tmp_path, config):
    shutil.copytree(tiny / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/config.json"
    change = json.loads(config)
    path.write_text(json.dumps(change and json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"teacher is damaged \(.*; restore its files$") as caught:
        Teacher.from_pretrained(tmp_path / "teacher")
    assert "\n" not in str(caught.value)


@pytest.fixture
def shipped(tiny, tmp_path):
    """A copy of the tiny models with a manifest."""
    for part in ("teacher", "pipeline"):
        shutil.copytree(tiny / part, tmp_path / part)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    sums = {str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": sums}))
    return tmp_path


def test_files_are_checked_against_the_manifest(shipped):
    Teacher.from_pretrained(shipped / "teacher")
    load_pipeline(shipped / "pipeline")
    path = shipped / "teacher/model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors is not the file that .*sha256"):
            Teacher.from_pretrained(shipped / "teacher")
    load_pipeline(shipped / "pipeline")  # its own files are as they were
    (shipped / "pipeline/vae/config.json").unlink()
    with pytest.raises(ValueError, match="vae/config.json is missing, but listed in"):
        load_pipeline(shipped / "pipeline")
    (shipped / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        load_pipeline(shipped / "pipeline")


# --- presets and the dry run -------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_presets_hold_the_released_settings(name):
    p = get_preset(name)
    assert (p.knn.k, p.knn.n_boundary, p.knn.n_candidates, p.knn.sigma) == (300, 50, 1500, 0.07)
    assert p.knn.rounds == {"cifar10": 10, "cifar100": 100, "imagenet200": 10}[name]
    assert (p.diffusion.steps, p.diffusion.guidance, p.diffusion.n_latents) == (50, 7.5, 300)
    assert (p.train.width, p.train.lr, p.train.adapter_lr, p.train.q_lr) == (64, 0.005, 0.01, 1e-4)
    assert p.train.stem == ("large" if name == "imagenet200" else "small")
    quick = get_preset(name, quick=True)
    sizes = quick.benchmark_sizes
    assert sum(sizes.values()) <= 500 and quick.teacher == quick.pipeline == presets.TINY


def test_flops_are_the_counted_ones():
    """Published counts of ResNet-18: 1.82 G multiply-adds at 224 px, 0.56 G with the 32 px stem."""
    large, both = budget.student_flop(get_preset("imagenet200"), 224, 1000)
    assert large == pytest.approx(3.63e9, rel=0.01) and both == pytest.approx(10.65e9, rel=0.02)
    small, _ = budget.student_flop(get_preset("cifar10"), 32, 10)
    assert small == pytest.approx(2 * 0.5565e9, rel=0.01)


@pytest.mark.parametrize("name", REAL)
def test_the_dry_run_names_downloads_licence_disk_flops_and_minutes(name, capsys, no_network):
    assert main(["--preset", name, "--dry-run", "--arms", "ce,oal-paper"]) == 0
    out, _ = capsys.readouterr()
    for words in ("would be downloaded", "4.3 GB, licence CreativeML OpenRAIL-M", "Disk: 4.6 GB",
                  "PFLOP", "T4", "A100", "H200", "Estimate, not a measurement"):  # fmt: skip
        assert words in out
    stages = budget.flop(get_preset(name), ["ce", "oal-paper"], 2)
    assert stages == {k: 2 * v for k, v in budget.flop(get_preset(name), ["ce", "oal-paper"], 1)
                      .items()}  # fmt: skip
    assert budget.flop(get_preset(name), ["ce"], 1)["diffusion latents"] == 0
    latent, answers = (budget.flop(get_preset(name), [arm], 1) for arm in ("oal-latent", "oal"))
    assert latent["teacher's answers"] == 0
    assert answers["teacher's answers"] == answers["teacher on all views"] > 0
    assert answers["student, arms"] == pytest.approx(latent["student, arms"])
    # an image passes the encoder once, for the latents, and the decoder once, for the answers
    autoencoder = [stages["autoencoder, ID images"] for stages in (latent, answers)]
    assert autoencoder[1] / autoencoder[0] == pytest.approx((1117 + 2515) / 1117)
    control = budget.flop(get_preset(name), ["oal-paper", "oal-noise"], 1)
    assert control["diffusion latents"] == latent["diffusion latents"], "noise is no synthesis"


def test_the_minutes_of_the_dry_run_are_its_flops_at_a_quarter_of_the_peak():
    preset, arms = get_preset("cifar10"), ["ce", "oal-paper"]
    lines = [line.rsplit(None, 1) for line in budget.describe(preset, arms).splitlines() if line]
    numbers = {name.strip(): float(n) for name, n in lines if n.replace(".", "", 1).isdecimal()}
    total = sum(budget.flop(preset, arms, 1).values())
    assert numbers["in all"] == pytest.approx(total / 1e15, abs=0.01)
    assert numbers["in all"] == pytest.approx(  # the parts are rounded
        sum(v for k, v in numbers.items() if k not in ("in all", *budget.PEAK)), abs=0.05
    )
    for gpu, peak in {"T4": 65e12, "A100": 312e12, "H200": 989e12}.items():
        assert numbers[gpu] == pytest.approx(total / (0.25 * peak) / 60, abs=0.06)


def test_the_dry_run_says_what_a_run_leaves_on_the_disk():
    preset = get_preset("cifar10")  # 16 views of 50,000 images, 768 features and 10 logits
    views, latents, images = 16 * 50_000 * 778 * 4, 50_000 * 4 * 64 * 64 * 4, 50_000 * 3 * 32 * 32
    # 1,000 vectors of each class; 300 latents of 4 x 64 x 64 and their pictures
    outliers = 10_000 * 768 * 4 + 300 * (4 * 64 * 64 * 4 + 3 * 32 * 32)
    assert budget.disk(preset, ["ce"], 2) == 0
    assert budget.disk(preset, ["ce", "kd"], 2) == 2 * views
    assert budget.disk(preset, ["oal-latent", "oal-noise"], 1) == views + latents + outliers
    assert budget.disk(preset, ["oal"], 3) == 3 * (2 * views + outliers) + latents + images
    more = budget.disk(preset, ["oal-paper", "oal-as-released"], 1)
    assert more == views + 2 * outliers, "two selections"
    assert "4.6 GB for models, about 9 GB for runs" in budget.describe(preset, ["oal", "ce"])


def test_the_dry_run_knows_what_is_read_late_and_what_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "vit").mkdir(parents=True)
    large = get_preset("imagenet200")  # its images fill no memory: what is said of them is not kept
    assert budget.disk(large, ["ce", "kd"], 1) == 0
    text = budget.describe(large, ["ce", "kd"])
    assert "teacher on all views" in text and "each arm would ask the teacher anew" in text
    assert "Give --workers" in budget.describe(get_preset("cifar10"), ["ce", "kd"])
    text = budget.describe(replace(large, teacher=PurePath("models/vit")), ["ce", "kd"])
    assert "Teacher: a folder on this machine" in text and "FLOPs are not in the sum" in text
    assert "teacher on all views" not in text


def test_the_dry_run_counts_the_models_that_the_arms_need():
    said = {arms: budget.describe(get_preset("cifar10"), arms.split(",")) for arms in ("ce", "kd")}
    assert said["ce"].count("these arms need none") == 2 and "0.0 GB for models" in said["ce"]
    assert "Pipeline: these arms need none" in said["kd"] and "0.3 GB for models" in said["kd"]
    assert budget.flop(get_preset("cifar10"), ["ce"], 1)["teacher on all views"] == 0


def test_the_dry_run_of_a_small_preset_names_the_models_that_are_yet_to_be_made(capsys):
    assert main(["--preset", "cifar10-small", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.count("train it first with --pretrain") == 2
    assert "downloaded, models" not in text and "  teacher on all views" not in text


def test_the_dry_run_counts_the_steps_of_one_process():
    preset = get_preset("cifar10-scratch")  # 40 epochs of start, 4 of each arm, 390 steps each
    assert budget.steps(preset, ["ce", "kd"], 3) == 3 * (40 + 2 * 4) * 390
    assert budget.steps(get_preset("cifar10-small"), ["ce"], 1) == (12 + 4) * (5_000 // 64)
    assert budget.steps(get_preset("cifar10-medium"), ["ce"], 1) == (12 + 8) * (10_000 // 64)
    text = budget.describe(preset, ["ce", "kd"])
    assert f"In one process at least {48 * 390 * 0.0147 / 60:.0f}, however fast the GPU" in text


def test_the_dry_run_of_shapes_needs_nothing(capsys, no_network):
    assert main(["--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("nothing") == 3 and "would be downloaded" not in out


# --- the whole path ----------------------------------------------------------------------------


def test_the_whole_cifar_path_runs_offline(tmp_path, no_network, capsys, monkeypatch):
    root = make_root(tmp_path / "data", each=6, ood=("cifar100",))
    preset = get_preset("cifar10", quick=True)
    preset = replace(
        preset, benchmark_sizes={"n_train": 40, "n_val": 10, "n_test": 20}, n_per_class=4,
        diffusion=replace(preset.diffusion, n_latents=10, steps=1),
        train=replace(preset.train, batch_size=20, width=2),
    )  # fmt: skip
    monkeypatch.setitem(presets.PRESETS, "small", preset)
    argv = ["--preset", "small", "--data-root", str(root), "--arms", "ce,oe-pixels"]
    argv += ["--device", "cpu", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    with pytest.warns(UserWarning, match="tin, mnist, svhn, texture, places365, val_tin"):
        assert main(argv) == 0
    out, _ = capsys.readouterr()
    assert "| oe-pixels | " in out and out.count("| – | – |") == 2  # no far-OOD at hand
    assert "left out of the averages: mnist, places365, svhn, texture, tin, val_tin." in out
    text = (tmp_path / "out/results.json").read_text()
    record = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} in results.json"))
    assert record["table"]["ce"]["far AUROC"]["values"] == [None]
    assert str(tmp_path) not in text, "a folder of this machine in the results"


def test_other_images_in_the_same_folder_are_another_run(tmp_path):
    root = make_root(tmp_path, ood=("cifar100",))
    preset = replace(get_preset("cifar10", quick=True), data_root=str(root))
    first = run_path(tmp_path, preset, "ce", 0, "json")
    make_root(tmp_path, ood=("cifar100", "mnist"))
    assert run_path(tmp_path, preset, "ce", 0, "json") != first


def test_a_teacher_of_other_classes_is_refused(tiny, tmp_path):
    root = make_root(tmp_path)
    tiny_models.write_teacher(tmp_path / "teacher", 7)
    preset = replace(get_preset("cifar10", quick=True), data_root=str(root),
                     teacher=str(tmp_path / "teacher"))  # fmt: skip
    with pytest.raises(ValueError, match="tells 7 classes apart, the benchmark cifar10 has 10"):
        _ = Materials(preset, 0).teacher


def test_a_group_without_sets_has_no_mean():
    run = Run({"metrics": {"energy": {"far": {}, "near": {"x": {"auroc": 0.5}}}}}, {})
    assert run.metric("far", "auroc") is None and run.metric("near", "auroc") == 0.5
