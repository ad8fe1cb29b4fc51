"""Checks of the notebooks' exercises: each takes the reader's function, and hints or praises."""

from oal_lite.checks.maps import check_chance, check_purity
from oal_lite.checks.results import check_group_mean, check_paired
from oal_lite.checks.synthesis import check_column_means, check_guide
from oal_lite.checks.training import check_distillation, check_shares

__all__ = [
    "check_chance", "check_column_means", "check_distillation", "check_group_mean", "check_guide",
    "check_paired", "check_purity", "check_shares",
]  # fmt: skip
