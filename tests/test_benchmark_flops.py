"""What the benchmarks divide by, operations counted by hand and by torch; and their picture.

Nothing is computed: the modules have shapes and no numbers (torch's meta device).
"""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from oal_lite.costs import COUNTED
from oal_lite.students import ResNet18

BENCHMARKS = str(Path(__file__).parent / "benchmarks")


@pytest.fixture
def flops(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import flops

    return flops


def counted(call):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def step(side, stem):
    with torch.device("meta"):
        student = ResNet18(10, stem=stem)
    return counted(lambda: student(torch.empty(1, 3, side, side))[0].sum().backward())


def test_a_step_at_32_px_by_hand(flops):
    stem, stage = 3 * 64 * 9 * 32**2, 4 * 64 * 64 * 9 * 32**2
    later = (64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128) * 16**2  # the same in three stages
    forward = stem + stage + 3 * later + 512 * 10
    assert 2 * forward == 1_110_845_440
    assert flops.RESNET18_STEP[32] == 2 * (3 * forward - stem) == step(32, "small")


def test_a_step_at_224_px(flops):
    assert step(224, "large") == pytest.approx(flops.RESNET18_STEP[224], rel=1e-3)


def test_vit_by_hand(flops):
    from transformers import ViTConfig, ViTForImageClassification

    tokens, d = 14**2 + 1, 768
    layer = 4 * tokens * d**2 + 2 * tokens**2 * d + 2 * tokens * d * 4 * d
    whole = 2 * (14**2 * 16**2 * 3 * d + 12 * layer + d * 10)
    assert whole == pytest.approx(flops.VIT_B16, rel=1e-3)
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=10)).eval().requires_grad_(False)
    assert counted(lambda: model(pixel_values=torch.empty(1, 3, 224, 224))) == whole


def test_unet(flops, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from bench_unet import unet

    model = unet(torch.device("meta")).requires_grad_(False)
    assert sum(p.numel() for p in model.parameters()) == 859_520_964
    one = counted(
        lambda: model(torch.empty(1, 4, 64, 64), torch.zeros(()), torch.empty(1, 77, 768))
    )
    assert (
        one == pytest.approx(flops.UNET, rel=1e-3)
        and flops.UNET == COUNTED["UNet, one sample, one step"]
    )


def test_the_picture_of_a_gpu_shows_its_arithmetic(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from picture import draw

    row = {"rate": 150.2, "unit": "samples", "tflops": 120.6}
    ratio = {"ratio": 33.0, "ratio_range": [30, 35], "target": 30}
    machine = {"device": "NVIDIA H100 80GB HBM3", "peak": 989, "torch": "2.11", "threads": 16,
               "machine": "x86_64", "date": "today"}  # fmt: skip
    found = {"machine": machine, "ratios": {"k-NN": ratio}, "scaling": {}}
    figure = draw(found | {"throughput": {"UNet": row}})
    words = [text.get_text() for text in figure.axes[1].texts]
    assert words == ["150 samples/s"] and "H100" in figure.get_suptitle()
    assert [bar.get_width() for bar in figure.axes[1].patches] == [120.6]


def test_on_a_gpu_both_forms_are_timed_by_the_clock(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import time

    from measure import add_rate, compare, peak_memory, seconds_of

    calls = []
    found = compare(lambda: time.sleep(0.02), lambda: calls.append(1), repeats=2, on_gpu=True)
    assert found["cpu_ratio"] is None and found["ratio"] > 2 and len(calls) > 20
    assert 0.005 < seconds_of(lambda: time.sleep(0.005), seconds=0.05) < 0.5
    assert peak_memory(lambda: None, torch.device("cpu")) is None
    findings = {"machine": {"peak": 989}, "throughput": {}}
    add_rate(findings, "UNet", 200, 803e9, unit="samples", batch=16, memory=5.0)
    row = findings["throughput"]["UNet"]
    assert row["tflops"] == pytest.approx(160.6)
    assert row["share_of_peak"] == pytest.approx(0.1624, abs=1e-4)
