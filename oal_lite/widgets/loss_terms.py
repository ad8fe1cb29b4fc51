"""Panel 6: how hard each loss term pulls at the student's weights, and in which direction.

A term t has a gradient g_t in all weights of the student, on one batch. Weighted and summed they
give the step, G = sum_t w_t g_t. All that a weight slider can change follows from the products
g_s . g_t (their Gram matrix), which are computed once; so a move of a slider costs nothing.

MICL is averaged over n random pairings of the same outliers with the same images. Each pairing's
gradient in the features is computed once; the mean goes back through the student once per n.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from oal_lite.arguments import need_count
from oal_lite.mutual_information import ClubNet
from oal_lite.terms import Micl, Step, Term
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


@dataclass(frozen=True)
class Pulls:
    """Products of the terms' gradients on one batch, for several numbers of pairings.

    Attributes:
        names: of the terms.
        weights: with which the arm adds them.
        gram: g_s . g_t by number of pairings, (t, t).
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    gram: Mapping[int, Float[Tensor, "t t"]]


def pairing_gradient(
    q: ClubNet, outliers: Float[Tensor, "b x"], features: Float[Tensor, "b d"], n: int, *,
    generator: torch.Generator,
) -> Float[Tensor, "b d"]:  # fmt: skip
    """Gradient of MICL in the features: the mean over n random pairings with the outliers."""
    features = features.detach().requires_grad_(True)
    total = torch.zeros_like(features)
    for _ in range(n):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        total += torch.autograd.grad(q.bound(outliers[order], features), features)[0]
    return total / n


def measure_pulls(
    student: nn.Module, terms: Iterable[Term], step: Step, *,
    pairings: Sequence[int] = (1, 4, 16, 64, 256, 1024), seed: int = 0,
) -> Pulls:  # fmt: skip
    """Gradients of every term in the student's weights, unweighted, and all their products.

    Args:
        student: whose weights count.
        terms: of an arm, from `recipes.build_terms`; their `before` is called here.
        step: one batch through that student, with its graph.
        pairings: over how many random pairings MICL is averaged, each a position of the slider;
            the outliers of the batch are drawn once.
        seed: of the pairings.

    Raises:
        ValueError: if there are no terms, one looks at images beside the batch, or no pairing is
            asked for.
    """
    for n in pairings:
        need_count(pairings=n)
    if not len(pairings):
        raise ValueError("pairings are empty; expected some numbers of 1 or more, as (1, 10)")
    terms = list(terms)
    if not terms:
        raise ValueError("no loss terms: pass those of recipes.build_terms")
    parameters = list(student.parameters())

    def flat(output: Tensor, direction: Tensor | None = None) -> Tensor:
        grads = torch.autograd.grad(
            output, parameters, direction, retain_graph=True, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in grads])

    for term in terms:
        term.before(step)
    fixed = {t.name: flat(t(step)) for t in terms if not isinstance(t, Micl)}
    gram = {}
    for n in pairings:
        rows = dict(fixed)
        for term in terms:
            if isinstance(term, Micl):
                generator = torch.Generator().manual_seed(seed)
                pick = torch.randint(len(term.vectors), (len(step.labels),), generator=generator)
                mean = pairing_gradient(
                    term.q, term.vectors[pick], step.features, n, generator=generator
                )
                rows[term.name] = flat(step.features, mean)
        g = torch.stack([rows[term.name] for term in terms])
        gram[n] = (g @ g.T).detach().cpu()
    return Pulls(tuple(t.name for t in terms), tuple(t.weight for t in terms), gram)


