"""`plots.keep`: a notebook's figure goes to the checkout's `figures/`, and only in full size."""

import matplotlib.pyplot as plt
import pytest

from oal_lite import plots


@pytest.fixture
def figure():
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, 1])
    yield figure
    plt.close(figure)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the repository, seen from its notebooks."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "solutions")
    monkeypatch.delenv("OAL_LITE_SMOKE", raising=False)
    return tmp_path


def test_full_size_writes_a_png_beside_the_readme(figure, checkout):
    plots.keep(figure, "01_roc")
    assert (checkout / "figures" / "01_roc.png").read_bytes()[:4] == b"\x89PNG"


def test_smoke_size_leaves_the_committed_figures_alone(figure, checkout, monkeypatch):
    monkeypatch.setenv("OAL_LITE_SMOKE", "1")
    plots.keep(figure, "01_roc")
    assert not (checkout / "figures").exists()


def test_a_notebook_that_was_carried_away_writes_nothing(figure, checkout):
    (checkout / "pyproject.toml").unlink()
    plots.keep(figure, "01_roc")
    assert not list(checkout.rglob("*.png"))
