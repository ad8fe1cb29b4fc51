"""Train the small models that ship in `assets/shapes`: a teacher and a latent diffusion model.

    python -m oal_lite.pretrain teacher
    python -m oal_lite.pretrain diffusion      # both of its halves: autoencoder, then unet

With `--preset cifar10 --data-root FOLDER --out models/cifar10` the same is trained, wider and
longer, on CIFAR-10 alone, so that no model from outside has a part in a result. An interrupted
training goes on where it stopped when the same command is given again.

The diffusion model is a real Stable Diffusion pipeline at 1/200 of the size: CLIP tokenizer and
text encoder, autoencoder (VAE), UNet with cross-attention, scheduler. It is loaded by
`StableDiffusionPipeline.from_pretrained` like the large one.

One thing is better than in the released OAL: **the teacher's feature space and the token space
are the same space**. The embedding of a class word is the scaled mean of the teacher's features of
that class, and half of the time the word is replaced by the scaled feature of the very image to be
generated. So the model has learnt what a feature in the place of a word means, and an outlier
feature in that place is a question that it understands. DREAM-OOD (Du et al., NeurIPS 2023)
trains such an alignment; the released OAL puts a ViT feature where CLIP expects a word.
"""

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from oal_lite import presets, shapes
from oal_lite.benchmarks import ImageSet, generator_for, load
from oal_lite.checkpoint import Keeper
from oal_lite.diffusion_outliers import (
    PROMPT,
    decode,
    encode,
    load_pipeline,
    prompt_tokens,
    swapped_word,
    synthesise,
    word_embeddings,
)
from oal_lite.files import write_atomically
from oal_lite.presets import get_preset
from oal_lite.study import Materials, train_one
from oal_lite.teacher import Teacher, to_float
from oal_lite.train import augment, predict

ASSETS = presets.ASSETS / "shapes"
TEMPLATES = (PROMPT, "a picture of a {}", "the {}")
KEEP_EVERY = 500  # steps after which an unfinished training is kept
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class PretrainSettings:
    """Sizes and lengths of the small models' training; every number a reader may want to change."""

    seed: int = 1
    n_images: int = 40_000  # rendered for pretraining alone; the student gets 5,000 others
    batch_size: int = 64
    crop: int = 0  # the teacher sees images shifted by up to so many pixels
    teacher_width: int = 32  # channels of its first stage; its features are four times as wide
    teacher_steps: int = 3000
    teacher_lr: float = 0.02  # of Muon on the matrices; AdamW on the rest gets 1/20 of it
    vae_width: int = 16  # channels of its first level
    unet_width: int = 80  # the same
    vae_steps: int = 2000
    vae_lr: float = 2e-3
    vae_perceptual: float = 0.05  # weight of the error in the teacher's feature maps
    vae_kl: float = 0.02  # of the Kullback-Leibler term, in nats per pixel value
    unet_steps: int = 13_000
    unet_lr: float = 1e-3
    token_scale: float = 1.0  # length of a class word's embedding
    noise_shift: float = 0.4  # t / T = sigmoid(N(0, 1) - this): half of the draws lie below 0.4
    p_image_feature: float = 0.5  # how often the word is replaced by the image's own feature
    p_no_prompt: float = 0.1  # for classifier-free guidance


SETTINGS = {
    "shapes": PretrainSettings(),
    # Sizes for one GPU, from what was seen on shapes; not tuned, and not yet run at full length.
    "cifar10": PretrainSettings(
        n_images=50_000, batch_size=128, crop=4, teacher_width=96, teacher_steps=40_000,
        teacher_lr=0.01, vae_width=64, vae_steps=30_000, vae_lr=5e-4, vae_kl=0.002,
        unet_width=160, unet_steps=100_000, unet_lr=4e-4,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What the models learn from: class names, one word each, training images, ID validation."""

    name: str
    class_names: tuple[str, ...]
    images: ImageSet
    val: ImageSet


def source_for(
    name: str, settings: PretrainSettings, data_root: str | Path | None = None
) -> Source:
    """The training images of a preset: rendered shapes, or ID images of OpenOOD's layout.

    Raises:
        ValueError: if the preset has no settings here, or as `benchmarks.load`.
    """
    if name not in SETTINGS:
        raise ValueError(f"no pretraining for preset {name!r}; choose one of {', '.join(SETTINGS)}")
    if name == "shapes":
        val = load("shapes", n_ood=1).val
        return Source(name, shapes.ID_SHAPES, pretraining_images(settings), val)
    # No OOD image is so much as read: one of each set is the least that the reader knows.
    benchmark = load(name, data_root=data_root, n_train=settings.n_images, n_test=10, n_ood=1)
    return Source(name, benchmark.class_names, benchmark.train, benchmark.val)


def pretraining_images(settings: PretrainSettings) -> ImageSet:
    """Render the images that the small models learn from: the ten ID shapes, and no other."""
    each = settings.n_images // len(shapes.ID_SHAPES)
    images = [
        shapes.render(name, each, generator=generator_for(settings.seed, "pretrain", name))
        for name in shapes.ID_SHAPES
    ]
    return ImageSet(torch.cat(images), torch.arange(len(images)).repeat_interleave(each))


def _cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up over 5 % of the steps, then fall to zero along half a cosine."""
    warm = max(1, steps // 20)
    return torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm),
        ],
        milestones=[warm],
    )


