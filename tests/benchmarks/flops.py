"""Floating-point operations of one sample, counted by hand; a multiply-add is two of them.

`tests/test_benchmark_flops.py` holds them against what torch counts in the modules themselves.
"""

from oal_lite.costs import COUNTED

UNET = COUNTED["UNet, one sample, one step"]
VIT_B16 = COUNTED["ViT-B/16, one image"]


def resnet18_step(side: int, width: int = 64, classes: int = 10) -> int:
    """A ResNet-18 with the stem for small images, forward and backward.

    Backward takes each product twice, for weights and for inputs; but images need no gradient.
    """

    def convolution(n_in, n_out, kernel, side):
        return 2 * n_in * n_out * kernel**2 * side**2

    stem = convolution(3, width, 3, side)
    forward = stem + 4 * convolution(width, width, 3, side)
    for _ in range(3):
        side, width = side // 2, 2 * width
        forward += convolution(width // 2, width, 3, side) + 3 * convolution(width, width, 3, side)
        forward += convolution(width // 2, width, 1, side)
    return 3 * (forward + 2 * width * classes) - stem


RESNET18_STEP = {
    32: resnet18_step(32),
    224: COUNTED["ResNet-18, one image, with its gradient"],
}
