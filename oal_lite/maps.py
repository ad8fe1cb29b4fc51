"""Maps of feature spaces: many numbers an image brought down to two, for looking at only.

A map keeps *neighbours* where it can. It does not keep distances, densities or the sizes of
clusters, and what it shows apart may lie close in the space it came from. So a measured number
from the space itself, `knn_purity`, belongs beside every map; and no score is ever read off one.
"""

import logging
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oal_lite.arguments import need_floats, need_integers, need_number, need_whole

log = logging.getLogger(__name__)
MOST_POINTS = 4096  # beyond that umap-learn changes its algorithm and takes half a minute


def joint_map(
    groups: Mapping[str, Float[Tensor, "n d"]], *, n_neighbors: int = 15, min_dist: float = 0.1,
    seed: int = 0,
) -> dict[str, Float[Tensor, "n 2"]]:  # fmt: skip
    """One UMAP of all groups together, on the unit sphere; the points of each group.

    The groups are fitted jointly: `transform` would lay points of an unknown group over the known
    ones. Deterministic on one machine, for one seed. Without umap-learn, the two first principal
    components, with a message.

    Raises:
        ValueError: if there are more than 4,096 points in all, or fewer than `n_neighbors`.

    Source: McInnes et al., "UMAP", arXiv:1802.03426.
    """
    _check_groups(groups)
    need_whole(n_neighbors=n_neighbors, seed=seed)
    need_number(min_dist=min_dist)
    if n_neighbors < 2 or not 0 <= min_dist <= 1 or not 0 <= seed < 2**32:
        raise ValueError(
            f"n_neighbors={n_neighbors}, min_dist={min_dist}, seed={seed}: expected n_neighbors of "
            "at least 2, min_dist of 0 to 1 and a seed of at least 0"
        )
    sizes = [len(x) for x in groups.values()]
    if not n_neighbors < sum(sizes) <= MOST_POINTS:
        raise ValueError(
            f"{sum(sizes)} points with n_neighbors={n_neighbors}: expected more points than "
            f"neighbours and at most {MOST_POINTS}; draw some of them"
        )
    x = torch.cat([group.detach().cpu().float() for group in groups.values()])
    x = torch.nn.functional.normalize(x, dim=1)
    try:
        from umap import UMAP
    except ImportError:
        log.warning("umap-learn is not installed; the map shows two principal components instead")
        flat = x - x.mean(0)
        flat = flat @ torch.linalg.svd(flat, full_matrices=False).Vh[:2].T
    else:
        fit = UMAP(n_neighbors=n_neighbors, min_dist=min_dist, random_state=seed, n_jobs=1)
        flat = torch.from_numpy(fit.fit_transform(x.numpy()))
    return dict(zip(groups, flat.split(sizes), strict=True))


def knn_purity(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], k: int = 10
) -> Float[Tensor, " n"]:
    """For each point, the share of its k nearest others that have its own label, by cosine.

    Raises:
        ValueError: if k is not between 1 and n - 1.
    """
    need_floats(features=features)
    need_integers(labels=labels)
    need_whole(k=k)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
            "expected a matrix and one label per row"
        )
    n = len(features)
    if not 1 <= k < n:
        raise ValueError(f"k={k}: expected 1 to {n - 1}, since {n} points have {n - 1} others")
    z = torch.nn.functional.normalize(features.float(), dim=1)
    near = (z @ z.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices
    return (labels[near] == labels[:, None]).float().mean(1)


def _check_groups(groups: Mapping[str, Tensor]) -> None:
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(f"groups are a {type(groups).__name__}; expected features by name")
    need_floats(**groups)
    shapes = {name: tuple(x.shape) for name, x in groups.items()}
    if {len(s) for s in shapes.values()} != {2} or len({s[1] for s in shapes.values()}) > 1:
        raise ValueError(f"groups have shapes {shapes}; expected matrices of one width")
    if wrong := [name for name, x in groups.items() if not x.isfinite().all()]:
        raise ValueError(f"groups {wrong} hold NaN or infinity: leave those rows out")
