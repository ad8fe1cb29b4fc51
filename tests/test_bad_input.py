"""Bad input of every kind: each gives one clear sentence, none a bare error from inside torch."""

import shutil
from dataclasses import replace

import pytest
import torch

from oal_lite import presets, report, run_files, study
from oal_lite.__main__ import main
from oal_lite.benchmarks import Benchmark, ImageSet, load
from oal_lite.checkpoint import load as load_checkpoint
from oal_lite.diffusion_outliers import decode, encode, fill, load_pipeline, synthesise
from oal_lite.distillation import FeatureAdapter, distance_kd, feature_kd, hedged, logit_kd
from oal_lite.files import read_record, read_tensors, write_tensors
from oal_lite.images import ImageFile, read_image
from oal_lite.knn_outliers import (
    boundary_points,
    kth_distance,
    sample_outliers,
    sample_outliers_per_class,
    select_candidates,
)
from oal_lite.materials import Materials, spread_over_classes
from oal_lite.metrics import bootstrap_interval, detection_metrics, mean_interval, paired_test
from oal_lite.mutual_information import (
    ClubNet,
    club,
    gaussian_mutual_information,
    sample_correlated_gaussians,
)
from oal_lite.presets import LossWeights, Preset, TrainSettings, get_preset
from oal_lite.recipes import CrossEntropy, build_terms, get_arm
from oal_lite.scores import energy, entropy, knn, mahalanobis, max_logit, msp
from oal_lite.shapes import render
from oal_lite.students import ResNet18
from oal_lite.study import run
from oal_lite.teacher import Teacher
from oal_lite.train import fit, predict
from oal_lite.views import Views, augment, draw_views

pytestmark = pytest.mark.usefixtures("own_errors")

NAN, INF = float("nan"), float("inf")
G = torch.Generator().manual_seed(0)
MATRIX = torch.randn(12, 4, generator=G)
LABELS = torch.arange(12) % 3
IMAGES = torch.randint(256, (12, 3, 8, 8), generator=G, dtype=torch.uint8)


def with_nan(x):
    x = x.clone()
    x[1, 1] = NAN
    return x


def views(labels=LABELS, n=12):
    return Views(IMAGES[None, :n], labels, MATRIX[None, :n], torch.randn(1, n, 3, generator=G))


def train(labels=LABELS, device="cpu", precision="no", **settings):
    return fit(
        ResNet18(3, width=2), torch.nn.ModuleList([CrossEntropy()]), views(labels),
        settings=TrainSettings(**{"epochs": 1, "batch_size": 4} | settings),
        generator=torch.Generator(), device=device, mixed_precision=precision, progress=False,
    )  # fmt: skip


