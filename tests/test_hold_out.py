"""Classes held out of the ID task as validation-OOD: no model sees them, no test-OOD is left."""

import json
from dataclasses import replace

import pytest
import torch

from oal_lite import readme, report, run_files, study
from oal_lite.benchmarks import Benchmark, ImageSet, load
from oal_lite.images import late
from oal_lite.materials import Materials
from oal_lite.presets import get_preset, hold_out, pretrain_command, without
from oal_lite.pretrain import parts, unet
from oal_lite.pretrain.__main__ import main as pretrain_main
from oal_lite.pretrain.settings import PretrainSettings, source_for
from oal_lite.shapes import ID_SHAPES
from oal_lite.students import ResNet18
from oal_lite.study_command import main
from oal_lite.teacher import Teacher


def numbered(labels, first=0):
    """Images that can be told apart by their one grey level."""
    levels = torch.arange(first, first + len(labels), dtype=torch.uint8)
    return ImageSet(levels[:, None, None, None].expand(-1, 3, 8, 8).clone(), torch.tensor(labels))


def levels_of(images):
    return images.images[:][:, 0, 0, 0].tolist()


@pytest.fixture
def four_classes():
    other = {"other": ImageSet.ood(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))}
    return Benchmark(
        "toy", ("ant", "bee", "cat", "dog"), numbered([0, 1, 2, 3, 1, 0]), numbered([3, 2, 1], 50),
        numbered([1, 0, 2], 80), other, other, other, ("lost",),
    )  # fmt: skip


@pytest.mark.parametrize("lazy", [False, True])
def test_held_out_classes_leave_all_splits_and_their_training_images_become_ood(four_classes, lazy):
    if lazy:
        train = replace(four_classes.train, images=late(four_classes.train.images))
        four_classes = replace(four_classes, train=train)
    left = four_classes.hold_out(["bee", "dog"])
    assert left.class_names == ("ant", "cat")
    assert levels_of(left.train) == [0, 2, 5] and left.train.labels.tolist() == [0, 1, 0]
    assert levels_of(left.val) == [51] and left.val.labels.tolist() == [1]
    assert levels_of(left.test) == [81, 82] and left.test.labels.tolist() == [0, 1]
    assert list(left.validation_ood) == ["held-out"]
    held = left.validation_ood["held-out"]
    assert levels_of(held) == [1, 3, 4] and set(held.labels.tolist()) == {-1}
    assert not left.near and not left.far and not left.missing, "no choice can look at them"
    assert type(left.train.images) is type(four_classes.train.images)


def test_nothing_held_out_changes_nothing(four_classes):
    assert four_classes.hold_out([]) is four_classes
    preset = get_preset("shapes")
    assert hold_out(preset, ()) is preset and without([]) == ""


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cow"], "held-out class 'cow' is not one of ant, bee, cat, dog"),
        ("ant", "classes='ant'; expected several names"),
        ([["ant"]], "expected several names"),
        (["ant", "ant"], "name each class once"),
        (["ant", "bee", "cat"], "leave at least two"),
    ],
)
def test_what_cannot_be_held_out_is_named(four_classes, own_errors, classes, message):
    with pytest.raises(ValueError, match=message):
        four_classes.hold_out(classes)


def test_the_models_of_such_a_preset_lie_in_a_folder_of_their_own():
    preset = hold_out(get_preset("cifar10-medium"), ["ship", "sweet pepper"])
    assert preset.name == "cifar10-medium-without-ship-sweet_pepper"
    assert preset.held_out == ("ship", "sweet pepper")
    assert preset.teacher == "models/cifar10-small-without-ship-sweet_pepper/teacher"
    assert preset.pipeline == "models/cifar10-small-without-ship-sweet_pepper/pipeline"
    assert hold_out(get_preset("cifar10-medium"), ["sweet pepper", "ship"]) == preset
    outside = get_preset("cifar10")
    assert hold_out(outside, ["ship"]).teacher == outside.teacher


