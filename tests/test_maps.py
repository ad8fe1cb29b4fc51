"""Maps for looking at, and the measured number beside them."""

import sys

import pytest
import torch

from oal_lite.maps import joint_map, knn_purity


def groups(n=30):
    generator = torch.Generator().manual_seed(0)
    shift = torch.tensor([6.0, 0.0, 0.0, 0.0])
    x, y = torch.randn(2, n, 4, generator=generator)
    return {"a": x + shift, "b": y - shift}


def test_purity_by_hand():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert knn_purity(features, torch.tensor([0, 0, 1, 1]), 1).tolist() == [1, 1, 1, 1]
    assert knn_purity(features, torch.tensor([0, 1, 1, 1]), 1).tolist() == [0, 0, 1, 1]
    assert knn_purity(features, torch.tensor([0, 0, 1, 1]), 3).tolist() == pytest.approx(
        [1 / 3] * 4
    )


def test_purity_does_not_see_the_length_of_a_feature():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    assert torch.equal(knn_purity(x, labels, 5), knn_purity(x * torch.rand(20, 1), labels, 5))


def test_purity_refuses_more_neighbours_than_there_are():
    with pytest.raises(ValueError, match="k=4: expected 1 to 3"):
        knn_purity(torch.ones(4, 2), torch.zeros(4, dtype=torch.long), 4)


def test_a_joint_map_keeps_groups_apart_and_is_the_same_again():
    pytest.importorskip("umap")
    first, again = joint_map(groups()), joint_map(groups())
    assert {k: tuple(v.shape) for k, v in first.items()} == {"a": (30, 2), "b": (30, 2)}
    for name in first:
        assert torch.equal(first[name], again[name])
    gap = (first["a"].mean(0) - first["b"].mean(0)).norm()
    assert gap > 2 * max(first["a"].std(0).max(), first["b"].std(0).max())


def test_without_umap_the_principal_components_are_shown_and_said(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "umap", None)
    flat = joint_map(groups())
    assert "principal components" in caplog.text
    assert (flat["a"][:, 0].mean() - flat["b"][:, 0].mean()).abs() > 1


def test_too_many_points_are_refused_before_anything_is_computed():
    with pytest.raises(ValueError, match="at most 4096"):
        joint_map({"a": torch.ones(5000, 2)})


def test_chance_leaves_out_the_point_itself():
    from oal_lite.widgets.maps import Space, _chance

    space = Space({"id": torch.randn(3, 2), "near": torch.randn(2, 2)}, {})
    assert _chance(space) == {"id": 2 / 4, "near": 1 / 4}