# name: (call, words of the sentence). Grouped by module.
CASES = {
    # scores
    "logits of one dimension": (lambda: msp(MATRIX[0]), "logits has shape (4,)"),
    "logits of three dimensions": (lambda: energy(MATRIX[None]), "logits has shape (1, 12, 4)"),
    "logits without classes": (lambda: entropy(MATRIX[:, :0]), "logits has shape (12, 0)"),
    "integer logits": (lambda: energy(MATRIX.long()), "logits are of type torch.int64"),
    "NaN logits, energy": (lambda: energy(with_nan(MATRIX)), "NaN or infinity in 1 of 12 rows"),
    "NaN logits, msp": (lambda: msp(with_nan(MATRIX)), "the first is row 1"),
    "infinite logits": (lambda: max_logit(MATRIX * INF), "NaN or infinity in 12 of 12 rows"),
    "temperature zero": (lambda: energy(MATRIX, 0.0), "temperature=0.0 must be above 0"),
    "temperature NaN": (lambda: energy(MATRIX, NAN), "temperature=nan; expected a finite number"),
    "k above the bank": (lambda: knn(MATRIX, MATRIX, 13), "k=13"),
    "k of zero": (lambda: knn(MATRIX, MATRIX, 0), "k=0"),
    "other width of the bank": (lambda: knn(MATRIX, MATRIX[:, :3], 1), "4 columns and the bank 3"),
    "a zero feature": (lambda: knn(MATRIX * 0, MATRIX, 1), "zero rows"),
    "NaN in the bank": (lambda: knn(MATRIX, with_nan(MATRIX), 1), "bank hold NaN or infinity"),
    "chunks of nothing": (lambda: knn(MATRIX, MATRIX, 1, chunk_size=0), "chunk_size=0"),
    "zero-variance features": (
        lambda: mahalanobis(MATRIX, torch.ones(12, 4), LABELS), "is singular",
    ),
    "labels of another length": (lambda: mahalanobis(MATRIX, MATRIX, LABELS[:5]), "5"),
    "negative ridge": (lambda: mahalanobis(MATRIX, MATRIX, LABELS, ridge=-1.0), "ridge=-1.0"),
    # metrics
    "no ID scores": (lambda: detection_metrics([], [1.0]), "id_scores is empty"),
    "no OOD scores": (lambda: detection_metrics([1.0], []), "ood_scores is empty"),
    "NaN scores": (lambda: detection_metrics([NAN, 1.0], [1.0]), "is nan at index 0"),
    "scores in a matrix": (lambda: detection_metrics(MATRIX, [1.0]), "must have one dimension"),
    "words for scores": (lambda: detection_metrics(["a"], [1.0]), "does not convert to numbers"),
    "unknown positive class": (
        lambda: detection_metrics([0.0], [1.0], positive="far"), "positive='far' is not a class",
    ),
    "unknown metric": (
        lambda: bootstrap_interval([0.0], [1.0], metric="accuracy"), "metric='accuracy'; choose on",
    ),
    "no resamples": (lambda: bootstrap_interval([0.0], [1.0], n_resamples=0), "n_resamples=0"),
    "a level of 95": (lambda: mean_interval([1.0, 2.0], level=95), "level=95 must lie between"),
    "one seed": (lambda: mean_interval([1.0]), "needs at least 2"),
    "unpaired seeds": (lambda: paired_test([1.0, 2.0], [1.0]), "pairs need equal lengths"),
    # k-NN outliers
    "k above n": (lambda: sample_outliers(MATRIX, k=99), "k = 99: expected 1 to 12"),
    "boundary above n": (lambda: boundary_points(MATRIX, 2, 99), "n_boundary = 99"),
    "negative sigma": (
        lambda: sample_outliers(MATRIX, k=2, n_boundary=2, sigma=-0.1), "sigma = -0.1",
    ),
    "infinite sigma": (
        lambda: sample_outliers(MATRIX, k=2, n_boundary=2, sigma=INF), "sigma = inf",
    ),
    "keep above candidates": (
        lambda: sample_outliers(MATRIX, k=2, n_boundary=2, n_candidates=3, keep=4), "keep = 4",
    ),
    "unknown selection": (
        lambda: sample_outliers(MATRIX, k=2, n_boundary=2, selection="nearest"),
        "selection='nearest'; choose one of",
    ),
    "NaN features": (lambda: boundary_points(with_nan(MATRIX), 2, 2), "rows [1] have NaN"),
    "integer features": (lambda: boundary_points(LABELS[None], 1, 1), "dtype torch.int64"),
    "k above the queries' bank": (lambda: kth_distance(MATRIX, MATRIX, 13), "k = 13"),
    "queries of another width": (lambda: kth_distance(MATRIX[:, :2], MATRIX, 1), "of one width"),
    "distances of one row": (lambda: select_candidates(MATRIX[0]), "distances have shape (4,)"),
    "a class of one image": (
        lambda: sample_outliers_per_class(
            MATRIX, torch.tensor([0] * 11 + [1]), n_classes=2, k=2, n_boundary=2
        ),
        "class 1: k = 2: expected 1 to 1",
    ),
    # mutual information, distillation
    "unpaired x and y": (lambda: club(MATRIX, MATRIX, MATRIX[:3]), "pair each x with exactly one"),
    "no pairs": (lambda: club(MATRIX[:0], MATRIX[:0], MATRIX[:0]), "n at least 1"),
    "x of another width": (lambda: ClubNet(3, 4)(MATRIX), "expects (n, 3)"),
    "a layer of no width": (lambda: ClubNet(0, 4), "layer width 0=0; expected at least 1"),
    "correlation of one": (lambda: gaussian_mutual_information(1.0, 4), "rho=1.0 must lie"),
    "no samples": (lambda: sample_correlated_gaussians(0, 4, 0.5), "n=0; expected at least 1"),
    "classes that differ": (lambda: logit_kd(MATRIX, MATRIX[:, :3]), "must share one shape"),
    "negative temperature": (lambda: logit_kd(MATRIX, MATRIX, -1.0), "temperature=-1.0"),
    "distances of another length": (lambda: distance_kd(MATRIX, torch.ones(3)), "a correlation"),
    "distance of one image": (lambda: distance_kd(MATRIX[:1], torch.ones(1)), "n at least 2"),
    "hedged by others' distances": (
        lambda: hedged(MATRIX, torch.ones(3), torch.ones(3)), "of the same images",
    ),
    "hedged by no ID image": (lambda: hedged(MATRIX, torch.ones(12), torch.ones(0)), "m at least"),
    "hedged by none of them": (lambda: hedged(MATRIX, torch.ones(12), torch.ones(3), 0), "r=0: pa"),
    "widths that differ": (lambda: feature_kd(MATRIX, MATRIX[:, :2]), "must share one shape"),
    "an adapter for others": (lambda: FeatureAdapter(5, 2)(MATRIX), "expects (n, 5)"),
    "an adapter, one image": (lambda: FeatureAdapter(4, 2)(MATRIX[:1]), "need 2 in training"),
    # images, benchmarks
    "unknown benchmark": (lambda: load("mnist"), "unknown benchmark 'mnist'; choose one of shapes"),
    "fewer images than classes": (lambda: load(n_train=3), "n_train=3 is too few"),
    "no OOD images": (lambda: load(n_ood=0), "n_ood=0 is too few"),
    "unknown shape": (lambda: render("sofa", 1, generator=G), "unknown shape 'sofa'"),
    "a negative number": (lambda: render("heart", -1, generator=G), "n=-1"),
    "grey images": (lambda: ImageSet(IMAGES[:, :1], LABELS), "(12, 1, 8, 8)"),
    "images of floats": (lambda: ImageSet(IMAGES.float(), LABELS), "type torch.float32"),
    "channels last": (lambda: ImageSet(IMAGES.permute(0, 2, 3, 1), LABELS), "(12, 8, 8, 3)"),
    "one label too few": (lambda: ImageSet(IMAGES, LABELS[1:]), "shape (11,)"),
    "labels of floats": (lambda: ImageSet(IMAGES, LABELS.float()), "expected one integer each"),
    "no folder": (lambda: Benchmark.from_folders("nowhere", near={}), "nowhere is no folder"),
    "no image file": (lambda: read_image(ImageFile("no.png", "x.txt, line 3"), resize=8, crop=8),
                      "x.txt, line 3: there is no file no.png"),
    # training
    "labels out of range": (lambda: train(LABELS + 1), "labels run from 1 to 3; expected 0 to 2"),
    "OOD labels": (lambda: train(LABELS - 1), "labels run from -1 to 1"),
    "a batch above n": (lambda: train(batch_size=13), "12 training images are fewer"),
    "a batch of nothing": (lambda: train(batch_size=0), "batch_size=0; expected at least 2"),
    "negative epochs": (lambda: train(epochs=-1), "epochs=-1"),
    "a NaN rate": (lambda: train(lr=NAN), "lr=nan; expected a finite number"),
    "a negative rate": (lambda: train(lr=-0.1), "lr=-0.1; expected a finite number"),
    "an unknown device": (lambda: train(device="tpu9"), "unknown device 'tpu9'; here are cpu"),
    "a device not here": (lambda: train(device="xpu"), "device 'xpu' is not on this machine"),
    "an unknown precision": (lambda: train(precision="int3"), "mixed_precision='int3'; choose"),
    "a wide border": (lambda: augment(IMAGES, G, padding=8), "padding=8 on images of (8, 8)"),
    "augmented floats": (lambda: augment(IMAGES.float(), G), "type torch.float32"),
    "prediction of nothing": (lambda: predict(ResNet18(3, width=2), IMAGES[:0]), "images are 0"),
    "prediction of grey": (lambda: predict(ResNet18(3, width=2), IMAGES[:, :1]), "(12, 1, 8, 8)"),
    "no batch": (lambda: predict(ResNet18(3, width=2), IMAGES, batch_size=0), "batch_size=0"),
    "an unknown stem": (lambda: ResNet18(3, stem="huge"), "unknown stem 'huge'"),
    # presets, arms, study
    "unknown preset": (lambda: get_preset("huge"), "unknown preset 'huge'; choose one of shapes"),
    "unknown arm": (lambda: get_arm("magic"), "unknown arm 'magic'; choose from"),
    "a variation of an unknown arm": (lambda: get_arm("magic+hedge=0"), "unknown arm 'magic';"),
    "a variation without a change": (lambda: get_arm("oal+"), "'' is no change of it; write"),
    "a variation of a preset's stage": (
        lambda: get_arm("oal+train.epochs=8"),
        "'train.epochs=8' is no change of it; write <field>=<value> with one of outliers, dist",
    ),
    "a variation of no such value": (
        lambda: get_arm("oal+distance=far"), "distance='far'; choose one of None, ",
    ),
    "a selection that is not there": (
        lambda: get_arm("oal+outliers=nearest"), "outliers='nearest'; choose one of None, farthest",
    ),
    "half a MICL": (lambda: get_arm("oal-paper+micl=class"), "micl ('class',): expected (pairing"),
    "a hedge in words": (lambda: get_arm("oal+hedge=much"), "hedge='much'; expected a whole"),
    "an arm with a very long name": (
        lambda: run(get_preset("shapes"), ["oal" + 30 * "+hedge=4"], [0], runs="r"),
        "it has to be 1 to 150 characters",
    ),
    "an arm without outliers": (
        lambda: build_terms(get_arm("oal-paper"), outliers=None, teacher_dim=4, student_dim=4,
                            weights=LossWeights(), settings=TrainSettings()),
        "needs them: pass outliers=",
    ),
    "more picks than outliers": (lambda: spread_over_classes(LABELS, 13, G), "13 picks of 12"),
    "no picks": (lambda: spread_over_classes(LABELS, 0, G), "0 picks; at least one"),
    "a study of an unknown arm": (
        lambda: run(get_preset("shapes"), ["ce", "magic"], [0], runs="r"), "unknown arm 'magic'",
    ),
    "a study on an unknown device": (
        lambda: run(get_preset("shapes"), ["ce"], [0], runs="r", device="tpu"), "unknown device",
    ),
    "real images from nowhere": (
        lambda: Materials(get_preset("cifar10"), 0).benchmark, "cifar10 is read from files",
    ),
    "a prompt without a slot": (lambda: fill("a picture", "cat"), "has no place for a class name"),
}  # fmt: skip