def test_pretraining_sees_no_image_of_a_held_out_class():
    settings = PretrainSettings(n_images=20)
    whole, left = source_for("shapes", settings), source_for("shapes", settings, None, ("star",))
    star = ID_SHAPES.index("star")
    seen = whole.images.images[whole.images.labels != star]
    assert torch.equal(left.images.images, seen) and left.held_out == ("star",)
    assert left.class_names == tuple(s for s in ID_SHAPES if s != "star")
    assert left.images.labels.max() == 8 and len(left.val) == 900


def test_the_command_trains_the_models_of_the_remaining_classes(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "oal_lite.pretrain.__main__.train",
        lambda parts, settings, out, device, source, say: asked.update(out=out, source=source),
    )
    monkeypatch.chdir(tmp_path)
    words = ["teacher", "--preset", "shapes", "--set", "n_images=10", "--hold-out", "star, heart"]
    assert pretrain_main(words) == 0
    assert str(asked["out"]) == "models/shapes-without-heart-star", "not the shipped folder"
    assert set(ID_SHAPES) - set(asked["source"].class_names) == {"star", "heart"}


def test_a_teacher_of_all_classes_is_refused(tiny_preset):
    preset = replace(hold_out(tiny_preset, ["star"]), teacher=tiny_preset.teacher)
    with pytest.raises(ValueError, match="tells 10 classes apart, the benchmark shapes has 9"):
        _ = Materials(preset, 0).teacher


# --- the study ---------------------------------------------------------------------------------


