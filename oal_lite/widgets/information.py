"""Panel 5: the true mutual information of Gaussian pairs, and what five estimators say of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from oal_lite.arguments import need_choice
from oal_lite.contrastive_bounds import gaussian_critic, info_nce, nwj
from oal_lite.mutual_information import (
    ClubNet,
    gaussian_mutual_information,
    sample_correlated_gaussians,
)
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage

Protocol = Literal["fitted", "minimised"]
RHOS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9)
BATCHES = (4, 8, 16, 32, 64, 128)
STEPS = (0, 10, 30, 100, 200, 300)


@dataclass(frozen=True)
class Track:
    """CLUB on fresh pairs while q is trained: `bounds[i]` after `steps[i]` steps, in nats."""

    steps: tuple[int, ...]
    bounds: tuple[float, ...]


def club_track(
    rho: float, dims: int, protocol: Protocol, *, steps: Sequence[int] = STEPS, seed: int = 0
) -> Track:
    """Train q on pairs of correlation rho and measure CLUB on 2,000 other pairs on the way.

    - "fitted": q maximises the likelihood of the pairs, as CLUB prescribes.
    - "minimised": q minimises the bound itself, as the released code's optimiser does.

    Both start from the same weights, use Adam at 5e-3, and see the same batches of 128 pairs.

    Raises:
        ValueError: if the protocol is unknown, or rho and dims are out of range.
    """
    need_choice(get_args(Protocol), protocol=protocol)
    generator = torch.Generator().manual_seed(seed)
    test = sample_correlated_gaussians(2000, dims, rho, generator)
    with torch.random.fork_rng(devices=[]):  # modules draw their weights from global state
        torch.manual_seed(seed)
        q = ClubNet(dims, dims, (64,), (64,))
    optimiser = torch.optim.Adam(q.parameters(), lr=5e-3)
    bounds = []
    for i in range(max(steps) + 1):
        if i in steps:
            with torch.no_grad():
                bounds.append(q.bound(*test).item())
        pairs = sample_correlated_gaussians(128, dims, rho, generator)
        loss = -q.log_likelihood(*pairs) if protocol == "fitted" else q.bound(*pairs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Track(tuple(sorted(steps)), tuple(bounds))


def contrastive_estimates(
    rho: float, dims: int, n: int, *, batches: int = 20, seed: int = 0
) -> tuple[float, float]:
    """InfoNCE and NWJ in nats with the best critic, each the mean over batches of n pairs."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(batches):
        critic = gaussian_critic(*sample_correlated_gaussians(n, dims, rho, generator), rho)
        values.append((info_nce(critic), nwj(1 + critic)))
    nce, lower = np.asarray(values).mean(0)
    return float(nce), float(lower)


@dataclass(frozen=True)
class Tracks:
    """Every q that the panel shows, trained beforehand.

    Attributes:
        dims: coordinates of each half of a pair.
        rhos: correlations that the slider offers.
        steps: training steps of q at which CLUB was read.
        tracks: by correlation and protocol.
    """

    dims: int
    rhos: tuple[float, ...]
    steps: tuple[int, ...]
    tracks: dict[tuple[float, Protocol], Track]


def train_tracks(
    dims: int = 4, *, rhos: Sequence[float] = RHOS, steps: Sequence[int] = STEPS
) -> Tracks:
    """Train a q for every correlation and both protocols: some seconds, with a bar."""
    rhos, steps = tuple(rhos), tuple(sorted(steps))
    jobs = [(rho, protocol) for rho in rhos for protocol in get_args(Protocol)]
    tracks = {
        job: club_track(job[0], dims, job[1], steps=steps)
        for job in tqdm(jobs, desc="training q", leave=False)
    }
    return Tracks(dims, rhos, steps, tracks)