# --- teacher ----------------------------------------------------------------------------------


def build_teacher(class_names: Sequence[str], width: int = 32) -> nn.Module:
    """A CvT (Wu et al., ICCV 2021) of 0.6 M parameters with 128-d features, for 32 px.

    In one short trial a plain ViT of 0.3 M parameters had 44 % accuracy after two minutes, this CvT
    67 % after one; neither was trained to its end, and other sizes of ViT were not compared.
    """
    from transformers import CvtConfig, CvtForImageClassification

    config = CvtConfig(
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={name: i for i, name in enumerate(class_names)},
        patch_sizes=[3, 3, 3],
        patch_stride=[2, 2, 2],
        patch_padding=[1, 1, 1],
        embed_dim=[width, 2 * width, 4 * width],
        num_heads=[1, 2, 4],
        depth=[1, 2, 3],
        mlp_ratio=[2.0, 2.0, 2.0],
        attention_drop_rate=[0.0] * 3,
        drop_rate=[0.0] * 3,
        drop_path_rate=[0.0] * 3,
        initializer_range=0.05,
    )
    return CvtForImageClassification(config)


def train_teacher(
    settings: PretrainSettings, out: Path, device: str = "cpu", source: Source | None = None
) -> dict:
    """Train the teacher with cross-entropy, save `out/teacher`; returns manifest entries."""
    started = time.perf_counter()
    source = source or source_for("shapes", settings)
    data = source.images
    torch.manual_seed(settings.seed)  # transformers' own initialisation reads the global generator
    model = build_teacher(source.class_names, settings.teacher_width).to(device).train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    optimizers = [
        torch.optim.Muon(matrices, lr=settings.teacher_lr, weight_decay=0.05),
        torch.optim.AdamW(others, lr=settings.teacher_lr / 20, weight_decay=0.05),
    ]
    schedules = [_cosine(o, settings.teacher_steps) for o in optimizers]
    generator = generator_for(settings.seed, "teacher batches")
    parts = {"model": model, "generator": generator}
    parts |= {f"optimizer {i}": o for i, o in enumerate(optimizers)}
    parts |= {f"schedule {i}": s for i, s in enumerate(schedules)}
    keeper = Keeper(unfinished(out, "teacher"), parts, _belongs_to(settings, source))
    done = (keeper.restore() or {"steps": 0})["steps"]
    bar = tqdm(range(done, settings.teacher_steps), desc="teacher")
    for step in bar:
        pick = torch.randint(len(data), (settings.batch_size,), generator=generator)
        images, labels = data.images[pick], data.labels[pick].to(device)
        if settings.crop:
            images = augment(images, generator, padding=settings.crop)
        x = to_float(images.to(device))
        loss = F.cross_entropy(model(x.flip(-1) if step % 2 else x).logits, labels)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % KEEP_EVERY == 0:
            keeper.save({"steps": step + 1})
    model.eval().save_pretrained(out / "teacher")
    val = source.val
    accuracy = (Teacher(model)(val.images).logits.argmax(1) == val.labels).float().mean().item()
    return {"id_val_accuracy": accuracy, "seconds": round(time.perf_counter() - started)}


# --- diffusion --------------------------------------------------------------------------------


def _pieces(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: apply the merges in order of rank until none applies."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    rank = {pair: i for i, pair in enumerate(merges)}
    while pairs := [p for p in zip(pieces, pieces[1:], strict=False) if p in rank]:
        left, right = min(pairs, key=rank.__getitem__)
        i = next(i for i in range(len(pieces)) if pieces[i : i + 2] == [left, right])
        pieces[i : i + 2] = [left + right]
    return pieces


def build_tokenizer(words: list[str]):  # noqa: ANN201 - transformers is imported inside
    """A CLIP tokenizer that knows every letter, and each given word as one token.

    A word that is not given falls apart into smaller tokens, as rare words do in the large model.
    """
    from transformers import CLIPTokenizer

    merges: list[tuple[str, str]] = []
    for word in words:  # a later merge has a later rank, so it cannot break an earlier word
        while len(pieces := _pieces(word, merges)) > 1:
            merges.append((pieces[0], pieces[1]))
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges)]
    tokens = {token: i for i, token in enumerate(dict.fromkeys([*vocabulary, START, END]))}
    return CLIPTokenizer(
        vocab=tokens, merges=merges, bos_token=START, eos_token=END, unk_token=END,
        pad_token=END, model_max_length=16,
    )  # fmt: skip


