"""What all tests share: run-time shape checks, tiny random models, quiet and offline libraries."""

import os

import hypothesis
import jaxtyping
import pytest
import torch

# Before the libraries that read them are imported: no network, no screen.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# Shapes and types in the package's signatures are checked here and nowhere else. The hook must
# stand before the first import of the package. An int is a float to beartype too, as in PEP 484.
jaxtyping.install_import_hook(
    "oal_lite", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# The same examples every day, and no limit of time: a busy machine is no fault. To search for
# others: pytest --hypothesis-profile=search
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500)
hypothesis.settings.load_profile("tests")

# Where tests run side by side, each process has a core.
SIDE_BY_SIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
torch.set_num_threads(max(1, min(2, torch.get_num_threads()) // SIDE_BY_SIDE))

WIDTH = 32  # of teacher features and of word embeddings


@pytest.fixture
def own_errors(monkeypatch):
    """Let the package's own errors speak: no run-time shape checks, as outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def tiny_teacher_folder(tmp_path_factory):
    """A random CvT like the shipped teacher, with 32-d features, as transformers saves it."""
    from transformers import CvtConfig, CvtForImageClassification

    from oal_lite.shapes import ID_SHAPES

    config = CvtConfig(
        num_labels=len(ID_SHAPES), patch_sizes=[3, 3, 3], patch_stride=[2, 2, 2],
        patch_padding=[1, 1, 1], embed_dim=[8, 16, WIDTH], num_heads=[1, 1, 2], depth=[1, 2, 3],
        mlp_ratio=[1.0] * 3, attention_drop_rate=[0.0] * 3, drop_rate=[0.0] * 3,
        drop_path_rate=[0.0] * 3, initializer_range=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "teacher"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CvtForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory):
    """A random Stable Diffusion pipeline like the shipped one, smaller, as diffusers saves it."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    from oal_lite.pretrain import models
    from oal_lite.shapes import ID_SHAPES

    words = "a high - quality image of the picture".split()
    tokenizer = models.build_tokenizer([*words, *ID_SHAPES])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = models.build_text_encoder(tokenizer, WIDTH)
        vae = AutoencoderKL(
            sample_size=32, latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1, scaling_factor=0.7,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1,
            cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=4,
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=models.build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_teacher_folder):
    """The tiny teacher, loaded."""
    from oal_lite.teacher import Teacher

    return Teacher.from_pretrained(tiny_teacher_folder)


@pytest.fixture
def tiny_pipeline(tiny_pipeline_folder):
    """The tiny pipeline, loaded afresh, so that a test may change it."""
    from oal_lite.diffusion_outliers import load_pipeline

    return load_pipeline(tiny_pipeline_folder)


@pytest.fixture(scope="session")
def tiny_preset(tiny_teacher_folder, tiny_pipeline_folder):
    """The shapes preset shrunk until a whole run takes about a second."""
    from dataclasses import replace

    from oal_lite.presets import PRESETS

    shapes = PRESETS["shapes"]
    return replace(
        shapes, name="tiny", teacher=str(tiny_teacher_folder), pipeline=str(tiny_pipeline_folder),
        benchmark_sizes={"n_train": 100, "n_val": 20, "n_test": 30, "n_ood": 10}, n_per_class=10,
        knn=replace(shapes.knn, k=5, n_boundary=2, n_candidates=20, keep=2, rounds=1),
        diffusion=replace(shapes.diffusion, steps=2, n_latents=30),
        train=replace(
            shapes.train, width=2, start_epochs=1, epochs=1, batch_size=40, n_views=1
        ),
    )  # fmt: skip
