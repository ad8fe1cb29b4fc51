"""Panel of notebook 08: epochs, kept views and the speed of the device, and how long it takes."""

import ipywidgets

from oal_lite.costs import HERE, Plan, cost, hours
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


def draw(epochs: int, views: int, steps: int, speed: int):  # noqa: ANN201
    """Bars of the hours of each stage; arithmetic and hours of all in the sentence."""
    plan = Plan(epochs=epochs, n_views=views, steps=steps, decode=False)
    stages = cost(plan)
    total = hours(plan, speed)
    flop = sum(stages.values())
    figure, (ax,) = stage((7, 2.2), 1, left=0.13, right=0.98, bottom=0.24, top=0.96)
    rows = range(len(stages))
    ax.barh(rows, [total * x / flop for x in stages.values()], color="#0072B2")
    ax.set_yticks(rows, labels=list(stages))
    ax.invert_yaxis()
    ax.set(xlabel=f"hours at {speed} TFLOP/s")
    largest = max(stages, key=stages.get)
    sentence = (
        f"{flop / 1e15:.0f} PFLOP (10¹⁵) in all, most of it for the {largest}: {total:.1f} hours "
        f"at {speed} TFLOP a second that really arrive."
    )
    return figure, sentence


def cost_panel() -> Panel:
    """Sliders for epochs, views of the teacher (0: ask at every step), steps and speed."""
    controls = {
        "epochs": ipywidgets.IntSlider(HERE.epochs, 5, 200, step=5, description="epochs"),
        "views": ipywidgets.IntSlider(
            HERE.n_views, 0, 20, description="V, views kept (0: ask at every step)"
        ),
        "steps": ipywidgets.IntSlider(HERE.steps, 5, 100, description="N, denoising steps"),
        "speed": ipywidgets.IntSlider(20, 1, 300, description="speed, TFLOP/s"),
    }
    return Panel(controls, draw, alt="Bars of the hours that teacher, student and diffusion take")
