"""A panel: controls, a picture, and a sentence that says what the picture shows.

The picture is a PNG, drawn by a pure function of the controls' values. So a panel works in
JupyterLab and Colab, and still shows its picture where there is no kernel (GitHub, an exported
HTML page): the static picture and the sentence travel in the cell's output.
"""

import base64
import inspect
import io
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from html import escape

import ipywidgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oal_lite.arguments import need_kind

Render = Callable[..., tuple[Figure | bytes, str]]


def picture(figure: Figure, *, dpi: int = 72) -> bytes:
    """Draw a figure as PNG and forget it."""
    import matplotlib.pyplot as plt

    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)  # savefig would make a new canvas, which measures words anew
    plt.close(figure)
    return buffer.getvalue()


class Panel(ipywidgets.VBox):
    """Controls on top, a reset button, a picture, a sentence.

    Args:
        controls: a value widget (slider, dropdown, checkbox, ...) per argument of `render`. Its
            `description` is what the reader sees: the symbol of the paper, and a word.
        render: pure function of the controls' values, by name; returns a figure (or a finished
            PNG) and a sentence. Whatever is random in it takes a seed of its own. Pictures are
            kept, so a slider that comes back is answered at once.
        alt: what the picture shows, for those who cannot see it; the sentence follows it.
        slow: for a picture that takes longer than 0.2 s: drawn when a slider is let go of, with
            a sign in the meantime.

    Raises:
        ValueError: if there are no controls, or one that a panel cannot move; or if `render` does
            not take them, or gives something else than a picture and a sentence.
    """

    def __init__(
        self, controls: Mapping[str, ipywidgets.ValueWidget], render: Render, *, alt: str,
        slow: bool = False,
    ):  # fmt: skip
        need_kind(Mapping, "a control for each argument of render", controls=controls)
        if not controls:
            raise ValueError("a panel needs at least one control")
        for name, control in controls.items():
            if not _movable(control):
                raise ValueError(
                    f"control {name!r} is of type {type(control).__name__}; expected a slider of "
                    "one number, a choice of one, or a checkbox"
                )
        need_kind(str, "what the picture shows", alt=alt)
        _need_render(render, controls)
        self.controls, self.alt = dict(controls), alt
        self._start = {name: control.value for name, control in self.controls.items()}
        self._draw = lru_cache(maxsize=512)(lambda *values: self._render(render, values))
        self._quiet = False
        self.sentence = ipywidgets.HTML()
        self.image = ipywidgets.HTML()
        self.sentence.add_class("oal-panel-sentence")
        self.reset_button = ipywidgets.Button(description="reset", icon="undo")
        self.reset_button.on_click(lambda _: self.reset())
        for control in self.controls.values():
            if slow and hasattr(control, "continuous_update"):
                control.continuous_update = False
            control.style = {"description_width": "initial"}
            control.layout.width = "max-content" if _is_choice(control) else "420px"
            control.observe(self._moved, names="value")
        self._slow = slow
        self._show()
        super().__init__([*self.controls.values(), self.reset_button, self.image, self.sentence])

    def _render(self, render: Render, values: tuple) -> tuple[bytes, str]:
        answer = render(**dict(zip(self.controls, values, strict=True)))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(f"render gives {answer!r:.60}; expected a figure and a sentence")
        drawn, sentence = answer
        if not isinstance(drawn, Figure | bytes) or not isinstance(sentence, str):
            kinds = f"{type(drawn).__name__} and {type(sentence).__name__}"
            raise ValueError(f"render gives {kinds}; expected a figure (or a PNG) and a sentence")
        return (drawn if isinstance(drawn, bytes) else picture(drawn)), sentence

    @property
    def values(self) -> dict:
        """Where the controls stand now."""
        return {name: control.value for name, control in self.controls.items()}

    def _show(self) -> None:
        png, sentence = self._draw(*self.values.values())
        self.image.value = _img(png, f"{self.alt}. {sentence}")
        self.sentence.value = f"<p>{sentence}</p>"

    def _moved(self, _change: object) -> None:
        if self._quiet:
            return
        if self._slow:
            self.sentence.value = "<p>… drawing</p>"
        self._show()

    def move(self, **values: object) -> None:
        """Set several controls at once and draw once, as a reader's hand would.

        Raises:
            KeyError: if there is no such control.
        """
        self._quiet = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._quiet = False
        self._show()

    def reset(self) -> None:
        """Put every control back to where it started."""
        self.move(**self._start)

    def check(self) -> str:
        """Walk every control over its range and back; an error in a callback is raised here.

        Jupyter swallows what goes wrong in a callback. A notebook that calls this after showing
        the panel fails as it should.

        Returns:
            How many positions were drawn.

        Raises:
            AssertionError: if a control changes neither picture nor sentence.
        """
        drawn = 0
        for name, control in self.controls.items():
            seen = set()
            for value in _positions(control):
                self.move(**{name: value})
                drawn += 1
                png, _ = self._draw(*self.values.values())
                assert png[:4] == b"\x89PNG", f"{name}={value}: no picture"
                assert self.sentence.value != "<p></p>", f"{name}={value}: no sentence"
                seen.add((self.image.value, self.sentence.value))
            assert len(seen) > 1, f"{name}: nothing changes when it is moved"
            self.reset()
        return f"{drawn} positions of {len(self.controls)} controls drawn without an error"

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        png, sentence = self._draw(*self.values.values())
        return {**bundle, "image/png": png, "text/plain": f"[{self.alt}] {sentence}"}


def _img(png: bytes, alt: str) -> str:
    """A picture as HTML: an Image widget would have no place for words."""
    # With its size known, the page keeps the place while the next picture is being read.
    width, height = struct.unpack(">II", png[16:24])
    words = escape(re.sub("<[^>]+>", "", alt))
    return (
        f'<img class="oal-panel-picture" alt="{words}" width="{width}" height="{height}" '
        f'style="max-width: 100%; height: auto" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _movable(control: object) -> bool:
    """Whether it holds one number between two ends, one choice of several, or yes or no."""
    value = getattr(control, "value", None)
    number = isinstance(value, int | float) and hasattr(control, "max")
    return number or isinstance(value, bool) or isinstance(getattr(control, "index", None), int)


def _need_render(render: object, controls: Mapping) -> None:
    """Refuse what cannot be called with the controls' names."""
    if not callable(render):
        raise ValueError(f"render is a {type(render).__name__}; expected a function")
    try:
        inspect.signature(render).bind(**controls)
    except TypeError as error:
        names = ", ".join(map(str, controls))
        raise ValueError(f"render does not take the controls {names} ({error})") from None


def _is_choice(control: ipywidgets.ValueWidget) -> bool:
    return not hasattr(control, "max") and not hasattr(control, "continuous_update")


def _positions(control: ipywidgets.ValueWidget) -> list:
    """Both ends and the middle of a slider; every option of a choice; both states of a box."""
    if isinstance(control, ipywidgets.FloatLogSlider):
        low, high = control.base**control.min, control.base**control.max
        return [low, (low * high) ** 0.5, high]
    if hasattr(control, "max"):
        # On a step: a browser would move a value between two steps, and send that back.
        steps = round((control.max - control.min) / 2 / control.step)
        return [control.min, type(control.value)(control.min + steps * control.step), control.max]
    if hasattr(control, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in control.options]
    return [True, False]
