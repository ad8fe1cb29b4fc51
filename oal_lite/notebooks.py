"""What every notebook carries: Colab's badge and bootstrap, its time, words for its pictures.

    python -m oal_lite.notebooks notebooks/*.ipynb

inserts or refreshes all of it, from the one address below. It is run on executed notebooks, too
(`make notebooks`): it drops what a page or a Lab without a kernel stumbles over.
"""

import argparse
import base64
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from oal_lite import command
from oal_lite.files import write_atomically

REPOSITORY = "https://github.com/oal-lite/oal-lite"  # a placeholder until there is a public one
BADGE_START = "[![Open in Colab]"
BOOTSTRAP_TAG = "colab"
LARGE = 60_000  # bytes of a picture
# Seconds of a first pass in full size on 2 CPU cores, by notebook.
SECONDS = {
    "00": 207, "01": 20, "02": 37, "03": 50, "04": 193, "05": 37, "06": 251, "07": 165, "08": 25,
}  # fmt: skip
CPU_ONLY = ("01", "02", "05")  # they compute on the CPU where there is a GPU, too
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

_BOOTSTRAP = """\
# On Colab this fetches the package and what it lacks; anywhere else it does nothing.
import importlib.util
import os
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("oal_lite") is None:
    address = os.environ.get("OAL_LITE_REPOSITORY", "{repository}")
    folder = os.path.abspath("oal-lite")
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    needed = {{"jaxtyping": "jaxtyping>=0.2.34", "wadler_lindig": "wadler-lindig>=0.1.3",
              "umap": "umap-learn>=0.5.7", "pynndescent": "pynndescent>=0.5"}}
    missing = [r for name, r in needed.items() if importlib.util.find_spec(name) is None]
    # --no-deps: Colab's own torch, numpy and pandas stay as they are
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "-e", folder, *missing], check=True)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    os.chdir(os.path.join(folder, "notebooks"))
"""


