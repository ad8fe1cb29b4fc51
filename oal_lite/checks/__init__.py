"""Checks of the notebooks' exercises: one module per notebook, all re-exported here.

Every `check_...` takes the function that the exercise asks for. It returns one sentence if the
answer is right. If it is not, it raises `answers.NotRight`, or `answers.NotWritten` for a stub,
with one helpful sentence; Jupyter shows that sentence and no traceback.
"""

from oal_lite.checks.knn_outliers import (
    check_kth_distance,
    check_own_percentile,
    check_sigma_for_cosine,
)
from oal_lite.checks.maps import check_chance, check_purity
from oal_lite.checks.mutual_information import (
    check_club,
    check_gaussian_mutual_information,
    check_most_information_from_class_pairs,
)
from oal_lite.checks.results import check_group_mean, check_paired
from oal_lite.checks.scores import check_auroc, check_energy, check_fpr95
from oal_lite.checks.synthesis import check_column_means, check_guide
from oal_lite.checks.training import check_distillation, check_shares

__all__ = [
    "check_auroc", "check_chance", "check_club", "check_column_means", "check_distillation",
    "check_energy", "check_fpr95", "check_gaussian_mutual_information", "check_group_mean",
    "check_guide", "check_kth_distance", "check_most_information_from_class_pairs",
    "check_own_percentile", "check_paired", "check_purity", "check_shares",
    "check_sigma_for_cosine",
]  # fmt: skip
