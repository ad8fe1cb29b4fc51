"""A training step with the teacher's features from the cache against one that runs the teacher."""

import copy
import statistics

import pytest
import torch
import torch.nn.functional as F
from flops import RESNET18_STEP, VIT_B16
from measure import add_rate, peak_memory, scaling, timed

from oal_lite.__main__ import DEFAULT_ARMS
from oal_lite.presets import PRESETS
from oal_lite.recipes import get_arm
from oal_lite.students import ResNet18
from oal_lite.teacher import Teacher, to_float
from oal_lite.views import draw_views

BATCH = {"cpu": 4, "cuda": 128}
PAPER = PRESETS["imagenet200"].train  # the preset at 224 px; all its epochs share the cache
DISTILLING = sum(get_arm(arm).distil for arm in DEFAULT_ARMS.split(","))  # and all these arms


@pytest.fixture(scope="module")
def vit(device):
    return random_vit(device)


def random_vit(device):
    """A ViT-B/16 with random weights: 86 M parameters, 768 features, 224 px."""
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        return Teacher(ViTForImageClassification(ViTConfig(num_labels=10))).to(device)


def in_words(device, precision):
    """What is computed in what: on a GPU torch has its own way with float32."""
    if precision == "float32" and device.type == "cuda":
        return "float32, convolutions in TF32"
    return precision


def student_step(device, width=64, stem="large", precision="float32"):
    """A function that trains a ResNet-18 for one step on images, teacher features and logits."""
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    student = ResNet18(10, width=width, stem=stem).to(device, memory_format=torch.channels_last)
    adapter = torch.nn.Linear(768, student.feature_dim, device=device)
    parameters = [*student.parameters(), *adapter.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True)

    def step(images, teacher_features, teacher_logits):
        x = to_float(images.to(device)).contiguous(memory_format=torch.channels_last)
        with half:
            logits, features = student(x)
            loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long, device=device))
            loss = loss + F.mse_loss(logits, teacher_logits.to(device))
            loss = loss + F.mse_loss(features, adapter(teacher_features.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def bench_step_at_paper_size(keep_ratio, findings, device, vit, tmp_path, precision):
    if device.type == "cpu" and precision == "bf16":
        pytest.skip("few CPUs have instructions for bf16; the others only pretend")
    teacher = vit if precision == "float32" else copy.deepcopy(vit).to(torch.bfloat16)
    g, batch = torch.Generator().manual_seed(0), BATCH[device.type]
    images = torch.randint(256, (batch, 3, 224, 224), generator=g, dtype=torch.uint8)
    views = draw_views(
        images, torch.zeros(batch, dtype=torch.long), teacher, n_views=2, generator=g,
        cache=tmp_path,
    )  # fmt: skip
    step, pick = student_step(device, precision=precision), torch.arange(batch)

    def plain():
        x = views.images[1, pick].to(device)  # once, for both
        seen = teacher(x)
        step(x, seen.features, seen.logits)

    def cached():
        kept = views.teacher_features[1, pick]
        step(views.images[1, pick], kept, views.teacher_logits[1, pick])

    kept, seen = views.teacher_features[1], teacher(views.images[1]).features
    on_cpu = device.type == "cpu"  # on a GPU the batch decides how sums are rounded
    assert (kept - seen).norm() <= (1e-4 if on_cpu else 5e-2) * seen.norm()
    half, form = ", bf16" * (precision == "bf16"), in_words(device, precision)
    found = keep_ratio(
        f"training step, cached teacher{half}", plain, cached, repeats=5,
        target=5 if on_cpu else None,
        against=f"ViT-B/16 run on every batch of {batch}; ResNet-18 at 224 px, {form}, random "
        "weights",
    )  # fmt: skip
    for name, call, seconds, flop in (
        ("cached teacher", cached, found["fast_seconds"], RESNET18_STEP[224]),
        ("teacher at every step", plain, found["plain_seconds"], RESNET18_STEP[224] + VIT_B16),
    ):
        add_rate(
            findings, f"training at 224 px, {name}, batch {batch}, {form}", batch / seconds, flop,
            batch=batch, memory=peak_memory(call, device),
        )  # fmt: skip
    building = statistics.median(
        timed(lambda: teacher(views.images.flatten(0, 1)))[0] for _ in range(3)
    )
    building *= PAPER.n_views / len(views.images)  # seconds for all views of a batch of images
    for arms in (1, DISTILLING):
        steps = PAPER.epochs * arms  # of one batch of images
        whole = steps * found["plain_seconds"] / (building + steps * found["fast_seconds"])
        name = f"training step, cache built too{half}, {arms} arm{'s' * (arms > 1)} of a study"
        findings["ratios"][name] = {
            "ratio": whole, "ratio_range": [whole, whole], "target": 5 if on_cpu else None,
            "against": f"computed from the times above and {building:.2f} s to build: "
            f"{PAPER.n_views} views, {PAPER.epochs} epochs an arm, as the preset at 224 px",
        }  # fmt: skip


def bench_growth(findings, device, on_cpu):
    def prepare(side):
        g = torch.Generator().manual_seed(0)
        images = torch.randint(256, (16, 3, side, side), generator=g, dtype=torch.uint8)
        step, features, logits = (
            student_step(device, 16, "small"),
            torch.randn(16, 768),
            torch.randn(16, 10),
        )
        return lambda: step(images, features, logits)

    findings["scaling"]["training step: image side"] = scaling([32, 48, 64, 96], prepare)
