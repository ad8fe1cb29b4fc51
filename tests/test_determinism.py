"""The same tomorrow: what decides the outliers, and how far another machine may be from this one.

That one machine repeats a run to the last bit, whatever the number of workers, is tested in
`test_workers.py` and `test_study.py`; that it does so after interruptions, in
`test_interruptions.py`.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oal_lite.materials import Materials

# Makes what every arm is trained on, and trains the common start, with a preset that is given.
MAKE = """
import sys
import torch
from safetensors.torch import save_file
from oal_lite.materials import Materials
from oal_lite.presets import *
materials = Materials({preset}, 0, bars=False)
made = {"images": materials.benchmark.train.images, "features": materials.id_features[0]}
made |= {f"outliers.{k}": v for k, v in vars(materials.outliers("farthest")).items()}
made |= {f"start.{k}": v for k, v in materials.start.items()}
save_file({k: v.contiguous() for k, v in made.items()}, sys.argv[1])
"""
# Libraries told to leave out what processors have learnt since about 2008: other kernels, other
# orders of summation. Where they do not listen (ARM), the two machines are the same.
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip


@pytest.fixture
def small(tiny_preset):
    """The tiny preset with more outliers, so that one that is drawn otherwise would be seen."""
    return replace(tiny_preset, knn=replace(tiny_preset.knn, n_boundary=5, keep=5, rounds=3))


@pytest.fixture
def outliers(small):
    """Outliers by number of threads and batch size."""
    threads = torch.get_num_threads()

    def draw(n, size):
        torch.set_num_threads(n)
        diffusion = replace(small.diffusion, batch_size=size)
        return Materials(replace(small, diffusion=diffusion), 0, bars=False).outliers("farthest")

    yield draw
    torch.set_num_threads(threads)


def test_threads_and_batch_size_do_not_change_which_outliers_are_drawn(outliers):
    expected = outliers(1, 30)
    assert len(expected.vectors) >= 100
    for threads, size in ((2, 30), (1, 7), (2, 1)):
        drawn = outliers(threads, size)
        for name in ("vectors", "vector_classes", "latent_classes"):  # before the diffusion
            assert torch.equal(getattr(drawn, name), getattr(expected, name)), (threads, size)
        # sums over other batches are rounded otherwise; another noise would be off by 1
        torch.testing.assert_close(drawn.latents, expected.latents, rtol=0, atol=1e-4)
        assert (drawn.images.int() - expected.images.int()).abs().max() <= 1


def test_another_processor_draws_nearly_the_same(small, tmp_path):
    """What may differ across machines, and by how much; README, "The same tomorrow"."""
    code = MAKE.replace("{preset}", repr(small))
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    made = {}
    for name, flags in (("this", {}), ("old", OLD_PROCESSOR)):
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **flags}
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], check=True, env=environment
        )
        made[name] = load_file(tmp_path / name)
    this, old = made["this"], made["old"]
    for classes in ("outliers.vector_classes", "outliers.latent_classes"):
        assert torch.equal(this[classes], old[classes])
    for images in ("images", "outliers.images"):
        assert (this[images].int() - old[images].int()).abs().max() <= 1, "more than one grey level"
    apart = (this["features"] - old["features"]).norm(dim=1) / this["features"].norm(dim=1)
    assert apart.max() < 1e-3
    # Where two candidates are equally far, rounding decides: another outlier, as good.
    moved = (this["outliers.vectors"] - old["outliers.vectors"]).norm(dim=1) > 1e-3
    assert moved.float().mean() <= 0.02
    assert (this["outliers.latents"] - old["outliers.latents"]).abs().max() < 0.02
    # Training makes small differences larger, step by step; here after a few.
    for name, weight in this.items():
        if name.startswith("start.") and weight.is_floating_point():
            torch.testing.assert_close(weight, old[name], rtol=0, atol=1e-2)
