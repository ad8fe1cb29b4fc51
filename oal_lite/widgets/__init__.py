"""Slider panels for the notebooks: one module per panel, all built on `panel.Panel`."""

from oal_lite.widgets.panel import Panel

__all__ = ["Panel"]
