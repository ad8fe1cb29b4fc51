"""The panel itself; each panel's own numbers are tested beside it."""

import base64

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from oal_lite.widgets import Panel, stage
from oal_lite.widgets.panel import picture


def draw(height, colour):
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.axhline(height, color=colour)
    return figure, f"the line is {colour} and lies at {height}"


@pytest.fixture
def panel():
    controls = {
        "height": ipywidgets.IntSlider(3, 0, 9, description="h, height"),
        "colour": ipywidgets.Dropdown(options=["red", "blue"], description="colour"),
    }
    return Panel(controls, draw, alt="a line")


def test_a_move_changes_picture_sentence_and_alternative_text(panel):
    before = panel.image.value
    panel.controls["height"].value = 5
    assert panel.image.value != before
    assert "lies at 5" in panel.sentence.value
    assert 'alt="a line. the line is red and lies at 5"' in panel.image.value


def test_words_with_marks_and_signs_do_not_break_the_picture():
    def render(height):
        return draw(height, "red")[0], f'"high" & <b>{height}</b> < 10'

    panel = Panel({"height": ipywidgets.IntSlider(3, 0, 9)}, render, alt="a line")
    assert 'alt="a line. &quot;high&quot; &amp; 3 &lt; 10"' in panel.image.value
    assert panel.image.value.count("<img") == 1
    assert 'width="72" height="72"' in panel.image.value


def test_reset_brings_back_the_first_picture(panel):
    before = panel.image.value
    panel.move(height=9, colour="blue")
    assert panel.image.value != before
    panel.reset_button.click()
    assert panel.image.value == before
    assert panel.values == {"height": 3, "colour": "red"}


def test_without_a_kernel_the_picture_and_the_sentence_remain(panel):
    bundle = panel._repr_mimebundle_()
    assert base64.b64encode(bundle["image/png"]).decode() in panel.image.value
    assert bundle["text/plain"] == "[a line] the line is red and lies at 3"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_check_walks_everything_and_comes_back(panel):
    assert panel.check() == "5 positions of 2 controls drawn without an error"
    assert panel.values == {"height": 3, "colour": "red"}


def test_check_raises_what_a_callback_raises():
    def broken(height):
        if height == 9:
            raise ZeroDivisionError("at the end of the slider")
        return draw(height, "red")

    panel = Panel({"height": ipywidgets.IntSlider(3, 0, 9)}, broken, alt="a line")
    with pytest.raises(ZeroDivisionError):
        panel.check()


def test_check_finds_a_control_that_does_nothing():
    panel = Panel(
        {"height": ipywidgets.IntSlider(3, 0, 9), "idle": ipywidgets.Checkbox(False)},
        lambda height, idle: draw(height, "red"), alt="a line",
    )  # fmt: skip
    with pytest.raises(AssertionError, match="idle: nothing changes"):
        panel.check()


def test_a_panel_without_controls_is_refused():
    with pytest.raises(ValueError, match="at least one control"):
        Panel({}, draw, alt="")


def test_check_stands_on_the_steps_of_a_slider():
    # a browser moves a value between two steps and sends that back: the panel would not reset
    seen = []
    panel = Panel(
        {"height": ipywidgets.IntSlider(100, 10, 300, step=10)},
        lambda height: seen.append(height) or draw(height, "red"), alt="a line",
    )  # fmt: skip
    panel.check()
    assert seen == [100, 10, 150, 300]


def test_nothing_of_the_last_picture_is_left_on_a_stage():
    def crowded(ax):
        ax.bar(range(3), [1e3, 2e4, 5e5], label="bars")
        ax.plot([-9, 9], [1, 9], label="a line")
        ax.scatter([20], [3])
        ax.imshow([[0, 1]], aspect="auto")
        ax.text(0, 0, "words")
        ax.set(yscale="log", title="a title", xlabel="x", ylabel="y", xlim=(30, 0))
        ax.set_xticks([1, 2], labels=["one", "two"])
        ax.legend()

    def plain(ax):
        ax.bar([0.2, 0.4], [0.1, 0.3])

    def drawn(*steps):
        stage._made.clear()
        for step in steps:
            figure, (ax,) = stage.stage((3, 2), 1, left=0.2)
            step(ax)
            png = picture(figure)
        return png, ax

    png, ax = drawn(crowded, plain)
    assert png == drawn(plain)[0]
    assert len(ax.containers) == 1  # else they would grow with every move
