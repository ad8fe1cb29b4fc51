"""Exercises of notebook 05: mutual information and CLUB."""

import math
from collections.abc import Callable

import torch

from oal_lite import mutual_information
from oal_lite.checks.answers import compare, exercise


@exercise
def check_gaussian_mutual_information(answer: Callable) -> str:
    """`f(rho, dims)` is -dims/2 log(1 - rho^2) in nats."""
    for rho, dims in ((0.0, 3), (0.8, 16), (-0.5, 2)):
        truth = mutual_information.gaussian_mutual_information(rho, dims)
        compare(
            answer(rho, dims), truth, f"your function at ρ = {rho}, d = {dims}",
            slips={
                "one half is missing in front.": 2 * truth,
                "information is not negative; log(1 − ρ²) is, so a minus sign is missing.": -truth,
                "this is in bits; use the natural logarithm for nats.": truth / math.log(2),
                "each of the d coordinates adds its share; multiply by d.": truth / dims,
                "square the correlation.": -dims / 2 * math.log1p(-rho),
            },
        )  # fmt: skip
    return "Right: zero without correlation, the same for ρ and −ρ, and it adds up over d."


@exercise
def check_club(club: Callable) -> str:
    """`club(mu, logvar, y)`: mean log q of true pairs minus mean log q of all pairs."""
    generator = torch.Generator().manual_seed(0)
    mu, logvar, y = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    truth = mutual_information.club(mu, logvar, y)
    own = (y - mu).square()
    every = (y[None] - mu[:, None]).square()
    half = (-logvar).exp() / 2

    def estimate(weight: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
        return (weight * (crossed - own)).sum(1).mean()

    others = (every.sum(1) - own) / 5
    compare(
        club(mu, logvar, y), truth, "club",
        slips={
            "the sign is the other way round: true pairs minus all pairs of log q.": -truth,
            "the factor 1/2 of the Gaussian is missing.": 2 * truth,
            "logvar is log σ², so divide by exp(logvar), not by its root or its square.":
                estimate((-logvar / 2).exp() / 2, every.mean(1)),
            "sum over the dimensions; only the batch is averaged.": truth / 4,
            "the second mean runs over ALL pairs, the true ones included.":
                estimate(half, others),
            "in the second part j runs over the y, for one fixed μ_i and σ_i.":
                estimate(half, every.mean(0)),
            "this is the log-likelihood of the true pairs; subtract that of all pairs.":
                -(half * own).sum(1).mean(),
        },
    )  # fmt: skip
    one = club(mu[:1], logvar[:1], y[:1])
    compare(one, 0.0, "club of a batch of one (no other partner to compare with)")
    return "Right: it agrees with the library, and one pair alone tells nothing."


@exercise
def check_most_information_from_class_pairs(most_nats: Callable) -> str:
    """`most_nats(n)`: pairs that share one of n equally likely classes share at most ln n nats."""
    for n in (10, 2):
        compare(
            most_nats(n), math.log(n), f"your answer for {n} classes", tolerance=1e-3,
            slips={
                "that is in bits; multiply by ln 2 for nats.": math.log2(n),
                "that is the number of classes; the information is its logarithm.": n,
                "that is the information in decimal digits; use the natural logarithm.":
                    math.log10(n),
                "the formula of Gaussians does not apply to a throw of a die.": math.log(n) / 2,
            },
        )  # fmt: skip
    return "Right: ln 10 = 2.30 nats, whatever the dimension. The class is all that they share."