def check_sentence(error, words):
    text = str(error)
    assert words in text, text
    assert len(text) < 500 and text.count("\n") == 0, text


@pytest.mark.parametrize("name", CASES)
def test_one_clear_sentence(name):
    call, words = CASES[name]
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    check_sentence(caught.value, words)
    # the package's own words, not those of a library below it
    assert "oal_lite" in str(caught.traceback[-1].path)


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60


def test_all_equal_scores_are_chance_and_not_nan():
    m = detection_metrics(torch.zeros(5), torch.zeros(7))
    assert m.auroc == 0.5 and m.fpr95 == 1.0
    assert all(v == v for v in m.as_dict().values())
    assert paired_test([0.5] * 3, [0.5] * 3).p_value == 1.0


def test_one_class_only_trains_without_nan():
    history = train(torch.zeros(12, dtype=torch.long))
    assert all(v == v for v in history.terms[0].values())


# --- models ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "how", "words"),
    [
        (IMAGES[:0], {}, "images are 0"),
        (IMAGES.float(), {}, "type torch.float32"),
        (IMAGES[:, :2], {}, "(12, 2, 8, 8)"),
        (IMAGES, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_a_teacher_cannot_see(tiny_teacher, images, how, words):
    with pytest.raises(ValueError) as caught:
        tiny_teacher(images, **how)
    check_sentence(caught.value, words)


def test_views_need_a_label_each(tiny_teacher):
    with pytest.raises(ValueError, match=r"labels have shape \(5,\) for 12 images"):
        draw_views(IMAGES, LABELS[:5], tiny_teacher, n_views=1, generator=G)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: decode(p, torch.zeros(2, 3, 8, 8)), "latents have shape (2, 3, 8, 8)"),
        (lambda p: decode(p, torch.zeros(0, 4, 8, 8)), "latents have shape (0, 4, 8, 8)"),
        (lambda p: decode(p, torch.zeros(2, 4, 8, 8), batch_size=0), "batch_size=0"),
        (lambda p: encode(p, IMAGES.float()), "type torch.float32"),
        (lambda p: synthesise(p, torch.ones(2, 7), "cat"), "expected (n, 32)"),
        (lambda p: synthesise(p, torch.full((2, 32), NAN), "cat"), "outliers hold NaN"),
        (lambda p: synthesise(p, torch.zeros(2, 32), "cat"), "a zero row"),
        (lambda p: synthesise(p, torch.ones(2, 32), []), "0 class names for 2 outliers"),
        (lambda p: synthesise(p, torch.ones(2, 32), "cat", steps=0), "steps=0"),
        (lambda p: synthesise(p, torch.ones(2, 32), "cat", guidance=-1.0), "guidance=-1.0"),
        (lambda p: synthesise(p, torch.ones(2, 32), "cat", prompt="a dog"), "has no place"),
    ],
)
def test_what_a_pipeline_cannot_do(tiny_pipeline, call, words):
    with pytest.raises(ValueError) as caught:
        call(tiny_pipeline)
    check_sentence(caught.value, words)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no weights", "no config", "bad config"])
