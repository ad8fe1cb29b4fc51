"""The teacher: any image classifier of transformers, frozen; features and logits of images.

The paper's teacher is a ViT-B/16 (768-d pre-logits features). The shipped one is a small CvT,
a vision transformer with convolutional token embeddings, trained from scratch on shapes. Both
load by the same line, and nothing below asks which one it is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from oal_lite import weights
from oal_lite.arguments import check_device, need_finite, need_floats, need_whole
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


class Teacher(nn.Module):
    """A frozen classifier that returns the input of its last linear layer beside its logits.

    The features are caught at the door of the last layer of `model.classifier`, which every
    classifier of transformers with a linear head has (ViT, DeiT, Swin, CvT, ResNet, ...). So they
    are, by construction, the numbers from which the logits are one matrix product away.

    Args:
        model: an `AutoModelForImageClassification` whose `classifier` is, or ends in, a linear
            layer.

    Raises:
        ValueError: if the model has no such `classifier`.
    """

    def __init__(self, model: nn.Module):
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
            model = AutoModelForImageClassification.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        if torch.device(device).type == "cuda":  # there, convolutions are made for this order
            model.to(memory_format=torch.channels_last)
        return cls(model.to(device))

    @property
    def head(self) -> nn.Linear:
        """The last layer, from features to logits."""
        return self._head[0]

    @property
    def image_size(self) -> int:
        """Side of the images that the model was built for; others are resized to it."""
        size = getattr(self.model.config, "image_size", None)
        return size if isinstance(size, int) else 0

    def prepared(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Images in [-1, 1] at the size that the model was built for (bilinear, antialiased)."""
        if not self.image_size or x.shape[-1] == self.image_size:
            return x
        return F.interpolate(x, size=self.image_size, mode="bilinear", antialias=True)

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
                change the result. If None, 250 on a CPU and 1,000 on a GPU.
            progress: show a bar.
        """
        check_images(images)
        device, dtype = self.head.weight.device, self.head.weight.dtype
        if batch_size is None:
            batch_size = 250 if device.type == "cpu" else 1000
        need_whole(batch_size=batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1")

        def one_batch(part: slice) -> tuple[Tensor, Tensor]:
            x = self.prepared(to_float(images[part].to(device))).to(dtype)
            logits = self.model(pixel_values=x).logits.float().cpu()
            return self._caught.float().cpu(), logits

        bar = "teacher features" if progress else None
        seen = in_batches(one_batch, len(images), batch_size, bar=bar)
        self._caught = None
        features, logits = zip(*seen, strict=True)
        return TeacherOutputs(torch.cat(features), torch.cat(logits))

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
