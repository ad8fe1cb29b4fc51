"""The first panel that a reader meets (notebook 00): three logits, their softmax, their energy."""

import ipywidgets
import torch

from oal_lite.scores import energy
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


def draw(f1: float, f2: float, f3: float):  # noqa: ANN201
    """Bars of three logits and of their softmax; the energy in the sentence."""
    logits = torch.tensor([[f1, f2, f3]])
    shares = logits.softmax(1)[0]
    figure, (left, right) = stage(
        (7, 2.2), 2, left=0.11, right=0.99, bottom=0.14, top=0.94, wspace=0.3
    )
    names = ["circle", "heart", "star"]
    left.bar(range(3), logits[0].tolist(), color="#0072B2")
    left.set(ylabel="logit", ylim=(-2, 10))
    right.bar(range(3), (100 * shares).tolist(), color="#E69F00", hatch="//", edgecolor="white")
    right.set(ylabel="softmax, %", ylim=(0, 100))
    for ax in (left, right):
        ax.set_xticks(range(3), labels=names)
    best = [name for name, share in zip(names, shares, strict=True) if share == shares.max()]
    says = f"The network would say <b>{best[0]}</b>"
    if len(best) > 1:
        says = f"A tie: the network cannot choose between <b>{', '.join(best)}</b>"
    sentence = (
        f"Energy S = {energy(logits).item():.1f} (high = OOD). {says}, {shares.max():.0%} sure."
    )
    return figure, sentence


def energy_panel() -> Panel:
    """Three logits by slider; what the network says, how sure it is, and its energy."""
    controls = {
        f"f{i}": ipywidgets.FloatSlider(value, min=-2, max=10, step=0.5, description=label)
        for i, (value, label) in enumerate(
            [(9.0, "f₁, logit of circle"), (0.0, "f₂, logit of heart"), (0.0, "f₃, logit of star")],
            start=1,
        )
    }
    return Panel(controls, draw, alt="Bars of three logits and of their softmax")