@pytest.fixture
def command(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr("oal_lite.command.get_preset", lambda name, quick=False: tiny_preset)
    for module in (run_files, study):
        monkeypatch.setattr(module, "code_version", lambda: "test")
    how = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    return lambda *words: main([*words, *how, "--workers", "1"]), tmp_path / "out" / "tiny.json"


def test_groups_of_classes_take_turns_and_stand_beside_the_arms(command, capsys):
    run, path = command
    assert run("--arms", "ce", "--seeds", "1") == 0
    arms = json.loads(path.read_text())["table"]
    words = ("--arms", "ce", "--first", "3", "--seeds", "3", "--hold-out", "star; heart,moon")
    assert run(*words) == 0
    written = json.loads(path.read_text())
    assert written["table"] == arms, "what has seen all classes stays"
    part = written["choices"]["arms, held out: heart and moon; star"]
    assert {r["seed"]: r["preset"]["held_out"] for r in part["runs"]} == {
        3: ["heart", "moon"], 4: ["star"], 5: ["heart", "moon"]
    }  # fmt: skip
    columns = part["table"]["ce"]
    assert {*columns} == {*report.VALIDATION, "training seconds"}
    found = {r["seed"]: r["metrics"]["energy"] for r in part["runs"]}
    for seed, value in zip(columns["ID acc"]["seeds"], columns["validation AUROC"]["values"],
                           strict=True):  # fmt: skip
        assert list(found[seed]) == ["validation"]
        assert value == pytest.approx(found[seed]["validation"]["held-out"]["auroc"], abs=1e-5)
    assert "heart and moon (seeds 3, 5), star (seed 4)." in part["markdown"]
    assert "| validation AUROC |" in part["markdown"] and "near" not in part["markdown"]
    capsys.readouterr()


def test_a_choice_is_shown_and_kept_without_any_test_set(command, capsys):
    run, path = command
    assert run("--arms", "ce,kd", "--seeds", "2", "--validation") == 0
    part = json.loads(path.read_text())["choices"]["arms"]
    assert {*part["table"]["kd"]} == {*report.VALIDATION, "training seconds"}
    assert all(list(r["metrics"]["energy"]) == ["validation"] for r in part["runs"])
    shown = capsys.readouterr().out
    assert "| kd − ce | " in shown and "near" not in shown and "far" not in shown


def test_only_models_that_the_asked_arms_need_are_looked_for(command, capsys):
    run, path = command
    words = ("--ablation", "followed", "--pipeline", "nowhere", "--seeds", "2", "--validation")
    assert run(*words) == 0, "no arm of it needs a diffusion model"
    part = json.loads(path.read_text())["choices"]["followed"]
    labels = [f"kd-distance-twice+distance={kind}" for kind in ("knn", "energy")]
    assert list(part["table"]) == labels
    assert f"| {labels[1]} − {labels[0]} | " in part["markdown"]
    capsys.readouterr()


def test_ablations_are_held_out_too_and_a_smaller_study_replaces_none(command, capsys):
    run, path = command
    words = ["--ablation", "followed", "--teacher", "none", "--hold-out", "star"]
    assert run(*words) == 2 and "none" in capsys.readouterr().err, "the given one is looked for"
    assert run("--arms", "ce", "--seeds", "2", "--hold-out", "star") == 0
    assert run("--arms", "ce", "--seeds", "1", "--hold-out", "star") == 0
    assert "it stays as it is" in capsys.readouterr().out
    part = json.loads(path.read_text())["choices"]["arms, held out: star"]
    assert part["table"]["ce"]["ID acc"]["seeds"] == [0, 1]
    assert run("--arms", "ce", "--seeds", "1", "--hold-out", "moon") == 0
    choices = json.loads(path.read_text())["choices"]
    assert [*choices] == ["arms, held out: star", "arms, held out: moon"]
    assert choices["arms, held out: star"] == part, "other classes are another question"


def test_held_out_images_are_those_of_the_training_set(tiny_preset):
    materials = Materials(hold_out(tiny_preset, ["star"]), 0)
    whole = load("shapes", **tiny_preset.benchmark_sizes)
    star = whole.train.images[whole.train.labels == whole.class_names.index("star")]
    assert torch.equal(materials.benchmark.validation_ood["held-out"].images, star)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hold-out", ";"], "a group without a class; expected names as in 'cat,dog'"),
        (["--hold-out", " "], "a group without a class"),
        (["--hold-out", "star;"], "a group without a class"),
        (["--hold-out", "star;sar"], "held-out class 'sar' is not one of circle"),
        (["--hold-out", "star,star"], "name each class once"),
        (["--hold-out", "star", "--arms", "kd,oe-real"], "oe-real trains on validation-OOD"),
        (["--validation", "--arms", "oe-real"], "oe-real trains on validation-OOD"),
        (["--hold-out", "star;moon", "--teacher", "x"], "--teacher with 2 groups of held-out"),
        (["--hold-out", "star;moon", "--pipeline", "x"], "--pipeline with 2 groups of held-out"),
        (
            ["--hold-out", "star"],
            "trained without star; make it by python -m oal_lite.pretrain teacher --preset shapes "
            "--hold-out star",
        ),
    ],
)
def test_what_no_choice_can_be_made_on_is_said_before_anything_is_trained(
    command, capsys, words, message
):
    assert command[0](*words) == 2
    assert message in capsys.readouterr().err and not command[1].exists()


def test_a_choice_without_validation_ood_is_refused(command, capsys, monkeypatch):
    bare = replace(load("shapes", n_train=20, n_val=10, n_test=10, n_ood=1), validation_ood={})
    monkeypatch.setattr(Materials, "benchmark", bare)
    assert command[0]("--validation", "--arms", "ce") == 2
    assert "shapes has no validation-OOD at hand; hold classes out" in capsys.readouterr().err


def test_the_default_arms_of_a_choice_have_not_trained_on_validation_ood(command, monkeypatch):
    asked = []
    monkeypatch.setattr(study, "find_models", lambda preset, arms, **_: asked.extend(arms))
    monkeypatch.setattr(study, "run", lambda *a, **k: (_ for _ in ()).throw(ValueError("enough")))
    assert command[0]("--validation") == 2
    assert "oal" in asked and "oe-real" not in asked


def test_other_classes_do_not_take_the_place_of_those_that_were_held_out(command, capsys):
    run, path = command
    assert run("--arms", "ce", "--seeds", "1", "--hold-out", "star;heart") == 0
    kept = json.loads(path.read_text())["choices"]
    assert run("--arms", "ce", "--seeds", "1", "--hold-out", "heart;star") == 0
    assert "it stays as it is" in capsys.readouterr().out
    assert json.loads(path.read_text())["choices"] == kept


