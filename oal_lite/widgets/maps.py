"""Panel of notebook 04: maps of a feature space, and what its true neighbours say.

The maps are made beforehand: a UMAP takes seconds. The slider moves k, the number of neighbours
in the *feature space* behind the purity, so that map and measured number stand side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from oal_lite import plots
from oal_lite.arguments import need_kind
from oal_lite.maps import joint_map, knn_purity
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage

SAID = {
    "id": "of an ID image {:.0%} are ID themselves (by chance {:.0%})",
    "near": "of a near-OOD image {:.0%} are near-OOD themselves (by chance {:.0%})",
    "far": "of a far-OOD image {:.0%} are far-OOD themselves (by chance {:.0%})",
    "synthetic": "of a synthetic outlier's, {:.0%} are synthetic (by chance {:.0%})",
}
MARKERS = {"id": "o", "near": "^", "far": "s", "synthetic": "x"}


@dataclass(frozen=True)
class Space:
    """Features of some groups of images, and a joint map of them."""

    features: Mapping[str, Float[Tensor, "n d"]]
    flat: Mapping[str, Float[Tensor, "n 2"]]


def map_space(features: Mapping[str, Float[Tensor, "n d"]], *, seed: int = 0) -> Space:
    """Make the joint map of a feature space; groups are named as in `plots.LABELS`.

    Raises:
        ValueError: for a group of another name, and as `maps.joint_map`.
    """
    _check_groups(features)
    return Space(features, joint_map(features, seed=seed))


def _check_groups(features: Mapping[str, Tensor]) -> None:
    if not isinstance(features, Mapping) or not features or not features.keys() <= MARKERS.keys():
        raise ValueError(
            f"groups {list(features)!r:.80}; expected features by group, some of "
            f"{', '.join(MARKERS)}"
        )


def group_purity(space: Space, k: int) -> dict[str, float]:
    """Mean `maps.knn_purity` of each group, with the group as the label."""
    sizes = torch.tensor([len(x) for x in space.features.values()])
    labels = torch.arange(len(sizes)).repeat_interleave(sizes)
    purity = knn_purity(torch.cat(list(space.features.values())), labels, k)
    return {g: p.mean().item() for g, p in zip(space.features, purity.split(sizes.tolist()))}  # noqa: B905


def _chance(space: Space) -> dict[str, float]:
    """Purity of each group if neighbours were drawn at random from all other points."""
    sizes = {g: len(x) for g, x in space.features.items()}
    return {g: (n - 1) / (sum(sizes.values()) - 1) for g, n in sizes.items()}


def draw_map(space: Space, *, ax=None, title: str = ""):  # noqa: ANN001, ANN201
    """Scatter a joint map: groups told apart by colour and marker."""
    import matplotlib.pyplot as plt

    ax = ax if ax is not None else plt.subplots(layout="constrained")[1]
    for group, points in space.flat.items():
        ax.scatter(
            *points.T, s=12, alpha=0.6, linewidths=0.8, marker=MARKERS[group],
            color=plots.COLOURS[group], label=f"{plots.LABELS[group]} (n = {len(points)})",
        )  # fmt: skip
    ax.set(xticks=[], yticks=[], title=title, xlabel="map axes have no unit and no meaning")
    ax.legend(fontsize="x-small", markerscale=1.5)
    return ax


def map_panel(spaces: Mapping[str, Space]) -> Panel:
    """Choose a feature space and k; see its map and the purity of each group's neighbours.

    Raises:
        ValueError: if there is no space, or a group of fewer than two points.
    """
    if not isinstance(spaces, Mapping) or not spaces:
        raise ValueError("no feature space to show; pass some by name, made with map_space")
    for name, space in spaces.items():
        need_kind(Space, "as map_space gives", **{f"space {name!r}": space})
        _check_groups(space.features)
        if small := [g for g, x in space.features.items() if len(x) < 2]:
            raise ValueError(f"group {small[0]!r} of space {name!r} has fewer than two points")
    smallest = min(len(x) for s in spaces.values() for x in s.features.values())
    chance = {name: _chance(s) for name, s in spaces.items()}

    def render(space: str, k: int):  # noqa: ANN202
        purity = group_purity(spaces[space], k)
        figure, (left, right) = stage(
            (10, 4), 2, width_ratios=(1.3, 1),
            left=0.02, right=0.98, bottom=0.13, top=0.92, wspace=0.37,
        )  # fmt: skip
        draw_map(spaces[space], ax=left, title=space)
        rows = range(len(purity))
        right.barh(rows, [100 * p for p in purity.values()], color="#0072B2")
        right.set_yticks(rows, labels=[plots.LABELS[g] for g in purity])
        for row, g in enumerate(purity):
            by_chance = [100 * chance[space][g]] * 2
            right.plot(by_chance, [row - 0.4, row + 0.4], color="black", linewidth=2.5)
        right.invert_yaxis()
        right.set(xlim=(0, 100), xlabel=f"of the {k} nearest, own group, %")
        right.set_title("black: by chance", fontsize=10)
        told = [g for g in ("near", "synthetic") if g in purity] or list(purity)
        shares = "; ".join(SAID[g].format(purity[g], chance[space][g]) for g in told)
        return figure, f"<b>{space}</b>, k = {k}: of the nearest neighbours {shares}."

    controls = {
        "k": ipywidgets.IntSlider(
            min(10, smallest - 1), min=1, max=min(50, smallest - 1), description="k, neighbours"
        ),
        "space": ipywidgets.Dropdown(options=list(spaces), description="student"),
    }
    return Panel(
        {name: controls[name] for name in ("space", "k")}, render,
        alt="A joint map of ID, OOD and synthetic images, and bars of the purity of each group "
        "beside chance",
    )  # fmt: skip
