"""The small models before they are trained: every part of Stable Diffusion, and the teacher."""

from collections.abc import Sequence

from torch import nn

from oal_lite.arguments import need_choice

START, END = "<|startoftext|>", "<|endoftext|>"


def build_teacher(kind: str, class_names: Sequence[str], width: int) -> nn.Module:
    """A classifier of transformers before its training: `"cvt"` or `"resnet"`.

    Raises:
        ValueError: for another kind.
    """
    need_choice(TEACHERS, teacher=kind)
    return TEACHERS[kind](class_names, width)


def build_cvt(class_names: Sequence[str], width: int = 32) -> nn.Module:
    """A CvT (Wu et al., ICCV 2021) of 0.6 M parameters with 128-d features, for 32 px.

    In one short trial a plain ViT of 0.3 M parameters had 44 % accuracy after two minutes, this CvT
    67 % after one; neither was trained to its end, and other sizes of ViT were not compared.
    """
    from transformers import CvtConfig, CvtForImageClassification

    config = CvtConfig(
        **_labels(class_names),
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


def build_resnet(class_names: Sequence[str], width: int = 64) -> nn.Module:
    """A ResNet-18 of transformers; 11.2 M parameters and 512-d features at width 64.

    Its stem halves an image twice, as for ImageNet. Images of 32 px are therefore enlarged to 128,
    so that its first stage sees maps of 32 x 32, as a ResNet-18 for CIFAR does.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        **_labels(class_names),
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        image_size=128,  # `Teacher` enlarges what it is shown to it
    )
    return ResNetForImageClassification(config)


TEACHERS = {"cvt": build_cvt, "resnet": build_resnet}


def _labels(class_names: Sequence[str]) -> dict:
    return {
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
    }


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