def build_vae(width: int = 16) -> nn.Module:
    """An `AutoencoderKL` for 32 px -> 4 channels of 8 x 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32,
        latent_channels=4,
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
    )


def _edges(x: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


def _seen(model: nn.Module, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
    """What the teacher's stages see in images: their feature maps, each pixel of unit length."""
    return [F.normalize(h, dim=1) for h in model(x, output_hidden_states=True).hidden_states]


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
    judge = Teacher.from_pretrained(out / "teacher", device=device).model
    torch.manual_seed(settings.seed)
    vae = build_vae(settings.vae_width).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=settings.vae_lr)
    schedule = _cosine(optimizer, settings.vae_steps)
    generator = generator_for(settings.seed, "vae batches")
    parts = {"vae": vae, "optimizer": optimizer, "schedule": schedule, "generator": generator}
    keeper = Keeper(unfinished(out, "autoencoder"), parts, _belongs_to(settings, source))
    saved = keeper.restore() or {"steps": 0, "squared error": None}
    squared_error = saved["squared error"]
    bar = tqdm(range(saved["steps"], settings.vae_steps), desc="autoencoder")
    for step in bar:
        pick = torch.randint(len(data), (settings.batch_size,), generator=generator)
        x = to_float(data.images[pick].to(device))
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator=generator)).sample
        pixels = F.mse_loss(y, x)
        outline = sum(F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True))
        with torch.no_grad():
            wanted = _seen(judge, x)
        pairs = zip(_seen(judge, y), wanted, strict=True)
        seen = sum(F.mse_loss(a, b) * a.shape[1] for a, b in pairs)
        kl = posterior.kl().mean() / x[0].numel()
        loss = pixels + outline / 8 + settings.vae_perceptual * seen + settings.vae_kl * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", pixels=f"{pixels.item():.4f}")
        last = step + 1 == settings.vae_steps
        if last or (step + 1) % KEEP_EVERY == 0:
            squared_error = pixels.item()
            keeper.save({"steps": step + 1, "squared error": squared_error})
    vae.eval().requires_grad_(False)
    some = data.images[::20].to(device).split(250)
    means = torch.cat([vae.encode(to_float(x)).latent_dist.mean for x in some])
    vae.register_to_config(scaling_factor=1 / means.std().item())
    vae.save_pretrained(out / "pipeline" / "vae")
    return {"squared_error": squared_error, "seconds": round(time.perf_counter() - started)}


