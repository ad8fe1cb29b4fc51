"""Augmented views of images, drawn before training, and what the teacher says of each.

The teacher looks at every view once; the student then sees one of an image's views at random, with
the teacher's answer to that very view beside it. The released code runs the teacher at every step
instead, which takes 77 % of its arithmetic.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from oal_lite.arguments import need_count, need_generator, need_integers, need_room, need_whole
from oal_lite.images import LazyImages, check_images
from oal_lite.teacher import Teacher
from oal_lite.teacher_cache import cached_features, view_key

CHUNK = 10_000  # images that are moved at a time: in between each takes four bytes a number


class LazyViews:
    """V augmented copies of images that are read, and augmented, when they are asked for.

    Flips and shifts are drawn once, so the teacher and the student see the same views.
    """

    def __init__(
        self, images: LazyImages, n_views: int, generator: torch.Generator, *, padding: int = 4
    ):
        n = len(images)
        moves = [_moves(n, padding, generator) for _ in range(n_views)]
        flip = torch.cat([m[0] for m in moves])
        shift = torch.cat([m[1] for m in moves], dim=1)

        def read(index: Tensor) -> Tensor:
            return _moved(images[index % n], flip[index], shift[:, index], padding)

        self.shape = torch.Size((n_views, *images.shape))
        self._flat = LazyImages(n_views * n, images.shape[-1], read)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: tuple[Tensor, Tensor]) -> UInt8[Tensor, "b 3 h w"]:
        """Read view `index[0]` of image `index[1]`."""
        view, pick = index
        return self._flat[(view * self.shape[1] + pick).cpu()]

    def flatten(self, start: int = 0, end: int = 1) -> LazyImages:
        """All views in one row, still unread; the only flattening that there is."""
        return self._flat


class FreshViews:
    """One view that is another at every look: each image is flipped and shifted when asked for.

    For losses that do not ask the teacher, which cannot have looked at such a view before.
    """

    def __init__(
        self, images: UInt8[Tensor, "n 3 h w"], generator: torch.Generator, *, padding: int = 4
    ):
        self.images, self.generator, self._padding = images, generator, padding
        self.shape = torch.Size((1, *images.shape))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: tuple[Tensor, Tensor]) -> UInt8[Tensor, "b 3 h w"]:
        """Augment the images `index[1]`."""
        return augment(self.images[index[1]], self.generator, padding=self._padding)

    def to(self, device: torch.device) -> "FreshViews":
        """The same on another device."""
        return FreshViews(self.images.to(device), self.generator, padding=self._padding)


@dataclass(frozen=True)
class Views:
    """V augmented copies of n training images, with the teacher's outputs for each copy."""

    images: UInt8[Tensor, "v n 3 h w"] | LazyViews | FreshViews
    labels: Int[Tensor, " n"]
    teacher_features: Float[Tensor, "v n d"]
    teacher_logits: Float[Tensor, "v n k"]

    def to(self, device: torch.device) -> "Views":
        """The same on another device; lazy images stay where they are read."""
        moved = {k: v if isinstance(v, LazyViews) else v.to(device) for k, v in vars(self).items()}
        return Views(**moved)


def augment(
    images: UInt8[Tensor, "n 3 h w"], generator: torch.Generator, *, padding: int = 4
) -> UInt8[Tensor, "n 3 h w"]:
    """Flip each image with probability 1/2 and shift it by up to `padding` pixels, reflecting."""
    check_images(images)
    if isinstance(images, LazyImages):
        raise ValueError("images are read late; augment them by LazyViews, or read them: images[:]")
    need_whole(padding=padding)
    need_generator(generator, or_none=False)
    if not 0 <= padding < min(images.shape[2:]):
        raise ValueError(
            f"padding={padding} on images of {tuple(images.shape[2:])}; expected 0 or more, and "
            "less than a side, because the border is filled by reflection"
        )
    flip, shift = _moves(len(images), padding, generator)
    parts = zip(images.split(CHUNK), flip.split(CHUNK), shift.split(CHUNK, dim=1), strict=True)
    return torch.cat([_moved(*part, padding) for part in parts])


def _moves(n: int, padding: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw who is flipped, (n,), and by how much each image is shifted, (2, n)."""
    flip = torch.rand(n, generator=generator) < 0.5
    return flip, torch.randint(2 * padding + 1, (2, n), generator=generator)


def _moved(images: Tensor, flip: Tensor, shift: Tensor, padding: int) -> Tensor:
    n, _, h, w = images.shape
    device = images.device
    images = torch.where(flip.to(device).view(n, 1, 1, 1), images.flip(-1), images)
    # reflect padding is not defined on bytes; 8-bit values are exact in float
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    top, left = shift.to(device)
    rows = (top[:, None] + torch.arange(h, device=device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(w, device=device))[:, None, None, :]
    channels = torch.arange(3, device=device).view(1, 3, 1, 1)
    return padded[torch.arange(n, device=device).view(n, 1, 1, 1), channels, rows, columns]


def augmented_copies(
    images: UInt8[Tensor, "n 3 h w"] | LazyImages, n_views: int, generator: torch.Generator
) -> UInt8[Tensor, "v n 3 h w"] | LazyViews:
    """Augment every image `n_views` times; at once, or where images are read late, then.

    Raises:
        ValueError: if `n_views` is below one.
    """
    need_count(n_views=n_views)
    need_generator(generator, or_none=False)
    if isinstance(images, LazyImages):
        return LazyViews(images, n_views, generator)
    need_room(n_views * images.numel(), n_views=n_views)
    return torch.stack([augment(images, generator) for _ in range(n_views)])


def draw_views(
    images: UInt8[Tensor, "n 3 h w"] | LazyImages,
    labels: Int[Tensor, " n"],
    teacher: Teacher,
    *,
    n_views: int,
    generator: torch.Generator,
    cache: Path | None = None,
    cache_dtype: str = "float32",
    progress: bool = False,
) -> Views:
    """Draw the augmented views of a training set and let the teacher look at each, once.

    Args:
        images: 8-bit training images.
        labels: of the images.
        teacher: looks at the views.
        n_views: V, how many of each image.
        generator: of the augmentation.
        cache: folder where the teacher's features are kept, and looked for (`teacher_cache`).
        cache_dtype: number format of the kept features, "float32" or "float16".
        progress: show a bar while the teacher looks.

    Raises:
        ValueError: if `n_views` is below one, or there are not as many labels as images.
    """
    check_images(images)
    need_integers(labels=labels)
    need_count(n_views=n_views)
    need_generator(generator, or_none=False)
    if labels.shape != (len(images),):
        raise ValueError(f"labels have shape {tuple(labels.shape)} for {len(images)} images")
    cache = None if cache is None else Path(cache)
    if isinstance(images, LazyImages):
        cache = None  # to know such images by their content, each would have to be read twice
    if cache is not None:  # before the generator moves on
        key = view_key(
            images, teacher, n_views=n_views, generator=generator, dtype=cache_dtype
        )  # fmt: skip
    views = augmented_copies(images, n_views, generator)

    def look() -> Float[Tensor, "v n d"]:
        seen = teacher(views.flatten(0, 1), progress=progress)
        return seen.features.unflatten(0, views.shape[:2])

    features = look() if cache is None else cached_features(cache, key, look)
    return Views(views, labels, features, teacher.logits(features))
