"""CLUB: the closed form against the definition over all pairs, value and gradients."""

import pytest
import torch
from measure import scaling

from oal_lite.mutual_information import club, club_naive


def leaves(n, device, d=512, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    mu, logvar, y = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(3))
    return [x.to(device, dtype).requires_grad_() for x in (mu, logvar.tanh(), y)]


def gradients(function, arguments):
    return torch.autograd.grad(function(*arguments), arguments)


@pytest.mark.parametrize(("n", "target", "repeats"), [(128, 15, 7), (512, 50, 3)])
def bench_club(keep_ratio, device, n, target, repeats):
    arguments = leaves(n, device)
    exact = gradients(club_naive, leaves(n, device, dtype=torch.float64))
    for fast, e in zip(gradients(club, arguments), exact, strict=True):
        assert (fast - e).norm() <= 1e-5 * e.norm()
    keep_ratio(
        f"CLUB, N = {n}",
        lambda: gradients(club_naive, arguments),
        lambda: gradients(club, arguments),
        repeats=repeats, target=target if device.type == "cpu" else None,
        against="the (N, N, D) form of the definition, D = 512; value and gradients, float32",
    )  # fmt: skip


def bench_growth(findings, device, on_cpu):
    def prepare(n):
        arguments = leaves(n, device)
        return lambda: gradients(club, arguments)

    findings["scaling"]["CLUB: batch N"] = scaling([512, 1024, 2048, 4096], prepare, repeats=5)
