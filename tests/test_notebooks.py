"""Lint of the notebooks' files, and of the tool that keeps them; nothing is executed here.

Running them is nbval's work (`make test`), moving their sliders that of test_browser.py.
"""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from oal_lite import notebooks

ROOT = Path(__file__).parent.parent
NUMBERED = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PLACE = re.compile(r"(?<![\w.])/(work|tmp|root|home|Users|var)/")
WITH_EXERCISES = re.compile(r"0[1-7]_")


def load(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [c for c in load(path).cells if c.cell_type == "code"]


def pictures(notebook):
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                yield cell, output, following


@pytest.mark.parametrize("path", [*NUMBERED, *SOLUTIONS], ids=lambda p: p.stem)
class TestEveryNotebook:
    def test_is_valid_and_of_the_common_kernel(self, path):
        nbformat.validate(load(path))
        assert load(path).metadata.kernelspec.name == "python3"

    def test_was_run_from_top_to_bottom(self, path):
        counts = [c.execution_count for c in code(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_has_errors_only_where_an_exercise_waits(self, path):
        for cell in code(path):
            wrong = [o.ename for o in cell.outputs if o.output_type == "error"]
            if wrong:
                assert "raises-exception" in cell.metadata.get("tags", []), cell.source
                assert wrong == ["NotWritten"]

    def test_shows_no_traceback(self, path):
        for cell in code(path):
            for output in cell.outputs:
                if output.output_type == "error":
                    assert output.traceback == [output.evalue]
                    assert len(output.evalue) < 300

    def test_names_no_place_on_the_machine_that_ran_it(self, path):
        for cell in load(path).cells:
            if "colab" not in cell.metadata.get("tags", []):
                shown = [json.dumps(o.get("data", o)) for o in cell.get("outputs", [])]
                for text in [cell.source, *shown]:
                    assert not PLACE.search(text), PLACE.search(text)

    def test_holds_no_widget_state_and_no_progress_bars(self, path):
        assert "widgets" not in load(path).metadata
        text = path.read_text()
        assert notebooks.WIDGET_VIEW not in text
        assert "it/s]" not in text

    def test_is_small_enough_for_github(self, path):
        assert path.stat().st_size <= 1_000_000
        for cell, output, _ in pictures(load(path)):
            png = base64.b64decode(output.data["image/png"])
            assert len(png) <= 150_000, cell.source

    def test_has_short_cells(self, path):
        for cell in code(path):
            limit = 30 if "colab" in cell.metadata.get("tags", []) else 20
            assert len(cell.source.splitlines()) <= limit, cell.source


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
class TestNumberedNotebook:
    def test_opens_with_question_aims_needs_times_and_what_is_kept(self, path):
        head = load(path).cells[0].source
        for words in (
            "**Question.**", "**After this notebook you can**", "| Needs |", "| Time |",
            "| Kept on disk |", "| Downloads |",
        ):  # fmt: skip
            assert words in head, words
        assert notebooks.time_row(path.name) in head

    def test_says_that_no_gpu_is_used_where_nothing_asks_for_one(self, path):
        asks = re.compile(r"\bdevice=|default_device|study\.run\(|_(pipeline|workers)\(")
        asking = any(asks.search(c.source) for c in code(path))
        assert asking != ("a GPU, which is not used" in load(path).cells[0].source)

    def test_keeps_every_figure(self, path):
        for cell in code(path):
            drawn = "plt.subplots(" in cell.source or "outlier_sheet(" in cell.source
            assert not drawn or "plots.keep(" in cell.source, cell.source
        assert list((ROOT / "figures").glob(f"{path.stem[:2]}_*.png"))

    def test_ends_with_what_you_can_now_do_and_five_questions(self, path):
        end = load(path).cells[-1].source
        assert "## Now you can" in end
        asked = end.split("**Recap questions**")[1].split("<details>")[0]
        assert len(re.findall(r"^\d\. ", asked, re.M)) == 5
        answers = end.split("<details><summary>Answers</summary>")[1]
        assert re.findall(r"(?<![\d.])([1-5])\. ", answers) == list("12345")

    def test_has_18_to_60_cells(self, path):
        assert 18 <= len(load(path).cells) <= 60

    def test_says_under_every_picture_what_to_see_and_to_those_who_cannot(self, path):
        for cell, output, following in pictures(load(path)):
            assert following is not None and following.cell_type == "markdown", cell.source
            assert following.source.lstrip().startswith("*"), cell.source
            assert output.metadata["image/png"]["alt"], cell.source

    def test_asks_for_a_prediction_with_three_options(self, path):
        text = "\n".join(c.source for c in load(path).cells if c.cell_type == "markdown")
        predictions = text.split("**Prediction.**")[1:]
        assert any(re.search(r"1\. .*2\. .*3\. ", p[:900], re.S) for p in predictions)
        assert "<details>" in text

    def test_has_the_badge_of_its_own_path_and_the_bootstrap(self, path):
        notebook = load(path)
        assert notebooks.badge(f"notebooks/{path.name}") in notebook.cells[0].source
        assert notebook.cells[1].source == notebooks.bootstrap()

    def test_checks_its_panels(self, path):
        assert [c for c in code(path) if re.search(r"\.check\(\)", c.source)]

    def test_has_two_exercises_with_hints_and_solutions(self, path):
        if not WITH_EXERCISES.match(path.stem):
            pytest.skip("exercises are in 01 to 07")
        stubs = [c for c in code(path) if "raises-exception" in c.metadata.get("tags", [])]
        assert len(stubs) >= 2
        assert all("NotImplementedError" in c.source for c in stubs)
        text = "\n".join(c.source for c in load(path).cells)
        assert text.count("<summary>Hint") >= 2 * len(stubs)
        solutions = f"solutions/{path.stem[:2]}_solutions.ipynb"
        assert f"]({solutions})" in text
        assert (path.parent / solutions).exists()


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
def test_as_a_page_every_picture_has_words(path):
    from bs4 import BeautifulSoup  # comes with nbconvert
    from nbconvert import HTMLExporter

    # nbconvert's other template, lab, leaves out the words that a picture carries
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(load(path))
    images = BeautifulSoup(page, "html.parser").find_all("img")
    drawn = [i for i in images if i["src"].startswith("data:image/png")]
    assert len(drawn) == len(list(pictures(load(path))))
    for image in images:
        words = image.get("alt", "")
        assert len(words) > 10 and "No description" not in words, words


# --- the tool -----------------------------------------------------------------------------------


def small():
    png = base64.b64encode(b"\x89PNG").decode()
    drawn = new_output(
        "display_data",
        {"image/png": png, "text/plain": "<Figure>", notebooks.WIDGET_VIEW: {"model_id": "x"}},
    )
    bar = new_output("stream", name="stderr", text="epochs:  50%|###  | 1/2 [00:01<00:01, 1it/s]\n")
    widget_bar = new_output(
        "display_data",
        {"text/plain": "Loading: 0%|  | 0/5 [00:00<?, ?it/s]", notebooks.WIDGET_VIEW: {}},
    )
    warning = new_output("stream", name="stderr", text="UserWarning: look at this\n")
    cells = [
        new_markdown_cell("# 01 · Title\n\n**Question.** Why?"),
        new_code_cell("draw()", outputs=[drawn, bar, widget_bar, warning], execution_count=1),
        new_markdown_cell("*What to see: a $k$ line.*\n\nMore."),
    ]
    return new_notebook(cells=cells, metadata={"widgets": {"state": {}}})


def test_of_a_traceback_one_line_is_kept():
    notebook = small()
    trace = ["Traceback", 'File "/home/me/oal_lite/checks/scores.py", line 3', "the answer"]
    error = new_output("error", ename="NotWritten", evalue="Not written yet", traceback=trace)
    notebook.cells[1].outputs.append(error)
    assert notebooks.tidy(notebook).cells[1].outputs[-1].traceback == [
        "NotWritten: Not written yet"
    ]


def test_what_was_printed_in_pieces_becomes_one():
    notebook = small()
    notebook.cells[1].outputs += [
        new_output("stream", name="stderr", text="UserWarning: and at that\n"),
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stdout", text="b\n"),
    ]
    texts = [o.text for o in notebooks.tidy(notebook).cells[1].outputs if "text" in o]
    assert texts == ["UserWarning: look at this\nUserWarning: and at that\n", "a\nb\n"]


def test_the_time_is_said_in_minutes_and_refreshed(monkeypatch):
    monkeypatch.setattr(notebooks, "SECONDS", {"01": 59, "02": 207})
    assert notebooks.time_row("01_x.ipynb").startswith("| Time | less than 1 minute on 2 CPU")
    notebook = small()
    notebook.cells[0].source += "\n\n| Time | ages |\n| Downloads | none |"
    notebooks.equip(notebook, "notebooks/02_x.ipynb")
    assert "| Time | 3.5 minutes on 2 CPU cores, measured; " in notebook.cells[0].source
    assert "| Downloads | none |" in notebook.cells[0].source
    with pytest.raises(ValueError, match="03_x.ipynb: time it"):
        notebooks.time_row("03_x.ipynb")


def test_tidying_keeps_pictures_and_warnings_and_drops_views_and_bars():
    notebook = notebooks.tidy(small())
    drawn, warning = notebook.cells[1].outputs
    assert set(drawn.data) == {"image/png", "text/plain"}
    assert drawn.metadata["image/png"]["alt"] == "What to see: a k line."
    assert "look at this" in warning.text
    assert "widgets" not in notebook.metadata


def test_a_large_picture_is_reduced_and_still_the_same_to_the_eye():
    import io

    import numpy as np
    from PIL import Image

    x, y = np.mgrid[:300, :300]
    noise = np.random.default_rng(0).integers(0, 20, (300, 300))
    pixels = np.stack([x // 2 + noise, y // 2 + noise, 128 + noise], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    notebook = small()
    data = notebook.cells[1].outputs[0].data
    data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    notebooks.tidy(notebook)
    reduced = base64.b64decode(data["image/png"])
    assert len(reduced) < len(buffer.getvalue()) / 2
    seen = np.asarray(Image.open(io.BytesIO(reduced)).convert("RGB")).astype(int)
    assert np.abs(seen - pixels).mean() < 10


def test_a_panel_brings_its_own_words():
    notebook = small()
    notebook.cells[1].outputs[0].data["text/plain"] = "[a line] it <b>lies</b> at 3"
    assert notebooks.tidy(notebook).cells[1].outputs[0].metadata["image/png"]["alt"] == (
        "[a line] it lies at 3"
    )


def test_equipping_twice_is_equipping_once():
    once = notebooks.equip(small(), "notebooks/01_x.ipynb")
    text = nbformat.writes(once)
    assert nbformat.writes(notebooks.equip(once, "notebooks/01_x.ipynb")) == text
    assert once.cells[0].source.count("Open in Colab") == 1
    assert [c.execution_count for c in once.cells if c.cell_type == "code"] == [1, 2]
    moved = notebooks.equip(once, "notebooks/02_y.ipynb")
    assert "01_x" not in moved.cells[0].source


def test_a_notebook_without_a_title_is_refused():
    notebook = new_notebook(cells=[new_markdown_cell("text")])
    with pytest.raises(ValueError, match="should open with a title"):
        notebooks.equip(notebook, "notebooks/01_x.ipynb")


@pytest.fixture
def colab(tmp_path):
    """A machine like Colab's: a google.colab module, no oal_lite, a pip that only takes notes."""
    stand_ins, origin = tmp_path / "stand_ins", tmp_path / "origin"
    for name in ("google/__init__", "google/colab/__init__", "pip/__init__"):
        (stand_ins / name).parent.mkdir(parents=True, exist_ok=True)
        (stand_ins / f"{name}.py").touch()
    log = tmp_path / "pip.log"
    note = f"import json, sys\nopen({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    (stand_ins / "pip" / "__main__.py").write_text(note)
    (origin / "oal_lite").mkdir(parents=True)
    (origin / "notebooks").mkdir()
    (origin / "notebooks" / "00.ipynb").touch()
    (origin / "oal_lite" / "__init__.py").write_text("HERE = __file__\n")
    git = ["git", "-C", str(origin), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "x"], check=True)
    (tmp_path / "content").mkdir()

    def run(lines, *, colab=True):
        # -S: without this environment's packages, as on a fresh machine
        begin = "import google.colab\n" if colab else ""
        environment = {
            **os.environ, "PYTHONPATH": str(stand_ins), "OAL_LITE_REPOSITORY": f"file://{origin}",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-S", "-c", begin + lines], cwd=tmp_path / "content",
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        calls = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
        return done.stdout, calls

    return run


def test_the_bootstrap_fetches_the_package_once_and_leaves_colabs_own_alone(colab, tmp_path):
    again = notebooks.bootstrap()
    out, calls = colab(
        f"{again}\n{again}\nimport oal_lite; print(oal_lite.HERE); print(os.getcwd())"
    )
    package, folder = out.splitlines()
    assert Path(package) == tmp_path / "content" / "oal-lite" / "oal_lite" / "__init__.py"
    assert Path(folder) == tmp_path / "content" / "oal-lite" / "notebooks"
    (call,) = calls
    assert call[:4] == ["install", "--quiet", "--no-deps", "-e"]
    wanted = {re.split(r"[<>=]", r)[0] for r in call[5:]}
    assert "jaxtyping" in wanted
    assert not wanted & {"torch", "numpy", "pandas", "torchvision"}


def test_away_from_colab_the_bootstrap_does_nothing(colab, tmp_path):
    _, calls = colab(notebooks.bootstrap(), colab=False)
    assert calls == []
    assert list((tmp_path / "content").iterdir()) == []