def test_a_teacher_that_knows_a_held_out_class_is_refused(tiny_preset, tmp_path):
    from transformers import CvtForImageClassification

    model = CvtForImageClassification.from_pretrained(tiny_preset.teacher)
    names = ["Star", *(f"x{i}" for i in range(9))]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(tmp_path / "teacher")
    preset = replace(hold_out(tiny_preset, ["star"]), teacher=str(tmp_path / "teacher"))
    with pytest.raises(ValueError, match="knows star, held out here: for it they are no OOD"):
        _ = Materials(preset, 0).teacher


def test_only_the_models_that_are_needed_are_pretrained_and_without_the_held_out(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    preset, asked = hold_out(get_preset("shapes"), ["star"]), []
    monkeypatch.setattr(parts, "source_for", lambda *words: words)
    monkeypatch.setattr(
        parts, "train", lambda names, settings, out, *rest: asked.append((names, out, rest))
    )
    assert parts.missing(preset, []) == [] and parts.missing(preset, ["teacher"]) == ["teacher"]
    assert parts.missing(preset) == ["teacher", "autoencoder", "unet"]
    parts.train_missing(preset, "cpu", str, ["teacher"])
    ((names, out, (_, source, _)),) = asked
    assert names == ["teacher"] and str(out) == "models/shapes-without-star"
    assert source[0] == "shapes" and source[3] == ("star",)


def test_the_samples_of_such_models_are_judged_by_students_of_the_same_classes(
    tiny_preset, tiny_teacher_folder, tiny_pipeline_folder, tmp_path, monkeypatch
):
    seen = []

    def judge(arm, materials):
        seen.append(materials.preset.held_out)
        return None, ResNet18(9, width=2)

    monkeypatch.setattr(unet, "train_one", judge)
    (tmp_path / "pipeline").symlink_to(tiny_pipeline_folder)
    source = source_for("shapes", PretrainSettings(n_images=10), None, ("star",))
    found = unet.recognised(tmp_path, Teacher.from_pretrained(tiny_teacher_folder), source, each=1)
    assert seen == [("star",)] and found["samples"] == 9


def test_names_of_many_classes_still_make_a_file_name():
    many = [f"class number {i}" for i in range(60)]
    assert len(without(many)) < 60 and without(many) == without(many[::-1])
    assert without(many) != without(many[1:])


def test_classes_are_held_out_once(own_errors):
    preset = hold_out(get_preset("shapes"), ["star"])
    with pytest.raises(ValueError, match="star are held out already; name all at once"):
        hold_out(preset, ["heart"])
    with pytest.raises(ValueError, match="classes='star'; expected several names"):
        hold_out(get_preset("shapes"), "star")
    assert pretrain_command("unet", "x", ["sweet pepper", "ship"]) == (
        "python -m oal_lite.pretrain unet --preset x --hold-out 'sweet pepper,ship'"
    )


def test_a_caption_names_what_was_held_out_and_only_that(command):
    def run_of(seed, held_out):
        preset = {"name": "x" + without(held_out), "held_out": held_out}
        return study.Run({"arm": "ce", "seed": seed, "preset": preset}, {})

    runs = [run_of(0, []), run_of(2, ["star"]), run_of(1, ["star"]), run_of(1, ["sun"])]
    del runs[0].record["preset"]["held_out"]  # of an older version
    text = report.caption(runs)
    assert text.startswith("Preset x, 3 seed(s)")
    assert "as validation-OOD: star (seeds 1, 2), sun (seed 1)." in text


def test_a_file_of_choices_alone_is_shown_without_arms():
    section = {"question": "which?", "markdown": "| a |\n\ncaption\n\n| paired |\n\n| more |"}
    shown = readme._real({"choices": {"x": section}})
    assert shown == "**which?**\n\n| a |\n\ncaption\n\n| paired |"