def badge(path: str) -> str:
    """Markdown of the badge that opens `path`, relative to the repository's root, on Colab."""
    owner = REPOSITORY.removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{owner}/blob/main/{path}"
    return f"{BADGE_START}(https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def time_row(path: str) -> str:
    """The head's row that says how long the notebook at `path` takes.

    Raises:
        ValueError: if the notebook has not been timed.
    """
    number = Path(path).name[:2]
    if number not in SECONDS:
        raise ValueError(f"{path}: time it, and write its seconds into SECONDS of {__name__}")
    halves = -(-SECONDS[number] // 30)
    minutes = "less than 1 minute" if halves <= 2 else f"{halves / 2:g} minutes"
    unused = "no shorter with a GPU, which is not used"
    gpu = unused if number in CPU_ONLY else "on a GPU not measured"
    return f"| Time | {minutes} on 2 CPU cores, measured; more on slow or shared ones; {gpu} |"


def bootstrap() -> str:
    """Source of the cell that makes a fresh Colab machine ready; it may be run any number of times.

    The environment variable `OAL_LITE_REPOSITORY` names another address to clone from.
    """
    return _BOOTSTRAP.format(repository=REPOSITORY).rstrip("\n")


def equip(notebook, path: str):  # noqa: ANN001, ANN201
    """Put badge, bootstrap and time into a notebook (of nbformat), or refresh them; it is changed.

    The badge follows the title; the bootstrap cell follows the head block.

    Raises:
        ValueError: if the notebook does not open with a title.
    """
    from nbformat.v4 import new_code_cell

    head = notebook.cells[0] if notebook.cells else None
    source = head.source if head else ""
    lines = [line for line in source.split("\n") if not line.startswith(BADGE_START)]
    if not lines or not lines[0].startswith("# "):
        raise ValueError(f"{path}: the first cell should open with a title, '# ...'")
    rest = "\n".join(lines[1:]).lstrip("\n")
    rest = re.sub(r"^\| Time \|.*$", lambda _: time_row(path), rest, flags=re.MULTILINE)
    head.source = f"{lines[0]}\n\n{badge(path)}\n\n{rest}"
    old = [c for c in notebook.cells if BOOTSTRAP_TAG in c.metadata.get("tags", [])]
    if old:
        old[0].source = bootstrap()
        return notebook
    was_run = any(c.get("execution_count") for c in notebook.cells)
    cell = new_code_cell(bootstrap(), metadata={"tags": [BOOTSTRAP_TAG]}, id="colab-bootstrap")
    notebook.cells.insert(1, cell)
    if was_run:  # an empty output is what the cell leaves behind off Colab
        code = [c for c in notebook.cells if c.cell_type == "code"]
        for count, cell in enumerate(code, start=1):
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    return notebook


def tidy(notebook):  # noqa: ANN001, ANN201
    """Make an executed notebook fit to be kept; it is changed.

    Widget views and progress bars go; they mean nothing without the kernel that drew them. What was
    printed in pieces becomes one piece, or pages would show a gap between two lines. Of a traceback
    the last line stays: the rest holds paths of the machine that ran the notebook. Large pictures
    are reduced to 256 colours. Every picture gets words for those who cannot see it: a panel's own,
    or the sentence "What to see" that follows it.
    """
    notebook.metadata.pop("widgets", None)
    for i, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = _joined(o for o in cell.outputs if not _is_progress(o))
        following = notebook.cells[i + 1].source if i + 1 < len(notebook.cells) else ""
        for output in cell.outputs:
            if output.output_type == "error" and len(output.traceback) > 1:
                output.traceback = [f"{output.ename}: {output.evalue}"]
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                words = data.get("text/plain", "")
                alt = re.sub("<[^>]+>", "", words) if words[:1] == "[" else _sentence(following)
                output.metadata["image/png"] = {"alt": alt}
                data["image/png"] = _smaller(data["image/png"])
    return notebook


def _joined(outputs: Iterable) -> list:
    """The outputs, with neighbouring pieces of one stream as one."""
    kept: list = []
    for output in outputs:
        if kept and "text" in output and output.get("name") == kept[-1].get("name"):
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def _smaller(png: str) -> str:
    """A large picture (base64) in 256 colours of its own, so that a notebook stays below 1 MB."""
    import io

    from PIL import Image

    raw = base64.b64decode(png)
    if len(raw) < LARGE:
        return png
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return min(png, base64.b64encode(buffer.getvalue()).decode(), key=len)


def _is_progress(output: dict) -> bool:
    """Whether an output holds nothing but a progress bar, as text or as a widget's text."""
    data = output.get("data", {})
    if output.get("name") == "stderr":
        text = output["text"]
    elif data.keys() <= {"text/plain", WIDGET_VIEW}:
        text = data.get("text/plain", "")
    else:
        return False
    lines = [line for line in re.split(r"[\r\n]|\x1b\[A", text) if line.strip()]
    return bool(lines) and all(re.search(r"\d+%\||it/s\]|s/it", line) for line in lines)


def _sentence(markdown: str) -> str:
    """The italic paragraph with which a cell opens, without its marks."""
    first = markdown.strip().split("\n\n")[0]
    return re.sub(r"[*$`]", "", first).replace("\n", " ") if first.startswith("*") else ""


def main(paths: list[str]) -> int:
    """Equip and tidy notebooks in place; solutions, in a folder of their own, are only tidied."""
    parser = argparse.ArgumentParser(prog="python -m oal_lite.notebooks", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path, help="files, changed in place")
    files = parser.parse_args(paths).notebooks
    return command.guarded(lambda: [_renew(path) for path in files])


def _renew(path: Path) -> None:
    import nbformat

    wrong = (AttributeError, IndexError, KeyError, OSError, RecursionError, TypeError, ValueError)
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)  # reading only warns of what does not fit
        notebook = tidy(notebook)
    except (*wrong, nbformat.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a notebook ({type(error).__name__}: {reason})"
        ) from None
    if path.resolve().parent.name == "notebooks":
        equip(notebook, f"notebooks/{path.name}")
    write_atomically(path, lambda p: nbformat.write(notebook, p))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
