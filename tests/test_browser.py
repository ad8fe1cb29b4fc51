"""The slider panels in a real browser: JupyterLab, Chromium, a keyboard.

One server and one browser for all notebooks. Of each notebook only what its panels need is run:
the panels' cells, and those that make what they look up; nbval runs all of it.

What a reader waits for is printed: from running a panel's cell to its picture on the page, and from
a key to the next picture. `OAL_LITE_SMOKE=0 pytest -s tests/test_browser.py` measures full size.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from statistics import median

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
PANEL = re.compile(r"\b(\w+)_panel\(")
PATIENCE = 400_000  # ms, for a notebook to run on a busy machine
# By notebook and panel: seconds from a key to the new picture, and from a cell's run to its first.
moves: dict[str, list[float]] = defaultdict(list)
first: dict[str, float] = {}


def makes_and_needs(source):
    """Names that a cell gives a value to or changes, and names that must have one before it."""
    made, changed, looked_up = set(), set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (looked_up if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            changed |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            changed.add(node.target.id)
    return made | changed, looked_up - made | changed


def panels_only(path):
    """The notebook without outputs, of the panels' cells and what they need; panels are tagged."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    checks = [i for i, c in enumerate(cells) if re.search(r"\.check\(\)", c.source)]
    if not checks:
        return None
    for i in checks:  # a check stands right after its panel
        cells[i - 1].metadata["panel"] = PANEL.search(cells[i - 1].source)[1]
    kept, wanted = [], set()
    for i in range(checks[-1] - 1, -1, -1):
        if i in checks or "raises-exception" in cells[i].metadata.get("tags", []):
            continue
        made, needed = makes_and_needs(cells[i].source)
        if "panel" in cells[i].metadata or made & wanted:
            kept.insert(0, cells[i])
            wanted = wanted - made | needed
    for cell in kept:
        cell.outputs, cell.execution_count = [], None
    notebook.cells = kept
    return notebook