def build_text_encoder(tokenizer, dim: int) -> nn.Module:  # noqa: ANN001
    """A CLIP text encoder of two layers, as wide as the teacher's features."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=dim,
            intermediate_size=2 * dim,
            projection_dim=dim,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(dim: int, width: int = 80) -> nn.Module:
    """A `UNet2DConditionModel` on 4 x 8 x 8 latents; it looks at the prompt at 4 x 4."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(width, width * 8 // 5),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=dim,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler():  # noqa: ANN201
    """DPM-Solver++ on DDPM's linear noise schedule, predicting v (Salimans and Ho, 2022).

    The schedule ends in almost pure noise (signal share 4e-5): with Stable Diffusion's own, the
    colour of an 8 x 8 latent would still shine through at the end, and sampling would start from
    a state that training never shows.
    """
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def train_unet(
    settings: PretrainSettings, out: Path, device: str = "cpu", source: Source | None = None
) -> dict:
    """Train UNet and text encoder on teacher features and VAE latents; save `out/pipeline`.

    The loss is || v - v_hat ||^2 with v = a e - s x at latent x, noise e, and a^2 + s^2 = 1. The
    noise level t / T is drawn logit-normally (Esser et al., ICML 2024, section 3.1).
    What is saved is the exponential moving average of the weights.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    started = time.perf_counter()
    source = source or source_for("shapes", settings)
    data, names = source.images, source.class_names
    teacher = Teacher.from_pretrained(out / "teacher", device=device)
    features = F.normalize(teacher(data.images, progress=True).features, dim=1)
    vae = AutoencoderKL.from_pretrained(out / "pipeline" / "vae", dtype=torch.float32)
    vae.register_to_config(_name_or_path="")  # or this machine's folder would ship with it
    words = [w for t in TEMPLATES for w in t.replace("-", " - ").lower().replace("{}", "").split()]
    tokenizer = build_tokenizer([*words, *names])

    torch.manual_seed(settings.seed)
    text_encoder = build_text_encoder(tokenizer, teacher.feature_dim)
    unet = build_unet(teacher.feature_dim, settings.unet_width)
    pieces = [tokenizer(w, add_special_tokens=False).input_ids for w in names]
    if long := [name for name, p in zip(names, pieces, strict=True) if len(p) > 1]:
        raise ValueError(f"class name {long[0]!r} is several tokens; give one word for each class")
    class_ids = torch.tensor(pieces)[:, 0]
    means = torch.stack([features[data.labels == c].mean(0) for c in range(len(class_ids))])
    table = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[class_ids] = F.normalize(means, dim=1) * settings.token_scale

    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).to(device)  # fmt: skip
    vae.requires_grad_(False)
    class_ids = class_ids.to(device)
    table.register_hook(lambda grad: grad.index_fill(0, class_ids, 0.0))  # class words stay put
    latents, features = encode(pipeline, data.images).to(device), features.to(device)
    prompts = [[prompt_tokens(tokenizer, t, w) for w in names] for t in TEMPLATES]
    ids = torch.stack([torch.stack([tokens for tokens, _ in row]) for row in prompts]).to(device)
    slots = torch.tensor([[position for _, position in row] for row in prompts], device=device)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0].to(device)

    both = nn.ModuleList([unet, text_encoder]).train()
    average = torch.optim.swa_utils.AveragedModel(
        both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    optimizer = torch.optim.AdamW(both.parameters(), lr=settings.unet_lr, weight_decay=0.0)
    schedule = _cosine(optimizer, settings.unet_steps)
    alphas = pipeline.scheduler.alphas_cumprod.to(device)
    all_labels = data.labels.to(device)
    rows = torch.arange(settings.batch_size, device=device)
    generator = generator_for(settings.seed, "unet batches")
    n = settings.batch_size
    parts = {"both": both, "average": average, "optimizer": optimizer, "schedule": schedule,
             "generator": generator}  # fmt: skip
    keeper = Keeper(unfinished(out, "unet"), parts, _belongs_to(settings, source))
    saved = keeper.restore() or {"steps": 0, "loss": None}
    running = saved["loss"]
    bar = tqdm(range(saved["steps"], settings.unet_steps), desc="diffusion")
    for step in bar:
        pick = torch.randint(len(data), (n,), generator=generator).to(device)
        template = torch.randint(len(TEMPLATES), (n,), generator=generator).to(device)
        chance = torch.rand(n, 2, generator=generator).to(device)
        labels = all_labels[pick]
        tokens, positions = ids[template, labels], slots[template, labels]
        word = table[tokens[rows, positions]].detach()
        own = chance[:, :1] < settings.p_image_feature
        vectors = torch.where(own, features[pick] * settings.token_scale, word)
        silent = chance[:, 1] < settings.p_no_prompt
        tokens = torch.where(silent[:, None], empty, tokens)
        vectors = torch.where(silent[:, None], table[tokens[rows, positions]], vectors)
        with swapped_word(text_encoder, positions, vectors):
            context = text_encoder(tokens)[0]

        # Mostly the middle noise levels, where the outline is decided; a uniform draw would spend
        # half of its steps where next to nothing of the image is left.
        middle = torch.randn(n, generator=generator) - settings.noise_shift
        t = (middle.sigmoid() * len(alphas)).long().to(device)
        a, s = alphas[t].sqrt().view(n, 1, 1, 1), (1 - alphas[t]).sqrt().view(n, 1, 1, 1)
        x = latents[pick]
        e = torch.randn(x.shape, generator=generator).to(device)
        loss = F.mse_loss(unet(a * x + s * e, t, context).sample, a * e - s * x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(both)
        if (step + 1) % 1000 == 0 or step + 1 == settings.unet_steps:
            _save_half(pipeline, average.module, out / "pipeline")
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == settings.unet_steps:
            keeper.save({"steps": step + 1, "loss": running})
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running:.4f}")
    return {
        "loss": running,
        "seconds": round(time.perf_counter() - started),
        **recognised(out, Teacher.from_pretrained(out / "teacher"), source),
    }


def _save_half(pipeline, weights: nn.ModuleList, folder: Path) -> None:  # noqa: ANN001
    """Save the pipeline with these weights of UNet and text encoder, in half precision."""
    half = copy.deepcopy(pipeline)
    half.unet.load_state_dict(weights[0].state_dict())
    half.text_encoder.load_state_dict(weights[1].state_dict())
    half.to(torch.float16).save_pretrained(folder)


def recognised(
    folder: Path, teacher: Teacher, source: Source, *, each: int = 30, guidance: float = 7.5
) -> dict:
    """Share of samples from plain prompts that classifiers of real images name as they were asked.

    The judges are the teacher and, of shapes, a ResNet-18 trained on the benchmark with
    cross-entropy alone, which has no part in the diffusion model.
    """
    pipeline = load_pipeline(folder / "pipeline")
    names = source.class_names
    words = word_embeddings(pipeline, names).repeat_interleave(each, 0)
    latents = synthesise(pipeline, words, names, steps=20, guidance=guidance)
    images, asked = decode(pipeline, latents), torch.arange(len(names)).repeat_interleave(each)

    def share(logits: Tensor) -> float:
        return round((logits.argmax(1) == asked).float().mean().item(), 4)

    found = {"named_right_by_teacher": share(teacher(images).logits)}
    if source.name == "shapes":
        materials = Materials(get_preset("shapes"), 0)
        materials.teacher = teacher
        _, judge = train_one("ce", materials)
        found["named_right_by_resnet"] = share(predict(judge, images)[0])
    return {**found, "samples": len(asked), "guidance": guidance}


# --- interruption -----------------------------------------------------------------------------


def unfinished(out: Path, part: str) -> Path:
    """Where an unfinished training keeps its state, to go on from after an interruption."""
    return out / f"unfinished-{part}.safetensors"


def _belongs_to(settings: PretrainSettings, source: Source) -> dict:
    return {**asdict(settings), "source": source.name, "images": len(source.images)}


# --- the command ------------------------------------------------------------------------------


PARTS = {
    "teacher": train_teacher,
    "autoencoder": train_vae,
    "unet": train_unet,
}


def forget_hashes(folder: Path) -> None:
    """Take the sha256 sums out of the manifest: what is being trained anew cannot match them."""
    path = folder / "manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text()) | {"sha256": {}}
        write_atomically(path, lambda p: p.write_text(json.dumps(manifest, indent=1)))


def write_manifest(folder: Path, part: str, settings: PretrainSettings, measured: dict) -> None:
    """Note in `manifest.json` how a part was made, and the sha256 of every file of the folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    manifest[part] = {
        "command": f"python -m oal_lite.pretrain {part}",
        "settings": asdict(settings),
        "torch": torch.__version__,
        "measured": measured,
    }
    manifest["sha256"] = {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f != path
    }
    text = json.dumps(manifest, indent=1)
    write_atomically(path, lambda p: p.write_text(text))


