"""InfoNCE and NWJ against their definitions and against known mutual information."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oal_lite.contrastive_bounds import gaussian_critic, info_nce, nwj
from oal_lite.mutual_information import gaussian_mutual_information, sample_correlated_gaussians


def test_by_hand_on_two_pairs():
    critic = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # 1 - log((e + 1) / 2), and 1 - e^-1
    assert info_nce(critic).item() == pytest.approx(1 - math.log((math.e + 1) / 2), abs=1e-6)
    assert nwj(critic).item() == pytest.approx(1 - math.exp(-1), abs=1e-6)


def test_info_nce_compares_the_partners_of_each_x():
    critic = torch.tensor([[1.0, 2.0], [5.0, 3.0]], dtype=torch.float64)
    log = math.log
    rows = 1 - log((math.e + math.e**2) / 2) + 3 - log((math.e**5 + math.e**3) / 2)
    assert info_nce(critic).item() == pytest.approx(rows / 2)
    assert info_nce(critic.T).item() != pytest.approx(rows / 2, abs=0.1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 12), scale=st.floats(0.1, 50), seed=st.integers(0, 2**31))
def test_info_nce_never_exceeds_log_n(n, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    critic = scale * torch.randn(n, n, generator=generator, dtype=torch.float64)
    assert info_nce(critic).item() <= math.log(n) + 1e-9
    assert info_nce(critic + 100 * torch.eye(n)).item() <= math.log(n) + 1e-9


def test_the_critic_is_the_log_density_ratio():
    x, y = sample_correlated_gaussians(5, 3, 0.6, torch.Generator().manual_seed(0))
    conditional = torch.distributions.Normal(0.6 * x[:, None], math.sqrt(1 - 0.36))
    expected = (conditional.log_prob(y) - torch.distributions.Normal(0, 1).log_prob(y)).sum(2)
    torch.testing.assert_close(gaussian_critic(x, y, 0.6), expected, atol=1e-5, rtol=1e-5)


def test_with_the_best_critic_both_come_close_to_the_truth():
    truth = gaussian_mutual_information(0.7, 2)
    generator = torch.Generator().manual_seed(0)
    pairs = [sample_correlated_gaussians(512, 2, 0.7, generator) for _ in range(8)]
    critics = [gaussian_critic(x, y, 0.7) for x, y in pairs]
    means = [torch.stack([f(c) for c in critics]).mean().item() for f in (info_nce, nwj)]
    assert means[0] == pytest.approx(truth, abs=0.05)
    assert torch.stack([nwj(1 + c) for c in critics]).mean().item() == pytest.approx(truth, abs=0.1)
    assert means[1] < truth  # without its 1, the critic is not NWJ's best one


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (4,)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    for bound in (info_nce, nwj):
        with pytest.raises(ValueError, match="must be"):
            bound(torch.zeros(shape))
