"""From a preset to results: what is kept, what is read again, and what a table is made of."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from oal_lite import materials as materials_module
from oal_lite import plots, report, run_files, study, study_command
from oal_lite.diffusion_outliers import encode, word_embeddings
from oal_lite.files import write_atomically
from oal_lite.images import LazyImages, late
from oal_lite.materials import Materials, spread_over_classes
from oal_lite.metrics import detection_metrics
from oal_lite.presets import PRESETS, get_preset, hold_out
from oal_lite.recipes import ARMS as ARM_TABLE
from oal_lite.recipes import get_arm
from oal_lite.run_files import run_path, version_of
from oal_lite.shapes import NEAR_SHAPES, VALIDATION_SHAPES
from oal_lite.study import Run
from oal_lite.teacher import Teacher

CODE_VERSION = run_files.code_version  # before it is replaced below
ARMS, SEEDS = ["ce", "oal-paper"], [0, 1]


@pytest.fixture(scope="module", autouse=True)
def fixed_code():
    """Runs are kept by the code's hash; here it shall not change while somebody edits the code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_files, "code_version", lambda: "test")
        yield


@pytest.fixture(scope="module")
def finished(tiny_preset, tmp_path_factory):
    """Folder, results, and the weights with which each arm's training began."""
    folder, starts = tmp_path_factory.mktemp("runs"), []
    fit = study.fit

    def spy(student, terms, views, **how):
        if how.get("val") is not None:  # the common start before the arms looks at no accuracy
            starts.append({k: v.clone() for k, v in student.state_dict().items()})
        return fit(student, terms, views, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "fit", spy)
        results = study.run(tiny_preset, ARMS, SEEDS, runs=folder, device="cpu")
    return folder, results, starts


def refuse(*args, **kwargs):
    raise AssertionError("this should have been read, not made again")


def kept_files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# --- runs on disk ------------------------------------------------------------------------------


def test_every_arm_and_seed_leaves_a_record_and_its_scores(finished):
    folder, results, _ = finished
    assert [(r.record["seed"], r.record["arm"]) for r in results] == [
        (0, "ce"), (0, "oal-paper"), (1, "ce"), (1, "oal-paper"),
    ]  # fmt: skip
    names = kept_files(folder / "tiny")
    assert kept_files(folder) == names, "files outside the preset's folder"
    for arm in ARMS:
        for seed in SEEDS:
            ours = [n for n in names if n.startswith(f"{arm}-seed{seed}-")]
            assert [Path(n).suffix for n in ours] == [".json", ".safetensors"]
    for shared in ("start", "outliers-farthest"):
        assert len([n for n in names if n.startswith(f"{shared}-seed")]) == 2
    assert len([n for n in names if n.startswith("teacher-")]) == 2 * 2
    assert len(names) == 4 * 2 + 2 * 2 + 2 * 2


def test_a_second_call_reads_the_runs_and_trains_nothing(finished, tiny_preset, monkeypatch):
    folder, results, _ = finished
    monkeypatch.setattr(study, "train_one", refuse)
    said = []
    again = study.run(tiny_preset, ARMS, SEEDS, runs=folder, device="cpu", progress=said.append)
    assert len(said) == 4 and all("read from" in sentence for sentence in said)
    for first, second in zip(results, again, strict=True):
        assert json.loads(json.dumps(first.record)) == second.record
        assert first.scores.keys() == second.scores.keys()
        assert all(torch.equal(first.scores[k], second.scores[k]) for k in first.scores)


def test_a_run_of_another_recipe_with_the_same_label_is_refused(finished, tiny_preset, monkeypatch):
    monkeypatch.setattr(study, "train_one", refuse)
    other = {"ce": replace(ARM_TABLE["ce"], exposure="real")}
    with pytest.raises(ValueError, match=r"another recipe with the label 'ce' \(exposure differ"):
        study.run(tiny_preset, other, [0], runs=finished[0], device="cpu")
    reworded = {"ce": replace(ARM_TABLE["ce"], question="what else?")}
    assert len(study.run(tiny_preset, reworded, [0], runs=finished[0], device="cpu")) == 1


def test_an_arm_counts_no_seconds_of_the_arms_before_it(finished):
    first, second = (r.record["seconds"] for r in finished[1][:2])
    assert not set(first) & set(second) - {"training"}
    assert "start" in first and "latents (farthest)" in second


