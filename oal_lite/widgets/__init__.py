"""Slider panels for the notebooks: one module per panel, all built on `panel.Panel`."""

from oal_lite.widgets.information import information_panel
from oal_lite.widgets.knn import knn_panel
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.threshold import threshold_panel

__all__ = ["Panel", "information_panel", "knn_panel", "threshold_panel"]