def information_panel(trained_tracks: Tracks) -> Panel:
    """Move the correlation, the training of q and the batch: truth against five estimates."""
    dims, rhos, steps = trained_tracks.dims, trained_tracks.rhos, trained_tracks.steps
    tracks = trained_tracks.tracks
    truth = {rho: gaussian_mutual_information(rho, dims) for rho in rhos}
    lower = {n: np.array([contrastive_estimates(rho, dims, n) for rho in rhos]) for n in BATCHES}

    def render(rho: float, trained: int, n: int) -> tuple[Figure, str]:
        place = tracks[rho, "fitted"].steps.index(trained)
        fitted, minimised = ([tracks[r, p].bounds[place] for r in rhos] for p in get_args(Protocol))
        figure, (left, right) = stage(
            (10, 3.9), 2, left=0.07, right=0.99, bottom=0.15, top=0.9, wspace=0.29
        )
        curves = {
            "CLUB, q fitted": (fitted, "#D55E00", "^--"),
            f"InfoNCE, N = {n}": (lower[n][:, 0], "#009E73", "s-."),
            f"NWJ, N = {n}": (lower[n][:, 1], "#0072B2", "x-"),
        }
        _curves(left, rhos, list(truth.values()), curves, rho)
        _tracks(right, {p: tracks[rho, p] for p in get_args(Protocol)}, truth[rho], rho, trained)
        here = rhos.index(rho)
        estimates = (fitted[here], minimised[here], *lower[n][here])
        return figure, _sentence(rho, dims, n, trained, truth[rho], *estimates)

    controls = {
        "rho": ipywidgets.SelectionSlider(
            options=rhos, value=0.8 if 0.8 in rhos else rhos[-1], description="ρ, correlation"
        ),
        "trained": ipywidgets.SelectionSlider(
            options=steps, value=steps[-1], description="training steps of q(y|x)"
        ),
        "n": ipywidgets.SelectionSlider(
            options=BATCHES, value=32, description="N, pairs in a batch"
        ),
    }
    return Panel(
        controls, render,
        alt="Left, the true mutual information of Gaussian pairs and its estimates against the "
        "correlation; right, CLUB while q is trained in two ways",
    )  # fmt: skip


def _curves(ax, rhos, truth, curves, rho) -> None:  # noqa: ANN001
    ax.plot(rhos, truth, color="black", linewidth=3, label="true mutual information")
    for name, (values, colour, style) in curves.items():
        ax.plot(rhos, values, style, color=colour, markersize=5, label=name)
    ax.axvline(rho, color="0.6", linewidth=1)
    ax.set(xlabel="ρ, correlation", ylabel="nats", ylim=(-1, 10))
    ax.set_title("Estimates against the truth", fontsize=10)
    ax.legend(fontsize=8, loc="upper left")


def _tracks(ax, tracks, truth, rho, trained) -> None:  # noqa: ANN001
    styles = {
        "fitted": ("q fitted by likelihood", "#D55E00", "^--"),
        "minimised": ("q trained on the bound", "#CC79A7", "v:"),
    }
    ax.axhline(truth, color="black", linewidth=3, label="true mutual information")
    for protocol, track in tracks.items():
        name, colour, style = styles[protocol]
        ax.plot(track.steps, track.bounds, style, color=colour, label=name)
    ax.axvline(trained, color="0.6", linewidth=1)
    ax.set_yscale("symlog", linthresh=1)
    # Plain words for the ticks: setting powers of ten as formulas takes half of a move's time.
    ticks = (-10_000, -100, -1, 1, 100, 10_000)
    ax.set_yticks(ticks, labels=[f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="training steps of q", ylabel="CLUB (nats, symlog)", ylim=(-2e4, 1e4))
    ax.set_title(f"CLUB while q is trained, at ρ = {rho}", fontsize=10)
    ax.legend(fontsize=8, loc="upper right")


def _sentence(rho, dims, n, trained, truth, fitted, minimised, nce, lower) -> str:  # noqa: ANN001
    state = "untrained" if trained == 0 else f"after {trained} steps"
    verdict = "no bound" if minimised < truth else "above the truth"
    return (
        f"ρ = {rho} in {dims} dimensions: the true mutual information is {truth:.2f} nats. CLUB "
        f"with q {state}: {fitted:.2f} if it learns by likelihood"
        f"{'' if fitted >= truth else ' (not yet a bound)'}, {minimised:,.2f} if it is trained on "
        f"the bound ({verdict}). From below, with the best critic and N = {n}: InfoNCE "
        f"{nce:.2f}, which cannot exceed ln {n} = {math.log(n):.2f}, and NWJ {lower:.2f}."
    )
