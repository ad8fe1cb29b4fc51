"""Panels 3 and 4: the numbers behind them, and that they answer over their whole range."""

import pytest
import torch
from torch import nn

from oal_lite.widgets import denoising, synthesis

IMAGES = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def test_mix_goes_from_the_word_to_the_outlier_on_the_unit_sphere():
    token, outlier = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    torch.testing.assert_close(synthesis.mix(token, outlier, 0.0), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(synthesis.mix(token, outlier, 1.0), torch.tensor([0.0, 1.0]))
    half = synthesis.mix(token, outlier, 0.5)
    torch.testing.assert_close(half, torch.tensor([0.5, 0.5]).sqrt())


def test_mix_refuses_a_strength_beyond_the_outlier():
    with pytest.raises(ValueError, match="strength=1.5"):
        synthesis.mix(torch.ones(2), torch.ones(2), 1.5)


@pytest.fixture
def grid(tiny_pipeline, tiny_teacher):
    outlier = torch.randn(32, generator=torch.Generator().manual_seed(1))
    return synthesis.sample_grid(
        tiny_pipeline, tiny_teacher, "heart", outlier, strengths=(0, 1), guidances=(1, 4),
        steps=(2, 3), n_seeds=2,
    )  # fmt: skip


def test_at_strength_zero_a_sample_is_what_the_word_gives(grid, tiny_pipeline):
    from oal_lite.diffusion_outliers import synthesise, word_embeddings

    word = word_embeddings(tiny_pipeline, ["heart"]).expand(2, -1)
    plain = synthesise(
        tiny_pipeline, word, "heart", steps=3, guidance=4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for seed in range(2):
        torch.testing.assert_close(grid[0, 4, 3, seed].latent, plain[seed], rtol=1e-4, atol=1e-5)


def test_samples_of_one_seed_share_their_noise_and_of_two_do_not(grid):
    distance = [
        (grid[0, 1, 3, 0].latent - other.latent).norm()
        for other in (grid[1, 1, 3, 0], grid[0, 1, 3, 1])
    ]
    assert distance[0] < distance[1]


def test_the_synthesis_panel_answers_and_speaks_of_its_word(grid):
    from oal_lite.shapes import ID_SHAPES

    panel = synthesis.synthesis_panel(grid, "heart", ID_SHAPES)
    assert panel.check() == "8 positions of 4 controls drawn without an error"
    panel.move(strength=0)
    assert "moved by 0%" in panel.sentence.value
    with pytest.raises(ValueError, match="'hearts' is not a class name"):
        synthesis.synthesis_panel(grid, "hearts", ID_SHAPES)


def test_a_bug_in_the_callback_fails_the_check(grid, monkeypatch):
    from oal_lite.shapes import ID_SHAPES

    panel = synthesis.synthesis_panel(grid, "heart", ID_SHAPES)
    monkeypatch.setattr(synthesis, "energy", lambda logits: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.check()


def test_forward_noise_keeps_the_variance_and_its_ends_are_signal_and_noise():
    generator = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, 50, 4, 8, 8, generator=generator)
    assert torch.equal(denoising.add_noise(z, e, 1.0), z)
    assert torch.equal(denoising.add_noise(z, e, 0.0), e)
    assert denoising.add_noise(z, e, 0.3).var().item() == pytest.approx(1, abs=0.03)
    with pytest.raises(ValueError, match="signal=1.2"):
        denoising.add_noise(z, e, 1.2)


def test_levels_go_down_evenly_and_stop_above_zero():
    assert denoising.levels_down(999, 3) == [999, 666, 333]
    assert denoising.levels_down(5, 5) == [5, 4, 3, 2, 1]
    with pytest.raises(ValueError, match="6 steps from noise level 5"):
        denoising.levels_down(5, 6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_unet_that_knows_the_noise_brings_the_latent_back(tiny_pipeline, steps):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    alphas = tiny_pipeline.scheduler.alphas_cumprod

    class Oracle(nn.Module):
        def forward(self, z, t, encoder_hidden_states):
            a = alphas[t]
            v = a.sqrt() * noise - (1 - a).sqrt() * clean  # what a v-prediction should be
            return type("Out", (), {"sample": v})

    tiny_pipeline.unet = Oracle()
    noised = denoising.add_noise(clean, noise, alphas[600].item())
    back = denoising.denoise(tiny_pipeline, noised, ["heart"] * 3, level=600, steps=steps)
    torch.testing.assert_close(back, clean, rtol=1e-3, atol=1e-3)


def test_the_denoising_panel_answers(tiny_pipeline):
    journey = denoising.make_journey(
        tiny_pipeline, IMAGES, ["heart", "star"], levels=(100, 900), steps=(1, 2)
    )
    assert journey.signal[100] > 0.8 and journey.signal[900] < 0.01
    panel = denoising.denoising_panel(journey)
    assert panel.check() == "6 positions of 3 controls drawn without an error"
    with pytest.raises(ValueError, match="1 words for 2 images"):
        denoising.make_journey(tiny_pipeline, IMAGES, ["heart"])
