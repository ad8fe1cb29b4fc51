"""Bad input that nobody listed: wrong kinds of argument, and whatever hypothesis thinks of.

`test_bad_input.py` holds the table of mistakes that a reader makes. Here every public function of
the core meets every wrong kind of value in the place of each argument.
"""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipywidgets import IntRangeSlider, IntSlider, SelectMultiple, Text
from matplotlib.figure import Figure
from torch import nn

from oal_lite import (
    budget,
    contrastive_bounds,
    costs,
    diffusion_outliers,
    maps,
    openood,
    plots,
    report,
    scores,
    study,
    weights,
)
from oal_lite import distillation as distil
from oal_lite import knn_outliers as knn
from oal_lite import mutual_information as information
from oal_lite.ablations import vary
from oal_lite.arguments import check_device
from oal_lite.batches import in_batches
from oal_lite.benchmarks import Benchmark, ImageSet, far_sets, load
from oal_lite.files import write_record, write_tensors
from oal_lite.images import check_images, late
from oal_lite.metrics import bootstrap_interval, detection_metrics, mean_interval, paired_test
from oal_lite.presets import LossWeights, TrainSettings, get_preset, hold_out
from oal_lite.recipes import (
    ARMS,
    Arm,
    Autoencoded,
    Outliers,
    build_terms,
    column_means,
    gaussian_like,
    get_arm,
    halves,
)
from oal_lite.shapes import render
from oal_lite.students import LatentStem, ResNet18
from oal_lite.study import Run, run
from oal_lite.teacher import Teacher, TeacherOutputs
from oal_lite.terms import (
    Answers,
    CrossEntropy,
    DistanceKD,
    LogitKD,
    Micl,
    OutlierExposure,
    Reconstructions,
    Step,
)
from oal_lite.train import fit, predict
from oal_lite.views import Views, augment, augmented_copies, draw_views
from oal_lite.widgets.arms import arms_panel
from oal_lite.widgets.knn import knn_panel
from oal_lite.widgets.loss_terms import measure_pulls
from oal_lite.widgets.maps import Space, map_panel, map_space
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.synthesis import synthesis_panel
from oal_lite.widgets.threshold import confusion_at

pytestmark = pytest.mark.usefixtures("own_errors")

NAN, INF = float("nan"), float("inf")
OWN = (ValueError, OSError, FloatingPointError)
G = torch.Generator().manual_seed(0)
X = torch.randn(12, 4, generator=G)
Y = torch.arange(12) % 3
IMAGES = torch.randint(256, (12, 3, 8, 8), generator=G, dtype=torch.uint8)
OUTLIERS = Outliers(X[:6], Y[:6], torch.randn(6, 4, 8, 8, generator=G), Y[:6], IMAGES[:6])
ID_LATENTS = Autoencoded(torch.randn(6, 4, 8, 8, generator=G), Y[:6], IMAGES[:6])


RUN = Run(
    {"arm": "kd", "seed": 0, "metrics": {"energy": {"near": {"a": {"auroc": 0.9}}, "far": {}}}}, {}
)


def student():
    return ResNet18(3, width=2)


def views(labels=Y, features=None, logits=None, images=None):
    images = IMAGES[None] if images is None else images
    features = X[None] if features is None else features
    logits = torch.randn(1, 12, 3, generator=G) if logits is None else logits
    return Views(images, labels, features, logits)


def train(given=None, *, model=None, terms=None, generator=G, val=None, **changes):
    return fit(
        model or student(), nn.ModuleList([CrossEntropy()] if terms is None else terms),
        given or views(), settings=TrainSettings(**{"epochs": 1, "batch_size": 4} | changes),
        generator=generator, device="cpu", progress=False, val=val,
    )  # fmt: skip


def terms_of(arm, outliers=OUTLIERS, w=None, autoencoded=ID_LATENTS, real=IMAGES, known=None):
    return build_terms(
        get_arm(arm) if isinstance(arm, str) else arm, outliers=outliers, teacher_dim=4,
        student_dim=16, weights=replace(LossWeights(), **(w or {})), settings=TrainSettings(),
        autoencoded=autoencoded, real=real, known=known,
    )  # fmt: skip


def paper(**changes):
    return replace(ARMS["oal-paper"], **changes)


def broken(latent=False):
    """A student (or its stem) with a weight of NaN."""
    model = student()
    with torch.no_grad():
        model.head.weight[0, 0] = NAN
    return model


def outliers(**changes):
    return replace(OUTLIERS, **changes)


def drawn(a):
    """A panel's picture, and its sentence."""
    return Figure(), str(a)


