"""Mutual information between outliers and student features: the CLUB upper bound.

CLUB scores a pair (x, y) by an approximating conditional q(y|x) = N(mu(x), diag sigma^2(x)) and
compares true pairs with all other pairings of the batch. It bounds the mutual information from
above only while q is close to the true conditional, so q must be fitted by `log_likelihood`, with
an optimiser of its own, and never by minimising the bound. Everything here is in nats.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oal_lite.arguments import (
    finite_loss,
    need_count,
    need_finite,
    need_floats,
    need_generator,
    need_number,
    need_room,
    need_tensor,
)


def club(
    mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], y: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """CLUB estimate of one batch in closed form, O(n d) in time and memory.

    The bound is the mean log q of the true pairs minus the mean log q of all pairs:

        L = mean_i sum_d [ mean_j (y_j - mu_i)^2 - (y_i - mu_i)^2 ] / (2 sigma_i^2)

    With e_i = y_i - m centred on the batch mean m, a_i = mu_i - m, and s = mean_j e_j^2, the mean
    over j is a_i^2 + s, and the squares of a_i cancel:

        L = mean_i sum_d [ a_i e_i + (s - e_i^2) / 2 ] / sigma_i^2

    Here both e_i and s - e_i^2 have mean zero over the batch. So if the x are paired with the y at
    random, the expected value of L is exactly zero, whatever q and whatever the features, and so is
    its expected gradient. A batch of one gives zero.

    Args:
        mu: Means of q(y|x_i), shape (n, d).
        logvar: Log variances of q(y|x_i), shape (n, d).
        y: The y_i that belong to the x_i, shape (n, d).

    Returns:
        The estimate, a scalar in nats, differentiable in all three arguments. It may be negative.

    Raises:
        ValueError: If the shapes are not equal, not two-dimensional, or hold no sample.

    Source: Cheng et al., ICML 2020, arXiv:2006.12013, section 3; the released OAL code's
    ``openood/losses/mi_loss.py``.
    """
    _check_gaussian(mu, logvar, y)
    mean = y.mean(dim=0)
    e, a = y - mean, mu - mean
    s = e.square().mean(dim=0)
    terms = (a * e + (s - e.square()) / 2) * torch.exp(-logvar)
    return finite_loss(terms.sum(dim=1).mean(), "the CLUB bound")


def club_naive(
    mu: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], y: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """CLUB as its definition reads, over all n x n pairs; for teaching and for testing `club`.

    It builds an (n, n, d) tensor, as the released code does.

    Args:
        mu: Means of q(y|x_i), shape (n, d).
        logvar: Log variances of q(y|x_i), shape (n, d).
        y: The y_i that belong to the x_i, shape (n, d).

    Returns:
        The estimate, a scalar in nats.

    Raises:
        ValueError: If the shapes are not equal, not two-dimensional, or hold no sample.

    Source: as `club`.
    """
    _check_gaussian(mu, logvar, y)
    true_pairs = (y - mu).square()
    all_pairs = (y[None, :, :] - mu[:, None, :]).square().mean(dim=1)
    terms = (all_pairs - true_pairs) / (2 * logvar.exp())
    return finite_loss(terms.sum(dim=1).mean(), "the CLUB bound")


class ClubNet(nn.Module):
    """The approximating conditional q(y|x) = N(mu(x), diag sigma^2(x)), two small networks.

    The log variance passes through tanh, so each variance stays between 1/e and e: y should be of
    about unit scale. The default hidden widths are the released code's for k-NN outliers, where
    both networks are 768-256-512. For diffusion outliers it has (32, 16, 256) and (256,).

    Args:
        x_dim: Width of x, the outlier.
        y_dim: Width of y, the student feature.
        mu_hidden_dims: Hidden widths of the network of the mean.
        logvar_hidden_dims: Hidden widths of the network of the log variance.

    Raises:
        ValueError: If a width is below 1.

    Source: the released OAL code's ``openood/losses/mi_loss.py`` and ``deep_mi_loss.py``.
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        mu_hidden_dims: Sequence[int] = (256,),
        logvar_hidden_dims: Sequence[int] = (256,),
    ) -> None:
        super().__init__()
        for hidden in (mu_hidden_dims, logvar_hidden_dims):
            if not isinstance(hidden, Sequence) or isinstance(hidden, str):
                raise ValueError(f"hidden widths {hidden!r}: expected several, such as (256,)")
        self.x_dim = x_dim
        self.mu = _mlp([x_dim, *mu_hidden_dims, y_dim])
        self.logvar = nn.Sequential(_mlp([x_dim, *logvar_hidden_dims, y_dim]), nn.Tanh())

    def forward(self, x: Float[Tensor, "n x"]) -> tuple[Float[Tensor, "n y"], Float[Tensor, "n y"]]:
        """Mean and log variance of q(y|x), each of shape (n, y_dim).

        Args:
            x: Outliers, shape (n, x_dim).

        Returns:
            ``(mu, logvar)``, with logvar in [-1, 1].

        Raises:
            ValueError: If x is not a matrix of x_dim columns.
        """
        need_tensor(x=x)
        if x.ndim != 2 or x.shape[1] != self.x_dim:
            raise ValueError(
                f"x has shape {tuple(x.shape)} but this ClubNet expects (n, {self.x_dim}): reshape "
                "x, or build the net with the x_dim of your outliers."
            )
        need_finite(x=x)
        x = x.to(self.mu[0].weight)  # integers and other precisions come as they may
        return self.mu(x), self.logvar(x)

    def log_likelihood(self, x: Float[Tensor, "n x"], y: Float[Tensor, "n y"]) -> Float[Tensor, ""]:
        """Mean log density of the pairs under q; maximise it to fit q.

            mean_i sum_d -1/2 [ log(2 pi) + log sigma_i^2 + (y_i - mu_i)^2 / sigma_i^2 ]

        All constants are included, so the negative of its expected value is at least the
        differential entropy h(Y|X), with equality where q is the true conditional.

        Args:
            x: Outliers, shape (n, x_dim).
            y: Student features, shape (n, y_dim). Detach them: this step fits q, not the student.

        Returns:
            The log-likelihood per sample, a scalar in nats.

        Raises:
            ValueError: If the shapes do not fit.
        """
        mu, logvar = self(x)
        _check_gaussian(mu, logvar, y)
        squares = (y - mu).square() * torch.exp(-logvar)
        densities = -(math.log(2 * math.pi) + logvar + squares).sum(dim=1) / 2
        return finite_loss(densities.mean(), "the log-likelihood of q")

    def bound(self, x: Float[Tensor, "n x"], y: Float[Tensor, "n y"]) -> Float[Tensor, ""]:
        """`club` of the pairs under this q, a scalar in nats; an upper bound once q is fitted.

        Args:
            x: Outliers, shape (n, x_dim).
            y: Student features, shape (n, y_dim).

        Returns:
            The CLUB estimate.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return club(*self(x), y)


def gaussian_mutual_information(rho: float, dims: int) -> float:
    """True mutual information of `sample_correlated_gaussians`, -dims/2 log(1 - rho^2), in nats.

    Args:
        rho: Correlation of each pair of coordinates, strictly between -1 and 1.
        dims: Number of coordinates.

    Returns:
        I(X; Y) in nats.

    Raises:
        ValueError: If rho is not strictly between -1 and 1, or dims is below 1.

    Source: Cover and Thomas, Elements of Information Theory, chapter 8.
    """
    _check_correlation(rho, dims)
    return -dims / 2 * math.log1p(-rho * rho)


def sample_correlated_gaussians(
    n: int, dims: int, rho: float, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Pairs of standard normal vectors whose coordinates correlate by rho, one to one.

        x ~ N(0, I),  y = rho x + sqrt(1 - rho^2) noise

    Args:
        n: Number of pairs.
        dims: Number of coordinates d.
        rho: Correlation, strictly between -1 and 1.
        generator: Source of randomness; the samples lie on its device.

    Returns:
        ``(x, y)``, each of shape (n, dims).

    Raises:
        ValueError: If n or dims is below 1, or rho is not strictly between -1 and 1.
    """
    _check_correlation(rho, dims)
    need_count(n=n)
    need_generator(generator)
    need_room(8 * n * dims, n=n, dims=dims)
    device = generator.device if generator is not None else None
    x, noise = torch.randn(2, n, dims, generator=generator, device=device)
    return x, rho * x + math.sqrt(1 - rho * rho) * noise


def _mlp(dims: Sequence[int]) -> nn.Sequential:
    widths = {f"layer width {i}": d for i, d in enumerate(dims)}
    need_count(**widths)
    need_room(4 * sum(a * b for a, b in pairwise(dims)), **widths)
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(dims):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _check_gaussian(mu: Tensor, logvar: Tensor, y: Tensor) -> None:
    need_floats(mu=mu, logvar=logvar, y=y)
    if not (mu.shape == logvar.shape == y.shape) or y.ndim != 2 or len(y) == 0:
        raise ValueError(
            f"mu {tuple(mu.shape)}, logvar {tuple(logvar.shape)} and y {tuple(y.shape)} must share "
            "one shape (n, d) with n at least 1: pair each x with exactly one y."
        )


def _check_correlation(rho: float, dims: int) -> None:
    need_number(rho=rho)
    need_count(dims=dims)
    if not -1 < rho < 1:
        raise ValueError(
            f"rho={rho} must lie strictly between -1 and 1: at the ends the mutual information is "
            "infinite."
        )
