"""A bug put into a panel's callback does not go unseen: `check()` finds it, at every control.

Notebooks call `check()` after each panel (test_notebooks.py sees to it), so nbval finds it too.
"""

from functools import cache

import pytest
import torch

from oal_lite import study, widgets
from oal_lite.widgets import loss_terms, panel, stage, synthesis
from oal_lite.widgets.denoising import Journey
from oal_lite.widgets.maps import Space

WORDS = ("circle", "heart")


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def images(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()


def denoising():
    levels, keys = (50, 450, 999), [(t, n) for t in (50, 450, 999) for n in (1, 3)]
    made = Journey(
        WORDS, images(2, 3, 8, 8), noise(2, 4, 2, 2), {t: 1 - t / 1000 for t in levels},
        {t: t / 999 * noise(2, 4, 2, 2) for t in levels},
        {t: images(2, 3, 8, 8) + t % 7 for t in levels},
        {(t, n): (t + n) / 999 * noise(2, 4, 2, 2) for t, n in keys},
        {key: images(2, 3, 8, 8) for key in keys},
    )  # fmt: skip
    return widgets.denoising_panel(made)


def synthesised():
    made = {
        (s, w, n, seed): synthesis.Sample(
            (s + w + n + seed) * noise(4, 2, 2), images(3, 8, 8), noise(2)
        )
        for s in (0, 0.5, 1) for w in (1, 4) for n in (2, 3) for seed in (0, 1)
    }  # fmt: skip
    return widgets.synthesis_panel(made, "heart", WORDS)


def maps():
    sizes = {"id": 9, "near": 7, "far": 6, "synthetic": 5}
    groups = {g: noise(n, 3) for g, n in sizes.items()}
    flat = {g: noise(n, 2) for g, n in sizes.items()}
    return widgets.map_panel({"before": Space(groups, flat), "after": Space(groups, flat)})


def pulls():
    g = noise(3, 5)
    gram = {n: (h := g / torch.tensor([[1.0], [1.0], [n**0.5]])) @ h.T for n in (1, 4, 16)}
    names = ("cross-entropy", "distil logits", "MICL k-NN")
    return widgets.loss_terms_panel(loss_terms.Pulls(names, (1.0, 4.0, 0.1), gram))


def arms():
    def one(arm, seed, shift):
        scores = {
            f"{s}/{k}": noise(20) + shift * (k != "id")
            for s in ("energy", "msp") for k in ("id", "a", "b")
        }  # fmt: skip
        sets = {g: {k: {"auroc": 0.5, "fpr95": 0.9}} for g, k in (("near", "a"), ("far", "b"))}
        record = {"arm": arm, "seed": seed, "metrics": {"energy": sets, "msp": sets}}
        return study.Run(record, scores)

    return widgets.arms_panel(
        [one(a, s, i + s) for i, a in enumerate(("ce", "kd")) for s in (0, 1)]
    )


PANELS = {
    "energy": widgets.energy_panel,
    "threshold": lambda: widgets.threshold_panel(noise(50).numpy(), noise(20).numpy() + 1),
    "knn": lambda: widgets.knn_panel(30),
    "denoising": denoising,
    "synthesis": synthesised,
    "maps": maps,
    "information": lambda: widgets.information_panel(
        widgets.train_tracks(2, rhos=(0.0, 0.8), steps=(0, 5, 10))
    ),
    "loss terms": pulls,
    "arms": arms,
    "costs": widgets.cost_panel,
}


@cache
def build(name):
    """A panel whose callback and controls are borrowed: it is not drawn any more."""
    made = PANELS[name]()
    for control in made.controls.values():
        control.unobserve(made._moved, names="value")
    return made


def check_with(whole, callback):
    """What `check()` says of a panel with the same controls and another callback."""
    for name, control in whole.controls.items():
        control.value = whole._start[name]
    mutant = panel.Panel(whole.controls, callback, alt=whole.alt)
    try:
        return mutant.check()
    finally:
        for control in whole.controls.values():  # or the next mutant would move this one, too
            control.unobserve(mutant._moved, names="value")


@pytest.fixture(params=PANELS)
def whole(request):
    return build(request.param)


def test_every_panel_is_tried_here():
    assert len(PANELS) == sum(name.endswith("_panel") for name in widgets.__all__)


def test_the_check_finds_a_callback_that_fails_at_one_end_of_any_control(whole):
    for name, control in whole.controls.items():
        last = panel._positions(control)[-1]

        def broken(name=name, last=last, **at):
            if at[name] == last and at != whole._start:
                raise ZeroDivisionError(name)
            return whole._draw(*at.values())

        with pytest.raises(ZeroDivisionError, match=name):
            check_with(whole, broken)


def test_the_check_finds_a_callback_that_forgets_any_one_control(whole):
    for name in whole.controls:

        def forgetful(name=name, **at):
            return whole._draw(*{**at, name: whole._start[name]}.values())

        with pytest.raises(AssertionError, match=f"{name}: nothing changes"):
            check_with(whole, forgetful)


def test_a_picture_on_wiped_axes_is_the_one_on_new_axes(whole):
    places = [
        {**whole._start, name: at} for name, control in whole.controls.items()
        for at in (panel._positions(control)[0], panel._positions(control)[-1])
    ]  # fmt: skip
    draw = whole._draw.__wrapped__  # none that was kept
    draw(*whole._start.values())
    wiped = [draw(*at.values()) for at in places]
    for at, drawn in zip(places, wiped, strict=True):
        stage._made.clear()
        assert draw(*at.values()) == drawn, at
