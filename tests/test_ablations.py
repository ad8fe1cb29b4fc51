"""Ablations: every line of the table can be run, and a label says what was run."""

import json
from dataclasses import replace

import pytest

from oal_lite import run_files, study
from oal_lite.ablations import ABLATIONS, Ablation, get_ablation, jobs, label, vary
from oal_lite.presets import get_preset
from oal_lite.recipes import ARMS, LATENT_VECTORS, get_arm
from oal_lite.study_command import main, results_file


@pytest.mark.parametrize("preset", ["shapes", "cifar10-medium"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variation_changes_something_and_has_a_label_of_its_own(name, preset):
    preset = get_preset(preset)
    varied, labels = jobs(ABLATIONS[name], preset), list(ABLATIONS[name].arms)
    if labels:
        (plain, unchanged), *varied = varied
        assert plain == {arm: get_arm(arm, preset) for arm in labels} and unchanged == preset
    for arms, changed in varied:
        ((key, arm),) = arms.items()
        labels.append(key)
        base = key.split("+")[0]
        if base in ABLATIONS[name].arms:
            assert (arm, changed) != (get_arm(base, preset), preset), f"{key} is its own base"
        assert changed.knn.k <= changed.n_per_class
        assert arm.latent_vector in LATENT_VECTORS
        if "." not in key:  # of a stage of the preset no arm's name can speak
            assert get_arm(key, preset) == arm, f"--arms {key} would be another arm"
    assert len(set(labels)) == len(labels) and set(ABLATIONS[name].baselines) <= set(labels)
    assert not any(set(x) & set("/\\ :") for x in labels), "a label is part of a file's name"


@pytest.mark.parametrize(("distance", "other"), [("knn", "energy"), ("energy", "knn")])
def test_an_ablation_of_the_distance_runs_the_one_that_the_preset_has_not(distance, other):
    preset = replace(get_preset("shapes"), distance=distance)
    (plain, _), *varied = jobs(ABLATIONS["knows"], preset)
    assert plain["oal"].distance == plain["kd-distance-twice"].distance == distance
    assert plain["kd"].distance is None, "an arm without a distance has been given one"
    found = {key: arm.distance for arms, _ in varied for key, arm in arms.items()}
    assert found == {
        f"oal+distance={other}": other, f"kd-distance-twice+distance={other}": other
    }  # fmt: skip


def test_changes_reach_the_arm_and_the_stages_of_the_preset():
    preset, arm = get_preset("shapes"), ARMS["oal-paper"]
    changes = {"arm.outliers": "random", "knn.sigma": 0.5, "weights.kd_logits": 1.0}
    arm, changed = vary(arm, preset, changes)
    assert arm.outliers == "random" and arm.micl == ARMS["oal-paper"].micl
    assert changed.knn.sigma == 0.5 and changed.knn.k == preset.knn.k
    assert changed.weights.kd_logits == 1.0 and changed.train == preset.train
    assert preset == get_preset("shapes"), "the preset itself has been changed"
    made = label("oal-paper", changes | {"arm.micl": ("class", "bound")})
    assert made == (
        "oal-paper+outliers=random+knn.sigma=0.5+weights.kd_logits=1.0+micl=class-bound"
    )


@pytest.mark.parametrize("key", ["knn.gamma", "sigma", "name.x", "arm.colour", "knn."])
def test_a_setting_that_is_not_there_is_named(key):
    with pytest.raises(ValueError, match=f"unknown setting '{key}'"):
        vary(ARMS["kd"], get_preset("shapes"), {key: 1})


def test_an_unknown_ablation_is_named():
    with pytest.raises(ValueError, match="unknown ablation 'magic'; choose from selection"):
        get_ablation("magic")


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def tiny_study(tiny_preset, tmp_path, monkeypatch):
    """The command on the tiny preset with two short ablations; counts the runs it trains."""
    monkeypatch.setattr("oal_lite.command.get_preset", lambda name, quick=False: tiny_preset)
    for module in (run_files, study):  # what names a file, and what writes it into a record
        monkeypatch.setattr(module, "code_version", lambda: "test")
    small = Ablation("distillation?", ("ce",), (("kd", {"weights.kd_logits": 0.0}),))
    monkeypatch.setitem(ABLATIONS, "tiny", small)
    trained, train_one = [], study.train_one
    monkeypatch.setattr(
        study, "train_one", lambda name, *a, **k: trained.append(name) or train_one(name, *a, **k)
    )
    how = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    how += ["--workers", "1"]  # other processes would not see what is patched here
    return (lambda *words: main([*words, *how])), trained, tmp_path / "out" / "tiny.json"


def test_the_study_keeps_its_sections_side_by_side_and_repeats_no_run(tiny_study, capsys):
    command, trained, path = tiny_study
    assert command("--arms", "ce,kd", "--seeds", "2") == 0
    assert trained == ["ce", "kd", "ce", "kd"]
    assert command("--ablation", "tiny", "--seeds", "2") == 0
    assert trained[4:] == ["kd+weights.kd_logits=0.0"] * 2  # ce is read again
    assert command("--arms", "ce,kd", "--seeds", "1", "--first", "1") == 0 and len(trained) == 6
    written = json.loads(path.read_text())
    part = written["ablations"]["tiny"]
    assert list(part["table"]) == ["ce", "kd+weights.kd_logits=0.0"]
    assert part["table"]["ce"]["near AUROC"]["seeds"] == [0, 1]
    assert written["table"]["kd"]["ID acc"]["seeds"] == [0, 1]  # the last call asked for fewer
    run = part["runs"][0]
    assert run["seed"] == 0 and run["code"] == "test" and run["recipe"]["distil"] is False
    assert "history" not in run and list(run["metrics"]) == ["energy"]
    assert "msp" in written["runs"][0]["metrics"]
    assert "| ce | " in part["markdown"] and "training, s" in part["cost"]["ce"]
    assert "not testable here" in capsys.readouterr().out


def test_only_the_long_arms_and_the_ablations_of_shapes_are_the_study():
    assert results_file("shapes-long", ablation=False) == "study.json"
    assert {results_file(p, ablation=True) for p in ("shapes-long", "shapes")} == {"study.json"}
    assert results_file("shapes", ablation=False) == "shapes.json", "shorter trainings"
    assert results_file("shapes-long-quick", ablation=False) == "shapes-long-quick.json"
    assert results_file("cifar10-small", ablation=True) == "cifar10-small.json"


def test_a_varied_stage_does_not_repeat_the_start_that_it_cannot_touch(tiny_study, monkeypatch):
    command, _, path = tiny_study
    command("--ablation", "tiny", "--seeds", "1")
    kept = [p.name for p in (path.parent.parent / "runs").rglob("start-*")]
    assert len(kept) == 1


@pytest.mark.parametrize(
    "table",
    ["[]", '{"ce": 5}', '{"ce": {"ID acc": {"values": [1]}}}',
     '{"ce": {"ID acc": {"values": [1, 2], "seeds": [0]}}}',
     '{"ce": {"ID acc": {"values": [NaN], "seeds": [0]}}}'],
)  # fmt: skip
def test_a_damaged_file_of_results_is_named_before_anything_is_trained(tiny_study, capsys, table):
    command, trained, path = tiny_study
    path.parent.mkdir()
    text = f'{{"ablations": {{"tiny": {{"table": {table}}}}}}}'
    path.write_text(text)
    assert command("--arms", "ce", "--seeds", "1") == 2
    said = capsys.readouterr().err
    assert "tiny.json is damaged" in said and "restore it, or delete it" in said
    assert not trained and path.read_text() == text


@pytest.mark.parametrize(
    "words",
    [("--seeds", "0"), ("--seeds", "99999999999"), ("--arms", ","), ("--ablation", "magic")],
)
def test_bad_arguments_give_one_sentence_and_status_2(tiny_study, capsys, words):
    assert tiny_study[0](*words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_ablations_can_be_listed(capsys):
    assert main(["--ablation", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ABLATIONS)


def test_a_variation_of_the_preset_alone_is_run_too():
    found = [key for arms, _ in jobs(ABLATIONS["kinds"], get_preset("shapes")) for key in arms]
    varied = [f"oal-paper+weights.{name}=0.0" for name in ("micl_diffusion", "micl_knn")]
    assert found == ["oal-paper", "kd", *varied]


def test_an_ablation_without_a_name_is_refused(capsys):
    assert main(["--ablation", " , "]) == 2
    assert "--ablation names no ablation; 'list' lists them" in capsys.readouterr().err
