"""A training step with the teacher's features from the cache against one that runs the teacher."""

import pytest
import torch
import torch.nn.functional as F
from measure import scaling

from oal_lite.presets import TrainSettings
from oal_lite.students import ResNet18
from oal_lite.teacher import Teacher, to_float
from oal_lite.train import draw_views

BATCH, EPOCHS = 4, 100  # as released, the epochs share what building costs
VIEWS = TrainSettings.n_views


@pytest.fixture(scope="module")
def vit():
    """A ViT-B/16 with random weights: 86 M parameters, 768 features, 224 px."""
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Teacher(ViTForImageClassification(ViTConfig(num_labels=10)))


def student_step(width=64, stem="large"):
    """A function that trains a ResNet-18 for one step on images, teacher features and logits."""
    student = ResNet18(10, width=width, stem=stem).to(memory_format=torch.channels_last)
    adapter = torch.nn.Linear(768, student.feature_dim)
    parameters = [*student.parameters(), *adapter.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True)

    def step(images, teacher_features, teacher_logits):
        x = to_float(images).contiguous(memory_format=torch.channels_last)
        logits, features = student(x)
        loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
        loss = loss + F.mse_loss(logits, teacher_logits)
        loss = loss + F.mse_loss(features, adapter(teacher_features))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bench_step_at_paper_size(keep_ratio, findings, vit, tmp_path):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, 3, 224, 224), generator=g, dtype=torch.uint8)
    views = draw_views(
        images, torch.zeros(BATCH, dtype=torch.long), vit, n_views=2, generator=g, cache=tmp_path
    )
    step, pick = student_step(), torch.arange(BATCH)

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
    looking = found["ratio"] - 1  # the teacher's share of a plain step, in cached steps
    whole = EPOCHS * found["ratio"] / (VIEWS * looking + EPOCHS)
    findings["ratios"][f"training step, cache built too (V = {VIEWS}, {EPOCHS} epochs)"] = {
        "ratio": whole, "ratio_range": [whole, whole], "target": None,
        "against": "computed from the ratio above: V looks of the teacher, shared by all epochs",
    }  # fmt: skip


def bench_growth(findings):
    def prepare(side):
        g = torch.Generator().manual_seed(0)
        images = torch.randint(256, (16, 3, side, side), generator=g, dtype=torch.uint8)
        step, features, logits = (
            student_step(16, "small"),
            torch.randn(16, 768),
            torch.randn(16, 10),
        )
        return lambda: step(images, features, logits)

    findings["scaling"]["training step: image side"] = scaling([32, 48, 64, 96], prepare)
