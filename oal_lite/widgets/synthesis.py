"""Panel 3: from the class word to the outlier, and what diffusion makes of every step between.

The vector in the prompt moves on the unit sphere from the word's own token (strength 0) to the
outlier (strength 1). One picture takes up to a second, so a grid of them is made beforehand and
the sliders only look things up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import ipywidgets
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from oal_lite.arguments import need_count, need_floats, need_names
from oal_lite.diffusion_outliers import decode, synthesise, word_embeddings
from oal_lite.presets import PROMPT
from oal_lite.scores import energy
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage

Settings = tuple[float, float, int, int]  # strength, guidance, steps, seed


@dataclass(frozen=True)
class Sample:
    """One latent, the image it decodes to, and what the teacher says of that image."""

    latent: Float[Tensor, "c h w"]
    image: UInt8[Tensor, "3 h2 w2"]
    logits: Float[Tensor, " k"]


def mix(
    token: Float[Tensor, " d"], outlier: Float[Tensor, " d"], strength: float
) -> Float[Tensor, " d"]:
    """Direction between two vectors: unit((1 - s) token / |token| + s outlier / |outlier|).

    Raises:
        ValueError: if the strength s is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength={strength}: expected a number from 0 (the word) to 1 (the outlier)"
        )
    between = (1 - strength) * token / token.norm() + strength * outlier / outlier.norm()
    return between / between.norm()


def sample_grid(
    pipeline, teacher, word: str, outlier: Float[Tensor, " d"], *,  # noqa: ANN001
    strengths: Sequence[float] = (0, 0.25, 0.5, 0.75, 1), guidances: Sequence[float] = (1, 3, 7.5),
    steps: Sequence[int] = (5, 10, 20), n_seeds: int = 3, prompt: str = PROMPT,
    progress: bool = False,
) -> dict[Settings, Sample]:  # fmt: skip
    """Every combination of the settings; samples of one seed start from the same noise.

    Raises:
        ValueError: for an outlier that is not as wide as a word, and as `mix` and `synthesise`.
    """
    need_count(n_seeds=n_seeds)
    need_floats(outlier=outlier)
    token = word_embeddings(pipeline, [word])[0].cpu()
    if outlier.shape != token.shape:
        raise ValueError(
            f"outlier has shape {tuple(outlier.shape)}; expected {tuple(token.shape)}, the width "
            "of a word's embedding"
        )
    grid: dict[Settings, Sample] = {}
    combinations = list(product(strengths, guidances, steps))
    for strength, guidance, n in tqdm(combinations, desc="grid", leave=False, disable=not progress):
        direction = mix(token, outlier.cpu(), strength)
        latents = synthesise(
            pipeline, direction.expand(n_seeds, -1), word, prompt=prompt, steps=n,
            guidance=guidance, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        images = decode(pipeline, latents)
        logits = teacher(images).logits
        for seed in range(n_seeds):
            key = (strength, guidance, n, seed)
            grid[key] = Sample(latents[seed], images[seed], logits[seed])
    return grid


def draw(grid: dict[Settings, Sample], word: str, class_names: Sequence[str], **at):  # noqa: ANN003, ANN201
    """Channels of one latent, what it decodes to, and the same from the word alone."""
    sample = grid[at["strength"], at["guidance"], at["steps"], at["seed"]]
    plain = grid[min(k[0] for k in grid), at["guidance"], at["steps"], at["seed"]]
    channels = len(sample.latent)
    figure, (*of_latent, scale, gap, decoded, by_word) = stage(
        (9.5, 1.9), channels + 4, width_ratios=(*[1] * channels, 0.06, 0.12, 1, 1),
        left=0.01, right=0.99, bottom=0.04, top=0.86, wspace=0.1,
    )  # fmt: skip
    how = {"cmap": "cividis", "vmin": -3, "vmax": 3}
    for i, (ax, channel) in enumerate(zip(of_latent, sample.latent, strict=True)):
        ax.imshow(channel, **how)
        ax.set_title(f"channel {i + 1}", fontsize=10)
    for ax, image, title in (
        (decoded, sample.image, "decoded"), (by_word, plain.image, "from the word"),
    ):  # fmt: skip
        ax.imshow(image.permute(1, 2, 0))
        ax.set_title(title, fontsize=10)
    for ax in (*of_latent, decoded, by_word):
        ax.set(xticks=[], yticks=[])
    # A colour bar of pixels: matplotlib's own is made anew for every picture.
    scale.imshow(torch.linspace(3, -3, 61)[:, None], extent=(0, 1, -3, 3), aspect="auto", **how)
    scale.set(xticks=[], yticks=[-2, 0, 2])
    scale.yaxis.tick_right()
    scale.tick_params(labelsize=9, pad=1)
    gap.axis("off")
    for ax in (*of_latent, scale, decoded, by_word):
        ax.grid(False)
    shares = sample.logits.softmax(0)
    named, of_word = class_names[shares.argmax()], shares[list(class_names).index(word)]
    besides = "" if named == word else f", as {word} with {of_word:.0%}"
    moved = (sample.latent - plain.latent).norm() / plain.latent.norm()
    sentence = (
        f"Strength s = {at['strength']:g}, guidance w = {at['guidance']:g}, N = {at['steps']}, "
        f"seed {at['seed']}: the latent has moved by {moved:.0%} of the length of "
        f"the word's own latent. The teacher reads the picture as <b>{named}</b> "
        f"({shares.max():.0%}){besides}; energy {energy(sample.logits[None]).item():.1f} "
        "(high = OOD)."
    )
    return figure, sentence


def synthesis_panel(
    grid: dict[Settings, Sample], word: str, class_names: Sequence[str]
) -> Panel:  # fmt: skip
    """Sliders for outlier strength, guidance, steps and seed over a `sample_grid`.

    Raises:
        ValueError: if there is no sample, or the word is not one of the class names.
    """
    if not grid:
        raise ValueError("the grid is empty; make one with sample_grid")
    need_names(class_names=class_names)
    n_classes = len(next(iter(grid.values())).logits)
    if n_classes != len(class_names):
        raise ValueError(f"the grid's teacher knows {n_classes} classes, not {len(class_names)}")
    if word not in class_names:
        raise ValueError(f"{word!r} is not a class name; choose one of {', '.join(class_names)}")
    names = ("strength", "guidance", "steps", "seed")
    labels = ("s, outlier strength", "w, guidance", "N, denoising steps", "seed of the noise")
    starts = (1, 0.5, 1, 0)  # relative places: full strength, middling guidance, most steps
    controls = {}
    for i, (name, label, start) in enumerate(zip(names, labels, starts, strict=True)):
        options = sorted({key[i] for key in grid})
        controls[name] = ipywidgets.SelectionSlider(
            options=options, value=options[round(start * (len(options) - 1))], description=label
        )
    return Panel(
        controls,
        lambda **at: draw(grid, word, class_names, **at),
        alt=f"Channels of a latent, its decoded image, and the image from the word {word}",
    )