HISTORY = {"terms": [{"ce": 1.0}], "train_accuracy": [0.5], "val_accuracy": [0.5]}
SMALL = {"k": 2, "n_boundary": 2, "n_candidates": 5}
CASES = {
    # kinds of value that are no tensor, or a tensor of another kind
    "logits of numpy": (lambda: scores.energy(X.numpy()), "logits is a ndarray; expected a tensor"),
    "logits in a list": (lambda: scores.msp([[1.0, 2.0]]), "logits is a list; expected a tensor"),
    "no logits": (lambda: scores.entropy(None), "logits is a NoneType"),
    "no half at all": (lambda: halves(IMAGES, Y, 0, G), "n=0; expected at least 1"),
    "half a half": (lambda: halves(IMAGES, Y, 1.5, G), "n=1.5; expected a whole number"),
    "halves of fewer labels": (
        lambda: halves(IMAGES, Y[:5], 3, G), "labels of shape (5,); expected (m, c",
    ),
    "halves of OOD images": (
        lambda: halves(IMAGES, Y - 1, 3, G), "a class of 0 or more for each",
    ),
    "halves by a seed": (lambda: halves(IMAGES, Y, 3, 0), "generator=0; expected torch.G"),
    "columns of a list": (lambda: column_means([1.0]), "latents is a list; expected a ten"),
    "terms of a name": (
        lambda: build_terms(
            "oal", outliers=None, teacher_dim=4, student_dim=4, weights=LossWeights(),
            settings=TrainSettings(),
        ),
        "arm 'oal'; expected an Arm, as get_arm",
    ),
    "no far image": (lambda: far_sets(0, 0), "n=0; expected at least 1"),
    "batches of nothing": (lambda: in_batches(len, 3, 0), "n=3, batch_size=0; expected at least"),
    "a batch size in words": (lambda: in_batches(len, 3, "all"), "batch_size='all'; expected a wh"),
    "a temperature of infinity": (lambda: scores.energy(X, INF), "temperature=inf; expected a fin"),
    "no temperature": (lambda: scores.energy(X, None), "temperature=None; expected a finite"),
    "a temperature in words": (lambda: scores.energy(X, "1"), "temperature='1'"),
    "a temperature too small": (lambda: scores.energy(X, 1e-40), "beyond the range of torch.float"),
    "k of one and a half": (lambda: scores.knn(X, X, 1.5), "k=1.5; expected a whole number"),
    "two precisions": (lambda: scores.knn(X.double(), X, 1), "and the bank of torch.float32"),
    "features too long": (lambda: scores.knn(X * 1e30, X, 1), "too long for torch.float32"),
    "labels of fractions": (lambda: scores.mahalanobis(X, X, Y.float()), "labels are of type"),
    "distances too long": (
        lambda: scores.mahalanobis(X.half() * 9000, X.half(), Y), "exceed the range of torch",
    ),
    "a number too large": (lambda: detection_metrics([10**400], [1.0]), "does not convert to num"),
    "half a resample": (
        lambda: bootstrap_interval([0.0], [1.0], n_resamples=1.5), "n_resamples=1.5",
    ),
    "a seed below zero": (lambda: bootstrap_interval([0.0], [1.0], seed=-1), "seed=-1 must not"),
    "a seed of one and a half": (lambda: bootstrap_interval([0.0], [1.0], seed=1.5), "seed=1.5"),
    "a level in words": (lambda: mean_interval([0.0, 1.0], level="0.9"), "level='0.9'"),
    "an interval too wide": (lambda: mean_interval([1e308, -1e308]), "beyond the range of float64"),
    "differences too large": (
        lambda: paired_test([1e308, 1e308], [-1e308, 0.0]), "not finite",
    ),
    "an unknown metric in a list": (
        lambda: bootstrap_interval([0.0], [1.0], metric=["auroc"]), "metric=['auroc']; choose one ",
    ),
    "features in a list": (lambda: knn.sample_outliers([[1.0]], **SMALL), "features is a list"),
    "half a neighbour": (lambda: knn.sample_outliers(X, **SMALL | {"k": 1.5}), "k=1.5; expected a"),
    "a neighbour of True": (lambda: knn.sample_outliers(X, **SMALL | {"k": True}), "k=True"),
    "sigma in words": (lambda: knn.sample_outliers(X, sigma="0.1", **SMALL), "sigma='0.1'"),
    "sigma per candidate": (lambda: knn.sample_outliers(X, sigma=X[0], **SMALL), "sigma=tensor"),
    "a generator that is a seed": (
        lambda: knn.sample_outliers(X, generator=3, **SMALL), "generator=3; expected torch.Gen",
    ),
    "more noise than memory": (
        lambda: knn.sample_outliers(X, **SMALL | {"n_candidates": 10**13}), "do not fit into",
    ),
    "half a round": (
        lambda: knn.sample_outliers_per_class(X, Y, n_classes=3, rounds=1.5, **SMALL), "rounds=1.5",
    ),
    "no class at all": (
        lambda: knn.sample_outliers_per_class(X, Y, n_classes=0, **SMALL), "n_classes=0; expected",
    ),
    "labels of true and false": (
        lambda: knn.sample_outliers_per_class(X, Y > 0, n_classes=2, **SMALL), "torch.bool",
    ),
    "NaN among the queries": (lambda: knn.kth_distance(X * NAN, X, 1), "hold NaN or infinite"),
    "distances beyond float32": (lambda: knn.kth_distance(X * 1e30, X * 1e30, 1), "exceed the ran"),
    "a row without direction": (lambda: knn.unit(X * 0), "length is 0, infinite or NaN"),
    "noise of another width": (
        lambda: knn.candidates_around(X, torch.ones(3, 5), 0.1), "two matrices of one width",
    ),
    "negative noise": (lambda: knn.candidates_around(X, X, -0.1), "sigma = -0.1"),
    "a round below zero": (lambda: knn.round_generator(1, 0, -1), "expected none below 0"),
    "NaN in CLUB": (lambda: information.club(X, X, X * NAN), "the CLUB bound is nan"),
    "a variance of nothing": (
        lambda: information.club(X, torch.full_like(X, -200.0), X.roll(1)), "the CLUB bound is",
    ),
    "integers in CLUB": (lambda: information.club(X, X, X.long()), "y are of type torch.int64"),
    "NaN for q": (lambda: information.ClubNet(4, 4)(X * NAN), "x hold NaN or infinity"),
    "one hidden width": (lambda: information.ClubNet(4, 4, 256), "hidden widths 256"),
    "half a width": (lambda: information.ClubNet(4.5, 4), "expected a whole number"),
    "half a pair": (lambda: information.sample_correlated_gaussians(2.5, 2, 0.5), "n=2.5"),
    "dimensions of NaN": (lambda: information.gaussian_mutual_information(0.5, NAN), "dims=nan"),
    "NaN in distillation": (lambda: distil.logit_kd(X, X * NAN), "the distillation loss is nan"),
    "an infinite temperature": (lambda: distil.logit_kd(X, X, INF), "temperature=inf"),
    "integers for the adapter's width": (
        lambda: distil.FeatureAdapter(4.0, 2), "teacher_dim=4.0; expected a whole number",
    ),
    "NaN for the adapter": (lambda: distil.FeatureAdapter(4, 2)(X * NAN), "hold NaN or infinity"),
    "NaN for InfoNCE": (lambda: contrastive_bounds.info_nce(X[:4] * NAN), "InfoNCE is nan"),
    "overflow in NWJ": (lambda: contrastive_bounds.nwj(X[:4] * 1e9), "NWJ is"),
    "pairs of two widths": (
        lambda: contrastive_bounds.gaussian_critic(X, X[:, :2], 0.5), "expected one shape (n, d)",
    ),
    "a map of nothing": (lambda: maps.joint_map({}), "groups are a dict; expected features"),
    "a map of NaN": (lambda: maps.joint_map({"a": X * NAN}), "groups ['a'] hold NaN"),
    "a map of two widths": (lambda: maps.joint_map({"a": X, "b": X[:, :2]}), "of one width"),
    "one neighbour on a map": (lambda: maps.joint_map({"a": X}, n_neighbors=1), "n_neighbors=1"),
    "purity without labels": (lambda: maps.knn_purity(X, Y[:3], 2), "one label per row"),
    # images
    "images of numpy": (lambda: check_images(IMAGES.numpy()), "images is a ndarray"),
    "labels in a list": (lambda: ImageSet(IMAGES, Y.tolist()), "labels is a list"),
    "a misspelt size": (lambda: load(n_trian=3), "unknown size 'n_trian'; choose from n_train"),
    "half an image": (lambda: load(n_train=20.5), "n_train=20.5"),
    "images without a side": (lambda: render("heart", 1, size=0, generator=G), "size=0"),
    "images without chance": (lambda: render("heart", 1, generator=3), "generator=3; expected"),
    "OOD folders in a list": (lambda: Benchmark.from_folders(".", near=["."]), "folders by name"),
    "an image side of zero": (
        lambda: Benchmark.from_folders(".", near={}, image_size=0), "image_size=0",
    ),
    "half a pixel of border": (lambda: augment(IMAGES, G, padding=1.5), "padding=1.5"),
    "augmentation without chance": (lambda: augment(IMAGES, None), "generator=None; expected"),
    "half a view": (lambda: augmented_copies(IMAGES, 1.5, G), "n_views=1.5"),
    # students and training
    "a student of no class": (lambda: ResNet18(0), "n_classes=0"),
    "a student of no width": (lambda: ResNet18(3, width=0), "width=0"),
    "bytes for a student": (lambda: student()(IMAGES), "type torch.uint8; expected (n, 3, h, w)"),
    "maps of other channels": (
        lambda: student()(torch.ones(2, 3, 8, 8), None, torch.ones(2, 3, 4, 4)), "maps have shape",
    ),
    "latents of other channels": (
        lambda: LatentStem(4, 2)(torch.ones(2, 3, 8, 8), 4), "latents have shape (2, 3, 8, 8)",
    ),
    "a student gone wrong": (lambda: predict(broken(), IMAGES), "the student's logits hold NaN"),
    "half an epoch": (lambda: train(epochs=1.5), "epochs=1.5; expected a whole number"),
    "a momentum of one": (lambda: train(momentum=1.0), "momentum=1.0; expected less than 1"),
    "a NaN rate of the entrance": (lambda: train(latent_lr=NAN), "latent_lr=nan"),
    "a rate that explodes": (lambda: train(lr=1e38, weight_decay=0.0), "lower the learning rate"),
    "no loss at all": (lambda: train(terms=[]), "there are no loss terms"),
    "training without chance": (lambda: train(generator=None), "generator=None; expected"),
    "labels of floats in training": (lambda: train(views(labels=Y.float())), "labels are of type"),
    "labels of other images": (lambda: train(views(labels=Y[:5])), "one label for each image"),
    "views of floats": (lambda: train(views(images=IMAGES[None].float())), "type torch.float32"),
    "views of grey": (lambda: train(views(images=IMAGES[None, :, :1])), "views have shape"),
    "no views": (
        lambda: train(views(images=IMAGES[None][:0], features=X[None][:0])), "views have shape (0,",
    ),
    "a teacher of other images": (lambda: train(views(features=X[None, :5])), "one row for each"),
    "a student of fewer classes": (
        lambda: train(model=ResNet18(2, width=2)), "tells 2 classes apart and the teacher 3",
    ),
    "validation without labels": (lambda: train(val=(IMAGES, Y[:5])), "labels of shape (5,)"),
    "a device of None": (lambda: check_device(None), "unknown device None"),
    # recipes
    "an arm in a list": (lambda: get_arm(["ce"]), "unknown arm ['ce']"),
    "a preset quick in words": (
        lambda: get_preset("shapes", quick="no"), "quick='no'; expected True or False",
    ),
    "a preset in a list": (lambda: get_preset(["shapes"]), "unknown preset ['shapes']"),
    "a NaN weight": (lambda: terms_of("kd", w={"kd_logits": NAN}), "kd_logits=nan"),
    "a negative weight": (lambda: terms_of("kd", w={"micl_knn": -1.0}), "micl_knn=-1.0; expect"),
    "weights of None": (
        lambda: build_terms(get_arm("kd"), outliers=None, teacher_dim=4, student_dim=4,
                            weights=None, settings=TrainSettings()),
        "weights is of type NoneType; expected LossWeights, as get_preset",
    ),
    "outliers as a tensor": (
        lambda: terms_of("oal-paper", X), "outliers is of type Tensor; expected Outliers, as",
    ),
    "encoded images as a tensor": (
        lambda: terms_of("oal-latent+distance=None", autoencoded=X),
        "autoencoded is of type Tensor; expected Autoencoded, as",
    ),
    "answers as a tensor": (
        lambda: build_terms(get_arm("kd+answers=id"), outliers=None, teacher_dim=4, student_dim=4,
                            weights=LossWeights(), settings=TrainSettings(), answers=X),
        "answers is of type Tensor; expected Views, as views.draw_views gives",
    ),
    "what is known as a tensor": (
        lambda: terms_of("kd-distance", known=X), "known is a Tensor; expected (TeacherOutputs, la",
    ),
    "what is known with labels of others": (
        lambda: terms_of("kd-distance", known=(TeacherOutputs(X, X[:, :3]), Y[:5])),
        "features of known have shape (12, 4) and their classes (5,)",
    ),
    "terms on a device that is not there": (
        lambda: build_terms(get_arm("kd"), outliers=None, teacher_dim=4, student_dim=4,
                            weights=LossWeights(), settings=TrainSettings(), device="tpu"),
        "unknown device 'tpu'",
    ),
    "answers in a list": (
        lambda: run(get_preset("shapes"), {"x": Arm("?", answers=["halves"])}, [0], runs="r"),
        "answers ['halves']: expected a tuple of",
    ),
    "one arm by two names": (
        lambda: run(get_preset("shapes"), ["oal", "oal+hedge=4"], [0], runs="r"),
        "arm 'oal+hedge=4' is 'oal' itself, by another name; leave one out",
    ),
    "a latent seen by no term": (
        lambda: get_arm("kd+latent_vector=pooled"), "is how MICL sees a latent, and micl is None",
    ),
    "a preset by its name": (lambda: get_arm("oal", "shapes"), "expected a Preset, as get_preset"),
    "classes held out of a name": (
        lambda: hold_out("shapes", ["star"]), "preset 'shapes'; expected a Preset, as get_preset",
    ),
    "a preset that leads elsewhere": (
        lambda: run(replace(get_preset("shapes"), name="../x"), ["ce"], [0], runs="r"),
        "preset '../x': its name becomes a part of a file's",
    ),
    "runs in no folder": (lambda: run(get_preset("shapes"), ["ce"], [0], runs=" "), "runs=' '"),
    "a variation that is none": (
        lambda: vary(get_arm("oal"), get_preset("shapes"), {"arm.hedge": "x"}), "hedge='x'; expec",
    ),
    "terms in a list": (
        lambda: fit(student(), [CrossEntropy()], views(), settings=TrainSettings(), generator=G),
        "terms is of type list; expected ModuleList, as recipes.build_terms gives",
    ),
    "a loss of torch for a term": (
        lambda: train(terms=[nn.CrossEntropyLoss()]), "terms[0] is of type CrossEntropyLoss; expe",
    ),
    "two terms of one name": (
        lambda: train(terms=[CrossEntropy(), CrossEntropy()]), "two terms are named 'cross-e",
    ),
    "views of None": (
        lambda: fit(student(), nn.ModuleList([CrossEntropy()]), None, settings=TrainSettings(),
                    generator=G),
        "views is of type NoneType; expected Views",
    ),
    "settings of another stage": (
        lambda: fit(student(), nn.ModuleList([CrossEntropy()]), views(), settings=LossWeights(),
                    generator=G),
        "settings is of type LossWeights; expected TrainSettings",
    ),
    "fusing perhaps": (lambda: train(fuse="maybe"), "fuse='maybe'; choose one of no, start, all"),
    "a batch of its own in words": (lambda: train(own_batch="no"), "own_batch='no'; expected True"),
    "a step without images beside": (
        lambda: OutlierExposure(0.5, IMAGES)(Step(Y, X[:, :3], X, X, X[:, :3], G)),
        "'outlier exposure' looks at images beside the batch, and this step has none",
    ),
    # panels, scores and reports
    "a metric in capitals": (lambda: RUN.metric("near", "AUROC"), "no metric 'AUROC'; it has a"),
    "a group that is none": (lambda: RUN.metric("middle", "auroc"), "no group 'middle'; it has"),
    "a score that is none": (
        lambda: RUN.metric("near", "auroc", "enrgy"), "no score 'enrgy'; it has energy",
    ),
    "scores that are lost": (lambda: report.grouped_scores(RUN), "the scores of this run lack"),
    "a cell of NaN": (lambda: report.cell([0.5, NAN]), "a cell of the table holds [0.5, nan]"),
    "one baseline": (lambda: report.markdown([RUN], "ce"), "baselines='ce'; expected several arms"),
    "a positive class in capitals": (
        lambda: confusion_at([1.0], [2.0], 1.0, "OOD"), "positive='OOD' is not a class",
    ),
    "FPR95 of no class": (
        lambda: plots.threshold_of_fpr95([1.0], [2.0], "OOD"), "positive='OOD' is not a class",
    ),
    "a threshold of NaN": (lambda: confusion_at([1.0], [2.0], NAN), "threshold is NaN"),
    "no scores to count": (lambda: confusion_at([], [], 1.0), "id_scores is empty"),
    "a map of other groups": (
        lambda: map_space({"middle": X}), "groups ['middle']; expected features by group, some of",
    ),
    "a panel of features": (
        lambda: map_panel({"student": X}), "space 'student' is of type Tensor; expected Space, as",
    ),
    "a map of one point": (
        lambda: map_panel({"student": Space({"id": X[:1]}, {"id": X[:1, :2]})}),
        "group 'id' of space 'student' has fewer than two points",
    ),
    "a class of no features": (lambda: knn_panel(0), "n=0; expected 12 to 5000 features"),
    "a class in words": (lambda: knn_panel("200"), "n='200'; expected a whole number"),
    "runs that are dicts": (lambda: arms_panel([{}]), "results hold a dict; expected Runs, as"),
    "a grid of nothing": (lambda: synthesis_panel({}, "star", ["star"]), "the grid is empty; make"),
    "no pairings": (
        lambda: measure_pulls(student(), [CrossEntropy()], None, pairings=()), "pairings are empty",
    ),
    "pairings of nobody": (
        lambda: measure_pulls(student(), [CrossEntropy()], None, pairings=(0,)), "pairings=0; exp",
    ),
    "an unknown exposure": (lambda: terms_of(paper(exposure="magic")), "exposure='magic'; choose"),
    "unknown answers": (lambda: terms_of(paper(answers=("magic",))), "answers ('magic',): exp"),
    "answers in one word": (
        lambda: terms_of(paper(answers="halves")), "expected a tuple of outliers, halves, id, as",
    ),
    "a hedge without answers": (
        lambda: terms_of(paper(distance="knn", hedge=4)), "hedged by a distance, so name both",
    ),
    "a hedge without a distance": (
        lambda: terms_of(paper(answers=("id",), hedge=4)), "hedge=4 with answers=('id',) and dis",
    ),
    "a negative hedge": (lambda: terms_of(paper(hedge=-1)), "hedge=-1"),
    "half a hedge": (lambda: terms_of(paper(hedge=0.5)), "hedge=0.5"),
    "answers on outliers of nobody": (
        lambda: terms_of(Arm("?", answers=("outliers",))), "needs outliers: name their",
    ),
    "an unknown view of latents": (
        lambda: terms_of(paper(latent_vector="magic")), "latent_vector='magic'; choose one of",
    ),
    "half of micl": (lambda: terms_of(paper(micl=("class",))), "expected (pairing, fit)"),
    "micl without outliers": (lambda: terms_of(paper(outliers=None)), "needs outliers: name their"),
    "outliers of NaN": (
        lambda: terms_of("oal-paper", outliers(vectors=X[:6] * NAN)), "k-NN outliers hold NaN",
    ),
    "no outliers": (
        lambda: terms_of("oal-paper", outliers(vectors=X[:0], vector_classes=Y[:0])), "at least",
    ),
    "outliers of a class below zero": (
        lambda: terms_of("oal-paper", outliers(vector_classes=Y[:6] - 1)), "a class of 0 or more",
    ),
    "outliers of another teacher": (
        lambda: terms_of("oal-paper", outliers(vectors=torch.ones(6, 5))), "take both from one",
    ),
    "no decoded outliers": (
        lambda: terms_of("oe-pixels", outliers(images=IMAGES[:0])), "decoded outliers are 0",
    ),
    "no decoded ID images": (
        lambda: terms_of("oe-pixels-matched", autoencoded=replace(ID_LATENTS, images=None)),
        "needs decoded ID images",
    ),
    "ID latents of another pipeline": (
        lambda: terms_of(
            paper(exposure="latent", micl=None),
            autoencoded=Autoencoded(torch.ones(6, 4, 4, 4), Y[:6]),
        ),
        "take both from one pipeline",
    ),
    "real images of floats": (lambda: terms_of("oe-real", real=IMAGES.float()), "torch.float32"),
    "noise like one number": (
        lambda: gaussian_like(outliers(vectors=X[:1, :1], vector_classes=Y[:1]), G), "no spread",
    ),
    # the study
    "arms in one word": (lambda: study.run(get_preset("shapes"), "ce", [0], runs="r"), "arms='ce'"),
    "one seed for several": (
        lambda: study.run(get_preset("shapes"), ["ce"], 0, runs="r"), "seeds=0; expected several",
    ),
    "a seed in words": (
        lambda: study.run(get_preset("shapes"), ["ce"], ["a"], runs="r"), "seed='a'",
    ),
    "half a worker": (
        lambda: study.run(get_preset("shapes"), ["ce"], [0], runs="r", workers=1.5), "workers=1.5",
    ),
    "no worker": (
        lambda: study.run(get_preset("shapes"), ["ce"], [0], runs="r", workers=0), "workers=0",
    ),
    "a preset's name for the preset": (
        lambda: study.run("shapes", ["ce"], [0], runs="r"), "preset 'shapes'; expected a Preset",
    ),
    "an arm's name for the arm": (
        lambda: study.run(get_preset("shapes"), {"x": "ce"}, [0], runs="r"), "expected an Arm",
    ),
    "runs nowhere": (
        lambda: study.run(get_preset("shapes"), ["ce"], [0], runs=None), "runs=None; expected",
    ),
    "a model without a name": (lambda: weights.find(""), "model ''; expected a folder or a hub id"),
    "a model of None": (lambda: weights.find(None), "model None; expected a folder or a hub id"),
    # pictures
    "a picture of floats": (lambda: plots.image_grid(IMAGES / 255), "type torch.float32"),
    "a picture of nothing": (lambda: plots.image_grid(IMAGES[:0]), "images are 0; at least 1"),
    "no column": (lambda: plots.image_grid(IMAGES, columns=0), "columns=0"),
    "half a column": (lambda: plots.image_grid(IMAGES, columns=2.5), "columns=2.5; expected a wh"),
    "a gap below zero": (lambda: plots.image_grid(IMAGES, gap=-1), "gap=-1"),
    "titles for other rows": (
        lambda: plots.image_grid(IMAGES, columns=6, titles=["a"]), "1 titles for 2 rows",
    ),
    "histograms of nothing": (lambda: plots.score_histograms({}), "scores are empty"),
    "histograms of a list": (lambda: plots.score_histograms([X[0]]), "scores are a list; expected"),
    "a histogram of another group": (
        lambda: plots.score_histograms({"middle": X[0]}), "unknown group 'middle' of scores",
    ),
    "a histogram without scores": (
        lambda: plots.score_histograms({"id": X[0], "near": X[0, :0]}), "scores of 'near', of sha",
    ),
    "a histogram of NaN": (lambda: plots.score_histograms({"id": X[0] * NAN}), "or hold NaN"),
    "a histogram of words": (lambda: plots.score_histograms({"id": ["a"]}), "what are no numbers"),
    "a histogram of no bin": (lambda: plots.score_histograms({"id": X[0]}, bins=0), "bins=0"),
    "curves of nothing": (lambda: plots.roc({}), "curves are empty"),
    "a curve of one part": (lambda: plots.roc({"a": X[0]}), "curve 'a' is a Tensor; expected (ID"),
    "a curve of NaN": (lambda: plots.roc({"a": (X[0] * NAN, X[1])}), "the first is nan"),
    "a table of nothing": (lambda: plots.table(["a", "b"], []), "0 rows of length none; expected"),
    "a table of one column": (lambda: plots.table(["a"], [["1"]]), "with 1 headings and 1 rows"),
    "a ragged table": (lambda: plots.table(["a", "b"], [["1"]]), "rows of length 1; expected two"),
    "differences of nothing": (lambda: plots.differences({}, unit="x"), "tests are empty"),
    "differences of numbers": (lambda: plots.differences({"a": 0.1}, unit="x"), "test 'a' is a fl"),
    "curves of no epoch": (
        lambda: plots.training_curves({"terms": [], "train_accuracy": [], "val_accuracy": []}),
        "holds no epoch",
    ),
    "curves of no history": (lambda: plots.training_curves({}), "history are empty"),
    "curves of half a history": (
        lambda: plots.training_curves({"terms": [{"ce": 1.0}]}), "lacks train_accuracy, val_accura",
    ),
    "curves on one axis": (lambda: plots.training_curves(HISTORY, axes=[None]), "expected two: fo"),
    "a figure of None": (lambda: plots.save(None, "x.png"), "figure is a NoneType; expected a fig"),
    "a picture without an ending": (lambda: plots.save(Figure(), "x"), "x ends in none of"),
    "a picture in an unknown format": (lambda: plots.save(Figure(), "x.abc"), "name it *.png"),
    # reports
    "a report on nothing": (lambda: report.markdown([]), "there are no results"),
    "a caption of nothing": (lambda: report.caption([]), "there are no results"),
    "a summary of nothing": (lambda: report.summary([]), "there are no results"),
    "a section of nothing": (
        lambda: report.section([], question="?", baselines=[]), "there are no resu",
    ),
    "files of nothing": (lambda: report.write([], None, "x"), "there are no resu"),
    "the cost of nothing": (lambda: report.cost([]), "there are no results"),
    "a report on one run": (lambda: report.rows(Run({}, {})), "results are a Run; expected"),
    "a report on records": (lambda: report.rows([{"arm": "ce"}]), "results hold a dict; expected"),
    "a cell of nothing": (lambda: report.cell([]), "a cell of the table has no value"),
    "a table without a header": (lambda: report.markdown_table(), "lines of length none"),
    "a row of another length": (
        lambda: report.markdown_table(["a", "b"], ["1"]), "lines of length 2, 1; expected a header",
    ),
    "scores of another score": (
        lambda: report.grouped_scores(Run({"metrics": {"msp": {}}}, {}), "energy"),
        "score 'energy' is not among those of this run; choose from msp",
    ),
    "a sheet without outliers": (
        lambda: report.outlier_sheet(None, columns=4), "columns=4, classes=10; expected at least 5",
    ),
    "a sheet without classes": (lambda: report.outlier_sheet(None, classes=0), "classes=0"),
    # costs
    "a plan of NaN": (lambda: costs.cost(costs.Plan(epochs=NAN)), "epochs=nan; expected a finite"),
    "a plan without end": (lambda: costs.cost(costs.Plan(steps=INF)), "steps=inf; expected a fin"),
    "a plan in words": (lambda: costs.cost("as released"), "plan='as released'; expected a Plan"),
    "views below zero": (lambda: costs.cost(costs.Plan(n_views=-1)), "n_views=-1; expected a num"),
    "a speed of NaN": (lambda: costs.hours(costs.HERE, NAN), "tera_per_second=nan; expected a fin"),
    "a speed without end": (lambda: costs.hours(costs.HERE, INF), "tera_per_second=inf"),
    "a budget of no arm": (lambda: budget.describe(get_preset("shapes"), []), "arms=[]; expected"),
    "a budget of one word": (lambda: budget.describe(get_preset("shapes"), "ce"), "arms='ce'"),
    "a budget of no preset": (lambda: budget.describe("shapes", ["ce"]), "preset 'shapes'; exp"),
    "a budget of no seed": (
        lambda: budget.describe(get_preset("shapes"), ["ce"], seeds=0), "seeds=0; expected at",
    ),
    "a budget of half a seed": (
        lambda: budget.describe(get_preset("shapes"), ["ce"], seeds=1.5), "seeds=1.5",
    ),
    "a budget of data that is not there": (
        lambda: budget.describe(get_preset("cifar10"), ["ce"], data_root="nowhere"),
        "data_root 'nowhere' is no folder",
    ),
    "arithmetic that is not counted": (
        lambda: budget.flop(get_preset("shapes"), ["ce"], 1), "benchmark 'shapes' is not counted",
    ),
    "arithmetic of no pixel": (
        lambda: budget.student_flop(get_preset("cifar10"), 0, 10), "size=0; expected at least 1",
    ),
    # numbers, kinds and types that pass a first look
    "a number of 400 digits": (
        lambda: scores.energy(X, 10**400), "temperature=a int; expected a finite number",
    ),
    "a whole number of 30 digits": (
        lambda: scores.knn(X, X, 1, chunk_size=10**30), "expected a whole number below 2**63",
    ),
    "a temperature that swallows all": (
        lambda: distil.logit_kd(X, X.roll(1, 0), 1e160), "the distillation loss is nan",
    ),
    "labels of 16 bits without a sign": (
        lambda: halves(IMAGES, Y.to(torch.uint16), 5, G), "convert them by .long()",
    ),
    "epochs of NumPy": (lambda: train(epochs=np.int64(1)), "epochs is a int64; make an int of it"),
    "a rate of NumPy": (lambda: train(lr=np.float32(0.1)), "lr is a float32; make a float of it"),
    "a distance in a list": (lambda: terms_of(paper(distance=["knn"])), "distance=['knn']; choose"),
    "a latent vector in a list": (
        lambda: terms_of(paper(latent_vector=["pooled"])), "latent_vector=['pooled']; choose",
    ),
    "matched exposure without image": (
        lambda: terms_of("oe-pixels-matched", outliers(images=IMAGES[:0])), "outliers are 0; at",
    ),
    "fewer decoded ID images than labels": (
        lambda: terms_of("oe-pixels-matched", autoencoded=replace(ID_LATENTS, images=IMAGES[:5])),
        "5 decoded ID images have 6 labels",
    ),
    "a teacher that knows NaN": (
        lambda: terms_of("kd-distance", known=(TeacherOutputs(X * NAN, X), Y)),
        "features of known hold NaN",
    ),
    "a teacher that knows another width": (
        lambda: terms_of("kd-distance", known=(TeacherOutputs(X[:, :3], X), Y)),
        "known holds features of shape (12, 3); expected (n, 4)",
    ),
    "views of images that are read late": (lambda: augment(late(IMAGES), G), "read late; augment"),
    "a curve of two trainings": (
        lambda: plots.training_curves(HISTORY | {"terms": [{"ce": 1.0}, {"kd": 1.0}]}),
        "other loss terms, or none",
    ),
    "an arm without a name": (
        lambda: study.run(get_preset("shapes"), {"": ARMS["ce"]}, [0]), "1 to 150 characters",
    ),
    "an arm with a name of NUL": (
        lambda: study.run(get_preset("shapes"), {"a\0b": ARMS["ce"]}, [0]), "1 to 150 characters",
    ),
    "a prompt of None": (lambda: diffusion_outliers.fill(None, "cat"), "expected two texts"),
    # tensors that are none to most of torch
    "sparse logits": (lambda: scores.msp(X.to_sparse()), "logits is a sparse_coo tensor; expected"),
    "sparse features": (lambda: knn.sample_outliers(X.to_sparse()), "features is a sparse_coo"),
    "floats of eight bits": (
        lambda: scores.knn(X.to(torch.float8_e4m3fn), X, 1), "are of type torch.float8_e4m3fn: con",
    ),
    "sparse scores": (lambda: detection_metrics(X[:, 0].to_sparse(), [1.0]), "id_scores is a spar"),
    # numbers that overflow, or that torch does not know
    "a fraction": (lambda: scores.energy(X, Fraction(1, 2)), "expected a finite number, such as"),
    "a long double": (lambda: mean_interval([0.0, 1.0], np.longdouble(0.5)), "expected a finite n"),
    "a size in eight bits": (
        lambda: knn.sample_outliers(X, k=np.uint8(2), n_boundary=2, n_candidates=3),
        "k is a uint8; make an int of it",
    ),
    # what the teacher says
    "features of NaN around": (
        lambda: distil.TeacherNeighbours(TeacherOutputs(X * NAN, X), Y), "features of known hold N",
    ),
    "nothing around": (
        lambda: distil.TeacherNeighbours(TeacherOutputs(X[:0], X[:0]), Y[:0]), "expected a row for",
    ),
    "nobody said anything": (lambda: distil.TeacherNeighbours(None, Y), "known is of type NoneTyp"),
    "another width": (
        lambda: distil.TeacherNeighbours(TeacherOutputs(X, X), Y)(TeacherOutputs(X[:, :3], X)),
        "features of 3 numbers, and 4 in those of the ID images",
    ),
    "NaN of Mahalanobis": (
        lambda: distil.TeacherDistance(TeacherOutputs(X, X), Y)(TeacherOutputs(X * NAN, X)),
        "the teacher's features hold NaN",
    ),
    # loss terms by themselves
    "labels of no class": (
        lambda: CrossEntropy()(Step(Y * 0 - 100, X, X, X, X, G)), "cross-entropy is nan: its input",
    ),
    "a weight below zero": (lambda: LogitKD(-1.0), "weight of 'distil logits'=-1.0; expected 0 or"),
    "a weight in words": (lambda: LogitKD("a"), "weight of 'distil logits'='a'; expected a finite"),
    "an unknown distance": (
        lambda: DistanceKD(1.0, TeacherOutputs(X, X), Y, "x"), "distance='x'; choose one of",
    ),
    "no image to expose": (lambda: OutlierExposure(1.0, IMAGES[:0]), "0 images; expected at least"),
    "fewer answers": (lambda: Answers(1.0, IMAGES, X[:3]), "12 images and 3 logits"),
    "labels of another": (lambda: Reconstructions(1.0, IMAGES, Y - 1), "labels hold -1; expected "),
    "outliers of no class": (
        lambda: Micl("m", 1.0, information.ClubNet(4, 4), X, Y - 1, pairing="class", fit="bound",
                     lr=0.1),
        "classes hold -1; expected classes, from 0 on",
    ),
    "no q": (
        lambda: Micl("m", 1.0, None, X, Y, pairing="class", fit="bound", lr=0.1), "q is of type No",
    ),
    # training
    "val alone": (lambda: train(val=IMAGES), "val is a Tensor; expected (images, labels), or None"),
    "val of no class": (lambda: train(val=(IMAGES, Y + 5)), "labels of val run from 5 to 7; expec"),
    # settings
    "a distance of none": (
        lambda: get_arm("kd-distance", replace(get_preset("shapes"), distance=None)),
        "distance=None; choose one of",
    ),
    "yes in words": (
        lambda: run(replace(get_preset("shapes"), embedded_far="no"), ["ce"], [0]),
        "preset shapes: embedded_far='no'; expected bool",
    ),
    "no settings": (
        lambda: run(replace(get_preset("shapes"), knn=None), ["ce"], [0]), "knn=None; expected Knn",
    ),
    "half an image of a class": (
        lambda: run(replace(get_preset("shapes"), n_per_class=1.5), ["ce"], [0]), "n_per_class=1.5",
    ),
    "distilled in words": (
        lambda: run(get_preset("shapes"), {"a": Arm("?", distil="no")}, [0]), "distil='no'; expect",
    ),
    "an answer twice": (
        lambda: get_arm("oal+answers=halves-halves"), "one kind stands there twice; name each once",
    ),
    "an answer as an arm": (lambda: get_arm("id"), "several answers are joined by -, as answers=h"),
    "an arm twice": (lambda: run(get_preset("shapes"), ["ce", "ce"], [0]), "'ce' is named twice"),
    # results
    "a run twice": (lambda: report.rows([RUN, RUN]), "hold the run of kd, seed 0, twice; give eac"),
    "a run of yesterday": (
        lambda: report.summary([RUN]), "record lacks recipe, preset, code, made, id_accuracy, hist",
    ),
    "a record of NaN": (
        lambda: write_record(Path("r"), {"a": NAN}), "the record cannot be kept (Out of range floa",
    ),
    "a record of things": (lambda: write_record(Path("r"), {"a": G}), "r: the record cannot be ke"),
    # costs
    "decoded in words": (lambda: costs.cost(costs.Plan(decode="x")), "decode='x'; expected True o"),
    "epochs without end": (lambda: costs.cost(costs.Plan(epochs=1e308)), "more FLOP than a number"),
    "a plan of data": (
        lambda: budget.describe(get_preset("shapes"), ["ce"], data_root="d"), "is rendered, it rea",
    ),
    # sizes beyond any memory
    "a net of a million": (lambda: information.ClubNet(10**9, 10**6), "that takes 1.03e+03 GB of "),
    "a net without end": (lambda: information.ClubNet(2**62, 4), "layer width 0=46116860184273879"),
    "a wide hidden layer": (lambda: information.ClubNet(4, 4, (10**12,), (4,)), "takes 3.2e+04 GB"),
    "a wide student": (lambda: ResNet18(10, width=10**6), "n_classes=10, width=1000000: that take"),
    "a wide entrance": (lambda: LatentStem(2**62, 4), "latent_channels=4611686018427387904, width"),
    "a wide adapter": (lambda: distil.FeatureAdapter(10**9, 10**9), "teacher_dim=1000000000, stud"),
    "shapes without end": (lambda: render("star", 2**62, generator=G), "size=32: that takes 1.42e"),
    "a test set without end": (lambda: load(n_test=10**12), "n=100000000000, size=32: that takes"),
    "far images without end": (lambda: far_sets(2**62, 0), "n=4611686018427387904: that takes"),
    "pairs without end": (
        lambda: information.sample_correlated_gaussians(2**62, 4, 0.5), "n=4611686018427387904, d",
    ),
    "bars without end": (lambda: plots.score_histograms({"id": X[:, 0]}, bins=2**62), "bins=46116"),
    "a grid without end": (lambda: plots.image_grid(IMAGES, columns=2**62), "columns=461168601842"),
    "views without end": (lambda: augmented_copies(IMAGES, 2**50, G), "n_views=1125899906842624: "),
    # pictures
    "a grid on a list": (lambda: plots.image_grid(IMAGES, ax=[]), "ax is of type list; expected A"),
    "bars on a figure": (lambda: plots.score_histograms({"id": X[:, 0]}, ax=Figure()), "is of typ"),
    "a curve on a word": (lambda: plots.roc({"a": (X[:, 0], X[:, 0])}, ax="x"), "is of type str"),
    "a table on nothing": (lambda: plots.table(["a", "b"], [["1", "2"]], ax=0), "is of type int"),
    "curves on numbers": (lambda: plots.training_curves(HISTORY, axes=[1, 2]), "is of type int"),
    "curves on a number": (lambda: plots.training_curves(HISTORY, axes=3), "axes=3; expected two"),
    "a table of None": (lambda: plots.table(["a", "b"], None), "rows is of type NoneType; expecte"),
    "a table of numbers": (lambda: plots.table(["a", "b"], [1, 2]), "row 0=1; expected several na"),
    "a heading of None": (lambda: plots.table(None, [["a"]]), "header=None; expected several name"),
    "titles in number": (lambda: plots.image_grid(IMAGES, titles=3), "titles=3; expected several"),
    "no dots": (lambda: plots.save(Figure(), "a.png", dpi=0), "dpi=0: 0 x 0 pixels; the usual is"),
    "dots in words": (lambda: plots.save(Figure(), "a.png", dpi="x"), "dpi='x'; expected a finite"),
    "too many dots": (lambda: plots.save(Figure(), "a.png", dpi=10**9), "6.4e+09 x 4.8e+09 pixels"),
    "a picture nowhere": (lambda: plots.save(Figure(), None), "path=None; expected a path, as 'fi"),
    "a figure of no name": (lambda: plots.keep(Figure(), None), "name=None; expected a path"),
    # files
    "tensors of None": (lambda: write_tensors(Path("t"), None), "tensors is of type NoneType; exp"),
    "tensors by number": (lambda: write_tensors(Path("t"), {1: X}), "names of tensors=[1]; expect"),
    "a list as a tensor": (lambda: write_tensors(Path("t"), {"a": [1]}), "a is a list; expected a"),
    "a sparse tensor kept": (
        lambda: write_tensors(Path("t"), {"a": X.to_sparse()}), "a is a sparse_coo tensor; expecte",
    ),
    "a tensor of nothing": (
        lambda: write_tensors(Path("t"), {"a": X.to("meta")}), "of the device 'meta', which holds ",
    ),
    "scores of nothing": (lambda: scores.energy(X.to("meta")), "logits is a tensor of the device "),
    "a report nowhere": (lambda: report.write([RUN], None, None), "out=None; expected a path"),
    "a section nowhere": (lambda: report.add_section(None, "a", {}), "path=None; expected a path"),
    "a section of no name": (lambda: report.add_section("s", None, {}), "names=[None]; expected s"),
    "a section of words": (lambda: report.add_section("s", "a", "b"), "content is of type str; ex"),
    "a data set of a list": (lambda: openood.load(["cifar10"], "."), "unknown data set ['cifar10'"),
    "a data root in number": (lambda: openood.load("cifar10", 3), "data_root=3; expected a path"),
    # panels
    "a panel of None": (lambda: Panel(None, drawn, alt="x"), "controls is of type NoneType; expec"),
    "a panel of a number": (lambda: Panel({"a": 3}, drawn, alt="x"), "control 'a' is of type int;"),
    "a panel of text": (lambda: Panel({"a": Text("q")}, drawn, alt="x"), "is of type Text; expect"),
    "a panel of a range": (
        lambda: Panel({"a": IntRangeSlider()}, drawn, alt="x"), "is of type IntRangeSlider; expect",
    ),
    "a panel of many": (
        lambda: Panel({"a": SelectMultiple(options=[1])}, drawn, alt="x"), "of type SelectMultiple",
    ),
    "a panel without words": (lambda: Panel({"a": IntSlider()}, drawn, alt=None), "alt is of type"),
    "a panel of no function": (lambda: Panel({"a": IntSlider()}, 3, alt="x"), "render is a int; e"),
    "a panel of other names": (
        lambda: Panel({"b": IntSlider()}, drawn, alt="x"), "render does not take the controls b (m",
    ),
    "a panel without a picture": (
        lambda: Panel({"a": IntSlider()}, lambda a: "x", alt="x"), "render gives 'x'; expected a f",
    ),
    "a panel of two words": (
        lambda: Panel({"a": IntSlider()}, lambda a: ("x", "y"), alt="x"), "render gives str and st",
    ),
    # models
    "a name without end": (lambda: weights.find("/" + "b" * 5000), "... (File name too long)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_clear_sentence(name):
    call, words = CASES[name]
    with pytest.raises(OWN) as caught:
        call()
    text = str(caught.value)
    assert words in text, text
    assert len(text) < 500 and text.count("\n") == 0, text
    assert "oal_lite" in str(caught.traceback[-1].path), "the words of a library below"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("a", "type str into 12 images (a word)"),
        (12, "index 12 is out of bounds"),
        (torch.tensor([1.5]), "type Tensor into 12 images"),
        (torch.zeros(2, 2).long(), "(no row of them); expecte"),
    ],
)
def test_an_index_of_images_read_late_is_refused_as_that_of_a_list(index, words):
    with pytest.raises(IndexError) as caught:
        late(IMAGES)[index]
    text = str(caught.value)
    assert words in text and len(text) < 500 and text.count("\n") == 0, text
    assert "oal_lite" in str(caught.traceback[-1].path), "the words of a library below"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda p: diffusion_outliers.synthesise(p, torch.ones(2, 32), "cat", steps=1.5),
            "steps=1",
        ),
        (
            lambda p: diffusion_outliers.synthesise(p, torch.ones(2, 32), "cat", guidance=INF),
            "=inf",
        ),
        (lambda p: diffusion_outliers.synthesise(p, torch.ones(0, 32), "cat"), "0 outliers"),
        (lambda p: diffusion_outliers.synthesise(p, torch.ones(2, 32).numpy(), "cat"), "ndarray"),
        (lambda p: diffusion_outliers.synthesise(p, torch.ones(2, 32), None), "class_names=None"),
        (
            lambda p: diffusion_outliers.synthesise(p, torch.ones(1, 32), "cat", generator=1),
            "tor=1",
        ),
        (
            lambda p: diffusion_outliers.synthesise(p, torch.ones(1, 32), "cat", prompt=None),
            "two te",
        ),
        (lambda p: diffusion_outliers.decode(p, torch.full((1, 4, 8, 8), NAN)), "hold NaN"),
        (lambda p: diffusion_outliers.decode(p, torch.ones(1, 4, 8, 8), size=0), "size=0"),
        (lambda p: diffusion_outliers.encode(p, IMAGES, batch_size=0), "batch_size=0"),
        (lambda p: diffusion_outliers.word_embeddings(p, []), "words []; expected several"),
        (lambda p: diffusion_outliers.word_embeddings(p, [""]), "has no token"),
        (lambda p: diffusion_outliers.condition(p, torch.ones(2, 32), ["cat"]), "one each"),
        (lambda p: diffusion_outliers.with_sampler(p, ["ddim"]), "sampler=['ddim']"),
    ],
)
def test_what_a_pipeline_cannot_do_either(tiny_pipeline, call, words):
    with pytest.raises(OWN) as caught:
        call(tiny_pipeline)
    assert words in str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "xpu", "", None])
