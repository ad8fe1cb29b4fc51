"""The UNet of Stable Diffusion v1 at its full width, with random weights: samples a second."""

import pytest
import torch
from flops import UNET

pytestmark = pytest.mark.usefixtures("on_gpu")


def unet(device, *, tiny=False):
    """Stable Diffusion v1's, 860 M parameters, or one of its shape that a CPU can run."""
    from diffusers import UNet2DConditionModel

    sizes = dict(block_out_channels=(32, 64, 64, 64), sample_size=16) if tiny else {}
    sizes = dict(block_out_channels=(320, 640, 1280, 1280), sample_size=64) | sizes
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, **sizes).eval()


def bench_unet(keep_rate, device, tiny):
    batch, dtype = (2, torch.float32) if tiny else (16, torch.float16)
    model = unet(device, tiny=tiny).to(dtype, memory_format=torch.channels_last)
    side = model.config.sample_size
    latents = torch.randn(batch, 4, side, side, device=device, dtype=dtype)
    latents = latents.contiguous(memory_format=torch.channels_last)
    words = torch.randn(batch, 77, 768, device=device, dtype=dtype)
    step = torch.tensor(500, device=device)

    @torch.no_grad()
    def denoise():
        return model(latents, step, words).sample

    assert denoise().isfinite().all()
    keep_rate(
        f"UNet of Stable Diffusion v1, batch {batch}, float16", denoise,
        batch=batch, flop=UNET, unit="samples", seconds=2,
    )  # fmt: skip
