"""Training of the autoencoder, the half of latent diffusion that knows pixels."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from oal_lite.benchmarks import generator_for
from oal_lite.checkpoint import Keeper
from oal_lite.files import write_folder
from oal_lite.pretrain import loop
from oal_lite.pretrain.models import build_vae
from oal_lite.pretrain.settings import PretrainSettings, Source, source_for
from oal_lite.teacher import Teacher, to_float


def _edges(x: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


def _seen(judge: Teacher, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
    """What the teacher's stages see in images: their feature maps, each pixel of unit length."""
    maps = judge.model(judge.prepared(x), output_hidden_states=True).hidden_states
    return [F.normalize(h.float(), dim=1) for h in maps]


def train_vae(
    settings: PretrainSettings, out: Path, device: str = "cpu", source: Source | None = None
) -> dict:
    """Train the autoencoder, save `out/pipeline/vae`; its scaling gives latents unit variance.

    The loss is the squared error of the pixels, plus 1/8 of the absolute error of their
    differences to the right and below, which keeps outlines sharp, plus the squared error of the
    teacher's feature maps (the idea of LPIPS, Zhang et al., CVPR 2018, with our own network),
    which keeps a hexagon from becoming a circle, plus a Kullback-Leibler term, which keeps the
    texture's noise out of the latent. (With the absolute error on the pixels too, the colours
    stayed wrong for 2,500 steps.)
    """
    started = time.perf_counter()
    source = source or source_for("shapes", settings)
    data = source.images
    judge = Teacher.from_pretrained(out / "teacher", device=device)
    torch.manual_seed(settings.seed)
    vae = build_vae(settings.vae_width).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=settings.vae_lr)
    schedule = loop.cosine(optimizer, settings.vae_steps)
    generator = generator_for(settings.seed, "vae batches")
    parts = {"vae": vae, "optimizer": optimizer, "schedule": schedule, "generator": generator}
    belongs_to = loop.belongs_to(settings, source, out / "teacher")
    keeper = Keeper(loop.unfinished(out, "autoencoder"), parts, belongs_to)
    saved = keeper.restore() or {"steps": 0, "squared error": None}
    squared_error = saved["squared error"]
    images = data.images.to(device)
    bar = tqdm(range(saved["steps"], settings.vae_steps), desc="autoencoder")
    for step in bar:
        pick = torch.randint(len(data), (settings.vae_batch_size,), generator=generator)
        x = to_float(images[pick.to(device)])
        with loop.half(device):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample(generator=generator)).sample.float()
            with torch.no_grad():
                wanted = _seen(judge, x)
            shown = _seen(judge, y)
        pixels = F.mse_loss(y, x)
        outline = sum(F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True))
        seen = sum(F.mse_loss(a, b) * a.shape[1] for a, b in zip(shown, wanted, strict=True))
        kl = posterior.kl().float().mean() / x[0].numel()
        loss = pixels + outline / 8 + settings.vae_perceptual * seen + settings.vae_kl * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", pixels=f"{pixels.item():.4f}")
        if loop.due(step, settings.vae_steps):
            squared_error = pixels.item()
            keeper.save({"steps": step + 1, "squared error": squared_error})
    loop.need_finite(vae)
    vae.eval().requires_grad_(False)
    some = data.images[::20].to(device).split(250)
    means = torch.cat([vae.encode(to_float(x)).latent_dist.mean for x in some])
    vae.register_to_config(scaling_factor=1 / means.std().item())
    # In half precision, as it will ship: whoever goes on from here, the UNet's training or one that
    # was interrupted, meets the same numbers.
    write_folder(out / "pipeline" / "vae", vae.to(torch.float16).save_pretrained)
    return {"squared_error": squared_error, "seconds": round(time.perf_counter() - started)}
