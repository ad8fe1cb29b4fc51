"""The slider panels in a real browser: JupyterLab, Chromium, a keyboard.

One server and one browser for all notebooks. Of each notebook only what its panels need is run:
no exercises, no `check()` cells, nothing after the last panel; nbval runs all of it.
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE = 400_000  # ms, for a notebook to run on a busy machine
seconds: list[float] = []  # from a key to the new picture, over all panels


def panels_only(path):
    """The notebook without outputs, exercises and checks, up to its last panel."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    checks = [i for i, c in enumerate(cells) if re.search(r"\.check\(\)", c.source)]
    if not checks:
        return None
    kept = [
        c for i, c in enumerate(cells[: checks[-1]])
        if i not in checks and "raises-exception" not in c.metadata.get("tags", [])
    ]  # fmt: skip
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
        **os.environ, "OAL_LITE_SMOKE": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1",
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


def look(panel):
    """Address of the picture and text of the sentence, as the page shows them now."""
    return panel.evaluate(
        """p => [p.querySelector('img.oal-panel-picture').src,
                 p.querySelector('.oal-panel-sentence').textContent]"""
    )


def changed(page, panel, before, both):
    """Wait until picture and sentence are new (or one of them), and note the seconds."""
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
    seconds.append(time.perf_counter() - started)


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
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_function(
        """() => {
            const code = window.jupyterapp.shell.currentWidget.content.widgets
                .map(w => w.model).filter(m => m.type === 'code' && m.sharedModel.source.trim());
            const failed = code.some(m => m.outputs.toJSON().some(o => o.output_type === 'error'));
            return failed || code.every(m => m.executionCount && m.executionState !== 'running');
        }""",
        timeout=PATIENCE,
    )
    outputs = page.evaluate(
        """() => window.jupyterapp.shell.currentWidget.content.widgets.map(w => w.model)
            .filter(m => m.type === 'code').flatMap(m => m.outputs.toJSON())
            .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)"""
    )
    assert outputs == []
    found = page.locator(".jp-OutputArea-output .widget-vbox:has(> img.oal-panel-picture)")
    found.first.wait_for(timeout=60_000)
    expected = len(re.findall(r"_panel\(", "\n".join(c.source for c in NOTEBOOKS[name].cells)))
    assert 1 <= found.count() <= max(expected, 1)
    n_sliders = 0
    for panel in found.all():
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
            changed(page, panel, before, both=True)
            n_sliders += 1
        for choice in panel.locator("select").all():
            before, value = look(panel), choice.evaluate("s => s.selectedIndex")
            choice.select_option(index=0 if value else 1)
            changed(page, panel, before, both=False)
        before = look(panel)
        panel.locator("button").first.click()
        changed(page, panel, before, both=False)
    assert n_sliders or page.locator("select").count()
    assert "javascript error" not in page.content()
    assert errors == []
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def test_the_answer_times_are_said(capsys):
    if not seconds:
        pytest.skip("no slider was moved")
    with capsys.disabled():
        median = 1000 * statistics.median(seconds)
        print(f"\n[browser] {len(seconds)} moves, median answer {median:.0f} ms", end=" ")