def test_models_are_not_put_where_nothing_is(tiny_teacher_folder, tiny_pipeline_folder, device):
    for load_, folder in (
        (Teacher.from_pretrained, tiny_teacher_folder),
        (diffusion_outliers.load_pipeline, tiny_pipeline_folder),
    ):
        with pytest.raises(ValueError, match="device .*here are|GPUs here"):
            load_(folder, device=device)


def test_what_else_a_teacher_cannot_see(tiny_teacher):
    for call, words in (
        (lambda: tiny_teacher(IMAGES, batch_size=2.5), "batch_size=2.5"),
        (lambda: tiny_teacher.logits(torch.ones(2, 5)), "expected 32 numbers"),
        (lambda: tiny_teacher.logits(torch.full((2, 32), NAN)), "hold NaN"),
        (lambda: draw_views(IMAGES, Y.float(), tiny_teacher, n_views=1, generator=G), "labels are"),
    ):
        with pytest.raises(OWN, match=words):
            call()


def test_numbers_that_only_look_odd_are_taken(tiny_preset, tmp_path):
    plain = train(views(labels=Y.long()))
    assert train(views(labels=Y.int())).val_accuracy == plain.val_accuracy == []
    ((curve,), _) = (ax.lines[:1] for ax in plots.training_curves(vars(plain)))
    assert curve.get_xdata().tolist() == [1]
    small = halves(IMAGES, Y, 5, torch.Generator().manual_seed(1))
    bytes_ = halves(IMAGES, Y.to(torch.uint8), 5, torch.Generator().manual_seed(1))
    assert torch.equal(small[0], bytes_[0]) and torch.equal(small[1], bytes_[1].long())
    (run,) = study.run(tiny_preset, ["ce"], np.arange(1), runs=tmp_path, device="cpu", bars=False)
    assert type(run.record["seed"]) is int