NOTEBOOKS = {
    path.stem: notebook
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    if (notebook := panels_only(path)) is not None
}
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium in PATH (Debian, Ubuntu: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab that serves the panels, with settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "root" / "notebooks").mkdir(parents=True)
    (folder / "root" / "figures").symlink_to(ROOT / "figures")
    for name, notebook in NOTEBOOKS.items():
        nbformat.write(notebook, folder / "root" / "notebooks" / f"{name}.ipynb")
    # otherwise cells out of sight are not in the page, and neither are their sliders
    settings = folder / "settings" / "@jupyterlab"
    (settings / "notebook-extension").mkdir(parents=True)
    (settings / "notebook-extension" / "tracker.jupyterlab-settings").write_text(
        '{"windowingMode": "none"}'
    )
    (settings / "apputils-extension").mkdir()
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ, "OAL_LITE_SMOKE": os.environ.get("OAL_LITE_SMOKE", "1"),
        "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1",
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    environment.pop("MPLBACKEND", None)  # the tests' own; a notebook draws inline
    log = (folder / "log.txt").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
         f"--port={port}", f"--ServerApp.root_dir={folder / 'root'}", "--IdentityProvider.token=",
         "--LabApp.expose_app_in_browser=True"],
        env=environment, stdout=log, stderr=log, cwd=folder,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, folder / "log.txt")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def wait_for(address, server, log, limit=120):
    """Until the server answers, or for two minutes."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(f"{address}/api", timeout=5)
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from JupyterLab in {limit} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all notebooks."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


RUN = """async patience => {
    const { commands, shell } = window.jupyterapp, nb = shell.currentWidget.content, first = {};
    const drawn = () => [...nb.node.querySelectorAll('img.oal-panel-picture')]
        .filter(i => i.complete && i.naturalWidth > 50).length;
    for (let i = 0; i < nb.widgets.length; i++) {
        const model = nb.widgets[i].model, name = model.getMetadata('panel');
        nb.deselectAll();
        nb.activeCellIndex = i;
        const before = drawn(), started = performance.now();
        const run = commands.execute('notebook:run-cell');
        let done = false;
        run.then(() => { done = true; });
        while (!done || (name && drawn() === before)) {
            if (performance.now() - started > patience) return [first, 'no end of cell ' + i];
            if (name && !(name in first) && drawn() > before)
                first[name] = (performance.now() - started) / 1000;
            await new Promise(resolve => setTimeout(resolve, 10));
        }
        if (name && !(name in first)) first[name] = (performance.now() - started) / 1000;
        const wrong = model.outputs.toJSON().filter(o => o.output_type === 'error');
        if (wrong.length) return [first, wrong[0].ename + ': ' + wrong[0].evalue];
    }
    return [first, ''];
}"""


def look(panel):
    """Address of the picture and text of the sentence, as the page shows them now."""
    return panel.evaluate(
        """p => [p.querySelector('img.oal-panel-picture').src,
                 p.querySelector('.oal-panel-sentence').textContent]"""
    )


def words(panel):
    """What the picture says to those who cannot see it, without the part that never changes."""
    alt = panel.locator("img.oal-panel-picture").get_attribute("alt")
    return alt[alt.index(". ") + 2 :]


def changed(page, panel, before, both):
    """Wait until picture and sentence are new (or one of them); the seconds that took."""
    started = time.perf_counter()
    page.wait_for_function(
        """([p, picture, sentence, both]) => {
            const image = p.querySelector('img.oal-panel-picture');
            const text = p.querySelector('.oal-panel-sentence').textContent;
            const drawn = image.src !== picture && image.complete && image.naturalWidth > 50;
            return both ? drawn && text !== sentence : drawn || text !== sentence;
        }""",
        arg=[panel.element_handle(), *before, both], timeout=60_000,
    )  # fmt: skip
    return time.perf_counter() - started


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_slider_answers_the_keyboard(name, lab, browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.restored", timeout=120_000)
    page.evaluate("() => window.jupyterapp.restored")
    page.wait_for_function(
        """() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status
                 === 'idle'""",
        timeout=120_000,
    )
    times, wrong = page.evaluate(RUN, PATIENCE)
    assert wrong == ""
    expected = [c.metadata["panel"] for c in NOTEBOOKS[name].cells if "panel" in c.metadata]
    assert list(times) == expected
    first.update({f"{name[:2]} {panel}": s for panel, s in times.items()})
    found = page.locator(".jp-OutputArea-output .widget-vbox:has(img.oal-panel-picture)")
    assert found.count() == len(expected)
    n_sliders = 0
    for which, panel in zip(expected, found.all(), strict=True):
        seconds = moves[f"{name[:2]} {which}"]
        panel.scroll_into_view_if_needed()
        for handle in panel.locator(".noUi-handle").all():
            label = handle.evaluate(
                "h => h.closest('.jupyter-widgets').querySelector('label')?.textContent"
            )
            assert label, "a slider without a label"
            before = look(panel)
            at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            handle.focus()
            page.keyboard.press("Home" if at_end else "End")
            seconds.append(changed(page, panel, before, both=True))
            assert words(panel) == look(panel)[1]
            n_sliders += 1
        for choice in panel.locator("select").all():
            before, value = look(panel), choice.evaluate("s => s.selectedIndex")
            choice.select_option(index=0 if value else 1)
            seconds.append(changed(page, panel, before, both=False))
        before = look(panel)
        panel.locator("button").first.click()
        seconds.append(changed(page, panel, before, both=False))
    assert n_sliders or page.locator("select").count()
    assert "javascript error" not in page.content()
    assert errors == []
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def test_the_answer_times_are_said(capsys):
    if not moves:
        pytest.skip("no slider was moved")
    everything = [s for seconds in moves.values() for s in seconds]
    with capsys.disabled():
        print(f"\n[browser] {len(everything)} moves, median {1000 * median(everything):.0f} ms")
        for name, seconds in moves.items():
            print(
                f"[browser] {name:15} first picture {first[name]:5.2f} s, "
                f"{len(seconds):2} moves, median {1000 * median(seconds):4.0f} ms"
            )
