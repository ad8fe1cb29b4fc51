"""Training of UNet and text encoder, the half of latent diffusion that knows prompts."""

import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from oal_lite.benchmarks import generator_for
from oal_lite.checkpoint import Keeper
from oal_lite.diffusion_outliers import (
    decode,
    encode,
    load_pipeline,
    prompt_tokens,
    swapped_word,
    synthesise,
    word_embeddings,
)
from oal_lite.files import write_folder
from oal_lite.materials import Materials
from oal_lite.presets import PROMPT, get_preset, hold_out
from oal_lite.pretrain import loop
from oal_lite.pretrain.models import (
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from oal_lite.pretrain.settings import PretrainSettings, Source, source_for
from oal_lite.study import train_one
from oal_lite.teacher import Teacher
from oal_lite.train import predict

TEMPLATES = (PROMPT, "a picture of a {}", "the {}")


def train_unet(
    settings: PretrainSettings, out: Path, device: str = "cpu", source: Source | None = None
) -> dict:
    """Train UNet and text encoder on teacher features and VAE latents; save `out/pipeline`.

    The loss is || v - v_hat ||^2 with v = a e - s x at latent x, noise e, and a^2 + s^2 = 1. The
    noise level t / T is drawn logit-normally (Esser et al., ICML 2024, section 3.1).
    What is saved is the exponential moving average of the weights.
    """
    from diffusers import AutoencoderKL

    started = time.perf_counter()
    source = source or source_for("shapes", settings)
    teacher = Teacher.from_pretrained(out / "teacher", device=device)
    features = F.normalize(teacher(source.images.images, progress=True).features, dim=1)
    vae = AutoencoderKL.from_pretrained(out / "pipeline" / "vae", dtype=torch.float32)
    vae.register_to_config(_name_or_path="")  # or this machine's folder would ship with it
    pipeline = _untrained(settings, source, features, vae, device)
    latents = encode(pipeline, source.images.images).to(device)
    told = _Told(settings, source, features, pipeline, device)

    both = nn.ModuleList([pipeline.unet, pipeline.text_encoder]).train()
    average = torch.optim.swa_utils.AveragedModel(
        both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    optimizer = torch.optim.AdamW(both.parameters(), lr=settings.unet_lr, weight_decay=0.0)
    schedule = loop.cosine(optimizer, settings.unet_steps)
    alphas = pipeline.scheduler.alphas_cumprod.to(device)
    generator = generator_for(settings.seed, "unet batches")
    parts = {"both": both, "average": average, "optimizer": optimizer, "schedule": schedule,
             "generator": generator}  # fmt: skip
    belongs_to = loop.belongs_to(settings, source, out / "teacher")
    keeper = Keeper(loop.unfinished(out, "unet"), parts, belongs_to)
    saved = keeper.restore() or {"steps": 0, "loss": None}
    # a tensor, as asking a GPU for a number at each step would stall it
    running = None if saved["loss"] is None else torch.tensor(saved["loss"], device=device)
    bar = tqdm(range(saved["steps"], settings.unet_steps), desc="diffusion")
    for step in bar:
        pick = torch.randint(len(latents), (settings.unet_batch_size,), generator=generator)
        pick = pick.to(device)
        context = told.draw(pick, generator)
        loss = _velocity_loss(
            pipeline.unet, latents[pick], context, alphas, settings.noise_shift, generator
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(both)
        if (step + 1) % 1000 == 0 or step + 1 == settings.unet_steps:
            loop.need_finite(average.module)
            _save_half(pipeline, average.module, out / "pipeline")
        now = loss.detach()
        running = now if running is None else 0.99 * running + 0.01 * now
        if loop.due(step, settings.unet_steps):
            keeper.save({"steps": step + 1, "loss": running.item()})
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running.item():.4f}")
    return {
        "loss": running.item(),
        "seconds": round(time.perf_counter() - started),
        **recognised(out, teacher, source),
    }


def _untrained(
    settings: PretrainSettings, source: Source, features: Float[Tensor, "n d"], vae: nn.Module,
    device: str,
):  # noqa: ANN202  # fmt: skip
    """The pipeline before its training. A class's word is its mean feature, and stays it.

    Raises:
        ValueError: if a class has a name of several tokens.
    """
    from diffusers import StableDiffusionPipeline

    names, width = source.class_names, features.shape[1]
    words = [w for t in TEMPLATES for w in t.replace("-", " - ").lower().replace("{}", "").split()]
    tokenizer = build_tokenizer([*words, *names])
    pieces = [tokenizer(w, add_special_tokens=False).input_ids for w in names]
    if long := [name for name, p in zip(names, pieces, strict=True) if len(p) > 1]:
        raise ValueError(f"class name {long[0]!r} is several tokens; give one word for each class")
    torch.manual_seed(settings.seed)
    text_encoder = build_text_encoder(tokenizer, width)
    unet = build_unet(width, settings.unet_width)
    class_ids, labels = torch.tensor(pieces)[:, 0], source.images.labels
    means = torch.stack([features[labels == c].mean(0) for c in range(len(names))])
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
    table.register_hook(lambda grad: grad.index_fill(0, class_ids, 0.0))
    return pipeline


class _Told:
    """What the UNet is told of an image: a prompt with its class's word, or with its own feature.

    Args:
        settings: how often it is the feature, and how often nothing is told.
        source: of the images, their classes and words.
        features: of the images, of unit length.
        pipeline: whose text encoder reads the prompt.
        device: where it does.
    """

    def __init__(
        self, settings: PretrainSettings, source: Source, features: Float[Tensor, "n d"], pipeline,  # noqa: ANN001
        device: str,
    ):  # fmt: skip
        self.settings, self.device, self.text_encoder = settings, device, pipeline.text_encoder
        self.features, self.labels = features.to(device), source.images.labels.to(device)
        tokenizer = pipeline.tokenizer
        prompts = [[prompt_tokens(tokenizer, t, w) for w in source.class_names] for t in TEMPLATES]
        ids = torch.stack([torch.stack([tokens for tokens, _ in row]) for row in prompts])
        self.ids = ids.to(device)  # by template and class
        self.slots = torch.tensor([[place for _, place in row] for row in prompts], device=device)
        empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
        self.empty = empty.to(device)

    def draw(self, pick: Int[Tensor, " b"], generator: torch.Generator) -> Float[Tensor, "b l d"]:
        """The text encoder's answer to a random prompt for each of these images."""
        n, table = len(pick), self.text_encoder.get_input_embeddings().weight
        template = torch.randint(len(TEMPLATES), (n,), generator=generator).to(self.device)
        chance = torch.rand(n, 2, generator=generator).to(self.device)
        labels, rows = self.labels[pick], torch.arange(n, device=self.device)
        tokens, positions = self.ids[template, labels], self.slots[template, labels]
        word = table[tokens[rows, positions]].detach()
        own = chance[:, :1] < self.settings.p_image_feature
        vectors = torch.where(own, self.features[pick] * self.settings.token_scale, word)
        silent = chance[:, 1] < self.settings.p_no_prompt
        tokens = torch.where(silent[:, None], self.empty, tokens)
        vectors = torch.where(silent[:, None], table[tokens[rows, positions]], vectors)
        with swapped_word(self.text_encoder, positions, vectors), loop.half(self.device):
            return self.text_encoder(tokens)[0]


def _velocity_loss(
    unet: nn.Module, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b l d"],
    alphas: Float[Tensor, " t"], shift: float, generator: torch.Generator,
) -> Float[Tensor, ""]:  # fmt: skip
    """|| v - v_hat ||^2 of latents at random noise levels, the mean over all numbers.

    Mostly at the middle levels, where the outline is decided; a uniform draw would spend half of
    its steps where next to nothing of the image is left.
    """
    middle = torch.randn(len(x), generator=generator) - shift
    t = (middle.sigmoid() * len(alphas)).long().to(x.device)
    a, s = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
    e = torch.randn(x.shape, generator=generator).to(x.device)
    with loop.half(x.device):
        v = unet(a * x + s * e, t, context).sample
    return F.mse_loss(v.float(), a * e - s * x)


def _save_half(pipeline, weights: nn.ModuleList, folder: Path) -> None:  # noqa: ANN001
    """Save the pipeline with these weights of UNet and text encoder, in half precision."""
    half = copy.deepcopy(pipeline)
    half.unet.load_state_dict(weights[0].state_dict())
    half.text_encoder.load_state_dict(weights[1].state_dict())
    write_folder(folder, half.to(torch.float16).save_pretrained)


def recognised(
    folder: Path, teacher: Teacher, source: Source, *, each: int = 30, guidance: float = 7.5
) -> dict:
    """Share of samples from plain prompts that classifiers of real images name as they were asked.

    The pipeline runs where the teacher is.

    The judges are the teacher and, of shapes, a ResNet-18 trained on the benchmark with
    cross-entropy alone, which has no part in the diffusion model.
    """
    pipeline = load_pipeline(folder / "pipeline", device=teacher.head.weight.device)
    names = source.class_names
    words = word_embeddings(pipeline, names).repeat_interleave(each, 0)
    latents = synthesise(pipeline, words, names, steps=20, guidance=guidance)
    images, asked = decode(pipeline, latents), torch.arange(len(names)).repeat_interleave(each)

    def share(logits: Tensor) -> float:
        return round((logits.argmax(1) == asked).float().mean().item(), 4)

    found = {"named_right_by_teacher": share(teacher(images).logits)}
    if source.name == "shapes":
        materials = Materials(hold_out(get_preset("shapes"), source.held_out), 0)
        materials.teacher = teacher
        _, judge = train_one("ce", materials)
        found["named_right_by_resnet"] = share(predict(judge, images)[0])
    return {**found, "samples": len(asked), "guidance": guidance}
