"""A row of empty axes for a panel's picture: the same ones at every move, wiped.

New axes with new ticks for every move would take a third of the time of a picture. Here they are
made once, and what was drawn on them is taken off again. A test draws every panel on wiped and on
new axes and asks for the same pixels.
"""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_made: dict[tuple, tuple[dict, Figure, list[Axes]]] = {}


def stage(
    size: tuple[float, float], columns: int, *, width_ratios: tuple[float, ...] | None = None,
    **places: float,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure and its empty axes, from left to right; whoever asks next for the same wipes them.

    Categories go on an axis by `set_xticks(range(n), labels=names)`: a bar with a name for its
    place would leave the name behind.

    Args:
        size: of the figure, in inches.
        columns: how many axes.
        width_ratios: their widths against each other; all alike if None.
        places: as of `Figure.subplots_adjust`; a layout engine would take half of the time.
    """
    key, theme = (size, columns, width_ratios, *places.items()), dict(matplotlib.rcParams)
    if key in _made and _made[key][0] == theme:
        _, figure, axes = _made[key]
        for ax in axes:
            _wipe(ax)
        return figure, axes
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)  # kept with the figure, and with it what it knows of words' sizes
    axes = list(figure.subplots(1, columns, width_ratios=width_ratios, squeeze=False)[0])
    figure.subplots_adjust(**places)
    _made[key] = theme, figure, axes
    return figure, axes


def _wipe(ax: Axes) -> None:
    """Take off everything but the ticks; scales, limits, colours and words begin anew."""
    for container in list(ax.containers):
        container.remove()
    for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts]:
        artist.remove()
    if ax.get_legend() is not None:
        ax.get_legend().remove()
    ax.set(xscale="linear", yscale="linear", xlabel="", ylabel="", title="")
    ax.ignore_existing_data_limits = True
    ax.set_xlim(0, 1, auto=True)  # autoscale() would look for data where there is only text
    ax.set_ylim(0, 1, auto=True)
    ax.set_prop_cycle(None)