def test_models_that_answer_with_nan_are_named(tiny_teacher_folder, tiny_pipeline):
    teacher = Teacher.from_pretrained(tiny_teacher_folder)
    with torch.no_grad():
        teacher.head.weight[0, 0] = NAN
        next(tiny_pipeline.vae.encoder.parameters())[0] = NAN
    with pytest.raises(
        FloatingPointError, match="teacher answers with NaN .*; restore its weights"
    ):
        teacher(IMAGES)
    with pytest.raises(
        FloatingPointError, match="encoder answers with NaN .*; restore its weights"
    ):
        diffusion_outliers.encode(tiny_pipeline, IMAGES)


# --- whatever hypothesis thinks of ---------------------------------------------------------------

WHOLE = st.one_of(
    st.integers(-3, 14), st.sampled_from([2**31, 10**30, True]), st.none(), st.text(max_size=2),
    st.floats(allow_nan=True), st.just([1]),
)  # fmt: skip
NUMBER = st.one_of(st.floats(), st.integers(-2, 3), st.none(), st.text(max_size=2), st.just([0.1]))


@st.composite
def tensors(draw):
    """Matrices, and what might be taken for one: of any shape, type, size and sanity."""
    shape = draw(st.sampled_from([(12, 4), (4, 4), (1, 4), (0, 4), (12, 0), (12,), (), (2, 3, 4)]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64,
                                  torch.bool, torch.complex64]))  # fmt: skip
    scale = draw(st.sampled_from([1.0, 0.0, 1e-30, 1e30, 3e38, NAN, INF, -INF]))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 3)))) * scale
    if draw(st.booleans()) and x.numel():
        x.view(-1)[0] = draw(st.sampled_from([0.0, NAN, 1.0]))
    if dtype == torch.int64 or dtype == torch.bool:
        x = x.nan_to_num(0, 9, -9).clamp(-9, 9)
    x = x.to(dtype)
    if draw(st.booleans()) and x.ndim == 2:
        x = x.T.contiguous().T  # the same, not contiguous
    if draw(st.booleans()) and x.is_floating_point():
        x.requires_grad_()
    return draw(st.sampled_from([x, x, x, x, x.detach().resolve_conj().numpy(), None, [[1.0]]]))