def test_a_damaged_model_folder(tiny_teacher_folder, tiny_pipeline_folder, tmp_path, damage):
    for source, part, load_ in (
        (tiny_teacher_folder, ".", Teacher.from_pretrained),
        (tiny_pipeline_folder, "unet", load_pipeline),
    ):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        (weights,) = (folder / part).glob("*.safetensors")
        config = folder / part / "config.json"
        if damage == "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif damage == "empty":
            weights.write_bytes(b"")
        elif damage == "no weights":
            weights.unlink()
        elif damage == "no config":
            config.unlink()
        else:
            config.write_text("{")
        with pytest.raises((ValueError, OSError)) as caught:
            load_(folder)
        check_sentence(caught.value, f"the model in {folder} ")


# --- files and the command line ----------------------------------------------------------------


@pytest.fixture
def tiny_run(tiny_preset, tmp_path, monkeypatch):
    """A finished tiny run in `tmp_path`, and the call that makes or reads it."""
    monkeypatch.setattr(run_files, "code_version", lambda: "test")
    preset: Preset = replace(tiny_preset, name="tiny")
    monkeypatch.setitem(presets.PRESETS, "tiny", preset)

    def call():
        return run(preset, ["ce"], [0], runs=tmp_path, device="cpu")

    call()
    return tmp_path / "tiny", call


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [
        ("json", b"{", "is damaged"),
        ("json", b"[1]", "lacks arm, recipe, seed"),
        (
            "json",
            b'{"arm": "ce", "seed": 0}',
            "lacks recipe, preset, code, made, id_accuracy, metrics, history, seconds",
        ),
        ("safetensors", b"rubbish that is no safetensors file", "is damaged"),
    ],
)
def test_a_corrupt_or_old_results_file(tiny_run, ending, content, words):
    folder, call = tiny_run
    (path,) = folder.glob(f"ce-seed0*.{ending}")
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        call()
    check_sentence(caught.value, words)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)


