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

# Makes what every arm is trained on, and the common start, with a preset that is given; trains arms
# to their end with another.
MAKE = """
import sys
import torch
from safetensors.torch import save_file
from oal_lite import study
from oal_lite.materials import Materials
from oal_lite.presets import *
materials = Materials({preset}, 0, bars=False)
made = {"images": materials.benchmark.train.images, "features": materials.id_features[0]}
made |= {f"outliers.{k}": v for k, v in vars(materials.outliers("farthest")).items()}
made |= {f"start.{k}": v for k, v in materials.start.items()}
materials = Materials({gentle}, 0, bars=False)
for arm in {arms}:
    run, _ = study.train_one(arm, materials, device="cpu")
    far, near = (run.metric(group, "auroc") for group in ("far", "near"))
    made[f"points.{arm}"] = 100 * torch.tensor([run.record["id_accuracy"], near, far])
save_file({k: v.contiguous() for k, v in made.items()}, sys.argv[1])
"""
# Libraries told to leave out what processors have learnt since about 2008: other kernels, other
# orders of summation. Where they do not listen (ARM), the two machines are the same.
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip
ARMS = ["ce", "oal-paper", "oal-latent", "oal"]


@pytest.fixture(scope="module")
def small(tiny_preset):
    """The tiny preset with more outliers, so that one that is drawn otherwise would be seen."""
    return replace(tiny_preset, knn=replace(tiny_preset.knn, n_boundary=5, keep=5, rounds=3))


@pytest.fixture(scope="module")
def gentle(tiny_preset):
    """The tiny preset with a thirtieth of its learning rates, and more images to be judged on."""
    rates = ("start_lr", "lr", "adapter_lr", "latent_lr")
    train = replace(tiny_preset.train, **{k: getattr(tiny_preset.train, k) / 30 for k in rates})
    return replace(
        tiny_preset, train=replace(train, width=4, start_epochs=2, epochs=2),
        benchmark_sizes={"n_train": 200, "n_val": 20, "n_test": 200, "n_ood": 50},
    )  # fmt: skip


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


@pytest.fixture(scope="module")
def machines(small, gentle, tmp_path_factory):
    """What this processor makes, and what one of 2008 would make."""
    code = MAKE.replace("{preset}", repr(small)).replace("{gentle}", repr(gentle))
    code = code.replace("{arms}", repr(ARMS))
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    folder, made = tmp_path_factory.mktemp("machines"), []
    for name, flags in (("this", {}), ("old", OLD_PROCESSOR)):
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **flags}
        subprocess.run(
            [sys.executable, "-c", code, str(folder / name)], check=True, env=environment
        )
        made.append(load_file(folder / name))
    return made


def test_another_processor_draws_nearly_the_same(machines):
    """What may differ across machines, and by how much; figures/README, "The same tomorrow"."""
    this, old = machines
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


@pytest.mark.parametrize("arm", ARMS)
def test_another_processor_trains_a_student_with_nearly_the_same_metrics(arm, machines):
    """Of a whole training that does not enlarge what rounding begins.

    Measured for two seeds of three arms, the third what are now two: at most 1.0 point of ID
    accuracy (2 of 200 images), 0.8 of near and 0.5 of far AUROC. With the preset's own rates,
    thirty times these, it was up to 1.0, 2.4 and 7.8 points, as between two seeds: there is no
    bound worth a test.
    """
    this, old = (made[f"points.{arm}"] for made in machines)
    assert ((this - old).abs() <= torch.tensor([2.5, 2.0, 2.0])).all(), (this, old)
