"""Does every setting, seed and set of images reach the place that it is meant for?

A part that is right by itself is of no use to a study that hands it something else.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from oal_lite import materials as materials_module
from oal_lite import run_files, study
from oal_lite.images import late
from oal_lite.materials import Materials
from oal_lite.presets import (
    SHAPES,
    TINY,
    DiffusionSettings,
    KnnSettings,
    LossWeights,
    TrainSettings,
)
from oal_lite.recipes import ARMS, Outliers, build_terms, get_arm
from oal_lite.scores import energy
from oal_lite.teacher import Teacher, TeacherOutputs
from oal_lite.train import predict


class Reached(Exception):
    """A spy has seen what it waited for."""


def spy_on(monkeypatch, module, name, *, stop=False):
    """The arguments of every call of a function; if `stop`, a call raises `Reached` instead."""
    calls, real = [], getattr(module, name)

    def spy(*args, **how):
        calls.append((args, how))
        if stop:
            raise Reached
        return real(*args, **how)

    monkeypatch.setattr(module, name, spy)
    return calls


@pytest.fixture(autouse=True)
def fixed_code(monkeypatch):
    monkeypatch.setattr(run_files, "code_version", lambda: "test")


# --- seeds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["oal", "oal-paper"])
def test_every_random_number_of_a_run_comes_from_its_seed(arm, tiny_preset, monkeypatch):
    drawn = [spy_on(monkeypatch, m, "generator_for") for m in (materials_module, study)]
    built, build = [], study.build_terms
    monkeypatch.setattr(
        study, "build_terms", lambda *a, **k: built.append(torch.initial_seed()) or build(*a, **k)
    )
    study.train_one(arm, Materials(tiny_preset, 7, bars=False), device="cpu")
    calls = [args for part in drawn for args, _ in part]
    assert {args[0] for args in calls} == {7} and built == [7]
    stages = {args[1] for args in calls}
    assert stages >= {"views", "start", "knn", "pick", "latents", "training"}
    assert ("answers" in stages) == (arm == "oal")


def test_students_of_two_seeds_begin_at_different_weights(tiny_preset):
    one, same, other = (Materials(tiny_preset, s).student().head.weight for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


# --- settings ----------------------------------------------------------------------------------


def test_outliers_are_made_by_the_settings_of_their_preset(tiny_preset, monkeypatch):
    preset = replace(
        tiny_preset,
        knn=replace(tiny_preset.knn, sigma=0.11, k=4),
        diffusion=replace(tiny_preset.diffusion, steps=3, guidance=2.5, prompt="the {}"),
    )
    sampled = spy_on(monkeypatch, materials_module, "sample_outliers_per_class")
    asked = spy_on(monkeypatch, materials_module, "synthesise")
    materials = Materials(preset, 0, bars=False)
    made = materials.outliers("farthest")
    ((features, labels), how) = sampled[0]
    assert how.items() >= vars(preset.knn).items() and how["selection"] == "farthest"
    assert_close(features, materials.id_features[0])
    assert torch.equal(labels, materials.id_features[1])
    ((_, vectors, words), how) = asked[0]
    assert (how["steps"], how["guidance"], how["prompt"]) == (3, 2.5, "the {}")
    names = materials.benchmark.class_names
    assert words == [names[c] for c in made.latent_classes]
    for vector, c in zip(vectors, made.latent_classes, strict=True):  # of a class's own outliers
        own = made.vectors[made.vector_classes == c]
        assert torch.cosine_similarity(own, vector[None]).max() > 1 - 1e-5


@pytest.mark.parametrize(
    ("part", "change", "again"),
    [
        ("outliers", {"diffusion.guidance": 1.0}, True),
        ("outliers", {"diffusion.prompt": "the {}"}, True),
        ("outliers", {"knn.sigma": 0.2}, True),
        ("outliers", {"pipeline": "another"}, True),
        ("outliers", {"teacher": "another"}, True),
        ("outliers", {"n_per_class": 9}, True),
        ("outliers", {"train.epochs": 9}, False),
        ("outliers", {"weights.kd_logits": 9.0}, False),
        ("id_latents", {"pipeline": "another"}, True),
        ("id_latents", {"data_seed": 1}, True),
        ("id_latents", {"diffusion.guidance": 1.0}, False),
        ("id_latents", {"knn.sigma": 0.2}, False),
        ("id_latents", {"train.epochs": 9}, False),
        ("id_latents", {"teacher": "another"}, False),
        ("id_latents", {"n_per_class": 9}, False),
        ("id_latents", {"train.mixed_precision": "half"}, True),
        ("outliers", {"train.mixed_precision": "half"}, True),
    ],
    ids=str,
)
def test_what_is_kept_is_made_again_where_it_depends_on_what_has_changed(
    part, change, again, tiny_preset, tmp_path, monkeypatch
):
    made, x = [], torch.zeros(2)
    one = Outliers(torch.zeros(2, 3), x.long(), torch.zeros(2, 4, 8, 8), x.long(),
                   torch.zeros(2, 3, 8, 8, dtype=torch.uint8))  # fmt: skip
    monkeypatch.setattr(Materials, "_synthesise", lambda *a: made.append("outliers") or one)
    monkeypatch.setattr(Materials, "pipeline", None)
    monkeypatch.setattr(
        materials_module, "encode", lambda *a, **k: made.append("id_latents") or one.latents
    )

    def use(preset):
        materials = Materials(preset, 0, runs=tmp_path, bars=False)
        return materials.outliers("farthest") if part == "outliers" else materials.id_latents

    use(tiny_preset)
    use(tiny_preset)
    assert made == [part]
    ((name, value),) = change.items()
    group, _, field = name.rpartition(".")
    changed = (
        replace(tiny_preset, **{group: replace(getattr(tiny_preset, group), **{field: value})})
        if group
        else replace(tiny_preset, **change)
    )
    use(changed)
    assert (len(made) == 2) == again


def test_parts_of_images_that_the_caller_gives_are_not_taken_for_those_of_others(
    tiny_preset, tmp_path, monkeypatch
):
    made, asked = [], replace(tiny_preset, teacher=TINY)
    state = Materials(tiny_preset, 0).student().state_dict()
    monkeypatch.setattr(materials_module, "fit", lambda student, *a, **k: made.append(student))
    shapes = Materials(tiny_preset, 0).benchmark
    one = replace(shapes.train, labels=shapes.train.labels.flip(0))
    read_late = replace(one, images=late(one.images))

    def start(train):
        materials = Materials(asked, 0, runs=tmp_path, bars=False)
        if train is not shapes.train:
            materials.benchmark = replace(shapes, train=train)
        return materials.start, materials.checkpoint("x"), materials.teacher

    found = [start(train) for train in (shapes.train, one, read_late, shapes.train)]
    assert len(made) == 2 and found[0][0].keys() == state.keys()
    ours, own, unread, again = (path.name for _, path, _ in found)
    assert ours == again != own == unread
    fewer = shapes.hold_out(["star"])
    materials = Materials(asked, 0, runs=tmp_path, bars=False)
    materials.benchmark = fewer
    assert materials.teacher.n_classes == 9, "and not the tiny teacher of ten"


def test_of_several_processes_one_writes_the_tiny_models(tiny_preset, tmp_path, monkeypatch):
    preset, waited = replace(tiny_preset, teacher=TINY), []
    first = Materials(preset, 0, runs=tmp_path, bars=False)
    _ = first.teacher
    (folder,) = (tmp_path / "tiny").glob("tiny-teacher*")
    hidden = folder.rename(tmp_path / "elsewhere")

    def wait_for(path):
        waited.append(path)
        hidden.rename(path)  # the other process is done

    monkeypatch.setattr(materials_module, "is_first", lambda: False)
    monkeypatch.setattr(materials_module, "wait_for", wait_for)
    other = Materials(preset, 0, runs=tmp_path, bars=False).teacher
    assert waited == [folder] and str(other.state_dict()) == str(first.teacher.state_dict())


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("half", "cuda", torch.float16), ("half", "cpu", torch.float32),
     ("no", "cuda", torch.float32)],
)  # fmt: skip
def test_frozen_models_are_in_half_precision_on_a_gpu_alone(
    precision, device, expected, tiny_preset
):
    train = replace(tiny_preset.train, mixed_precision=precision)
    materials = Materials(replace(tiny_preset, train=train), 0, device=device)
    assert materials._dtype == expected


def test_every_weight_and_rate_of_the_settings_is_that_of_its_term(tiny_preset):
    weights = LossWeights(*(float(2**i) for i in range(len(vars(LossWeights())))))
    settings = TrainSettings(lr=1.0, adapter_lr=2.0, latent_lr=4.0, q_lr=8.0, q_fit_lr=16.0)
    materials = Materials(tiny_preset, 0, bars=False)
    features, labels = materials.id_features
    known = TeacherOutputs(features, materials.teacher.logits(features)), labels

    def terms(arm):
        made = build_terms(
            ARMS[arm], outliers=materials.outliers("farthest"), teacher_dim=features.shape[1],
            student_dim=8, weights=weights, settings=settings, known=known,
            autoencoded=materials.autoencoded(decoded=True), real=materials.benchmark.val.images,
            answers=materials.answers(ARMS["oal"]),
        )  # fmt: skip
        return {t.name: t for t in made}

    expected = {
        "distil logits": weights.kd_logits, "distil features": weights.kd_features,
        "distil distance": weights.kd_distance, "teacher's answers": weights.answers,
        "MICL k-NN": weights.micl_knn, "MICL diffusion": weights.micl_diffusion,
        "outlier exposure": weights.exposure, "reconstructions": weights.reconstructions,
        "latent exposure": weights.latent, "cross-entropy": 1.0,
    }  # fmt: skip
    found = {
        name: term
        for arm in ("oal", "oal-paper", "oal-latent", "oe-pixels-matched")
        for name, term in terms(arm).items()
    }
    assert {name: term.weight for name, term in found.items()} == expected
    assert found["latent exposure"].outlier_weight == weights.latent_exposure
    rates = {"distil features": 2.0, "latent exposure": 4.0, "MICL k-NN": 16.0}
    assert {name: found[name].lr for name in rates} == rates
    assert terms("oal-as-released")["MICL k-NN"].lr == 8.0


# --- images ------------------------------------------------------------------------------------


def test_accuracy_and_scores_are_of_the_test_images_and_their_labels(tiny_preset):
    materials = Materials(tiny_preset, 0, bars=False)
    benchmark, student = materials.benchmark, materials.student()
    accuracy, scores, metrics = study.evaluate(student, benchmark)
    logits = predict(student, benchmark.test.images)[0]
    assert accuracy == (logits.argmax(1) == benchmark.test.labels).float().mean().item() < 1
    assert_close(scores["energy/id"], energy(logits))
    for group, sets in (
        ("near", benchmark.near), ("far", benchmark.far), ("validation", benchmark.validation_ood),
    ):  # fmt: skip
        assert metrics["energy"][group].keys() == sets.keys()
        for name, images in sets.items():
            found = energy(predict(student, images.images)[0])
            assert_close(scores[f"energy/{name}"], found)


def test_real_outliers_are_images_of_validation_ood_and_go_to_no_other_arm(
    tiny_preset, monkeypatch
):
    materials = Materials(tiny_preset, 0, bars=False)
    built = spy_on(monkeypatch, study, "build_terms", stop=True)
    for arm in ("oe-real", "oe-pixels", "oal"):
        with pytest.raises(Reached):
            study.train_one(arm, materials, device="cpu")
    (_, real), *others = built
    sets = materials.benchmark.validation_ood.values()
    assert torch.equal(real["real"], torch.cat([s.images for s in sets]))
    assert all(how["real"] is None for _, how in others)


def test_arms_of_one_seed_with_other_outliers_get_other_answers(tiny_preset):
    materials = Materials(tiny_preset, 0, bars=False)
    arm = replace(ARMS["oal"], answers=("outliers",))
    one = materials.answers(arm)
    other = materials.answers(replace(arm, outliers="halves"))
    assert not torch.equal(one.images, other.images) and materials.answers(arm) is one


@pytest.mark.parametrize("others", [("halves",), ("outliers", "halves")])
def test_the_teacher_answers_on_id_images_of_all_classes_alike(others, tiny_preset):
    materials = Materials(tiny_preset, 0, bars=False)  # 100 training images, by class
    labels = materials.answers(replace(ARMS["oal"], answers=("id", *others))).labels
    counts = labels[: 100 // (1 + len(others))].bincount(minlength=10)
    assert counts.sum() == 100 // (1 + len(others)) and counts.min() > 0
    whole = materials.answers(replace(ARMS["oal"], answers=("id",), outliers=None)).labels
    assert torch.equal(whole, materials.benchmark.train.labels)


def test_real_outliers_may_be_read_late(tiny_preset, monkeypatch):
    def run(change):
        materials = Materials(tiny_preset, 0, bars=False)
        sets = materials.benchmark.validation_ood
        materials.benchmark = replace(
            materials.benchmark,
            validation_ood={k: replace(s, images=change(s.images)) for k, s in sets.items()},
        )
        return study.train_one("oe-real", materials, device="cpu")[0].record["metrics"]

    assert run(late) == run(lambda images: images)


# --- models ------------------------------------------------------------------------------------


# Settings with which whatever uses them fails.
NOWHERE = {
    "teacher": "nowhere", "pipeline": "nowhere", "distance": "mahalanobis", "n_per_class": 1,
    "knn": KnnSettings(rounds=-1), "diffusion": DiffusionSettings(n_latents=-1),
}  # fmt: skip


@pytest.mark.parametrize("name", ["ce", "kd", "kd-distance-twice"])
def test_what_an_arm_does_not_see_has_no_part_in_it(name, tiny_preset):
    arm = get_arm(name, tiny_preset)
    with_all = Materials(tiny_preset, 0, bars=False)
    assert with_all.views is with_all.views_for(asks_teacher=False)
    expected, _ = study.train_one(name, with_all, device="cpu")
    preset = replace(tiny_preset, **{field: NOWHERE[field] for field in arm.unseen})
    found, _ = study.train_one(name, Materials(preset, 0, bars=False), device="cpu")
    for key, scores in expected.scores.items():
        assert torch.equal(found.scores[key], scores)
    assert found.record["preset"] == expected.record["preset"]
    assert NOWHERE.keys() == set(ARMS["ce"].unseen) > set(arm.unseen) - {"distance"}


@pytest.mark.parametrize(("name", "part"), [("kd", "teacher"), ("oal", "pipeline")])
def test_a_model_that_an_arm_sees_has_to_be_there(name, part, tiny_preset):
    assert {arm for arm, made_of in ARMS.items() if not made_of.asks_teacher} == {"ce"}
    without = Materials(replace(tiny_preset, **{part: "nowhere"}), 0, bars=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        study.train_one(name, without, device="cpu")


def teacher_of(preset, folder, names):
    """The preset with a copy of its teacher whose classes are named so."""
    teacher = Teacher.from_pretrained(preset.teacher)
    teacher.model.config.id2label = dict(enumerate(names))
    teacher.model.save_pretrained(folder)
    return Materials(replace(preset, teacher=str(folder)), 0, bars=False)


def test_a_teacher_with_the_classes_in_another_order_is_refused(tiny_preset, tmp_path):
    names = list(Materials(tiny_preset, 0).benchmark.class_names)
    swapped = [names[1], names[0], *names[2:]]
    with pytest.raises(
        ValueError, match=f"in another order: its class 0 is '{names[1]}', .*'{names[0]}'; put"
    ):
        _ = teacher_of(tiny_preset, tmp_path / "a", swapped).teacher
    assert teacher_of(tiny_preset, tmp_path / "b", [n.upper() for n in names]).teacher
    assert teacher_of(tiny_preset, tmp_path / "c", map(str, range(10))).teacher, "of no order"


def test_a_teacher_that_does_not_know_the_images_is_named(tiny_preset):
    materials = Materials(tiny_preset, 0, bars=False)  # its weights are random
    with pytest.warns(UserWarning, match="right, hardly more than a guess: are its classes in the"):
        right = materials.views.teacher_logits[0].argmax(1) == materials.benchmark.train.labels
    assert right.float().mean() < 0.15
    shipped = replace(tiny_preset, teacher=SHAPES.teacher)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = Materials(shipped, 0, bars=False).views


def test_every_kind_of_images_to_answer_on_has_random_numbers_of_its_own(tiny_preset, monkeypatch):
    drawn = spy_on(monkeypatch, materials_module, "generator_for")
    study.train_one("oal", Materials(tiny_preset, 7, bars=False), device="cpu")
    asked = [args for args, _ in drawn if args[1] == "answers"]
    assert len(asked) == 2 and asked[0] != asked[1]


def test_the_accuracy_followed_in_training_is_that_of_the_validation_images(
    tiny_preset, monkeypatch
):
    fits = spy_on(monkeypatch, study, "fit")
    materials = Materials(tiny_preset, 0, bars=False)
    study.train_one("ce", materials, device="cpu")
    ((_, how),) = fits
    images, labels = how["val"]
    val, test = materials.benchmark.val, materials.benchmark.test
    assert torch.equal(images, val.images) and torch.equal(labels, val.labels)
    assert not (images.shape == test.images.shape and torch.equal(images, test.images))