def test_a_corrupt_cache_of_the_common_start(tiny_run):
    folder, call = tiny_run
    for path in folder.glob("ce-*"):
        path.unlink()
    (path,) = folder.glob("start-*")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="start-.* is damaged .* delete it"):
        call()


def test_files_that_are_no_records(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="x is damaged"):
        read_record(tmp_path / "x", [])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        load_checkpoint(tmp_path / "x")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--arms", "magic"], "unknown arm 'magic'"),
        (["--arms", "oal+hedge"], "hedge=''; expected a whole number"),
        (["--dry-run", "--arms", "oal" + 30 * "+hedge=4"], "has to be 1 to 150 characters"),
        (
            ["--dry-run", "--preset", "cifar10", "--teacher", ""],
            "--teacher is empty; name a folder",
        ),
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--seeds", "-1"], "--seeds -1"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "cuda:99"], "device 'cuda:99'"),
        (["--teacher", "/no/such/folder"], "there is no model folder '/no/such/folder'"),
        (["--arms", "oal-paper", "--pipeline", "nobody/nothing"], "no model 'nobody/nothing'"),
        (["--preset", "cifar10", "--quick"], "cifar10 is read from files: name the folder"),
        (["--preset", "cifar10", "--quick", "--data-root", "nowhere"], "'nowhere' is no folder"),
        (["--data-root", "."], "'shapes' is rendered"),
        (["--dry-run", "--data-root", "."], "'shapes' is rendered"),
        (["--dry-run", "--teacher", "b" * 300], "... is a name too long for a folder"),
        (["--out", "a-file/out"], "cannot write into a-file/out"),
        (["--runs", "a-file"], "cannot write into a-file"),
        (["--out", ""], "--out is empty; name a folder, or leave it out"),
        (["--runs", " "], "--runs is empty"),
        (["--dry-run", "--arms", ","], "--arms names no arm"),
        (["--preset", "cifar10", "--pretrain"], "takes its models from outside; --pretrain is for"),
        (["--dry-run", "--preset", "cifar10", "--data-root", "nowhere"], "'nowhere' is no folder"),
    ],
)
def test_the_command_line_says_it_in_one_line(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err
    assert words in err


def test_ctrl_c_is_one_line_too(monkeypatch, capsys, tmp_path):
    def interrupt(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    assert main(["--out", str(tmp_path / "o")]) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command goes on")


# --- a kept file of a right name whose tensors are other ones; odd seeds; an old study ------------


@pytest.mark.parametrize("change", ["names", "shapes"])
def test_a_cache_that_holds_other_tensors(tiny_run, change):
    folder, call = tiny_run
    for path in folder.glob("ce-*"):
        path.unlink()
    (path,) = folder.glob("start-*")
    kept = read_tensors(path)
    if change == "names":
        kept["more"] = kept.pop("head.bias")
    else:
        kept["head.bias"] = kept["head.bias"][:-1]
    write_tensors(path, kept)
    with pytest.raises(ValueError, match="start-.* holds other tensors .* delete it"):
        call()


@pytest.mark.parametrize(
    ("seeds", "words"),
    [([0, 1, 0], "name each seed once"), ([2**70], "below 2**63"), ([-(2**63)], "below 2**63")],
)
def test_seeds_that_give_no_run_of_their_own(tiny_preset, tmp_path, seeds, words):
    with pytest.raises(ValueError) as caught:
        run(tiny_preset, ["ce"], seeds, runs=tmp_path)
    check_sentence(caught.value, words)


@pytest.mark.parametrize("content", ["[]", '{"ablations": 3}', '{"ablations": null}', "", "{"])
def test_a_study_file_of_another_kind(tmp_path, content):
    path = tmp_path / "study.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="study.json is damaged .* restore it, or delete it"):
        report.add_section(path, "arms", {"runs": []})
    assert path.read_text() == content


def test_a_folder_in_the_place_of_the_study(tmp_path):
    (tmp_path / "study.json").mkdir()
    with pytest.raises(ValueError, match="study.json is damaged .*irectory.* delete it"):
        report.add_section(tmp_path / "study.json", "arms", {"runs": []})


def test_a_training_of_no_epochs(tiny_preset, tmp_path):
    preset = replace(tiny_preset, train=replace(tiny_preset.train, start_epochs=0))
    with pytest.raises(ValueError, match="epochs=0; expected at least 1"):
        run(preset, ["ce"], [0], runs=tmp_path, device="cpu")
