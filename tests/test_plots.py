"""What a figure shows is what it was given."""

import pytest
import torch

from oal_lite import plots
from oal_lite.metrics import paired_test


def test_differences_are_drawn_in_points_with_their_intervals_and_gaps():
    import matplotlib.pyplot as plt

    test = paired_test([0.92, 0.94, 0.97], [0.90, 0.91, 0.93])
    ax = plots.differences({"a": test, "b": None, "c": test}, unit="near AUROC − kd")
    drawn = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "o"]
    assert drawn == [pytest.approx([3.0, 0]), pytest.approx([3.0, 2])]
    (bar, *_) = [c.get_segments()[0] for c in ax.collections]
    assert bar[:, 0].tolist() == pytest.approx([100 * test.low, 100 * test.high])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_xlabel() == "near AUROC − kd, points"
    assert ax.get_ylim() == (2.5, -0.5), "the first row is not at the top"
    plt.close(ax.figure)


def test_scores_that_are_all_alike_have_a_bar_of_some_width():
    import matplotlib.pyplot as plt

    ax = plots.score_histograms({"id": torch.full((5,), 2.0), "near": torch.full((5,), 2.0)})
    low, high = ax.get_xlim()
    assert low < 2 < high
    heights = [p.get_xy()[:, 1].max() for p in ax.patches]
    assert len(heights) == 2 and all(0 < h < 1000 for h in heights)
    plt.close(ax.figure)


def test_the_line_of_fpr95_is_the_largest_score_that_still_flags_95_percent():
    import matplotlib.pyplot as plt

    near = torch.arange(20.0)
    ax = plots.score_histograms({"id": torch.full((4,), 0.5), "near": near})
    assert ax.lines[-1].get_xdata()[0] == 1  # 19 of 20 lie at or above it, and no ID score does
    assert "0% of ID" in ax.lines[-1].get_label()
    plt.close(ax.figure)


def test_a_refused_picture_leaves_no_empty_figure_behind():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for draw in (plots.roc, plots.score_histograms, plots.training_curves):
        with pytest.raises(ValueError, match="are empty"):
            draw({})
    assert plt.get_fignums() == before


def test_a_group_has_one_colour_and_stroke_in_histograms_and_in_roc_curves():
    import matplotlib.pyplot as plt
    from matplotlib.colors import same_color

    scores = torch.linspace(0, 1, 20), torch.linspace(0.5, 2, 20)
    ax = plots.roc({"near-OOD": scores, "far-OOD": scores, "another": scores})
    for line, group in zip(ax.lines, ("near", "far"), strict=False):
        assert same_color(line.get_color(), plots.COLOURS[group])
        assert line.get_linestyle() == plots.STYLES[group]
    assert not same_color(ax.lines[2].get_color(), plots.COLOURS["near"])
    plt.close(ax.figure)
