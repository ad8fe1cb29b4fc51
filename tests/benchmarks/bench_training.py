"""A training step with the teacher's features from the cache against one that runs the teacher."""

import statistics

import pytest
import torch
import torch.nn.functional as F
from measure import scaling, timed

from oal_lite.__main__ import DEFAULT_ARMS
from oal_lite.presets import PRESETS
from oal_lite.recipes import get_arm
from oal_lite.students import ResNet18
from oal_lite.teacher import Teacher, to_float
from oal_lite.train import draw_views

BATCH = 4
PAPER = PRESETS["imagenet200"].train  # the preset at 224 px; all its epochs share the cache
DISTILLING = sum(get_arm(arm).distil for arm in DEFAULT_ARMS.split(","))  # and all these arms


@pytest.fixture(scope="module")
def vit(device):
    """A ViT-B/16 with random weights: 86 M parameters, 768 features, 224 px."""
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Teacher(ViTForImageClassification(ViTConfig(num_labels=10))).to(device)


def student_step(device, width=64, stem="large"):
    """A function that trains a ResNet-18 for one step on images, teacher features and logits."""
    student = ResNet18(10, width=width, stem=stem).to(device, memory_format=torch.channels_last)
    adapter = torch.nn.Linear(768, student.feature_dim, device=device)
    parameters = [*student.parameters(), *adapter.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True)

    def step(images, teacher_features, teacher_logits):
        x = to_float(images.to(device)).contiguous(memory_format=torch.channels_last)
        logits, features = student(x)
        loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long, device=device))
        loss = loss + F.mse_loss(logits, teacher_logits.to(device))
        loss = loss + F.mse_loss(features, adapter(teacher_features.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bench_step_at_paper_size(keep_ratio, findings, device, vit, tmp_path):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, 3, 224, 224), generator=g, dtype=torch.uint8)
    views = draw_views(
        images, torch.zeros(BATCH, dtype=torch.long), vit, n_views=2, generator=g, cache=tmp_path
    )
    step, pick = student_step(device), torch.arange(BATCH)

    def look():
        return vit(views.images[1])

    def plain():
        seen = look()
        step(views.images[1], seen.features, seen.logits)

    def cached():
        kept = views.teacher_features[1, pick]
        step(views.images[1, pick], kept, views.teacher_logits[1, pick])

    torch.testing.assert_close(views.teacher_features[1], look().features, atol=1e-4, rtol=1e-4)
    found = keep_ratio(
        "training step, cached teacher", plain, cached, repeats=5, target=5,
        against="ViT-B/16 run on every batch; ResNet-18 at 224 px, float32, random weights",
    )  # fmt: skip
    building = statistics.median(
        timed(lambda: vit(views.images.flatten(0, 1)))[0] for _ in range(3)
    )
    building *= PAPER.n_views / len(views.images)  # seconds for all views of a batch of images
    for arms in (1, DISTILLING):
        steps = PAPER.epochs * arms  # of one batch of images
        whole = steps * found["plain_seconds"] / (building + steps * found["fast_seconds"])
        name = f"training step, cache built too, {arms} arm{'s' * (arms > 1)} of a study"
        findings["ratios"][name] = {
            "ratio": whole, "ratio_range": [whole, whole], "target": 5,
            "against": f"computed from the times above and {building:.2f} s to build: "
            f"{PAPER.n_views} views, {PAPER.epochs} epochs an arm, as the preset at 224 px",
        }  # fmt: skip


def bench_growth(findings, device):
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
