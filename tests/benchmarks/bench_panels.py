"""How long a reader waits for a panel's first picture; imports, paid once, are counted apart."""

import statistics

import pytest
import torch
from measure import run_python, timed

pytest.importorskip("ipywidgets", reason="the panels need ipywidgets")

from oal_lite import widgets
from oal_lite.benchmarks import load
from oal_lite.diffusion_outliers import load_pipeline
from oal_lite.plots import LABELS
from oal_lite.presets import PRESETS
from oal_lite.shapes import ID_SHAPES
from oal_lite.study import Run
from oal_lite.teacher import Teacher
from oal_lite.widgets.loss_terms import Pulls
from oal_lite.widgets.maps import Space

LIMIT = 2.0
pytestmark = pytest.mark.usefixtures("on_cpu")

IMPORT = """
import time, torch
started = time.perf_counter()
from oal_lite.widgets import energy_panel
energy_panel()
print(time.perf_counter() - started)
"""


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def arms():
    """The panel over two runs of as many scores as the preset `shapes` writes."""
    ood = {"near": ["a", "b", "c", "d", "e", "f"], "far": ["g", "h", "i", "j"]}
    metric = {"auroc": 0.9, "fpr95": 0.3}
    metrics = {"energy": {group: dict.fromkeys(sets, metric) for group, sets in ood.items()}}
    scores = {f"energy/{s}": drawn(500) + 1 for sets in ood.values() for s in sets}
    runs = [
        Run({"arm": arm, "seed": 0, "metrics": metrics}, {"energy/id": drawn(2000), **scores})
        for arm in ("ce", "kd")
    ]
    return lambda: widgets.arms_panel(runs)


def denoising():
    images = load("shapes", seed=0, n_train=10, n_val=10, n_test=10, n_ood=1).train.images[:4]
    pipeline = load_pipeline(PRESETS["shapes"].pipeline)
    words = ["heart", "star", "moon", "cross"]
    journey = widgets.make_journey(pipeline, images, words, levels=(50, 999), steps=(1, 2))
    return lambda: widgets.denoising_panel(journey)


def information():
    tracks = widgets.train_tracks()
    return lambda: widgets.information_panel(tracks)


def loss_terms():
    gradients = drawn(4, 9)
    pulls = Pulls(("ce", "kd", "features", "micl"), (1, 4, 8, 0.1), {1: gradients @ gradients.T})
    return lambda: widgets.loss_terms_panel(pulls)


def maps():
    features = {group: drawn(300, 128) for group in LABELS}
    space = Space(features, {group: x[:, :2].numpy() for group, x in features.items()})
    return lambda: widgets.map_panel({"before": space, "after": space})


def synthesis():
    preset = PRESETS["shapes"]
    grid = widgets.sample_grid(
        load_pipeline(preset.pipeline), Teacher.from_pretrained(preset.teacher), "heart",
        drawn(128), strengths=(0, 1), guidances=(1, 7.5), steps=(2, 5), n_seeds=2,
    )  # fmt: skip
    return lambda: widgets.synthesis_panel(grid, "heart", ID_SHAPES)


def threshold():
    ids, ood = drawn(2000).numpy(), drawn(500).numpy() + 1
    return lambda: widgets.threshold_panel(ids, ood)


PANELS = {
    "arms": arms,
    "costs": lambda: widgets.cost_panel,
    "denoising": denoising,
    "energy": lambda: widgets.energy_panel,
    "information": information,
    "k-NN": lambda: widgets.knn_panel,
    "loss terms": loss_terms,
    "maps": maps,
    "synthesis": synthesis,
    "threshold": threshold,
}


def bench_every_panel_is_here():
    assert len(PANELS) == sum(name.endswith("_panel") for name in widgets.__all__)


@pytest.mark.parametrize("name", PANELS)
def bench_first_picture(findings, name):
    make, panels = PANELS[name](), []
    found = [timed(lambda: panels.append(make()))[0] for _ in range(3)]
    assert panels[-1].image.value.startswith("<img")
    findings["limits"][f"first picture of the panel {name}, s"] = {
        "value": statistics.median(found), "limit": LIMIT,
    }  # fmt: skip


def bench_import(findings):
    found = float(run_python(IMPORT))
    findings["limits"]["first panel of a process, imports too (over torch's), s"] = {
        "value": found, "limit": None,
    }  # fmt: skip
