"""CLUB: its closed form, its ground truth, and two defects of the released code (D2, D3)."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oal_lite.mutual_information import (
    ClubNet,
    club,
    club_naive,
    gaussian_mutual_information,
    sample_correlated_gaussians,
)


def _normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _net(*args, seed=0, **kwargs):
    """A ClubNet with reproducible weights, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClubNet(*args, **kwargs)


def test_club_published_number():
    mu = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    logvar = torch.tensor([[0, 0], [0, 0], [math.log(2), 0]], dtype=torch.float64)
    y = torch.tensor([[0, 1], [1, 1], [2, 2]], dtype=torch.float64)
    assert club(mu, logvar, y).item() == pytest.approx(0.63888888, abs=1e-8)
    assert club_naive(mu, logvar, y).item() == pytest.approx(0.63888888, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    d=st.integers(1, 6),
    offset=st.floats(-20, 20),
    seed=st.integers(0, 2**31),
)
def test_closed_form_has_the_value_and_gradients_of_the_definition(n, d, offset, seed):
    arguments = [_normal(n, d, seed=seed + i) for i in range(3)]
    arguments[2] = arguments[2] + offset
    results = []
    for function in (club, club_naive):
        leaves = [a.clone().requires_grad_() for a in arguments]
        value = function(*leaves)
        results.append([value, *torch.autograd.grad(value, leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("n", [128, 512])
def test_gradients_in_single_precision_are_those_of_the_definition_in_double(n):
    """At the released sizes; the value itself is a small difference of large terms."""
    arguments = [_normal(n, 512, seed=i) for i in range(3)]
    arguments[1] = arguments[1].tanh()
    double = [a.requires_grad_() for a in arguments]
    single = [a.detach().float().requires_grad_() for a in arguments]
    exact = torch.autograd.grad(club_naive(*double), double)
    fast = torch.autograd.grad(club(*single), single)
    for f, e in zip(fast, exact, strict=True):
        assert (f - e).norm() <= 1e-5 * e.norm()


def test_d2_random_pairs_give_zero_value_and_zero_gradient_for_any_q():
    """Defect D2: over all 120 pairings of 5 outliers with 5 features, MICL averages to nothing."""
    net = _net(3, 4, mu_hidden_dims=(8,), logvar_hidden_dims=(8,)).double()
    x, y = _normal(5, 3, seed=1), (2 * _normal(5, 4, seed=2) + 1).requires_grad_()
    targets = [y, *net.parameters()]
    values, gradients = [], []
    for order in permutations(range(5)):
        value = net.bound(x, y[list(order)])
        values.append(value.detach())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, targets)]))
    values, gradients = torch.stack(values), torch.stack(gradients)
    assert len(values) == 120
    assert values.mean().abs() < 1e-12 and gradients.mean(dim=0).abs().max() < 1e-12
    # Each single pairing does push, as noise would.
    assert values.std() > 0.1 and gradients.norm(dim=1).min() > 0.1


