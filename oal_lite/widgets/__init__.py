"""Slider panels for the notebooks: one module per panel, all built on `panel.Panel`."""

from oal_lite.widgets.arms import arms_panel, finished_runs
from oal_lite.widgets.costs import cost_panel
from oal_lite.widgets.denoising import denoising_panel, make_journey
from oal_lite.widgets.energy import energy_panel
from oal_lite.widgets.information import information_panel, train_tracks
from oal_lite.widgets.knn import knn_panel
from oal_lite.widgets.loss_terms import loss_terms_panel, measure_pulls
from oal_lite.widgets.maps import map_panel, map_space
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.synthesis import sample_grid, synthesis_panel
from oal_lite.widgets.threshold import threshold_panel

__all__ = [
    "Panel", "arms_panel", "cost_panel", "denoising_panel", "energy_panel", "finished_runs",
    "information_panel", "knn_panel", "loss_terms_panel", "make_journey", "map_panel", "map_space",
    "measure_pulls", "sample_grid", "synthesis_panel", "threshold_panel", "train_tracks",
]  # fmt: skip
