"""Panel of notebook 08: epochs, kept views and the speed of the device, and how long it takes."""

import ipywidgets

from oal_lite.costs import HERE, Plan, cost, hours
from oal_lite.widgets.panel import Panel


def draw(epochs: int, views: int, steps: int, speed: int):  # noqa: ANN201
    """Bars of the arithmetic of each stage; hours in the sentence."""
    import matplotlib.pyplot as plt

    plan = Plan(epochs=epochs, n_views=views, steps=steps, decode=False)
    stages = cost(plan)
    figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
    ax.barh(list(stages), [x / 1e15 for x in stages.values()], color="#0072B2")
    ax.invert_yaxis()
    ax.set(xlabel="arithmetic, PFLOP (10¹⁵)")
    largest = max(stages, key=stages.get)
    sentence = (
        f"{sum(stages.values()) / 1e15:.0f} PFLOP in all, most of it for the {largest}: "
        f"{hours(plan, speed):.1f} hours at {speed} TFLOP a second that really arrive."
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
    return Panel(controls, draw, alt="Bars of the arithmetic of teacher, student and diffusion")