def test_a_missing_file_is_made_again_and_fresh_repeats_all(finished, tiny_preset, monkeypatch):
    folder, results, _ = finished
    made, files = [], kept_files(folder)

    def canned(label, materials, **how):
        made.append((materials.seed, label))
        return next(r for r in results if (r.record["seed"], r.record["arm"]) == made[-1]), None

    monkeypatch.setattr(study, "train_one", canned)
    study.record_of(folder, tiny_preset, "ce", ARM_TABLE["ce"], 1).unlink()
    study.run(tiny_preset, ARMS, SEEDS, runs=folder, device="cpu")
    assert made == [(1, "ce")]
    study.run(tiny_preset, ARMS, [0], runs=folder, device="cpu", fresh=True)
    assert made[1:] == [(0, "ce"), (0, "oal-paper")]
    assert kept_files(folder) == files


def test_changed_settings_seeds_or_code_mean_another_file(tiny_preset, monkeypatch):
    def path(preset=tiny_preset, what="ce", seed=0):
        return run_path(Path("runs"), preset, what, seed, "json")

    assert path() == path(replace(tiny_preset)) and path().parent == Path("runs/tiny")
    changed = [
        replace(tiny_preset, train=replace(tiny_preset.train, lr=0.123)),
        replace(tiny_preset, knn=replace(tiny_preset.knn, sigma=0.1)),
        replace(tiny_preset, weights=replace(tiny_preset.weights, exposure=0.1)),
        replace(tiny_preset, benchmark_sizes={"n_train": 101}),
        replace(tiny_preset, teacher="elsewhere"),
    ]
    paths = {path(), path(what="kd"), path(seed=1), *map(path, changed)}
    monkeypatch.setattr(run_files, "code_version", lambda: "changed")
    assert len(paths | {path()}) == 9


def test_a_run_outlives_what_its_arm_never_sees(finished, tiny_preset, monkeypatch):
    def path(name, **changes):
        preset = replace(tiny_preset, **changes)
        return study.record_of("runs", preset, name, get_arm(name, preset), 0)

    knn = replace(tiny_preset.knn, sigma=0.1)
    all_arms = {"ce", "kd", "kd-distance", "oal-paper", "oal"}
    for field, value, arms in (
        ("teacher", "elsewhere", all_arms - {"ce"}),
        ("pipeline", "elsewhere", {"oal-paper", "oal"}),
        ("knn", knn, {"oal-paper", "oal"}),
        ("distance", "energy", {"kd-distance", "oal"}),
        ("benchmark_sizes", {"n_train": 101}, all_arms),
    ):
        assert {n for n in all_arms if path(n, **{field: value}) != path(n)} == arms, field

    monkeypatch.setattr(study, "train_one", refuse)
    other = replace(tiny_preset, teacher="elsewhere", pipeline="elsewhere", knn=knn)
    (result,) = study.run(other, ["ce"], [0], runs=finished[0], device="cpu")
    assert result.record == finished[1][0].record
    assert not {"teacher", "pipeline", "knn"} & result.record["preset"].keys()


def test_a_model_trained_anew_means_another_file(tiny_preset, tmp_path):
    def path():
        preset = replace(tiny_preset, teacher=str(tmp_path / "teacher"))
        return run_path(Path("runs"), preset, "ce", 0, "json")

    not_there = path()
    (tmp_path / "teacher").mkdir()
    empty = path()
    (tmp_path / "manifest.json").write_text("how long the training took, say")
    assert path() == empty
    weights = tmp_path / "teacher/model.safetensors"
    weights.write_bytes(b"first")
    first = path()
    weights.write_bytes(b"other")
    other = path()
    (tmp_path / "teacher/config.json").write_text("{}")
    assert len({not_there, empty, first, other, path()}) == 5
    (tmp_path / "teacher/config.json").unlink()
    weights.write_bytes(b"first")
    assert path() == first


