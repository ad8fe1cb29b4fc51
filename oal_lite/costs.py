"""What a run costs, in arithmetic: counted once per part, added up for any size.

One multiply-add counts as 2 FLOP. The counts are of the modules themselves, forward unless said:
ResNet-18 and ViT-B/16 at 224 px, UNet, encoder and decoder of Stable Diffusion v1 at 512 px.
"""

import math
from dataclasses import dataclass

from oal_lite.arguments import need_number

GIGA = 1e9
COUNTED = {
    "ViT-B/16, one image": 35.1 * GIGA,
    "ResNet-18, one image": 3.63 * GIGA,
    "ResNet-18, one image, with its gradient": 10.65 * GIGA,
    "UNet, one sample, one step": 803 * GIGA,
    "encoder, one image": 1117 * GIGA,
    "decoder, one latent": 2515 * GIGA,
}


@dataclass(frozen=True)
class Plan:
    """What is to be run; the defaults are the paper's CIFAR-10 setting.

    Attributes:
        n_train: training images.
        epochs: of the student.
        n_latents, steps: of the diffusion; guidance asks the UNet twice a step.
        n_views: views whose teacher features are kept; 0 asks the teacher at every step.
        decode: whether the latents are decoded, too.
    """

    n_train: int = 50_000
    epochs: int = 100
    n_latents: int = 300
    steps: int = 51  # PLMS with 50 steps calls the UNet 51 times
    n_views: int = 0
    decode: bool = True


AS_RELEASED = Plan()
HERE = Plan(steps=20, n_views=4, decode=False)


def cost(plan: Plan) -> dict[str, float]:
    """FLOP of each stage of a plan: teacher, student, diffusion, decoding.

    Raises:
        ValueError: for what is no plan, or a number of it that is negative, NaN or infinite.
    """
    if not isinstance(plan, Plan):
        raise ValueError(f"plan={plan!r}; expected a Plan, such as Plan(epochs=20)")
    names = ("n_train", "epochs", "n_latents", "steps", "n_views")
    numbers = {name: getattr(plan, name) for name in names}
    need_number(**numbers)
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(f"{name}={value}; expected a number of at least 0")
    if not isinstance(plan.decode, bool):
        raise ValueError(f"decode={plan.decode!r:.80}; expected True or False")
    looks = plan.n_views or plan.epochs
    flop = {
        "teacher": plan.n_train * looks * COUNTED["ViT-B/16, one image"],
        "student": plan.n_train * plan.epochs * COUNTED["ResNet-18, one image, with its gradient"],
        "diffusion": plan.n_latents * plan.steps * 2 * COUNTED["UNet, one sample, one step"],
        "decoding": plan.n_latents * plan.decode * COUNTED["decoder, one latent"],
    }
    if not all(map(math.isfinite, flop.values())):
        raise ValueError(f"{plan}: more FLOP than a number holds; lower what is large")
    return flop


def hours(plan: Plan, tera_per_second: float) -> float:
    """Hours on a device that sustains so many TFLOP a second on this work.

    Raises:
        ValueError: if the speed is not above 0, or infinite.
    """
    need_number(tera_per_second=tera_per_second)
    if not tera_per_second > 0:
        raise ValueError(f"tera_per_second={tera_per_second}: expected a speed above 0")
    return sum(cost(plan).values()) / (tera_per_second * 1e12) / 3600
