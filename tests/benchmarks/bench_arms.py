"""An epoch of an arm on latents against one of its neighbour on pictures of the same outliers."""

from dataclasses import replace

import pytest

from oal_lite.materials import Materials
from oal_lite.presets import get_preset
from oal_lite.recipes import get_arm
from oal_lite.study import train_one


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """The preset `shapes` with a quarter of its images, a start of one epoch, few to score."""
    shapes = get_preset("shapes")
    preset = replace(
        shapes,
        benchmark_sizes={"n_train": 1280, "n_val": 50, "n_test": 50, "n_ood": 5},
        n_per_class=100, knn=replace(shapes.knn, k=60, n_candidates=300),
        diffusion=replace(shapes.diffusion, n_latents=100, steps=5),
        train=replace(shapes.train, start_epochs=1, epochs=1, n_views=1),
    )  # fmt: skip
    return Materials(preset, 0, runs=tmp_path_factory.mktemp("runs"), bars=False)


@pytest.mark.parametrize(
    ("pictures", "latents"), [("oe-pixels", "oal-paper"), ("oe-pixels-matched", "oal-latent")]
)
def bench_epoch(on_cpu, keep_ratio, materials, pictures, latents):
    def epoch(arm):
        recipe = get_arm(arm, materials.preset)
        materials.forget_checkpoint(arm, recipe)  # it would go on after the end
        return train_one(arm, materials, device="cpu")

    keep_ratio(
        f"an epoch of {latents}",
        lambda: epoch(pictures), lambda: epoch(latents), repeats=3,
        against=f"one of {pictures}: the same outliers as pictures; one thread",
    )  # fmt: skip