def test_the_code_version_follows_the_sources(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    first = version_of(tmp_path)
    assert first == version_of(tmp_path)
    (tmp_path / "plots.py").write_text("only shows")
    assert first == version_of(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    assert version_of(tmp_path) != first


def test_a_models_name_follows_its_whole_files_alone(tmp_path, monkeypatch):
    def named(**models):
        return run_files.portable(replace(get_preset("shapes"), **models))

    model = tmp_path / "teacher"
    write_atomically(model / "part" / "model.safetensors", lambda p: p.write_bytes(b"1"))
    name = named(teacher=str(model))["teacher"]
    assert name.startswith(f"{model}@") and named(teacher=model)["teacher"] == name
    write_atomically(model / ".folder-x.tmp" / "config.json", lambda p: p.write_text("half"))
    assert named(teacher=str(model))["teacher"] == name, "of a writer that was killed"
    write_atomically(model / "part" / "config.json", lambda p: p.write_text("{}"))
    assert named(teacher=str(model))["teacher"] != name

    monkeypatch.setattr(run_files, "__file__", str(tmp_path / "tea" / "run_files.py"))
    beside, inside = named(teacher=str(model)), named(teacher=str(tmp_path / "tea" / "x"))
    assert beside["teacher"].startswith(f"{model}@"), "the package's name begins its own"
    assert inside["teacher"] == "oal_lite/x"
    monkeypatch.setattr(run_files, "content_of", refuse)
    assert "teacher" not in run_files.portable(
        replace(get_preset("shapes"), teacher=str(model)), unseen=("teacher", "pipeline")
    )


def test_sources_edited_during_a_run_do_not_count_as_what_is_running(tmp_path, monkeypatch):
    fresh = cache(CODE_VERSION.__wrapped__)
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(run_files, "__file__", str(tmp_path / "run_files.py"))
    first = fresh()
    (tmp_path / "a.py").write_text("x = 2")
    assert fresh() == first != version_of(tmp_path)


@pytest.mark.parametrize("what", ["scores", "record"])
def test_a_run_killed_while_it_is_saved_leaves_nothing_half_done(
    what, finished, tiny_preset, tmp_path, monkeypatch
):
    _, results, _ = finished
    monkeypatch.setattr(study, "train_one", lambda *a, **k: (results[0], None))

    def killed(*args, **how):
        path = next(a for a in args if isinstance(a, Path))
        path.write_bytes(b"half a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if what == "scores":
            patch.setattr(safetensors.torch, "save_file", killed)
        else:
            patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            study.run(tiny_preset, ["ce"], [0], runs=tmp_path, device="cpu")
    assert not any(name.endswith(".json") or name.startswith(".") for name in kept_files(tmp_path))
    study.run(tiny_preset, ["ce"], [0], runs=tmp_path, device="cpu")
    monkeypatch.setattr(study, "train_one", refuse)
    (again,) = study.run(tiny_preset, ["ce"], [0], runs=tmp_path, device="cpu")
    assert again.record["id_accuracy"] == results[0].record["id_accuracy"]


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(p):
        p.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and kept_files(tmp_path) == ["file.txt"]


def test_an_unknown_arm_is_named_before_anything_is_trained(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "train_one", refuse)
    with pytest.raises(ValueError, match="unknown arm 'magic'"):
        study.run(tiny_preset, ["ce", "magic"], [0], runs=tmp_path)


# --- what a run holds --------------------------------------------------------------------------


def test_scores_and_metrics_are_finite_and_belong_together(finished, tiny_preset):
    for r in finished[1]:
        assert 0 <= r.record["id_accuracy"] <= 1
        assert all(s.isfinite().all() for s in r.scores.values())
        assert len(r.scores["energy/id"]) == 30 and len(r.scores["msp/digits"]) == 10
        groups = r.record["metrics"]["energy"]
        sizes = {group: len(sets) for group, sets in groups.items()}
        assert sizes == {"near": 6, "far": 4, "validation": 6}
        assert set(groups["near"]) == set(NEAR_SHAPES)
        assert set(groups["validation"]) == set(VALIDATION_SHAPES)
        for sets in groups.values():
            for name, m in sets.items():
                expected = detection_metrics(r.scores["energy/id"], r.scores[f"energy/{name}"])
                assert m == expected.as_dict() and 0 <= m["auroc"] <= 1
        terms = r.record["history"]["terms"]
        assert len(terms) == 1 and all(map(math.isfinite, terms[0].values()))


def test_arms_of_one_seed_start_from_the_same_weights_and_seeds_do_not(finished):
    first_ce, first_oal, second_ce, _ = finished[2]
    assert all(torch.equal(first_ce[k], first_oal[k]) for k in first_ce)
    assert not torch.equal(first_ce["head.weight"], second_ce["head.weight"])


def test_a_run_can_be_repeated_from_its_seed_alone(finished, tiny_preset):
    torch.manual_seed(99)  # the global generator has no say
    run, student = study.train_one("oal-paper", Materials(tiny_preset, 1), device="cpu")
    expected = finished[1][3]
    assert_close(run.scores, expected.scores, atol=1e-4, rtol=1e-4)
    assert run.record["id_accuracy"] == expected.record["id_accuracy"]
    assert not student.training
    assert json.loads(json.dumps(run.record)) == run.record  # the same when it is read again


def test_a_metric_of_a_group_is_the_unweighted_mean_over_its_sets():
    sets = {"a": {"auroc": 0.5, "n_ood": 1}, "b": {"auroc": 0.8, "n_ood": 999}}
    other = {"energy": {"near": sets}, "msp": {"near": {"a": {"auroc": 0.1}}}}
    r = Run({"metrics": other}, {})
    assert r.metric("near", "auroc") == pytest.approx(0.65)
    assert r.metric("near", "auroc", "msp") == pytest.approx(0.1)


# --- materials ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def materials(finished, tiny_preset):
    return Materials(tiny_preset, 0, runs=finished[0])


def test_kept_outliers_are_read_and_have_the_length_of_their_word(materials, monkeypatch):
    monkeypatch.setattr(materials_module, "synthesise", refuse)
    made = materials.outliers("farthest")
    assert made.vectors.shape == (40, 32) and made.latents.shape == (30, 4, 8, 8)
    assert made.images.shape == (30, 3, 32, 32)
    assert made.vector_classes.bincount().tolist() == [4] * 10
    assert made.latent_classes.bincount().tolist() == [3] * 10
    lengths = word_embeddings(materials.pipeline, materials.benchmark.class_names).norm(dim=1)
    assert_close(made.vectors.norm(dim=1), lengths[made.vector_classes])
    assert materials.outliers("farthest") is made


def test_outliers_follow_the_seed_and_are_kept_only_where_asked(materials, tiny_preset):
    made = materials.outliers("farthest")
    again = Materials(tiny_preset, 0, runs=None)
    assert_close(again.outliers("farthest").latents, made.latents, atol=1e-4, rtol=0)
    assert_close(again.outliers("farthest").vectors, made.vectors, atol=1e-5, rtol=0)


def test_the_noise_control_imitates_the_farthest_outliers(materials):
    real, noise = materials.outliers("farthest"), materials.outliers("noise")
    assert torch.equal(noise.latent_classes, real.latent_classes)
    assert abs(noise.latents.std() / real.latents.std() - 1) < 0.1
    assert not torch.equal(noise.latents, real.latents)


def test_the_control_of_halves_keeps_all_but_the_latents(materials):
    real, made = materials.outliers("farthest"), materials.outliers("halves")
    assert made.vectors is real.vectors and made.latents.shape == real.latents.shape
    assert made.images.shape == real.images.shape and not torch.equal(made.images, real.images)


@pytest.mark.parametrize("arm", ["oe-pixels-matched", "oe-real", "oal-latent"])
def test_arms_that_need_more_images_get_them(arm, materials):
    run, _ = study.train_one(arm, materials, device="cpu")
    assert run.record["recipe"]["exposure"] == ARM_TABLE[arm].exposure
    extra = {
        # 30 decoded outliers and 100 decoded ID images of 32 px with their labels
        "oe-pixels-matched": (30 + 100) * 3 * 32 * 32 + 100 * 8,
        "oe-real": 6 * 10 * 3 * 32 * 32,  # six validation sets of ten images
        # the same as latents in single precision
        "oal-latent": (30 + 100) * 4 * 8 * 8 * 4 + 100 * 8,
    }
    assert run.record["extra_mb"] == pytest.approx(extra[arm] / 1e6, abs=5e-4)


@pytest.mark.parametrize("kinds", [("id",), ("halves",), ("outliers", "halves")])
def test_the_teacher_answers_on_the_images_that_an_arm_names(kinds, materials, monkeypatch):
    arm = replace(ARM_TABLE["oal"], answers=kinds)
    made, train = materials.answers(arm), materials.benchmark.train.images
    assert made.images.shape == (1, materials.preset.train.n_views * len(train), 3, 32, 32)
    said = materials.teacher(made.images[0, -3:])
    assert_close(made.teacher_features[0, -3:], said.features, atol=1e-5, rtol=1e-5)
    assert_close(made.teacher_logits[0, -3:], said.logits, atol=1e-4, rtol=1e-4)
    assert materials.answers(arm) is made
    again = Materials(materials.preset, 0, runs=materials.runs)
    monkeypatch.setattr(Teacher, "forward", refuse)  # what it has said is kept in the folder
    same = again.answers(arm)
    assert torch.equal(same.images, made.images)
    assert torch.equal(same.teacher_features, made.teacher_features)


def test_answers_are_on_as_many_decoded_id_images_as_decoded_outliers(materials):
    images, classes = materials._asked("outliers", 100, "farthest")
    known, unknown = images.chunk(2)
    made, id_images = materials.outliers("farthest"), materials.autoencoded(decoded=True)

    def places(x, among):
        same = (x[:, None] == among[None]).flatten(2).all(2)
        assert same.any(1).all(), "an image that is none of them"
        return same.int().argmax(1)

    of_known, of_unknown = places(known, id_images.images), places(unknown, made.images)
    assert min(of_known.unique().numel(), of_unknown.unique().numel()) > 10
    expected = torch.cat([id_images.labels[of_known], made.latent_classes[of_unknown]])
    assert torch.equal(classes, expected)


@pytest.mark.parametrize("kind", ["id", "halves", "outliers"])
def test_images_to_answer_on_are_not_copied_where_the_training_set_is_read_late(kind, materials):
    at_once, labels = materials._asked(kind, 100, "farthest")
    train = materials.benchmark.train
    benchmark = replace(materials.benchmark, train=replace(train, images=late(train.images)))
    large = Materials(materials.preset, 0)
    large.benchmark = benchmark
    for made in ("reconstructions", "_outliers"):
        setattr(large, made, getattr(materials, made))
    images, same = large._asked(kind, 100, "farthest")
    assert isinstance(images, LazyImages) and torch.equal(same, labels)
    assert torch.equal(images[:], at_once)


def test_answers_on_id_images_are_on_each_as_often_as_there_are_views(materials):
    train = materials.benchmark.train
    images, labels = materials._asked("id", 3 * len(train), None)
    assert torch.equal(images, train.images.repeat(3, 1, 1, 1))
    assert torch.equal(labels, train.labels.repeat(3))


def test_encoded_id_images_are_those_of_the_training_set(materials):
    made = materials.autoencoded(decoded=True)
    train = materials.benchmark.train
    assert torch.equal(made.labels, train.labels) and made.images.shape == train.images.shape
    assert_close(
        made.latents[7:9], encode(materials.pipeline, train.images[7:9]), atol=1e-4, rtol=0
    )
    again = materials.autoencoded(decoded=False)
    assert again.images is None and again.latents is made.latents


def test_without_alignment_outliers_keep_lengths_and_angles_and_lose_their_direction(tiny_preset):
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    turned = []
    for aligned in (True, False):
        diffusion = replace(tiny_preset.diffusion, aligned=aligned)
        turned.append(Materials(replace(tiny_preset, diffusion=diffusion), 0)._as_tokens(vectors))
    assert torch.equal(turned[0], vectors)
    assert_close(turned[1] @ turned[1].T, vectors @ vectors.T, atol=1e-4, rtol=1e-4)
    assert torch.cosine_similarity(turned[1], vectors).abs().max() < 0.7


def test_the_start_is_shared_by_settings_that_it_cannot_feel(finished, tiny_preset, monkeypatch):
    monkeypatch.setattr(materials_module, "fit", refuse)
    changed = replace(tiny_preset, knn=replace(tiny_preset.knn, sigma=0.9))
    assert Materials(changed, 0, runs=finished[0]).start.keys()
    for felt_by_arms in ({"epochs": 9}, {"lr": 0.9}, {"own_batch": False}):
        changed = replace(tiny_preset, train=replace(tiny_preset.train, **felt_by_arms))
        assert Materials(changed, 0, runs=finished[0]).start.keys()
    longer = replace(tiny_preset, train=replace(tiny_preset.train, start_lr=0.2))
    with pytest.raises(AssertionError, match="should have been read"):
        Materials(longer, 0, runs=finished[0]).start  # noqa: B018


def test_a_distance_named_by_the_preset_is_that_of_its_arms_and_nothing_else(tiny_preset, tmp_path):
    folder = tmp_path / "runs"

    def shared() -> set[str]:  # what is not one arm's own
        return {f.name for f in folder.rglob("*.safetensors") if not f.name.startswith("oal")}

    explicit = {"oal-explicit": replace(ARM_TABLE["oal"], distance="energy")}
    cpu = torch.device("cpu")  # a device by its class is as good as by its name
    (expected,) = study.run(tiny_preset, explicit, [0], runs=folder, device=cpu)
    before = shared()
    ours, others = (
        study.run(replace(tiny_preset, distance=distance), ["oal"], [0], runs=folder)[0]
        for distance in ("energy", "knn")
    )
    assert ours.record["recipe"] == expected.record["recipe"]
    assert all(torch.equal(ours.scores[k], x) for k, x in expected.scores.items())
    assert not torch.equal(others.scores["energy/id"], expected.scores["energy/id"])
    assert len(before) > 2 and shared() == before, "the start or outliers have been made again"


def test_id_features_are_of_the_first_images_of_each_class(materials, tiny_preset):
    fewer = Materials(replace(tiny_preset, n_per_class=3), 0)
    features, labels = fewer.id_features
    assert labels.tolist() == [c for c in range(10) for _ in range(3)]
    train = fewer.benchmark.train
    expected = fewer.teacher(train.images[train.labels == 4][:3]).features
    assert_close(features[12:15], expected, atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 99))
def test_picks_are_distinct_and_spread_evenly_over_the_classes(classes, n, seed):
    classes, n = torch.tensor(classes), min(n, len(classes))
    picks = spread_over_classes(classes, n, torch.Generator().manual_seed(seed))
    assert len(picks) == len(picks.unique()) == n
    taken, there = (x.bincount(minlength=5) for x in (classes[picks], classes))
    not_exhausted = taken < there
    assert (taken[not_exhausted] >= taken.max() - 1).all()


def test_picks_within_a_class_are_random():
    classes = torch.zeros(50, dtype=torch.long)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, other = (spread_over_classes(classes, 5, g).tolist() for g in generators)
    assert first != other


# --- report ------------------------------------------------------------------------------------


def made_up(arm, seed, accuracy, near=(0.5, 0.7), far=(0.9,)):
    """A run whose every metric of a set is one number."""

    def group(values):
        return {f"{v}": {"auroc": v, "fpr95": 1 - v} for v in values}

    record = {
        "arm": arm, "seed": seed, "preset": {"name": "shapes"}, "id_accuracy": accuracy,
        "recipe": {"question": "is it made up?", "outliers": None}, "code": "0", "history": {},
        "seconds": {"training": 1.0},
        "metrics": {"energy": {"near": group(near), "far": group(far)}},
    }  # fmt: skip
    scores = {"energy/id": torch.zeros(2)}
    scores |= {f"energy/{v}": torch.full((3,), v) for v in (*near, *far)}
    return Run(record, scores)


def test_a_row_holds_percentages_and_from_two_seeds_on_an_interval():
    one = report.rows([made_up("kd", 0, 0.9), made_up("ce", 0, 1.0)])
    assert one == [
        ["kd", "90.0", "60.0", "40.0", "90.0", "10.0"],
        ["ce", "100.0", "60.0", "40.0", "90.0", "10.0"],
    ]
    (two,) = report.rows([made_up("kd", 0, 0.9), made_up("kd", 1, 1.0)])
    # Standard error 5 points, t quantile 12.706 at one degree of freedom.
    assert two[:3] == ["kd", "95.0 ± 63.5", "60.0 ± 0.0"]


def test_the_markdown_table_has_a_header_a_row_per_arm_and_the_convention():
    text = report.markdown([made_up("kd", 0, 0.9), made_up("ce", 0, 1.0)])
    header, rule, *rows, blank, caption = text.splitlines()
    assert header == "| arm, % | ID acc | near AUROC | near FPR95 | far AUROC | far FPR95 |"
    assert rule.count("---") == 6 and len(rows) == 2 and blank == ""
    assert rows[0].startswith("| kd | 90.0 |")
    assert "OOD is the positive class" in caption and "OpenOOD v1.5" in caption


def test_differences_to_the_baseline_are_paired_by_seed():
    accuracies = {"kd": {0: 0.90, 1: 0.80, 2: 0.70}, "ce": {1: 0.78, 0: 0.86, 3: 0.10}}
    runs = [made_up(arm, seed, a) for arm, seeds in accuracies.items() for seed, a in seeds.items()]
    ((name, accuracy, *_),) = report.paired_rows([*runs, made_up("oal-paper", 0, 0.9)], "kd")
    # Seeds 0 and 1 are common: -4 and -2 points, standard error 1, t quantile 12.706, t = -3.
    assert name == "ce − kd"
    assert accuracy == "-3.0 [-15.7, +9.7] p=0.2"
    assert "ce − kd" in report.markdown(runs)


def test_the_caption_names_the_seeds_and_speaks_of_intervals_only_where_there_are_some():
    one = report.caption([made_up("kd", 3, 0.9), made_up("ce", 3, 0.9)])
    assert one.startswith("Preset shapes, 1 seed(s) [3]. score: energy") and "interval" not in one
    two = report.caption([made_up("kd", 1, 0.9), made_up("kd", 0, 0.9)])
    assert "2 seed(s) [0, 1]" in two and "95 % t-interval over seeds" in two


def test_the_caption_names_models_that_are_not_the_presets_own():
    def of(preset, **models):
        run = made_up("kd", 0, 0.9)
        run.record["preset"] = {"name": preset.name, "held_out": preset.held_out, **models}
        return report.caption([run, made_up("ce", 0, 0.8)])

    own = get_preset("cifar10-medium")
    without = hold_out(own, ["ship", "truck"])
    assert "models" not in of(own, teacher=own.teacher + "@1a2b3c4d", pipeline=own.pipeline)
    assert "models" not in of(without, teacher=without.teacher)
    assert "models" not in of(get_preset("shapes"), teacher="oal_lite/assets/shapes/teacher")
    assert "models" not in of(get_preset("shapes", quick=True), teacher="elsewhere")
    assert "In place of the preset's models: pipeline p/q, teacher me@lab/teacher." in of(
        own, teacher="me@lab/teacher@5e6f7a8b", pipeline="p/q"
    )


def test_validation_ood_alone_chooses_the_score_of_a_student():
    def group(near, validation):
        return {"near": {"a": {"auroc": near}}, "validation": {"v": {"auroc": validation}}}

    near = report.OWN_SCORE["near AUROC, own score"]
    run = Run({"metrics": {"msp": group(0.9, 0.6), "energy": group(0.7, 0.8)}}, {})
    assert report.own_score(run) == "energy" and near(run) == 0.7
    blind = Run({"metrics": {"msp": {"near": {"a": {"auroc": 0.9}}, "validation": {}}}}, {})
    assert report.own_score(blind) is None and near(blind) is None


def test_a_run_without_entropy_has_no_value_by_it():
    column = report.ENTROPY["far AUROC, entropy"]
    metrics = {"far": {"a": {"auroc": 0.9}, "b": {"auroc": 0.7}}}
    assert column(Run({"metrics": {"entropy": metrics}}, {})) == pytest.approx(0.8)
    assert column(Run({"metrics": {"energy": metrics}}, {})) is None


def test_scores_are_pooled_by_group():
    pooled = report.grouped_scores(made_up("kd", 0, 0.9))
    assert {k: len(v) for k, v in pooled.items()} == {"id": 2, "near": 6, "far": 3}
    assert_close(pooled["near"], torch.tensor([0.5] * 3 + [0.7] * 3))


def test_the_report_is_a_json_file_and_pictures_that_open(finished, materials, tmp_path):
    results = finished[1]
    written = report.write(results, materials, tmp_path / "out")
    assert sorted(p.name for p in written) == [
        "outliers.png", "results.json", "results_table.png", "roc.png", "score_histograms.png",
    ]  # fmt: skip
    assert kept_files(tmp_path) == sorted(p.name for p in written)
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(summary["table"]) == ARMS == list(summary["questions"])
    cell = summary["table"]["oal-paper"]["near AUROC"]
    assert cell["seeds"] == SEEDS
    assert cell["values"] == [r.metric("near", "auroc") for r in results[1::2]]
    assert len(summary["runs"]) == 4 and "positive class" in summary["convention"]
    for picture in tmp_path.rglob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 150, picture.name
            assert len(image.convert("RGB").getcolors(2**24)) > 20, f"{picture.name} is blank"


def test_the_report_draws_histograms_and_two_curves_of_every_arm(
    finished, materials, tmp_path, monkeypatch
):
    drawn = {}
    monkeypatch.setattr(
        plots, "save", lambda figure, path: drawn.update({path.name: figure}) or path
    )
    report.write(finished[1], materials, tmp_path)
    histograms, curves = (drawn[f"{name}.png"].axes for name in ("score_histograms", "roc"))
    assert [ax.get_title() for ax in histograms] == ARMS and all(ax.patches for ax in histograms)
    for ax, group in zip(curves, ("near", "far"), strict=True):
        labels = [line.get_label().split(":")[0] for line in ax.lines]
        assert group in ax.get_title() and set(ARMS) <= set(labels), labels


def test_a_sheet_shows_of_each_class_two_real_images_and_its_own_outliers(materials, monkeypatch):
    shown = {}
    monkeypatch.setattr(plots, "image_grid", lambda images, **how: shown.update(how, images=images))
    report.outlier_sheet(materials, columns=6, classes=3)
    train, made = materials.benchmark.train, materials.outliers("farthest")
    rows = shown["images"].unflatten(0, (3, 6))
    for c, row in enumerate(rows):
        assert torch.equal(row[:2], train.images[train.labels == c][:2])
        assert torch.equal(row[4:], made.images[made.latent_classes == c][:2])
    assert shown["columns"] == 6 and shown["titles"] == materials.benchmark.class_names[:3]


def test_a_tiny_model_that_another_process_was_faster_to_write_is_taken(
    tiny_preset, tmp_path, monkeypatch
):
    preset = replace(tiny_preset, teacher="tiny", pipeline="tiny")
    rename = Path.rename

    def overtaken(path, target):
        target.mkdir()
        rename(path / "config.json", target / "config.json")  # a folder with a file is no place
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    found = Materials(preset, 0, runs=tmp_path, bars=False)._model("teacher", a_config)
    assert [p.name for p in found.iterdir()] == ["config.json"]

    def no_room(path, target):
        raise OSError("no room")

    monkeypatch.setattr(Path, "rename", no_room)
    with pytest.raises(OSError, match="no room"):
        Materials(preset, 0, runs=tmp_path / "other", bars=False)._model("teacher", a_config)


def a_config(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "more.json").write_text("{}")


def test_a_table_is_of_the_machines_and_the_last_day_of_its_trainings():
    runs = [made_up("kd", 0, 0.9), made_up("ce", 0, 0.9), made_up("ce", 1, 0.9)]
    for r, day, machine in zip(
        runs, ("2026-01-02", "2026-03-01", "2026-02-03"), "bab", strict=True
    ):
        r.record["made"] = {"date": day, "machine": machine}
    summary = report.summary(runs)
    assert (summary["made"], summary["machine"]) == ("2026-03-01", "a; b")


def test_a_record_says_where_and_when_it_was_made(finished):
    made = finished[1][0].record["made"]
    assert made["date"][:2] == "20" and made["machine"].endswith(f"cpu, torch {torch.__version__}")


def test_a_study_of_fewer_trainings_leaves_the_larger_one_in_its_file(
    tiny_preset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(PRESETS, "tiny", tiny_preset)
    monkeypatch.chdir(tmp_path)

    def study_of(*more):
        assert (
            study_command.main(["--preset", "tiny", "--workers", "1", "--device", "cpu", *more])
            == 0
        )
        return capsys.readouterr().out

    study_of("--arms", "ce,kd", "--seeds", "2")
    whole = (tmp_path / "figures/tiny.json").read_bytes()
    said = study_of("--arms", "ce", "--seeds", "2")
    assert (
        "holds 2 trainings of 'arms' that are not asked for now, such as kd, seed 0; it s" in said
    )
    assert "wrote" not in said and "| ce |" in said
    study_of("--arms", "ce,kd", "--seeds", "1")
    assert (tmp_path / "figures/tiny.json").read_bytes() == whole
    assert "wrote 'arms'" in study_of("--arms", "ce", "--seeds", "1", "--out", "mine")
    assert "wrote 'arms'" in study_of("--arms", "ce,kd,oal-paper", "--seeds", "2")
    assert len(report.trained(tmp_path / "figures/tiny.json", "arms")) == 6
    assert report.trained(tmp_path / "figures/tiny.json", "hedge") == set()
    (tmp_path / "odd.json").write_text('{"runs": [1]}')
    with pytest.raises(ValueError, match="odd.json is damaged .runs of 'arms'"):
        report.trained(tmp_path / "odd.json", "arms")


def test_without_an_arm_that_sees_outliers_no_sheet_of_them_is_drawn(
    finished, tiny_preset, tmp_path
):
    """So that `--arms ce,kd` needs no diffusion model."""
    without = Materials(replace(tiny_preset, pipeline=str(tmp_path / "nowhere")), 0)
    written = report.write(finished[1][::2], without, tmp_path)
    assert "outliers.png" not in {p.name for p in written} and len(written) == 4


def test_more_picks_than_outliers_are_refused():
    with pytest.raises(ValueError, match="5 picks of 4 outliers"):
        spread_over_classes(torch.arange(4), 5, torch.Generator())


def test_scores_of_another_kind_are_pooled_by_group():
    run = made_up("kd", 0, 0.9)
    run.record["metrics"]["msp"] = run.record["metrics"]["energy"]
    run.scores.update({f"msp/{k.split('/')[1]}": x - 1 for k, x in run.scores.items()})
    pooled, shifted = (report.grouped_scores(run, score) for score in ("energy", "msp"))
    assert all(torch.equal(shifted[k], pooled[k] - 1) for k in ("id", "near", "far"))


def test_the_start_on_other_images_is_another(tiny_preset, tmp_path, monkeypatch):
    one, other = tiny_preset, replace(tiny_preset, data_seed=1)
    Materials(one, 0, runs=tmp_path, bars=False).start  # noqa: B018
    monkeypatch.setattr(materials_module, "fit", refuse)
    with pytest.raises(AssertionError, match="should have been read"):
        Materials(other, 0, runs=tmp_path, bars=False).start  # noqa: B018


def test_a_stage_costs_its_mean_over_the_runs_that_went_through_it():
    first = {"arm": "kd", "seconds": {"training": 4.0, "teacher views": 10.0}, "extra_mb": 0.5}
    runs = [Run(first, {}), Run({"arm": "kd", "seconds": {"training": 6.0}, "extra_mb": 2.0}, {})]
    assert report.cost(runs) == {
        "training, s": 5.0, "teacher views, s": 10.0, "extra data, MB": 2.0,
    }  # fmt: skip
