"""Latent outliers: batch size and decoding, growth, and how far a sampler is from PLMS."""

import pytest
import torch
from measure import scaling

from oal_lite.diffusion_outliers import decode, load_pipeline, synthesise, with_sampler
from oal_lite.presets import PRESETS

N, STEPS = 24, 10
pytestmark = pytest.mark.usefixtures("on_cpu")  # 1/200 of the size: see bench_unet


@pytest.fixture(scope="module")
def pipeline(device):
    return load_pipeline(PRESETS["shapes"].pipeline, device=device)


def outliers(pipeline, n):
    width = pipeline.text_encoder.get_input_embeddings().weight.shape[1]
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def make(pipeline, n=N, **how):
    names = ["heart", "star", "moon"]
    vectors = outliers(pipeline, n)
    how = dict(steps=STEPS, generator=torch.Generator().manual_seed(0)) | how
    return synthesise(pipeline, vectors, [names[i % 3] for i in range(n)], **how)


def bench_batches(keep_ratio, pipeline):
    torch.testing.assert_close(
        make(pipeline, batch_size=3), make(pipeline, batch_size=N), atol=1e-3, rtol=0
    )
    keep_ratio(
        f"diffusion, {N} latents in one batch",
        lambda: decode(pipeline, make(pipeline, batch_size=3)),
        lambda: make(pipeline, batch_size=N),
        repeats=3,
        against="the released batches of 3, decoded; the same sampler, steps, noise and float32",
    )


def bench_growth(findings, pipeline):
    def prepare(n):
        return lambda: make(pipeline, n, steps=5, batch_size=100)

    findings["scaling"]["diffusion: latents"] = scaling([8, 16, 32, 64], prepare)


def energy_distance(a, b):
    """2 E|a - b| - E|a - a'| - E|b - b'| between two sets of latents, drawn apart; 0 if alike."""
    a, b = a.flatten(1), b.flatten(1)
    within = [torch.pdist(x).mean() for x in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - sum(within))


def bench_sampler(findings, pipeline):
    """Fewer steps draw from another distribution; the distance to PLMS-50 says how other."""
    reference, other, n = with_sampler(pipeline, "plms"), with_sampler(pipeline, "dpm++"), 32

    def draw(model, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        return make(model, n, steps=steps, batch_size=n, generator=generator)

    plms, again = draw(reference, 50, 0), draw(reference, 50, 1)
    same_noise, other_noise = draw(other, 20, 0), draw(other, 20, 1)
    findings["samplers"] = {
        "reference": "PLMS, 50 steps", "other": "DPM-Solver++, 20 steps", "latents": n,
        "from the same noise: relative L2": float((same_noise - plms).norm() / plms.norm()),
        "PLMS from other noise: relative L2": float((again - plms).norm() / plms.norm()),
        "from other noise: energy distance": energy_distance(other_noise, plms),
        "PLMS from other noise: energy distance": energy_distance(again, plms),
        "mean distance of two latents of PLMS": float(torch.pdist(plms.flatten(1)).mean()),
    }  # fmt: skip