def _setting(assignment: str) -> tuple[str, int | float]:
    """Read NAME=VALUE, the value as the type of that field of `PretrainSettings`.

    Raises:
        ValueError: if there is no such field, or the value is no number.
    """
    known = {f.name: type(f.default) for f in fields(PretrainSettings)}
    name, _, value = assignment.partition("=")
    if name not in known:
        raise ValueError(f"--set {assignment}: unknown name; choose from {', '.join(known)}")
    return name, known[name](value)


def main(argv: list[str] | None = None) -> int:
    """Train one part and save it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m oal_lite.pretrain", description=__doc__)
    parser.add_argument("part", choices=["teacher", "diffusion", "autoencoder", "unet"])
    parser.add_argument("--preset", default="shapes", help="shapes (default) or cifar10")
    parser.add_argument("--data-root", help="folder of real images in OpenOOD v1.5's layout")
    parser.add_argument(
        "--out", type=Path, help="default: the shipped folder for shapes, else models/PRESET"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a field of PretrainSettings, for example --set unet_steps=40000",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    changes = dict(map(_setting, arguments.set))
    settings = replace(SETTINGS.get(arguments.preset, PretrainSettings()), **changes)
    source = source_for(arguments.preset, settings, arguments.data_root)
    shipped = arguments.preset == "shapes"
    out = arguments.out or (ASSETS if shipped else Path("models") / arguments.preset)
    parts = ["autoencoder", "unet"] if arguments.part == "diffusion" else [arguments.part]
    for part in parts:
        forget_hashes(out)
        measured = PARTS[part](settings, out, arguments.device, source)
        unfinished(out, part).unlink(missing_ok=True)
        write_manifest(out, part, settings, {"trained_on": source.name, **measured})
        sys.stdout.write(json.dumps({part: measured}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
