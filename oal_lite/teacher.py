"""The teacher: any image classifier of transformers, frozen; features and logits of images.

The paper's teacher is a ViT-B/16 (768-d pre-logits features). The shipped one is a small CvT,
a vision transformer with convolutional token embeddings, trained from scratch on shapes. Both
load by the same line, and nothing below asks which one it is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from oal_lite import weights
from oal_lite.arguments import (
    check_device,
    need_answers,
    need_finite,
    need_floats,
    need_number,
    need_whole,
)
from oal_lite.batches import in_batches
from oal_lite.images import LazyImages, check_images


def to_float(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Map 8-bit images to [-1, 1]: x / 127.5 - 1, what students, teachers and VAEs here read."""
    return images.float() / 127.5 - 1


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher says of n images: pre-logits features (n, d) and logits (n, classes)."""

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


@dataclass(frozen=True)
class Preprocessing:
    """How a model was shown images in its training, by its `preprocessor_config.json`.

    Attributes:
        mean, std: of each channel, with pixels in [0, 1]; these ones lead to [-1, 1].
        side: of the images in pixels, where the model's own config does not say; 0 for any.
    """

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    side: int = 0

    @classmethod
    def of(cls, folder: Path) -> "Preprocessing":
        """What a model's folder says; the usual numbers where it says nothing.

        Raises:
            ValueError: for a file that is no such description.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return cls()
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            size = said.get("crop_size") or said.get("size") or 0  # a number, or one by name
            side = max(size.values()) if isinstance(size, dict) else size
            if said.get("do_normalize", True):
                mean, std = said.get("image_mean") or cls.mean, said.get("image_std") or cls.std
            else:  # pixels in [0, 1] as they are
                mean, std = (0.0,) * 3, (1.0,) * 3
            need_number(**{f"{name} {i}": x for name, row in (("mean", mean), ("std", std))
                           for i, x in enumerate(row)})  # fmt: skip
            need_whole(side=side)
            # a 16-bit image has steps of 1.5e-5; what is finer, or larger, is no description
            if (len(mean), len(std)) != (3, 3) or min(std) < 1e-6 or max(map(abs, mean)) > 1e6:
                raise ValueError(f"mean {mean}, std {std}")
            if side < 0:
                raise ValueError(f"side {side}")
        except (AttributeError, OSError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say how images are prepared ({error}); expected image_mean and "
                "image_std of 3 numbers each, as transformers writes them: restore it or delete it"
            ) from None
        return cls(tuple(mean), tuple(std), side)


class Teacher(nn.Module):
    """A frozen classifier that returns the input of its last linear layer beside its logits.

    The features are caught at the door of the last layer of `model.classifier`, which every
    classifier of transformers with a linear head has (ViT, DeiT, Swin, CvT, ResNet, ...). So they
    are, by construction, the numbers from which the logits are one matrix product away.

    Args:
        model: an `AutoModelForImageClassification` whose `classifier` is, or ends in, a linear
            layer.
        shown: how it was shown images; the usual numbers if None.

    Raises:
        ValueError: if the model has no such `classifier`.
    """

    def __init__(self, model: nn.Module, shown: Preprocessing | None = None):
        super().__init__()
        head = getattr(model, "classifier", None)
        if isinstance(head, nn.Sequential) and len(head):  # ResNet's flattens first
            head = head[-1]
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"{type(model).__name__} has no linear layer named 'classifier'; use an image "
                "classifier of transformers that has one, for example ViTForImageClassification"
            )
        self.model = model.eval().requires_grad_(False)
        # Not as modules: they are the model's, and its state dict shall name them once.
        self._head = (head,)
        self.feature_dim, self.n_classes = head.in_features, head.out_features
        self._shown = shown or Preprocessing()
        mean, std = (
            torch.tensor(x, device=head.weight.device).view(3, 1, 1)
            for x in (self._shown.mean, self._shown.std)
        )
        # From [-1, 1] to what the model knows; with the usual numbers x * 1 + 0, the same bits.
        self.register_buffer("scale", 0.5 / std)
        self.register_buffer("shift", (0.5 - mean) / std)
        self._caught: Tensor | None = None
        head.register_forward_pre_hook(self._catch)

    def _catch(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught = inputs[0]

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32, download: bool = False,
    ) -> "Teacher":  # fmt: skip
        """Load a teacher from a folder in transformers' format, or by its hub id.

        Args:
            path: folder, or hub id; a hub id is fetched only with `download`.
            device: where it runs.
            dtype: of its weights and arithmetic.
            download: see `weights.find`.

        Raises:
            OSError: if there is no such model.
            ValueError: if its head is not one linear layer, a file is damaged, or the device is not
                there.
        """
        from transformers import AutoModelForImageClassification

        check_device(device)
        folder = weights.find(path, download=download)
        with weights.loading(path):
            model, found = AutoModelForImageClassification.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
        weights.need_whole_model(path, found)
        if torch.device(device).type == "cuda":  # there, convolutions are made for this order
            model.to(memory_format=torch.channels_last)
        return cls(model.to(device), Preprocessing.of(folder))

    @property
    def head(self) -> nn.Linear:
        """The last layer, from features to logits."""
        return self._head[0]

    @property
    def image_size(self) -> int:
        """Side of the images that the model was built for; others are resized to it."""
        size = getattr(self.model.config, "image_size", None)
        return size if isinstance(size, int) else self._shown.side

    @property
    def class_names(self) -> list[str]:
        """Of the classes, in the order of its logits, as its config names them."""
        return [str(self.model.config.id2label[i]) for i in range(self.n_classes)]

    def prepared(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Images in [-1, 1], led to the model's size (bilinear, antialiased), mean and spread."""
        if self.image_size and x.shape[-1] != self.image_size:
            x = F.interpolate(x, size=self.image_size, mode="bilinear", antialias=True)
        return x * self.scale + self.shift

    @torch.no_grad()
    def forward(
        self,
        images: UInt8[Tensor, "n 3 h w"] | LazyImages,
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> TeacherOutputs:
        """Features and logits of all images, in batches, on the CPU.

        Args:
            images: 8-bit RGB of any size; resized (bilinear, antialiased) where the model asks.
            batch_size: images at a time, or fewer where memory does not suffice; it does not
                change the result. If None, 64 on a CPU, whose caches hold no more, and 1,000 on a
                GPU.
            progress: show a bar.
        """
        check_images(images)
        device, dtype = self.head.weight.device, self.head.weight.dtype
        if batch_size is None:
            batch_size = 64 if device.type == "cpu" else 1000

        def one_batch(part: slice) -> tuple[Tensor, Tensor]:
            x = self.prepared(to_float(images[part].to(device))).to(dtype)
            logits = self.model(pixel_values=x).logits.float().cpu()
            return self._caught.float().cpu(), logits

        bar = "teacher features" if progress else None
        seen = in_batches(one_batch, len(images), batch_size, bar=bar)
        self._caught = None
        features, logits = (torch.cat(x) for x in zip(*seen, strict=True))
        need_answers("teacher", features, logits)
        return TeacherOutputs(features, logits)

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n c"]:
        """Logits of features, the teacher's last layer alone, on the CPU.

        Raises:
            ValueError: for features of another width or type, and for NaN.
        """
        head = self.head
        need_floats(features=features)
        need_finite(features=features)
        if features.ndim < 1 or features.shape[-1] != head.in_features:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; expected {head.in_features} numbers "
                "in the last dimension, as this teacher's own"
            )
        x = features.to(head.weight.device, head.weight.dtype)
        return F.linear(x, head.weight, head.bias).float().cpu()
