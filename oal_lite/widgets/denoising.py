"""Panel 4: the diffusion itself. Noise is put on a latent, and taken off again in N steps.

Forward, in one go: z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) e with Gaussian noise e, where a_t is the
share of the signal's variance left at noise level t. Back: the UNet says at each of N levels
between t and 0 what of z is noise. Everything is made beforehand, on a grid.

Source: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, equation 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from oal_lite.arguments import need_names, need_whole
from oal_lite.diffusion_outliers import condition, decode, encode, word_embeddings
from oal_lite.widgets.panel import Panel
from oal_lite.widgets.stage import stage


def add_noise(
    latents: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"], signal: float
) -> Float[Tensor, "n c h w"]:
    """Forward diffusion in one go: sqrt(a) z + sqrt(1 - a) e, with a = `signal` in [0, 1].

    Raises:
        ValueError: if `signal` is outside [0, 1].
    """
    if not 0 <= signal <= 1:
        raise ValueError(f"signal={signal}: expected a share of the variance, from 0 to 1")
    return signal**0.5 * latents + (1 - signal) ** 0.5 * noise


def levels_down(level: int, steps: int) -> list[int]:
    """Noise levels that are visited from `level` downwards, `steps` of them, evenly spaced.

    Raises:
        ValueError: if there are more steps than levels, or less than one.
    """
    if not 1 <= steps <= level:
        raise ValueError(f"{steps} steps from noise level {level}: expected 1 to {level} steps")
    return [round(level * (steps - i) / steps) for i in range(steps)]


@torch.no_grad()
def denoise(
    pipeline, latents: Float[Tensor, "n c h w"], words: Sequence[str], *, level: int, steps: int  # noqa: ANN001
) -> Float[Tensor, "n c h w"]:  # fmt: skip
    """Take the noise off latents of one noise level, in N steps of the pipeline's own solver.

    The prompt holds the plain class word of each latent; there is no guidance.

    Raises:
        ValueError: as `levels_down`.
    """
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(timesteps=levels_down(level, steps))
    embedded = condition(pipeline, word_embeddings(pipeline, words), words)
    z = latents.to(embedded)
    for t in scheduler.timesteps:
        predicted = pipeline.unet(z, t.to(z.device), encoder_hidden_states=embedded).sample
        z = scheduler.step(predicted, t, z).prev_sample
    return z.float().cpu()


@dataclass(frozen=True)
class Journey:
    """Latents of some images at every noise level, and the way back in several numbers of steps.

    Attributes:
        words: the class word of each image.
        images: the originals.
        clean: their latents.
        signal: share of the variance that is signal, by noise level.
        noised, noised_images: by noise level.
        restored, restored_images: by (noise level, steps).
    """

    words: tuple[str, ...]
    images: UInt8[Tensor, "n 3 h w"]
    clean: Float[Tensor, "n c h2 w2"]
    signal: dict[int, float]
    noised: dict[int, Tensor]
    noised_images: dict[int, Tensor]
    restored: dict[tuple[int, int], Tensor]
    restored_images: dict[tuple[int, int], Tensor]


def make_journey(
    pipeline, images: UInt8[Tensor, "n 3 h w"], words: Sequence[str], *,  # noqa: ANN001
    levels: Sequence[int] = (50, 150, 300, 450, 600, 800, 999),
    steps: Sequence[int] = (1, 2, 5, 10, 20), generator: torch.Generator | None = None,
    progress: bool = False,
) -> Journey:  # fmt: skip
    """Noise on, noise off, for every level and number of steps; one noise for all levels.

    Raises:
        ValueError: as `levels_down`, or if words and images differ in number.
    """
    need_names(words=words)
    for t in levels:
        need_whole(level=t)
        if not 0 <= t < len(pipeline.scheduler.alphas_cumprod):
            last = len(pipeline.scheduler.alphas_cumprod) - 1
            raise ValueError(f"noise level {t}; expected 0 to {last}, the levels of the scheduler")
    if not len(levels) or not len(steps):
        raise ValueError("levels or steps are empty; expected at least one of each")
    if len(words) != len(images):
        raise ValueError(f"{len(words)} words for {len(images)} images; give one word each")
    generator = generator or torch.Generator().manual_seed(0)
    clean = encode(pipeline, images)
    noise = torch.randn(clean.shape, generator=generator)
    signal = {t: pipeline.scheduler.alphas_cumprod[t].item() for t in levels}
    noised = {t: add_noise(clean, noise, signal[t]) for t in levels}
    restored = {
        (t, n): denoise(pipeline, noised[t], list(words), level=t, steps=n)
        for t in tqdm(levels, desc="noise levels", leave=False, disable=not progress)
        for n in steps
    }
    return Journey(
        tuple(words), images, clean, signal, noised,
        {t: decode(pipeline, z) for t, z in noised.items()}, restored,
        {key: decode(pipeline, z) for key, z in restored.items()},
    )  # fmt: skip


def draw(journey: Journey, image: int, level: int, steps: int):  # noqa: ANN201
    """Original, noised and restored: the first channel of the latent, and the decoded image."""
    key = (level, steps)
    latents = [journey.clean, journey.noised[level], journey.restored[key]]
    images = [journey.images, journey.noised_images[level], journey.restored_images[key]]
    titles = ["original, $z_0$", f"noised, $z_t$, t = {level}", f"back in N = {steps}"]
    figure, axes = stage((11, 2.1), 6, left=0.01, right=0.99, bottom=0.02, top=0.9, wspace=0.06)
    for i, title in enumerate(titles):
        axes[2 * i].imshow(latents[i][image, 0], cmap="cividis", vmin=-3, vmax=3)
        axes[2 * i].set_title(f"{title}: channel 1", fontsize=9)
        axes[2 * i + 1].imshow(images[i][image].permute(1, 2, 0))
        axes[2 * i + 1].set_title("decoded", fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    lost = (journey.restored[key] - journey.clean)[image].square().mean().sqrt()
    size = journey.clean[image].square().mean().sqrt()
    sentence = (
        f"At noise level t = {level}, {journey.signal[level]:.1%} of the latent's variance is "
        f"still signal. After {steps} step{'s' * (steps > 1)} back, the latent of this "
        f"{journey.words[image]} differs from the original by {lost / size:.0%} of its size."
    )
    return figure, sentence


def denoising_panel(journey: Journey) -> Panel:
    """Choose an image, how much noise goes on, and in how many steps it comes off."""
    levels = sorted(journey.signal)
    steps = sorted({n for _, n in journey.restored})
    controls = {
        "level": ipywidgets.SelectionSlider(
            options=levels, value=levels[len(levels) // 2], description="t, noise level"
        ),
        "steps": ipywidgets.SelectionSlider(
            options=steps, value=steps[-1], description="N, steps back"
        ),
        "image": ipywidgets.Dropdown(
            options=[(word, i) for i, word in enumerate(journey.words)], description="image"
        ),
    }
    return Panel(
        controls, lambda level, steps, image: draw(journey, image, level, steps),
        alt="A latent and its image: original, with noise, and with the noise taken off",
    )  # fmt: skip
