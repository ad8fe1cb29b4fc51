"""Panel 2: k-NN outliers where they can be seen, on the surface of a ball.

The method normalises its features, so it lives on a sphere. With 3-d features the sphere is a
surface of two dimensions, and a map of it shows the method's own geometry: nothing is projected
away. The map is centred on the class and keeps every distance from its centre, as an angle.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from oal_lite.arguments import need_whole
from oal_lite.knn_outliers import (
    Selection,
    boundary_points,
    candidates_around,
    draw_noise,
    kth_distance,
    select_candidates,
    unit,
)
from oal_lite.plots import COLOURS
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage

N_BOUNDARY = 12
MOST = 5_000  # features, or a move of a slider would take seconds


@dataclass(frozen=True)
class Round:
    """One round of k-NN sampling, with everything that `sample_outliers` does not give back.

    Attributes:
        boundary: indices of the boundary points among the features.
        candidates: unit vectors, `s` around each boundary point.
        distances: squared k-th distance of each candidate to the features.
        picks: flat indices of the kept candidates.
    """

    boundary: Int[Tensor, "b"]
    candidates: Float[Tensor, "b s d"]
    distances: Float[Tensor, "b s"]
    picks: Int[Tensor, "m"]

    @property
    def outliers(self) -> Float[Tensor, "m d"]:
        """The kept candidates."""
        return self.candidates.flatten(0, 1)[self.picks]

    @property
    def percentiles(self) -> Float[Tensor, "m"]:
        """For each kept one, the share of its own point's other candidates that lie nearer."""
        s = self.distances.shape[1]
        own = self.distances[self.picks // s]
        beaten = own < self.distances.flatten()[self.picks][:, None]
        return beaten.double().sum(1) / max(1, s - 1)


def sampling_round(
    features: Float[Tensor, "n d"], *, k: int, n_boundary: int, n_candidates: int, sigma: float,
    keep: int, selection: Selection, seed: int = 0,
) -> Round:  # fmt: skip
    """One round of `knn_outliers.sample_outliers_plain`, step by step, in float64.

    The same seed gives the same picks as `sample_outliers`; raises ValueError as it does.
    """
    generator = torch.Generator().manual_seed(seed)
    z = unit(features.double())
    boundary = boundary_points(z, k, n_boundary)
    noise = draw_noise(n_candidates, z.shape[1], generator, z.device)
    candidates = candidates_around(z[boundary], noise, sigma)
    distances = kth_distance(candidates.flatten(0, 1), z, k).view(n_boundary, n_candidates)
    picks = select_candidates(distances, keep, selection, generator)
    return Round(boundary, candidates, distances, picks)


def toy_class(n: int = 200, seed: int = 3) -> Float[Tensor, "n 3"]:
    """A made-up class on the unit sphere: a crescent around the pole, denser at one end."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.rand(n, generator=generator, dtype=torch.float64).sqrt() * 1.3 * math.pi
    spread = 0.09 * torch.randn(2, n, generator=generator, dtype=torch.float64)
    return from_map(0.42 * torch.stack([along.cos(), along.sin()], 1) + spread.T)


def from_map(plane: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Points of the map back onto the sphere: angle |p| from the pole, in direction p."""
    angle = plane.norm(dim=1, keepdim=True)
    return torch.cat([plane * (angle / math.pi).sinc(), angle.cos()], dim=1)


def to_map(z: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Azimuthal equidistant map of the sphere, in radians; the pole lies at the origin."""
    angle = z[..., 2:].clamp(-1, 1).acos()
    direction = z[..., :2]
    return angle * direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def knn_panel(n: int = 200) -> Panel:
    """Move k, sigma, the number of candidates and of kept ones, and the selection.

    Args:
        n: number of ID features of the made-up class.

    Raises:
        ValueError: for fewer than there are boundary points, or too many for a slider to answer.
    """
    need_whole(n=n)
    if not N_BOUNDARY <= n <= MOST:
        raise ValueError(f"n={n}; expected {N_BOUNDARY} to {MOST} features of a class")
    features = toy_class(n)
    plane = np.degrees(to_map(features).numpy())

    @lru_cache(maxsize=1)
    def own_distances(k: int) -> Float[Tensor, "n"]:
        return kth_distance(features, features, k)

    def render(k, sigma, candidates, keep, selection) -> tuple[Figure, str]:  # noqa: ANN001
        made = sampling_round(
            features, k=k, n_boundary=N_BOUNDARY, n_candidates=candidates, sigma=sigma,
            keep=keep, selection=selection,
        )  # fmt: skip
        own = own_distances(k)
        figure, axes = stage(
            (10, 4.4), 2, width_ratios=(1, 1.1),
            left=0.08, right=0.99, bottom=0.13, top=0.92, wspace=0.2,
        )  # fmt: skip
        _map(axes[0], plane, made)
        _histogram(axes[1], own, made, k)
        return figure, _sentence(features, own, made, k, sigma)

    controls = {
        "k": ipywidgets.IntSlider(min(20, n), 1, n, description="k, neighbour that counts"),
        "sigma": ipywidgets.FloatLogSlider(
            0.1, base=10, min=-2, max=0.3, step=0.05, description="σ, noise per coordinate",
            readout_format=".3f",
        ),
        "candidates": ipywidgets.IntSlider(100, 10, 300, step=10, description="s, candidates"),
        "keep": ipywidgets.IntSlider(2, 1, 10, description="kept per point"),
        "selection": ipywidgets.Dropdown(
            options=[
                ("farthest: as the text says", "farthest"),
                ("as released: as the code does", "as_released"),
                ("random: the control", "random"),
            ],
            description="selection",
        ),
    }  # fmt: skip
    return Panel(
        controls, render,
        alt="Left, a map of ID features, boundary points, candidates and kept outliers on the "
        "sphere; right, histograms of their k-th distances",
    )  # fmt: skip


def _map(ax, plane, made: Round) -> None:  # noqa: ANN001
    candidates = np.degrees(to_map(made.candidates).flatten(0, 1).numpy())
    kept = np.degrees(to_map(made.outliers).numpy())
    ax.plot(*candidates.T, ".", color="0.6", markersize=2, label="candidates")
    ax.plot(*plane.T, "o", color=COLOURS["id"], markersize=3.5, label="ID features")
    ax.plot(
        *plane[made.boundary.numpy()].T, "o", markerfacecolor="none", markeredgecolor="black",
        markersize=9, label="boundary points",
    )  # fmt: skip
    ax.plot(*kept.T, "X", color=COLOURS["synthetic"], markersize=6, label="kept: outliers")
    reach = np.abs(candidates).max()
    limit = next((edge for edge in (60, 90) if reach <= edge), 180)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.set(xlabel="degrees from the centre of the map", ylabel="degrees")
    ax.legend(fontsize=7.5, loc="lower right", markerscale=0.9)


def _histogram(ax, own, made: Round, k: int) -> None:  # noqa: ANN001
    kept = made.distances.flatten()[made.picks]
    edges = np.linspace(0, max(own.max(), made.distances.max()).item() * 1.02, 45)
    for values, name, colour, style in (
        (own, "ID features", COLOURS["id"], "-"),
        (made.distances.flatten(), "candidates", "0.4", "--"),
        (kept, "kept: outliers", COLOURS["synthetic"], "-."),
    ):
        share = np.full(len(values), 1 / len(values))
        ax.hist(
            values.numpy(), edges, weights=share, histtype="step", color=colour, linestyle=style,
            linewidth=2, label=f"{name} (n = {len(values):,})",
        )  # fmt: skip
    ax.set(xlabel=f"r_k, squared distance to ID neighbour k = {k}", ylabel="share")
    ax.legend(fontsize=8)


def _sentence(features, own, made: Round, k: int, sigma: float) -> str:  # noqa: ANN001
    points = features[made.boundary].repeat_interleave(len(made.picks) // len(made.boundary), 0)
    cosine = (points * made.outliers).sum(1).mean().item()
    kept = made.distances.flatten()[made.picks].mean().item()
    known = own.mean().item()
    beside = (
        f", {kept / known:.1f} times that of an ID feature (k = {k})"
        if known > 1e-9
        else f"; that of an ID feature is 0, for with k = {k} it is its own neighbour"
    )
    return (
        f"The {len(made.picks)} outliers lie at percentile {100 * made.percentiles.mean():.0f} "
        f"of their own point's candidates (100 = the farthest, 50 = any). Their mean r_k is "
        f"{kept:.3g}{beside}. With σ = {sigma:.3f} the noise has "
        f"length about {sigma * math.sqrt(3):.2f}, and an outlier has cosine {cosine:.2f} with "
        f"its own boundary point."
    )