def test_d3_q_trained_on_the_bound_breaks_it_and_q_fitted_by_likelihood_keeps_it():
    """Defect D3: minimised over q, the "upper bound" dives below zero; fitted q stays above I."""
    truth = gaussian_mutual_information(0.8, 16)
    bounds = {}
    for protocol in ("minimise the bound, as released", "fit the likelihood, as CLUB prescribes"):
        generator = torch.Generator().manual_seed(0)
        net = _net(16, 16, mu_hidden_dims=(64,), logvar_hidden_dims=(64,))
        optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(300):
            pairs = sample_correlated_gaussians(128, 16, 0.8, generator)
            released = protocol.endswith("released")
            loss = net.bound(*pairs) if released else -net.log_likelihood(*pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            bounds[released] = net.bound(*sample_correlated_gaussians(4096, 16, 0.8, generator))
    assert truth == pytest.approx(8.17, abs=0.01)
    assert bounds[True] < -1000
    # At the true conditional the bound is 16 rho^2 / (1 - rho^2) = 28.4.
    assert truth < bounds[False] < 35


def test_club_with_the_true_conditional_has_its_known_value():
    x, y = sample_correlated_gaussians(20_000, 4, 0.6, torch.Generator().manual_seed(0))
    logvar = torch.full_like(x, math.log(1 - 0.36))
    expected = 4 * 0.36 / (1 - 0.36)
    assert club(0.6 * x, logvar, y).item() == pytest.approx(expected, rel=0.05)
    assert expected > gaussian_mutual_information(0.6, 4)


def test_log_likelihood_is_the_full_gaussian_density():
    net = _net(3, 4).double()
    x, y = _normal(6, 3, seed=1), _normal(6, 4, seed=2)
    mu, logvar = net(x)
    expected = torch.distributions.Normal(mu, (logvar / 2).exp()).log_prob(y).sum(1).mean()
    torch.testing.assert_close(net.log_likelihood(x, y), expected)
    torch.testing.assert_close(net.bound(x, y), club_naive(mu, logvar, y))


def test_club_net_has_the_widths_of_the_released_code():
    def widths(part):
        linear = [m for m in part.modules() if isinstance(m, torch.nn.Linear)]
        return [linear[0].in_features, *(m.out_features for m in linear)]

    knn_net, diffusion_net = ClubNet(768, 512), ClubNet(64, 512, (32, 16, 256), (256,))
    assert widths(knn_net.mu) == widths(knn_net.logvar) == [768, 256, 512]
    assert widths(diffusion_net.mu) == [64, 32, 16, 256, 512]
    assert widths(diffusion_net.logvar) == [64, 256, 512]


def test_log_variance_is_bounded_by_tanh():
    mu, logvar = _net(2, 3)(1e4 * torch.ones(5, 2))
    assert mu.shape == logvar.shape == (5, 3)
    assert logvar.abs().max() <= 1 and mu.abs().max() > 1


def test_gaussian_mutual_information_closed_form():
    assert gaussian_mutual_information(0.0, 5) == 0
    assert gaussian_mutual_information(0.8, 16) == pytest.approx(-8 * math.log(0.36), rel=1e-12)
    assert gaussian_mutual_information(-0.8, 2) == pytest.approx(
        2 * gaussian_mutual_information(0.8, 1)
    )


def test_correlated_gaussians_have_unit_variance_and_the_asked_correlation():
    x, y = sample_correlated_gaussians(20_000, 3, -0.7, torch.Generator().manual_seed(0))
    correlation = torch.corrcoef(torch.cat([x, y], 1).T)
    expected = torch.eye(6)
    expected[range(3), range(3, 6)] = expected[range(3, 6), range(3)] = -0.7
    torch.testing.assert_close(correlation, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cat([x, y], 1).var(0), torch.ones(6), atol=0.05, rtol=0)


def test_the_generator_alone_decides_the_samples():
    first = sample_correlated_gaussians(4, 2, 0.5, torch.Generator().manual_seed(7))
    again = sample_correlated_gaussians(4, 2, 0.5, torch.Generator().manual_seed(7))
    torch.testing.assert_close(first, again, atol=0, rtol=0)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: club(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 3)), r"y \(3, 3\)"),
        (lambda: club(*[torch.zeros(3)] * 3), r"share one shape \(n, d\)"),
        (lambda: club_naive(*[torch.zeros(0, 3)] * 3), "n at least 1"),
        (lambda: ClubNet(3, 0), "layer width 2=0; expected at least 1"),
        (lambda: ClubNet(3, 2)(torch.zeros(4, 5)), r"x has shape \(4, 5\).*expects \(n, 3\)"),
        (lambda: ClubNet(3, 2).bound(torch.zeros(4, 3), torch.zeros(5, 2)), r"y \(5, 2\)"),
        (lambda: ClubNet(3, 2).log_likelihood(torch.zeros(4, 3), torch.zeros(4, 1)), r"y \(4, 1\)"),
        (lambda: gaussian_mutual_information(1.0, 3), "rho=1.0"),
        (lambda: gaussian_mutual_information(0.5, 0), "dims=0"),
        (lambda: sample_correlated_gaussians(0, 3, 0.5), "n=0"),
        (lambda: sample_correlated_gaussians(4, 3, -1.5), "rho=-1.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
