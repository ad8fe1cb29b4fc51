"""Models of full shape and tiny width with random weights: they know nothing, and run anywhere.

A ViT that reads 224 x 224 px, and a Stable Diffusion pipeline with 4 x 64 x 64 latents and 512 px
images, of the very classes of the large ones. With them the path of the real-image presets is
tried from end to end on a CPU, offline (`--quick`). Numbers that come out mean nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

WIDTH = 16  # of teacher features and of word embeddings


def write_teacher(folder: str | Path, n_classes: int) -> None:
    """Write a random `ViTForImageClassification` for 224 px in patches of 16, 16 numbers wide."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * WIDTH,
        image_size=224, patch_size=16, num_labels=n_classes, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)


def write_pipeline(folder: str | Path, words: Sequence[str]) -> None:
    """Write a random `StableDiffusionPipeline` of four levels, its tokenizer knowing `words`.

    Args:
        folder: where to.
        words: that shall be one token each; others fall apart into letters.
    """
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    from oal_lite.pretrain.models import build_text_encoder, build_tokenizer

    spaced = " ".join(words).lower().replace("-", " - ").replace("{}", " ")
    pieces = dict.fromkeys(spaced.split())  # as the tokenizer will take them apart
    tokenizer = build_tokenizer(list(pieces))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            sample_size=512, latent_channels=4, block_out_channels=(4,) * 4, norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH,
        )  # fmt: skip
        text_encoder = build_text_encoder(tokenizer, WIDTH)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        # Stable Diffusion v1's own: PLMS, which is PNDM without its Runge-Kutta steps
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
            skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
