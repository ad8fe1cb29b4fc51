"""Lower bounds on mutual information from a critic, to hold against CLUB's upper bound.

A critic f(x, y) is high where x and y belong together. Both bounds read it on one batch, as the
matrix of all pairs with the true ones on the diagonal, and both are in nats. The best critic is
the log density ratio log p(y|x) / p(y); for Gaussians it is known, so nothing need be trained.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from oal_lite.arguments import finite_loss, need_floats
from oal_lite.mutual_information import gaussian_mutual_information


def info_nce(critic: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """InfoNCE, a lower bound that never exceeds log n.

        mean_i [ f(x_i, y_i) - log mean_j exp f(x_i, y_j) ]

    Low variance, but blind above log n: a batch of 8 cannot show more than 2.08 nats.

    Args:
        critic: f(x_i, y_j) in row i and column j, shape (n, n); the diagonal holds the true pairs.

    Returns:
        The estimate in nats, a scalar.

    Raises:
        ValueError: If the matrix is not square or is smaller than 2 x 2.

    Source: van den Oord et al., 2018, arXiv:1807.03748, section 2.3.
    """
    n = _check_square(critic)
    bound = (critic.diagonal() - critic.logsumexp(dim=1)).mean() + math.log(n)
    return finite_loss(bound, "InfoNCE")


def nwj(critic: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The bound of Nguyen, Wainwright and Jordan: a lower bound without a ceiling.

        mean_i f(x_i, y_i) - mean_{i != j} exp( f(x_i, y_j) - 1 )

    It is tight at f = 1 + log p(y|x) / p(y), and its variance grows exponentially with the
    mutual information, because a few rare pairs carry the mean of the exponentials.

    Args:
        critic: f(x_i, y_j) in row i and column j, shape (n, n); the diagonal holds the true pairs.

    Returns:
        The estimate in nats, a scalar.

    Raises:
        ValueError: If the matrix is not square or is smaller than 2 x 2.

    Source: Nguyen et al., 2010, arXiv:0809.0853; in this form Poole et al., ICML 2019,
    arXiv:1905.06922, section 2.1.
    """
    n = _check_square(critic)
    others = ~torch.eye(n, dtype=torch.bool, device=critic.device)
    return finite_loss(critic.diagonal().mean() - (critic[others] - 1).exp().mean(), "NWJ")


def gaussian_critic(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], rho: float
) -> Float[Tensor, "n n"]:
    """The best critic of `sample_correlated_gaussians`: log p(y_j|x_i) / p(y_j), in nats.

        sum_d [ y^2 / 2 - (y - rho x)^2 / (2 (1 - rho^2)) ] - d/2 log(1 - rho^2)

    Args:
        x: First halves of the pairs, shape (n, d).
        y: Second halves, shape (n, d).
        rho: Correlation of each pair of coordinates, strictly between -1 and 1.

    Returns:
        Log density ratios of all pairs, shape (n, n).

    Raises:
        ValueError: If rho is not strictly between -1 and 1.
    """
    need_floats(x=x, y=y)
    if x.shape != y.shape or x.ndim != 2 or x.numel() == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; expected one shape (n, d), with "
            "n and d at least 1: pair each x with exactly one y"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x or y hold NaN or infinity: leave those pairs out")
    offset = gaussian_mutual_information(rho, x.shape[1])
    squares = (y[None] - rho * x[:, None]).square().sum(dim=2)
    ratios = offset + y.square().sum(dim=1) / 2 - squares / (2 * (1 - rho * rho))
    if not ratios.isfinite().all():
        raise ValueError(f"log density ratios exceed the range of {x.dtype}: rescale x and y")
    return ratios


def _check_square(critic: Tensor) -> int:
    need_floats(critic=critic)
    if critic.ndim != 2 or critic.shape[0] != critic.shape[1] or len(critic) < 2:
        raise ValueError(
            f"critic has shape {tuple(critic.shape)} but must be (n, n) with n at least 2: score "
            "every x of the batch with every y."
        )
    return len(critic)
