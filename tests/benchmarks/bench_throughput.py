"""Images a second on a GPU, beside what was counted and what the card can do."""

import pytest
import torch
from bench_training import in_words, random_vit, student_step
from flops import RESNET18_STEP, VIT_B16

pytestmark = pytest.mark.usefixtures("on_gpu")
TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def bench_what_the_card_gives(keep_rate, device, tiny):
    n = 64 if tiny else 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    keep_rate(
        f"matrix product, {n} x {n}, bf16: what the card gives", lambda: a @ b,
        batch=1, flop=2 * n**3, unit="products",
    )  # fmt: skip


@pytest.mark.parametrize("batch", [128, 512])
@pytest.mark.parametrize("precision", TYPES)
def bench_student_at_32_px(keep_rate, device, tiny, precision, batch):
    batch, width = (batch // 16, 16) if tiny else (batch, 64)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, 32, 32), generator=g, dtype=torch.uint8)
    features, logits = torch.randn(batch, 768, generator=g), torch.randn(batch, 10, generator=g)
    step = student_step(device, width, "small", precision)
    keep_rate(
        f"training at 32 px, batch {batch}, {in_words(device, precision)}",
        lambda: step(images, features, logits),
        batch=batch, flop=RESNET18_STEP[32],
    )  # fmt: skip


@pytest.mark.parametrize("precision", TYPES)
def bench_vit_forward(keep_rate, device, tiny, precision):
    batch, dtype = 1 if tiny else 256, TYPES[precision]
    model = random_vit(device).model.to(dtype)
    pixels = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)

    @torch.no_grad()
    def look():
        return model(pixel_values=pixels).logits

    assert look().isfinite().all()
    keep_rate(f"ViT-B/16 forward, batch {batch}, {precision}", look, batch=batch, flop=VIT_B16)
