"""Post-hoc OOD scores: one number per image from a trained model. High = OOD, for every score.

A confidence c of the literature (high = in-distribution) becomes the score -c, so that its size can
still be compared with published values.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oal_lite.arguments import need_count, need_floats, need_integers, need_number


def msp(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Negative maximum softmax probability, -max_c softmax(logits)_c, in [-1, -1/C].

    Args:
        logits: Class logits, shape (n, c).

    Returns:
        Scores, shape (n,), high = OOD.

    Raises:
        ValueError: If the logits are not a matrix with at least one class.

    Source: Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136.
    """
    _check_matrix(logits, "logits")
    return -logits.softmax(dim=1).amax(dim=1)


def max_logit(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Negative maximum logit, -max_c logits_c.

    Args:
        logits: Class logits, shape (n, c).

    Returns:
        Scores, shape (n,), high = OOD.

    Raises:
        ValueError: If the logits are not a matrix with at least one class.

    Source: Hendrycks et al., ICML 2022, arXiv:1911.11132.
    """
    _check_matrix(logits, "logits")
    return -logits.amax(dim=1)


def energy(logits: Float[Tensor, "n c"], temperature: float = 1.0) -> Float[Tensor, " n"]:
    """Free energy of the logits, -T log sum_c exp(logits_c / T). The score that OAL reports.

    Args:
        logits: Class logits, shape (n, c).
        temperature: T, above 0. OAL uses 1.

    Returns:
        Scores, shape (n,), high = OOD.

    Raises:
        ValueError: If the logits are not a matrix with at least one class, or T is not above 0.

    Source: Liu et al., NeurIPS 2020, arXiv:2010.03759.
    """
    _check_matrix(logits, "logits")
    need_number(temperature=temperature)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0: the usual value is 1.")
    scores = -temperature * torch.logsumexp(logits / temperature, dim=1)
    if not scores.isfinite().all():
        raise ValueError(
            f"temperature={temperature} takes these logits beyond the range of {logits.dtype}: the "
            "usual value is 1."
        )
    return scores


def entropy(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Shannon entropy of the softmax, -sum_c p_c log p_c, in nats, from 0 to log C.

    Args:
        logits: Class logits, shape (n, c).

    Returns:
        Scores, shape (n,), high = OOD.

    Raises:
        ValueError: If the logits are not a matrix with at least one class.
    """
    _check_matrix(logits, "logits")
    # Where p is 0 in this precision, its logarithm may be -inf, and 0 times that is NaN.
    log_p = logits.log_softmax(dim=1).clamp_min(torch.finfo(logits.dtype).min)
    return -(log_p.exp() * log_p).sum(dim=1)


def knn(
    features: Float[Tensor, "n d"],
    bank: Float[Tensor, "m d"],
    k: int,
    chunk_size: int = 1024,
) -> Float[Tensor, " n"]:
    """Distance from each feature to its k-th nearest neighbour in a bank, all on the unit sphere.

    With z = f / |f|, the score is the k-th smallest |z - z_bank|, Euclidean and not squared. A
    feature that is itself in the bank is its own first neighbour.

    Args:
        features: Features to score, shape (n, d).
        bank: Features of ID training images, shape (m, d).
        k: Which neighbour, from 1 to m.
        chunk_size: Queries compared with the bank at once. It bounds memory, not the result.

    Returns:
        Distances, shape (n,), in [0, 2], high = OOD.

    Raises:
        ValueError: If shapes do not match, k or chunk_size is out of range, or a vector is zero
            and so has no direction.

    Source: Sun et al., ICML 2022, arXiv:2204.06507, section 3.
    """
    _check_matrix(features, "features")
    _check_matrix(bank, "bank")
    _check_same_kind(features, bank)
    need_count(k=k, chunk_size=chunk_size)
    if k > len(bank):
        raise ValueError(
            f"k={k} must lie between 1 and the {len(bank)} rows of the bank: lower k or pass more "
            "ID features."
        )
    bank = _unit(bank, "bank")
    distances = []
    for queries in _unit(features, "features").split(int(chunk_size)):
        # On the sphere the nearest have the largest cosine, so one matrix product finds them.
        # The distance is then measured anew: sqrt(2 - 2 cos) has no digits left near 0.
        neighbours = (queries @ bank.T).topk(k, dim=1).indices[:, -1]
        distances.append((queries - bank[neighbours]).norm(dim=1))
    return torch.cat(distances)


def mahalanobis(
    features: Float[Tensor, "n d"],
    bank: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    ridge: float = 1e-6,
) -> Float[Tensor, " n"]:
    """Squared Mahalanobis distance to the nearest class mean, under one shared covariance.

    With class means m_c and the pooled covariance S = (1/m) sum_i (b_i - m_yi)(b_i - m_yi)^T:

        score(f) = min_c (f - m_c)^T (S + ridge tr(S)/d I)^-1 (f - m_c)

    The ridge keeps S invertible where features never vary, as dead ReLU units do, or where there
    are fewer images than dimensions. It is relative to the mean variance, so rescaling all features
    leaves the score as it is. The algebra runs in float64.

    Args:
        features: Features to score, shape (n, d).
        bank: Features of ID training images, shape (m, d).
        labels: Class of each bank row, shape (m,). Any integers; only equality counts.
        ridge: Share of the mean variance added to every variance.

    Returns:
        Squared distances, shape (n,), high = OOD, in the dtype of the features.

    Raises:
        ValueError: If shapes do not match, the ridge is negative, or S is singular even so.

    Source: Lee et al., NeurIPS 2018, arXiv:1807.03888, section 2.1.
    """
    _check_matrix(features, "features")
    _check_matrix(bank, "bank")
    _check_same_kind(features, bank)
    whiten, means = class_gaussians(bank, labels, ridge)
    distances = torch.cdist(features.double() @ whiten, means).amin(dim=1)
    distances = distances.square().to(features.dtype)
    if not distances.isfinite().all():
        raise ValueError(f"distances exceed the range of {features.dtype}: convert by .double().")
    return distances


def class_gaussians(
    bank: Float[Tensor, "m d"], labels: Int[Tensor, " m"], ridge: float = 1e-6
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "c d"]]:
    """The coordinates in which the Mahalanobis distance to a class mean is Euclidean.

    Returns:
        W with W W^T = (S + ridge tr(S)/d I)^-1, so that f W are the coordinates of f; and the class
        means in these coordinates. In float64; the other symbols, and errors, as `mahalanobis`.
    """
    _check_matrix(bank, "bank")
    need_integers(labels=labels)
    if labels.shape != (len(bank),):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} but the bank has {len(bank)} rows: pass one "
            "label per row."
        )
    need_number(ridge=ridge)
    if not ridge >= 0:
        raise ValueError(f"ridge={ridge} must not be negative: the usual value is 1e-6.")
    rows = bank.double()
    classes, members = labels.unique(return_inverse=True)
    sums = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, members, rows)
    means = sums / members.bincount()[:, None]
    residuals = rows - means[members]
    covariance = residuals.T @ residuals / len(rows)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise ValueError(
            f"the pooled covariance of {len(rows)} rows in {len(classes)} classes is singular with "
            f"ridge={ridge}: pass more rows per class, or raise the ridge."
        )
    # With S = L L^T, W = L^-T.
    whiten = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).T
    return whiten, means @ whiten


