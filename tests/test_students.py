"""The student network: its published size, its shapes, and how features and logits belong."""

import pytest
import torch

from oal_lite.students import BasicBlock, LatentStem, ResNet18


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def images(n=3, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("n_classes", "width", "stem", "expected"),
    [
        (10, 64, "small", 11_173_962),  # the ResNet-18 of the CIFAR literature
        (1000, 64, "large", 11_689_512),  # torchvision's
        (10, 16, "small", 701_466),
    ],
)
def test_parameter_counts_are_those_of_the_literature(n_classes, width, stem, expected):
    assert n_parameters(ResNet18(n_classes, width=width, stem=stem)) == expected


@pytest.mark.parametrize(("stem", "size"), [("small", 32), ("small", 24), ("large", 64)])
def test_output_shapes(stem, size):
    student = ResNet18(7, width=4, stem=stem)
    logits, features = student(images(size=size))
    assert logits.shape == (3, 7) and features.shape == (3, 32)
    assert student.feature_dim == 32


def test_the_small_stem_keeps_the_resolution_and_the_large_one_quarters_it():
    assert ResNet18(2, width=4, stem="small").stem(images()).shape == (3, 4, 32, 32)
    assert ResNet18(2, width=4, stem="large").stem(images()).shape == (3, 4, 8, 8)


def test_features_are_never_negative_and_the_head_maps_them_to_the_logits():
    student = ResNet18(5, width=4).eval()
    logits, features = student(images(8))
    assert features.min() >= 0 and features.max() > 0
    torch.testing.assert_close(student.head(features), logits)


def test_every_parameter_gets_a_gradient():
    student = ResNet18(5, width=4)
    student(images(8))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_a_signal_neither_vanishes_nor_explodes_at_the_start():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = ResNet18(5, width=16)
    assert 0.1 < student(images(16))[1].std() < 10


# --- the latent entrance -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "size"), [("small", 32), ("small", 25), ("large", 64), ("large", 50)]
)
def test_latents_enter_before_the_third_stage_and_come_out_after_the_images(stem, size):
    student = ResNet18(5, width=4, stem=stem).eval()
    side = student.entry_size(size)
    assert student.stages[:2](student.stem(images(size=size))).shape[-2:] == (side, side)
    maps = LatentStem(4, 4).eval()(torch.randn(2, 4, 8, 8), side)
    assert maps.shape == (2, 8, side, side)
    logits, features = student(images(size=size), maps=maps)
    assert logits.shape == (5, 5) and features.shape == (5, 32)
    torch.testing.assert_close(logits[:3], student(images(size=size))[0])
    torch.testing.assert_close(student.head(features), logits)


def test_maps_of_the_images_themselves_give_the_features_of_the_images():
    student, x = ResNet18(5, width=4).eval(), images()
    h = student.stages[:2](student.stem(x))
    first, again = student(x, maps=h)[0].chunk(2)
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("kind", ["extra", "maps"])
@pytest.mark.parametrize("own_batch", [True, False])
def test_what_joins_the_images_leaves_the_running_statistics_to_them(kind, own_batch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        students = [ResNet18(5, width=4) for _ in range(2)]
        joins = {"extra": 3 + images(6), "maps": 3 + torch.randn(6, 8, 16, 16)}[kind]
    students[1].load_state_dict(students[0].state_dict())
    alone = students[0](images(8))[0]
    joined = students[1](images(8), **{kind: joins}, own_batch=own_batch)[0]
    assert joined.shape == (14, 5)
    torch.testing.assert_close(joined[:8], alone)  # in training each batch has its own statistics
    same = [
        torch.equal(a, b)
        for (name, a), b in zip(students[0].named_buffers(), students[1].buffers(), strict=True)
        if "running" in name
    ]
    assert all(same) == own_batch
    assert {m.momentum for m in students[1].modules() if hasattr(m, "momentum")} == {0.1}


def test_an_unknown_stem_is_named():
    with pytest.raises(ValueError, match="unknown stem 'medium'; choose 'small'"):
        ResNet18(10, stem="medium")


@pytest.mark.parametrize("n_in", [1, 2, 4, 8, 12, 16])
def test_a_shortcut_of_any_width_is_a_strided_convolution_and_stays_in_its_memory(n_in):
    """Where oneDNN's kernel is let loose on few channels, this ends in a crash or wrong numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = BasicBlock(n_in, 2 * n_in, 2).to(memory_format=torch.channels_last)
        x = torch.randn(8, n_in, 32, 32).to(memory_format=torch.channels_last)
    projection = block.shortcut[0]
    for _ in range(3):
        x = x.detach().requires_grad_(True)
        projection.weight.grad = None
        projection(x).square().sum().backward()
    exact = x.detach().double().requires_grad_(True)
    weight = projection.weight.detach().double().requires_grad_(True)
    torch.nn.functional.conv2d(exact, weight, stride=2).square().sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projection.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-2)
