"""Outliers in the latent space of a diffusion model: an outlier takes a word's place in a prompt.

Take the prompt "A high-quality image of the heart". Before the text encoder reads it, every word
is a vector. Overwrite the vector of "heart" with an outlier feature: the model is now asked for
an image of *something near hearts that is not one*. It answers with a latent, an array of a few
channels that its decoder could turn into an image. The method needs the latent only.

All work goes in batches that are made smaller where memory does not suffice (`batches`).

Source: OAL, arXiv:2406.16525, section 3; the swapped token comes from DREAM-OOD (NeurIPS 2023).
The swap is a hook on the embedding layer: no weight is touched, no library file edited.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from oal_lite import weights
from oal_lite.arguments import (
    check_device,
    need_answers,
    need_choice,
    need_count,
    need_floats,
    need_generator,
    need_number,
    need_whole,
)
from oal_lite.batches import in_batches
from oal_lite.images import check_images
from oal_lite.presets import PROMPT
from oal_lite.teacher import to_float


def load_pipeline(
    path,
    *,
    device: str | torch.device = "cpu",
    dtype=torch.float32,
    download: bool = False,  # noqa: ANN001
):  # noqa: ANN201
    """Load a Stable Diffusion pipeline from a folder in diffusers' format, or by its hub id.

    Only safetensors are read. The safety checker is left out: it reads decoded images, and
    nothing here is decoded to be published. A hub id is fetched only with `download`.

    Raises:
        OSError: if there is no such pipeline.
        ValueError: if a file of it is damaged, or the device is not there.
    """
    import transformers

    check_device(device)
    folder = weights.find(path, download=download)

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would warn of image processors unused here
    try:
        from diffusers import StableDiffusionPipeline

        with weights.loading(path):
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, safety_checker=None,
                feature_extractor=None, requires_safety_checker=False, trust_remote_code=False,
            )  # fmt: skip
    finally:
        transformers.logging.set_verbosity(verbosity)
    pipeline.set_progress_bar_config(disable=True)
    with weights.loading(path):  # where tensors are not there, it fails only here
        return pipeline.to(device)


SAMPLERS = {  # the released code draws 50 steps of "plms"
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
}


def with_sampler(pipeline, sampler: str):  # noqa: ANN001, ANN201
    """The same pipeline with another sampler; the models are shared, not copied.

    Another sampler, or fewer steps of it, is another distribution of latents, not the same one
    made faster: `figures/performance.json` holds how far 20 steps of "dpm++" are from "plms".

    Raises:
        ValueError: if the sampler is not one of `SAMPLERS`.
    """
    import diffusers

    need_choice(SAMPLERS, sampler=sampler)
    name, how = SAMPLERS[sampler]
    scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **how)
    parts = {**pipeline.components, "scheduler": scheduler}
    other = type(pipeline)(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


# --- the swapped word -------------------------------------------------------------------------


def fill(prompt: str, word: str) -> str:
    """Put a class name into the slot of a prompt: `{}` or `{class}`.

    Raises:
        ValueError: if the prompt has no slot, or there is no word.
    """
    if not isinstance(prompt, str) or not isinstance(word, str):
        raise ValueError(f"prompt {prompt!r} and class name {word!r}; expected two texts")
    filled = prompt.replace("{}", word).replace("{class}", word)  # other braces are only text
    if filled == prompt:
        raise ValueError(f"the prompt {prompt!r} has no place for a class name; write {{}} there")
    return filled


def prompt_tokens(tokenizer, prompt: str, word: str) -> tuple[Int[Tensor, " t"], int]:  # noqa: ANN001
    """Token ids of the filled prompt, padded, with the word as exactly one token; its position.

    A word of several sub-tokens ("sting", "ray") is shortened to its first, because the vector
    that will stand there means the whole word. The released code overwrites the first sub-token
    and leaves the others, so that half a word stays in the prompt.

    Raises:
        ValueError: if the prompt has no slot, the word no token, or the prompt is too long.
    """
    ids = tokenizer(fill(prompt, word)).input_ids
    inner = tokenizer(word, add_special_tokens=False).input_ids
    starts = [i for i in range(len(ids)) if inner and ids[i : i + len(inner)] == inner]
    if not starts:
        raise ValueError(
            f"the tokens of the class name {word!r} cannot be found in {fill(prompt, word)!r}; "
            "separate the name from its neighbours by spaces"
        )
    position = starts[-1]  # the slot comes last where the sentence names the word twice
    ids = ids[: position + 1] + ids[position + len(inner) :]
    length = tokenizer.model_max_length
    if len(ids) > length:
        raise ValueError(f"the prompt has {len(ids)} tokens, the text encoder reads {length}")
    return torch.tensor(ids + [tokenizer.pad_token_id] * (length - len(ids))), position


@contextmanager
def swapped_word(
    text_encoder: nn.Module, positions: Int[Tensor, " n"], vectors: Float[Tensor, "n d"]
) -> Iterator[None]:
    """While this context is open, row i of a batch has `vectors[i]` as token `positions[i]`."""

    def swap(module: nn.Module, inputs: tuple, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[torch.arange(len(embedded), device=embedded.device), positions] = vectors.to(
            embedded
        )
        return embedded

    handle = text_encoder.get_input_embeddings().register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def word_embeddings(pipeline, words: Sequence[str]) -> Float[Tensor, "n d"]:  # noqa: ANN001
    """T_c of every word: its token's embedding, the mean where it has several sub-tokens.

    Raises:
        ValueError: if there is no word, or one has no token.
    """
    if isinstance(words, str) or not len(words) or not all(isinstance(w, str) for w in words):
        raise ValueError(f"words {words!r}; expected several, as ['cat', 'dog']")
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    ids = [pipeline.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    if empty := [word for word, i in zip(words, ids, strict=True) if not i]:
        raise ValueError(f"the word {empty[0]!r} has no token; give a class name of letters")
    return torch.stack([table[i].mean(0) for i in ids])


def condition(
    pipeline,
    outliers: Float[Tensor, "n d"],
    class_names: Sequence[str],
    *,
    prompt: str = PROMPT,  # noqa: ANN001
) -> Float[Tensor, "n t d"]:
    """Text-encoder output of the prompt with each outlier, scaled to |T_c|, as the class word.

    Args:
        pipeline: a Stable Diffusion pipeline.
        outliers: one direction per prompt; its length does not matter.
        class_names: one name per outlier.
        prompt: with a slot for the name.

    Raises:
        ValueError: as `prompt_tokens`, and for outliers that are no directions of the right width,
            or not one name for each.
    """
    _check(pipeline, outliers, class_names)
    if len(class_names) != len(outliers):
        raise ValueError(f"{len(class_names)} class names for {len(outliers)} outliers; one each")
    encoder = pipeline.text_encoder
    tokens = {word: prompt_tokens(pipeline.tokenizer, prompt, word) for word in set(class_names)}
    ids = torch.stack([tokens[word][0] for word in class_names]).to(encoder.device)
    positions = torch.tensor([tokens[word][1] for word in class_names], device=encoder.device)
    lengths = word_embeddings(pipeline, class_names).norm(dim=1, keepdim=True)
    directions = nn.functional.normalize(outliers.to(lengths), dim=1)
    with swapped_word(encoder, positions, directions * lengths):
        return encoder(ids)[0]


# --- latents ----------------------------------------------------------------------------------


def _check(pipeline, outliers: Tensor, class_names: Sequence[str]) -> None:  # noqa: ANN001
    need_floats(outliers=outliers)
    width = pipeline.text_encoder.get_input_embeddings().weight.shape[1]
    if outliers.ndim != 2 or outliers.shape[1] != width:
        raise ValueError(
            f"outliers have shape {tuple(outliers.shape)}; expected (n, {width}), because they "
            f"replace word embeddings of {width} numbers: use a teacher with such features"
        )
    lengths = outliers.norm(dim=1)
    if not len(outliers) or not lengths.isfinite().all() or (lengths == 0).any():
        raise ValueError(
            f"{len(outliers)} outliers hold NaN, infinity or a zero row; expected at least one, "
            "and each a direction"
        )
    if not class_names or len(outliers) % len(class_names):
        raise ValueError(
            f"{len(class_names)} class names for {len(outliers)} outliers; give one name each, or "
            "so many that every name covers the same number of consecutive outliers"
        )


@torch.no_grad()
def synthesise(
    pipeline,  # noqa: ANN001
    outliers: Float[Tensor, "n d"],
    class_names: str | Sequence[str],
    *,
    prompt: str = PROMPT,
    steps: int = 50,
    guidance: float = 7.5,
    batch_size: int = 50,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Generate one latent per outlier; nothing is decoded.

    Every latent has a random stream of its own, split from `generator`, so the batch size does
    not change which latents come out (up to rounding).

    Args:
        pipeline: a Stable Diffusion pipeline; its own scheduler is used.
        outliers: directions in the token space, usually from `knn_outliers`.
        class_names: whose word each outlier replaces: one per outlier, or fewer names that cover
            equal runs of consecutive outliers (C names for C * m outliers, class by class).
        prompt: with `{}` where the class name goes.
        steps: denoising steps.
        guidance: classifier-free guidance scale w in e = e_empty + w (e_prompt - e_empty);
            diffusers reads every w up to 1 as 1, the prompt alone.
        batch_size: latents at a time.
        generator: source of all randomness; a fresh one with seed 0 if None.
        progress: show a bar.

    Returns:
        Latents as the UNet sees them (times the VAE's scaling factor), on the CPU in float32.

    Raises:
        ValueError: wrong shapes, steps or batch size below one, negative guidance, or a prompt
            without a slot.
    """
    if isinstance(class_names, str):
        class_names = [class_names]
    if not isinstance(class_names, Sequence):
        raise ValueError(f"class_names={class_names!r}; expected a name, or several")
    class_names = list(class_names)
    _check(pipeline, outliers, class_names)
    need_whole(steps=steps, batch_size=batch_size)
    need_number(guidance=guidance)
    need_generator(generator)
    if steps < 1 or batch_size < 1 or not guidance >= 0:
        raise ValueError(
            f"steps={steps}, batch_size={batch_size}, guidance={guidance}: expected steps and "
            "batch_size of at least 1 and guidance of at least 0"
        )
    generator = generator or torch.Generator().manual_seed(0)
    names = [name for name in class_names for _ in range(len(outliers) // len(class_names))]
    seeds = torch.randint(2**62, (len(outliers),), generator=generator).tolist()
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    empty = pipeline.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    unconditional = pipeline.text_encoder(empty.to(pipeline.text_encoder.device))[0]
    prompts = _distinct(outliers, names)
    # Equal prompts come together, whatever their class, so each is encoded once a batch.
    order = prompts.argsort(stable=True)

    def one_batch(part: slice) -> Tensor:
        batch = order[part]
        _, first, which = np.unique(prompts[batch], return_index=True, return_inverse=True)
        heads = batch[first].tolist()
        embedded = condition(pipeline, outliers[heads], [names[i] for i in heads], prompt=prompt)
        made = pipeline(
            prompt_embeds=embedded[torch.from_numpy(which).to(embedded.device)],
            negative_prompt_embeds=unconditional.expand(len(batch), -1, -1),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=side,
            width=side,
            generator=[torch.Generator().manual_seed(seeds[i]) for i in batch.tolist()],
            output_type="latent",
        )
        return made.images.float().cpu()

    latents = in_batches(
        one_batch, len(order), batch_size, bar="latent outliers" if progress else None
    )
    made = torch.cat(latents)[order.argsort()]
    if not made.isfinite().all():
        raise FloatingPointError(
            f"latents hold NaN or infinity at guidance={guidance}, steps={steps}; lower the "
            "guidance, or load the pipeline in float32"
        )
    return made


def _distinct(outliers: Float[Tensor, "n d"], names: Sequence[str]) -> Int[Tensor, " n"]:
    """Number the distinct prompts: equal numbers where outlier and name are equal."""
    _, vectors = outliers.cpu().unique(dim=0, return_inverse=True)
    places: dict[tuple[int, str], int] = {}
    pairs = zip(vectors.tolist(), names, strict=True)
    return torch.tensor([places.setdefault(pair, len(places)) for pair in pairs])


@torch.no_grad()
def decode(
    pipeline,
    latents: Float[Tensor, "n c h w"],
    *,
    batch_size: int = 100,
    size: int | None = None,  # noqa: ANN001
) -> UInt8[Tensor, "n 3 h2 w2"]:
    """Decode latents to 8-bit images, for looking and for the arms that train on pixels.

    Args:
        pipeline: a Stable Diffusion pipeline; only its VAE is used.
        latents: as `synthesise` returns them.
        batch_size: latents at a time.
        size: side in pixels to which larger images are reduced (bilinear, antialiased); the
            decoder's own (512 of Stable Diffusion v1) if None.

    Raises:
        ValueError: for latents of another shape, or a batch size below one.
    """
    vae = pipeline.vae
    channels = vae.config.latent_channels
    need_floats(latents=latents)
    need_count(batch_size=batch_size, size=1 if size is None else size)
    if not latents.isfinite().all():
        raise ValueError("latents hold NaN or infinity; find what produced them")
    if latents.ndim != 4 or latents.shape[1] != channels or not latents.numel():
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}; expected (n, {channels}, h, w) with n of "
            "at least 1"
        )

    def one_batch(part: slice) -> Tensor:
        z = latents[part].to(vae.device, vae.dtype)
        x = vae.decode(z / vae.config.scaling_factor).sample.float()
        need_answers("decoder", x)
        if size is not None and x.shape[-1] != size:
            x = nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
        return ((x.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return torch.cat(in_batches(one_batch, len(latents), batch_size))


@torch.no_grad()
def encode(
    pipeline,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    batch_size: int = 250,  # noqa: ANN001
) -> Float[Tensor, "n c h2 w2"]:
    """Encode 8-bit images to scaled latents: the mean of the VAE's posterior.

    Images of another size than the pipeline's are resized to it (bilinear, antialiased), so that
    their latents have the shape of those that `synthesise` makes.
    """
    check_images(images)
    need_count(batch_size=batch_size)
    vae = pipeline.vae
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    def one_batch(part: slice) -> Tensor:
        x = to_float(images[part]).to(vae.device, vae.dtype)
        if x.shape[-1] != side:
            x = nn.functional.interpolate(x, size=side, mode="bilinear", antialias=True)
        latents = vae.encode(x).latent_dist.mean.float().cpu()
        need_answers("encoder", latents)
        return latents

    return torch.cat(in_batches(one_batch, len(images), batch_size)) * vae.config.scaling_factor