def shares(
    gram: Float[Tensor, "t t"], weights: Sequence[float]
) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Length of each weighted gradient, and its share of the step they make together.

    The length is |w_t g_t|. The share is (w_t g_t) . G / |G|^2 with G = sum_t w_t g_t: how much of
    the step comes from this term. Shares sum to 1; a negative one pulls against the others. They
    are all zero where G is.
    """
    w = torch.tensor(weights, dtype=gram.dtype)
    lengths = w * gram.diagonal().clamp_min(0).sqrt()
    total = w @ gram @ w
    along = w * (gram @ w)
    return lengths, along / total if total > 0 else torch.zeros_like(along)


def draw(pulls: Pulls, weights: Sequence[float], pairings: int):  # noqa: ANN201
    """Bars of lengths and shares, and how the MICL terms fade as pairings are averaged."""
    lengths, parts = shares(pulls.gram[pairings], weights)
    micl = [i for i, name in enumerate(pulls.names) if name.startswith("MICL")]
    figure, (left, middle, right) = stage(
        (10, 3.2), 3, left=0.2, right=0.99, bottom=0.2, top=0.9, wspace=0.25
    )
    names = [f"{name} × {w:g}" for name, w in zip(pulls.names, weights, strict=True)]
    rows = range(len(names))
    left.barh(rows, lengths.numpy(), color="#0072B2")
    # symmetric logarithm: a MICL pull is often a hundred times shorter than the teacher's
    left.set_xscale("symlog", linthresh=1e-3)
    left.set(xlabel="length of the weighted gradient", xlim=(0, None))
    left.set_yticks(rows, labels=names)
    middle.barh(rows, 100 * parts.numpy(), color="#E69F00", hatch="//", edgecolor="white")
    middle.axvline(0, color="0.3", linewidth=0.8)
    middle.set_yticks(rows, labels=[])
    middle.set_xlabel("share of the step, %")
    left.invert_yaxis()
    middle.invert_yaxis()
    counts = sorted(pulls.gram)
    for marker, i in zip("os", micl, strict=False):
        norms = np.array([pulls.gram[n][i, i].clamp_min(0).sqrt().item() for n in counts])
        right.loglog(counts, norms, marker + "-", label=pulls.names[i])
    if micl:
        right.axvline(pairings, color="0.3", linewidth=0.8)
        right.legend(fontsize="small")
    right.set(xlabel="n, pairings averaged", title="MICL gradient, unweighted")
    for ax in (left, right):
        ax.minorticks_off()  # on a logarithmic axis they take half of the drawing time
    share = sum(abs(lengths[i].item()) for i in micl) / max(lengths.sum().item(), 1e-12)
    first = int(parts.argmax())
    sentence = (
        f"MICL averaged over n = {pairings} pairing{'s' * (pairings > 1)}: its two gradients have "
        f"{share:.2%} of the summed lengths. The step is mostly <b>{pulls.names[first]}</b> "
        f"({parts[first]:.0%} of it)."
        if lengths.any()
        else f"With n = {pairings} and every weight zero there is no step at all."
    )
    return figure, sentence


def loss_terms_panel(pulls: Pulls) -> Panel:
    """A weight slider per term, which terms are on, and the number of pairings averaged."""
    controls = {}
    for i, (name, weight) in enumerate(zip(pulls.names, pulls.weights, strict=True)):
        controls[f"on{i}"] = ipywidgets.Checkbox(True, description=f"{name} on", indent=False)
        if i:  # cross-entropy has weight 1, the others are relative to it
            controls[f"weight{i}"] = ipywidgets.FloatSlider(
                weight, min=0, max=(10 if name.startswith("MICL") else 2) * (weight or 1.0),
                step=(weight or 1.0) / 10, description=f"λ{i}, weight of {name}",
            )  # fmt: skip
    counts = sorted(pulls.gram)
    controls["pairings"] = ipywidgets.SelectionSlider(
        options=counts, value=counts[0], description="n, pairings averaged"
    )

    def render(pairings: int, **at):  # noqa: ANN003, ANN202
        weights = [
            at.get(f"weight{i}", 1.0) * at[f"on{i}"] for i in range(len(pulls.names))
        ]  # fmt: skip
        return draw(pulls, weights, pairings)

    return Panel(controls, render, alt="Bars of the loss terms' gradients, and MICL over pairings")
