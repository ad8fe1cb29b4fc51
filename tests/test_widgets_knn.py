"""Panel 2: what it shows is what `knn_outliers` does."""

import math
import re

import pytest
import torch

from oal_lite.knn_outliers import sample_outliers, unit
from oal_lite.widgets import knn, knn_panel

SETTINGS = {"k": 20, "n_boundary": 12, "n_candidates": 60, "sigma": 0.1, "keep": 3}


@pytest.mark.parametrize("selection", ["farthest", "as_released", "random"])
def test_the_picks_are_the_librarys_own(selection):
    features = knn.toy_class()
    made = knn.sampling_round(features, **SETTINGS, selection=selection, seed=5)
    own = sample_outliers(
        features, **SETTINGS, selection=selection, generator=torch.Generator().manual_seed(5)
    )
    torch.testing.assert_close(made.outliers, own)


def test_percentiles_tell_the_farthest_from_any():
    features = knn.toy_class()
    made = {
        s: knn.sampling_round(features, **SETTINGS | {"keep": 1}, selection=s)
        for s in ("farthest", "as_released")
    }
    assert made["farthest"].percentiles.tolist() == [1.0] * 12
    assert made["as_released"].percentiles.mean() < 0.9


def test_the_map_keeps_every_angle_from_the_centre_and_comes_back():
    generator = torch.Generator().manual_seed(0)
    z = unit(torch.randn(50, 3, generator=generator, dtype=torch.float64))
    plane = knn.to_map(z)
    torch.testing.assert_close(plane.norm(dim=1), z[:, 2].acos())
    torch.testing.assert_close(knn.from_map(plane), z)
    assert plane.norm(dim=1).max() <= math.pi


def test_the_toy_class_lies_on_the_sphere():
    torch.testing.assert_close(knn.toy_class().norm(dim=1), torch.ones(200, dtype=torch.float64))


def percentile(panel):
    return int(re.search(r"at percentile (\d+)", panel.sentence.value)[1])


def test_the_sentence_follows_selection_and_noise():
    panel = knn_panel()
    assert percentile(panel) >= 98
    panel.move(selection="as_released")
    assert percentile(panel) <= 85
    panel.move(selection="farthest", sigma=0.01)
    cosine = float(re.search(r"cosine (-?[\d.]+) with", panel.sentence.value)[1])
    assert cosine > 0.99
    assert f"length about {0.01 * math.sqrt(3):.2f}" in panel.sentence.value


def test_the_whole_panel_walks():
    assert "15 positions of 5 controls" in knn_panel(60).check()


def test_the_first_neighbour_is_the_feature_itself():
    panel = knn_panel(60)
    panel.move(k=1)
    assert "that of an ID feature is 0" in panel.sentence.value


@pytest.mark.usefixtures("own_errors")
def test_a_bug_put_into_the_callback_is_caught_by_the_check(monkeypatch):
    panel = knn_panel(60)
    panel._draw.cache_clear()
    select = knn.select_candidates

    def broken(distances, keep, selection, generator):
        return select(distances, keep, "released" if keep > 5 else selection, generator)

    monkeypatch.setattr(knn, "select_candidates", broken)
    with pytest.raises(ValueError, match="selection='released'"):
        panel.check()
