"""An outlier in the place of a word: tokens, the swap, and the latents that come of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate, normalize
from torch.testing import assert_close

from oal_lite import diffusion_outliers
from oal_lite.diffusion_outliers import (
    PROMPT,
    condition,
    decode,
    encode,
    fill,
    load_pipeline,
    prompt_tokens,
    swapped_word,
    synthesise,
    with_sampler,
    word_embeddings,
)
from oal_lite.pretrain.models import build_tokenizer
from oal_lite.teacher import to_float


@pytest.fixture(scope="module")
def pipe(tiny_pipeline_folder):
    """The tiny pipeline for tests that leave it as it is."""
    return load_pipeline(tiny_pipeline_folder)


def directions(n, width=32, seed=0):
    return normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def tokens_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)


# --- words and tokens --------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=6))
def test_every_word_the_tokenizer_is_built_with_is_one_token(words):
    tokenizer = build_tokenizer(words)
    assert all(tokens_of(tokenizer, word) == [word + "</w>"] for word in words)


def test_a_word_that_is_not_known_falls_apart_and_keeps_its_letters(pipe):
    assert tokens_of(pipe.tokenizer, "Heart") == ["heart</w>"]  # CLIP ignores case
    pieces = tokens_of(pipe.tokenizer, "starfish")
    assert len(pieces) > 1 and "".join(pieces) == "starfish</w>"


def test_the_prompt_starts_and_ends_with_its_marks_and_is_padded(pipe):
    tokenizer = pipe.tokenizer
    ids, position = prompt_tokens(tokenizer, PROMPT, "heart")
    read = tokenizer.convert_ids_to_tokens(ids.tolist())
    words = "a high - quality image of the heart".split()
    assert read[:10] == ["<|startoftext|>", *(w + "</w>" for w in words), "<|endoftext|>"]
    assert position == 8
    assert len(read) == tokenizer.model_max_length == 16
    assert set(read[10:]) == {tokenizer.pad_token}


@pytest.mark.parametrize("prompt", [PROMPT, "the {class} of a picture", "{}"])
def test_a_word_of_several_tokens_keeps_its_first_and_loses_the_others(pipe, prompt):
    tokenizer = pipe.tokenizer
    ids, position = prompt_tokens(tokenizer, prompt, "starfish")
    _, known_position = prompt_tokens(tokenizer, prompt, "heart")
    known = prompt_tokens(tokenizer, prompt, "heart")[0].tolist()
    assert position == known_position
    first = tokens_of(tokenizer, "starfish")[0]
    assert tokenizer.convert_ids_to_tokens(ids[position].item()) == first
    # Around the word, the prompt is that of a word of one token.
    without = [t for i, t in enumerate(ids.tolist()) if i != position]
    assert without == [t for i, t in enumerate(known) if i != position]


def test_the_slot_is_found_where_the_sentence_names_the_word_twice(pipe):
    ids, position = prompt_tokens(pipe.tokenizer, "a star of the {}", "star")
    assert position == 5 and ids[2] == ids[5]


@pytest.mark.parametrize(
    ("prompt", "word", "message"),
    [
        ("an image of it", "heart", "'an image of it' has no place for a class name; write {}"),
        ("a {thing}", "heart", "'a {thing}' has no place for a class name"),
        (PROMPT, "", "the tokens of the class name '' cannot be found"),
        ("pre{}fix", "heart", "'heart' cannot be found in 'preheartfix'; separate the name"),
        ("the a of " * 6 + "{}", "heart", "the prompt has 21 tokens, the text encoder reads 16"),
    ],
)
def test_bad_prompts_are_named(pipe, prompt, word, message):
    with pytest.raises(ValueError, match=message):
        prompt_tokens(pipe.tokenizer, prompt, word)


@pytest.mark.parametrize("prompt", ["a {}", "a {class}"])
def test_both_slots_are_filled(prompt):
    assert fill(prompt, "star") == "a star"
    assert fill(prompt + " {", "star") == "a star {"


def test_the_embedding_of_a_word_is_its_tokens_and_the_mean_of_several(pipe):
    table = pipe.text_encoder.get_input_embeddings().weight
    ids = pipe.tokenizer("starfish", add_special_tokens=False).input_ids
    one = pipe.tokenizer("star", add_special_tokens=False).input_ids[0]
    embedded = word_embeddings(pipe, ["star", "starfish"])
    assert_close(embedded, torch.stack([table[one], table[ids].mean(0)]).detach())


# --- the swap ----------------------------------------------------------------------------------


def plain_encoding(pipe, text):
    ids = pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0]


@torch.no_grad()
def test_a_words_own_embedding_in_its_place_changes_nothing(pipe):
    words = ["heart", "star"]
    swapped = condition(pipe, word_embeddings(pipe, words), words)
    expected = torch.cat([plain_encoding(pipe, fill(PROMPT, w)) for w in words])
    assert_close(swapped, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_outlier_changes_the_prompt_from_its_place_onwards_and_not_before(pipe):
    swapped = condition(pipe, directions(1), ["heart"])
    change = (swapped - plain_encoding(pipe, fill(PROMPT, "heart"))).abs().amax((0, 2))
    assert change[:8].max() < 1e-6  # CLIP's encoder reads from left to right
    assert change[8:].min() > 1e-4


@torch.no_grad()
def test_each_row_has_its_own_outlier_word_and_place(pipe):
    outliers, words = directions(3), ["heart", "starfish", "heart"]
    together = condition(pipe, outliers, words, prompt="the {} image")
    for i, word in enumerate(words):
        alone = condition(pipe, outliers[i : i + 1], [word], prompt="the {} image")
        assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[2]).abs().max() > 1e-3


@torch.no_grad()
def test_only_the_direction_of_an_outlier_counts(pipe):
    outliers, words = directions(2), ["heart", "moon"]
    assert_close(condition(pipe, 1e3 * outliers, words), condition(pipe, outliers, words))
    assert (condition(pipe, -outliers, words) - condition(pipe, outliers, words)).abs().max() > 1e-3


@torch.no_grad()
def test_an_outlier_enters_at_the_length_of_the_word_it_replaces(pipe):
    seen = []
    words, outliers = ["heart", "starfish"], directions(2)
    layer = next(m for m in pipe.text_encoder.modules() if type(m).__name__ == "CLIPTextEmbeddings")
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    condition(pipe, outliers, words)
    handle.remove()
    token = seen[0][:, 8] - layer.position_embedding.weight[8]
    lengths = word_embeddings(pipe, words).norm(dim=1, keepdim=True)
    assert_close(token, outliers * lengths, atol=1e-5, rtol=0)


def test_the_swap_leaves_no_hook_and_no_weight_behind(pipe):
    table = pipe.text_encoder.get_input_embeddings()
    before = {k: v.clone() for k, v in pipe.text_encoder.state_dict().items()}
    condition(pipe, directions(2), ["heart", "star"])
    with pytest.raises(RuntimeError, match="boom"):
        with swapped_word(pipe.text_encoder, torch.tensor([0]), directions(1)):
            assert len(table._forward_hooks) == 1
            raise RuntimeError("boom")
    assert not table._forward_hooks
    after = pipe.text_encoder.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


# --- latents -----------------------------------------------------------------------------------

FEW = dict(steps=3, guidance=3.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def latents(pipe):
    return synthesise(pipe, directions(3), ["heart", "star", "moon"], **FEW, generator=seeded())


def test_one_finite_float_latent_for_each_outlier(latents):
    assert latents.shape == (3, 4, 8, 8)
    assert latents.dtype == torch.float32 and latents.device.type == "cpu"
    assert latents.isfinite().all() and len(latents.unique(dim=0)) == 3


def test_the_generator_fixes_the_latents_and_none_means_seed_zero(pipe, latents):
    names = ["heart", "star", "moon"]
    assert torch.equal(synthesise(pipe, directions(3), names, **FEW), latents)
    other = synthesise(pipe, directions(3), names, **FEW, generator=seeded(1))
    assert (other - latents).abs().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_size_does_not_change_the_latents(pipe, latents, batch_size):
    again = synthesise(
        pipe, directions(3), ["heart", "star", "moon"], **FEW, generator=seeded(),
        batch_size=batch_size,
    )  # fmt: skip
    assert_close(again, latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", [1, 3])
def test_each_latent_answers_to_the_outlier_of_its_own_row(pipe, row):
    """Inside, equal prompts come together; what comes out stands in the order of what went in."""
    vectors = directions(4)[[0, 1, 0, 2]]
    changed = vectors.clone()
    changed[row] *= -1
    before, after = (
        synthesise(pipe, v, ["star"] * 4, **FEW, generator=seeded()) for v in (vectors, changed)
    )
    moved = (after - before).abs().amax((1, 2, 3)) > 1e-4
    assert moved.tolist() == [i == row for i in range(4)]


def test_outliers_steer_the_latents_and_without_guidance_less(pipe, latents):
    names = ["heart", "star", "moon"]
    turned = synthesise(pipe, -directions(3), names, **FEW, generator=seeded())
    assert (turned - latents).abs().max() > 1e-4
    unguided = synthesise(pipe, directions(3), names, steps=3, guidance=1.0, generator=seeded())
    assert (unguided - latents).abs().max() > 1e-4


def test_fewer_names_cover_equal_runs_of_outliers(pipe):
    spread = synthesise(pipe, directions(4), ["heart", "moon"], **FEW)
    written_out = synthesise(pipe, directions(4), ["heart", "heart", "moon", "moon"], **FEW)
    assert torch.equal(spread, written_out)
    one_name = synthesise(pipe, directions(2), "heart", **FEW)
    assert torch.equal(one_name, synthesise(pipe, directions(2), ["heart"] * 2, **FEW))


def test_the_latents_are_those_of_the_pipeline_called_directly(pipe, latents):
    embedded = condition(pipe, directions(3), ["heart", "star", "moon"])
    empty = plain_encoding(pipe, "")
    seeds = torch.randint(2**62, (3,), generator=seeded()).tolist()
    direct = pipe(
        prompt_embeds=embedded, negative_prompt_embeds=empty.expand(3, -1, -1), height=32,
        width=32, num_inference_steps=3, guidance_scale=3.0, output_type="latent",
        generator=[seeded(s) for s in seeds],
    ).images  # fmt: skip
    assert_close(latents, direct, atol=1e-5, rtol=0)


def test_a_repeated_outlier_is_encoded_once_a_batch_and_every_copy_has_its_own_noise(
    pipe, monkeypatch
):
    vectors, names = directions(3)[[0, 1, 2, 0, 1, 0]], ["heart", "star", "moon"] * 2
    names[3] = "star"  # the same outlier in another word's place is another prompt
    encoded = []

    def spy(pipeline, outliers, class_names, **how):
        encoded.append(len(class_names))
        return condition(pipeline, outliers, class_names, **how)

    names[5] = "heart"
    alone = [synthesise(pipe, vectors, names, **FEW, batch_size=1)[i] for i in range(6)]
    monkeypatch.setattr(diffusion_outliers, "condition", spy)
    together = synthesise(pipe, vectors, names, **FEW)
    assert encoded == [4]  # heart 0 twice, star 1 twice, moon 2, star 0
    assert_close(together, torch.stack(alone), atol=1e-4, rtol=0)
    assert (together[0] - together[5]).abs().max() > 0.1


def test_another_sampler_shares_the_models_and_draws_other_latents(pipe, latents):
    names = ["heart", "star", "moon"]
    for sampler in ("plms", "ddim"):
        other = with_sampler(pipe, sampler)
        assert other.unet is pipe.unet and other.scheduler is not pipe.scheduler
        assert (synthesise(other, directions(3), names, **FEW) - latents).abs().max() > 1e-3
    same = with_sampler(pipe, "dpm++")
    assert_close(synthesise(same, directions(3), names, **FEW), latents, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="sampler='euler'; choose one of plms, ddim, dpm"):
        with_sampler(pipe, "euler")


@pytest.mark.parametrize(
    ("name", "how"), [("DDIMScheduler", {}), ("PNDMScheduler", {"skip_prk_steps": True})]
)
def test_any_scheduler_of_the_pipeline_is_used(tiny_pipeline, latents, name, how):
    import diffusers

    scheduler = getattr(diffusers, name)
    tiny_pipeline.scheduler = scheduler.from_config(tiny_pipeline.scheduler.config, **how)
    names = ["heart", "star", "moon"]
    made = synthesise(tiny_pipeline, directions(3), names, **FEW, batch_size=2)
    assert made.isfinite().all() and (made - latents).abs().max() > 1e-3
    whole = synthesise(tiny_pipeline, directions(3), names, **FEW)
    assert_close(made, whole, atol=1e-4, rtol=0)  # no state is left from batch to batch


def test_nothing_is_decoded_and_progress_shows_only_when_asked(tiny_pipeline, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(tiny_pipeline.vae, "decode", refuse)
    synthesise(tiny_pipeline, directions(2), "heart", steps=1)
    assert capsys.readouterr() == ("", "")
    synthesise(tiny_pipeline, directions(2), "heart", steps=1, progress=True)
    assert "latent outliers" in capsys.readouterr().err


def outliers_with(value):
    outliers = directions(2)
    outliers[1] = value
    return outliers


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(outliers=directions(2, 31)), r"shape \(2, 31\); expected \(n, 32\)"),
        (dict(outliers=directions(2)[0]), r"shape \(32,\); expected \(n, 32\)"),
        (dict(outliers=outliers_with(float("nan"))), "NaN, infinity or a zero row"),
        (dict(outliers=outliers_with(float("inf"))), "NaN, infinity or a zero row"),
        (dict(outliers=outliers_with(0.0)), "NaN, infinity or a zero row"),
        (dict(class_names=["heart"] * 3), "3 class names for 2 outliers"),
        (dict(class_names=[]), "0 class names for 2 outliers"),
        (dict(steps=0), "steps=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(guidance=-1.0), "guidance=-1.0"),
        (dict(guidance=float("nan")), "guidance=nan"),
        (dict(prompt="an image"), "'an image' has no place for a class name"),
    ],
)
def test_bad_input_is_named(pipe, change, message):
    arguments = dict(outliers=directions(2), class_names="heart", steps=1) | change
    with pytest.raises(ValueError, match=message):
        synthesise(pipe, **arguments)


# --- to pixels and back ------------------------------------------------------------------------


def test_decoded_latents_are_byte_images_whatever_the_batch_size(pipe, latents):
    images = decode(pipe, latents)
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.uint8
    assert len(images.unique(dim=0)) == 3
    apart = (images.int() - decode(pipe, latents, batch_size=2).int()).abs()
    assert apart.max() <= 1  # a rounding may fall to the other side
    with torch.no_grad():
        sample = pipe.vae.decode(latents / 0.7).sample
    assert_close(images.float(), (sample * 127.5 + 127.5).clamp(0, 255), atol=0.51, rtol=0)


def test_encoded_images_are_scaled_means_of_the_posterior(pipe):
    images = torch.randint(256, (3, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    encoded = encode(pipe, images, batch_size=2)
    assert encoded.shape == (3, 4, 8, 8) and encoded.dtype == torch.float32
    with torch.no_grad():
        mean = pipe.vae.encode(images / 127.5 - 1).latent_dist.mean
    assert_close(encoded, mean * 0.7, atol=1e-5, rtol=1e-5)


def test_images_of_another_size_are_encoded_to_latents_of_the_pipelines_own(pipe):
    grey = torch.full((2, 3, 16, 16), 99, dtype=torch.uint8)
    larger = torch.full((2, 3, 32, 32), 99, dtype=torch.uint8)
    assert_close(encode(pipe, grey), encode(pipe, larger), atol=1e-4, rtol=1e-4)


def test_larger_images_are_smoothed_before_they_are_encoded(tiny_pipeline):
    pipe = tiny_pipeline
    images = torch.randint(
        256, (2, 3, 72, 72), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    x = interpolate(to_float(images), size=32, mode="bilinear", antialias=True)
    with torch.no_grad():
        mean = pipe.vae.encode(x).latent_dist.mean
    scaled = mean * pipe.vae.config.scaling_factor
    assert_close(encode(pipe, images), scaled, atol=1e-5, rtol=1e-5)