def finite(answer):
    """Whether no number of an answer is NaN, however it is packed."""
    if isinstance(answer, torch.Tensor):
        return bool(answer.isfinite().all())
    if isinstance(answer, tuple | list):
        return all(map(finite, answer))
    if hasattr(answer, "__dataclass_fields__"):
        return finite(list(vars(answer).values()))
    return not isinstance(answer, float) or math.isfinite(answer)


FUZZED = {
    "msp": lambda d: scores.msp(d(tensors())),
    "max_logit": lambda d: scores.max_logit(d(tensors())),
    "energy": lambda d: scores.energy(d(tensors()), d(NUMBER)),
    "entropy": lambda d: scores.entropy(d(tensors())),
    "knn": lambda d: scores.knn(d(tensors()), d(tensors()), d(WHOLE), d(WHOLE)),
    "mahalanobis": lambda d: scores.mahalanobis(*(d(tensors()) for _ in range(3)), d(NUMBER)),
    "detection_metrics": lambda d: detection_metrics(d(tensors()), d(tensors())),
    "bootstrap": lambda d: bootstrap_interval(d(tensors()), [0.0, 1.0], level=d(NUMBER),
                                              n_resamples=d(st.sampled_from([2, 0, 1.5, None]))),
    "paired_test": lambda d: paired_test(d(tensors()), d(tensors()), d(NUMBER)),
    "unit": lambda d: knn.unit(d(tensors())),
    "kth_distance": lambda d: knn.kth_distance(d(tensors()), d(tensors()), d(WHOLE)),
    "boundary_points": lambda d: knn.boundary_points(d(tensors()), d(WHOLE), d(WHOLE)),
    "candidates": lambda d: knn.candidates_around(d(tensors()), d(tensors()), d(NUMBER)),
    "select": lambda d: knn.select_candidates(d(tensors()), d(WHOLE)),
    "sample_outliers": lambda d: knn.sample_outliers(
        d(tensors()), k=d(WHOLE), n_boundary=d(WHOLE), n_candidates=d(st.integers(-1, 9)),
        sigma=d(NUMBER), keep=d(WHOLE)),
    "per class": lambda d: knn.sample_outliers_per_class(
        d(tensors()), d(tensors()), n_classes=d(WHOLE), rounds=1, k=1, n_boundary=1,
        n_candidates=3, keep=1),
    "club": lambda d: information.club(d(tensors()), d(tensors()), d(tensors())),
    "q": lambda d: information.ClubNet(4, 4, (3,), (3,)).log_likelihood(d(tensors()), d(tensors())),
    "logit_kd": lambda d: distil.logit_kd(d(tensors()), d(tensors()), d(NUMBER)),
    "adapter": lambda d: distil.FeatureAdapter(4, 2)(d(tensors())),
    "info_nce": lambda d: contrastive_bounds.info_nce(d(tensors())),
    "nwj": lambda d: contrastive_bounds.nwj(d(tensors())),
    "critic": lambda d: contrastive_bounds.gaussian_critic(d(tensors()), d(tensors()), d(NUMBER)),
    "purity": lambda d: maps.knn_purity(d(tensors()), d(tensors()), d(WHOLE)),
    "student": lambda d: student().eval()(d(tensors())),
    "predict": lambda d: predict(student(), d(tensors()), batch_size=d(WHOLE)),
    "augment": lambda d: augment(d(tensors()), G, padding=d(WHOLE)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUZZED)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_it_answers_with_numbers_or_with_a_sentence(name, data):
    drawn = []

    def draw(strategy):
        value = data.draw(strategy)
        if isinstance(value, torch.Tensor):
            drawn.append((value, np.copy(value.detach())))
        return value

    try:
        answer = FUZZED[name](draw)
    except OWN as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        trace = error.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        assert "oal_lite" in trace.tb_frame.f_code.co_filename, f"a library's own words: {error}"
    else:
        assert finite(answer)
    for x, old in drawn:
        assert np.array_equal(x.detach().numpy(), old, equal_nan=True), "an argument was changed"