LOGIT_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "max_logit": max_logit,
    "energy": energy,
    "entropy": entropy,
}
"""Scores that need only logits, by name."""


def _unit(x: Tensor, name: str) -> Tensor:
    norms = x.norm(dim=1, keepdim=True)
    zeros = (norms == 0).sum().item()
    if zeros:
        raise ValueError(
            f"{name} has {zeros} zero rows, which have no direction on the unit sphere: leave them "
            "out, or check the network for dead features."
        )
    if norms.isinf().any():
        raise ValueError(f"{name} has rows too long for {x.dtype}: convert them by .double().")
    return x / norms


def _check_matrix(x: Tensor, name: str) -> None:
    need_floats(**{name: x})
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} but must be (images, columns): stack one row per "
            "image, and use x[None] for a single image."
        )
    wrong = (~x.isfinite()).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"{name} hold NaN or infinity in {int(wrong.sum())} of {len(x)} rows, the first is row "
            f"{int(wrong.nonzero()[0])}: find what produced them, or leave them out."
        )


def _check_same_kind(features: Tensor, bank: Tensor) -> None:
    if features.shape[1] != bank.shape[1]:
        raise ValueError(
            f"features have {features.shape[1]} columns and the bank {bank.shape[1]}: take both "
            "from the same layer of the same network."
        )
    if features.dtype != bank.dtype:
        raise ValueError(
            f"features are of type {features.dtype} and the bank of {bank.dtype}: convert one."
        )
