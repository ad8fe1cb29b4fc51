"""The student: a ResNet-18 of any width, for small (32 px) or large (224 px) images.

Architecture: K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, sections
3.3 and 4.2: a stem, four stages of two basic blocks, average pooling, one linear head.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from oal_lite.arguments import need_count, need_room, need_tensor


def _conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class _Projection(nn.Conv2d):
    """A 1x1 convolution with a stride.

    Below 16 channels it picks its pixels itself. There, in channels-last order, oneDNN's kernels
    write beyond their memory: below 8 channels that for AVX2, below 16 that for AVX-512 (torch
    2.13; uxlfoundation/oneDNN#6035).
    """

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        if self.in_channels >= 16:
            return super().forward(x)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)


class BasicBlock(nn.Module):
    """y = ReLU(x + BN(conv(ReLU(BN(conv(x)))))), with a 1x1 convolution on x where sizes differ."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(n_in, n_out, stride), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = _conv3x3(n_out, n_out), nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(_Projection(n_in, n_out, stride), nn.BatchNorm2d(n_out))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Apply the block."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 whose forward returns what every loss and score needs: logits and features.

    Args:
        n_classes: outputs of the head.
        width: channels of the first stage; 64 is the paper's (11.2 M parameters), 16 gives 0.7 M.
        stem: `"small"` is one 3x3 convolution, for 32 px; `"large"` is the 7x7 stride-2
            convolution with max-pooling of the original, for 224 px.

    Raises:
        ValueError: if the stem has another name.
    """

    def __init__(self, n_classes: int, *, width: int = 64, stem: str = "small"):
        super().__init__()
        need_count(n_classes=n_classes, width=width)
        weights = 2700 * width**2 + 8 * width * n_classes  # of the convolutions, and the head
        need_room(4 * weights, n_classes=n_classes, width=width)
        if stem not in ("small", "large"):
            raise ValueError(f"unknown stem {stem!r}; choose 'small' (32 px) or 'large' (224 px)")
        first = _conv3x3(3, width) if stem == "small" else nn.Conv2d(3, width, 7, 2, 3, bias=False)
        pool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, 2, 1)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), pool)
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(*(
            nn.Sequential(
                BasicBlock(channels[i], channels[i + 1], stride=1 if i == 0 else 2),
                BasicBlock(channels[i + 1], channels[i + 1], stride=1),
            )
            for i in range(4)
        ))  # fmt: skip
        self.feature_dim = channels[-1]
        self.head = nn.Linear(self.feature_dim, n_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def entry_size(self, side: int) -> int:
        """Side of the maps before the third stage, for images of this side."""
        return -(-side // (2 if isinstance(self.stem[3], nn.Identity) else 8))

    def forward(
        self,
        x: Float[Tensor, "n 3 h w"],
        extra: Float[Tensor, "e 3 h w"] | None = None,
        maps: Float[Tensor, "m c h2 w2"] | None = None,
        *,
        own_batch: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (rows, classes) and pooled features (rows, d), which are never negative.

        Args:
            x: images.
            extra: images for a loss term: outliers, for example. Their rows follow those of x.
            maps: feature maps, of `LatentStem` for example, that enter before the third stage and
                should have the side `entry_size`. Their rows come last.
            own_batch: extra images and maps leave the running statistics to x (`own_statistics`).

        Raises:
            ValueError: for what is no batch of floating-point images or maps.
        """
        _check_input(x, 3, "images")
        if extra is not None:
            _check_input(extra, 3, "extra images")
        if maps is not None:
            _check_input(maps, self.stages[2][0].conv1.in_channels, "maps")
        last = [self.stages(self.stem(x))]
        with own_statistics(self) if own_batch else nullcontext():
            if extra is not None:
                last.append(self.stages(self.stem(extra)))
            if maps is not None:
                last.append(self.stages[2:](maps))
        features = torch.cat([h.mean(dim=(2, 3)) for h in last])
        return self.head(features), features


def _check_input(x: Tensor, channels: int, name: str) -> None:
    need_tensor(**{name: x})
    if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point() or min(x.shape[2:]) < 1:
        raise ValueError(
            f"{name} have shape {tuple(x.shape)} and type {x.dtype}; expected (n, {channels}, h, "
            "w) in floating point, as teacher.to_float makes of 8-bit images"
        )


@contextmanager
def own_statistics(module: nn.Module) -> Iterator[None]:
    """While this context is open, batch normalisation learns no means and variances for the test.

    In training, what goes through is normalised by its own batch, and the running statistics stay
    as they are. They are those of ID images: at test time an image is normalised by them, and a
    student that was trained beside outliers on common statistics meets numbers it has never seen.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    try:
        for m in norms:
            m.momentum = 0.0
        yield
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum


class LatentStem(nn.Sequential):
    """The latent entrance: two convolutions make of a VAE latent a map for the third stage.

    The latent is first resized to the maps' side, so that the convolutions can draw what the
    student's first two stages draw. The stem serves training only; a trained student keeps its
    size and speed.

    Args:
        latent_channels: of the latents; 4 for Stable Diffusion v1.
        width: the student's, as in `ResNet18`.
    """

    def __init__(self, latent_channels: int, width: int):
        need_count(latent_channels=latent_channels, width=width)
        n = 2 * width
        need_room(36 * n * (latent_channels + n), latent_channels=latent_channels, width=width)
        super().__init__(
            _conv3x3(latent_channels, n), nn.BatchNorm2d(n), nn.ReLU(),
            _conv3x3(n, n), nn.BatchNorm2d(n), nn.ReLU(),
        )  # fmt: skip

    def forward(self, latents: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n m s s"]:
        """Maps of that side."""
        _check_input(latents, self[0].in_channels, "latents")
        need_count(side=side)
        return super().forward(F.interpolate(latents, size=(side, side)))
