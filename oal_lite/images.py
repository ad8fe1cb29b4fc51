"""Image files: read as 8-bit RGB, all at once where memory allows, batch by batch where not.

Every image is resized (bilinear) until its shorter side has `resize` pixels and is then cropped to
the `crop` x `crop` pixels in its middle, as OpenOOD v1.5 prepares its images.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from oal_lite.arguments import need_content

THREADS = min(16, os.cpu_count() or 1)
IN_MEMORY = 2**28  # bytes of a set of images; a larger one is read late


class ImageFile(NamedTuple):
    """Where an image lies, and where that was written (`"list.txt, line 3"`), for messages."""

    path: Path
    origin: str


class LazyImages:
    """n images that are read when they are asked for; what a tensor of them would not fit into.

    It knows just what training and scoring ask of a tensor (n, 3, h, w): its length and shape, and
    `images[index]`, which reads.

    Args:
        n: how many.
        size: side in pixels.
        read: maps indices to images.
    """

    dtype = torch.uint8

    def __init__(self, n: int, size: int, read: Callable[[Tensor], Tensor]):
        self.shape, self._read = torch.Size((n, 3, size, size)), read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Int[Tensor, " m"]) -> UInt8[Tensor, "*m 3 h w"]:
        """Read one image, or those of a slice, of indices or of a mask.

        Raises:
            IndexError: for what is none of these, or beyond the last image.
        """
        chosen = self._chosen(index)
        return self._read(chosen) if chosen.ndim else self._read(chosen[None])[0]

    def subset(self, index: Tensor) -> "LazyImages":
        """Some of the images, still unread; raises as `__getitem__`."""
        chosen = self._chosen(index).reshape(-1)
        return LazyImages(len(chosen), self.shape[-1], lambda i: self._read(chosen[i]))

    def _chosen(self, index: int | slice | Tensor) -> Int[Tensor, "*m"]:
        try:
            if isinstance(index, str):  # torch would warn of it, before it refuses
                raise TypeError("a word")
            chosen = torch.arange(len(self))[index]
            if chosen.ndim > 1:
                raise TypeError("no row of them")
        except (IndexError, TypeError) as error:
            raise IndexError(
                f"an index of type {type(index).__name__} into {len(self)} images ({error}); "
                "expected a number below theirs, a slice, or a tensor of such numbers"
            ) from None
        return chosen


def check_images(images: Tensor | LazyImages, name: str = "images", *, least: int = 1) -> None:
    """Refuse what is no batch of 8-bit RGB images.

    Raises:
        ValueError: with the shape and type that were given.
    """
    if not isinstance(images, LazyImages):
        need_content(**{name: images})
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or images.dtype != torch.uint8 or min(shape[2:]) < 1:
        raise ValueError(
            f"{name} have shape {shape} and type {images.dtype}; expected (n, 3, h, w) in "
            "torch.uint8: stack RGB images, and leave their values at 0 to 255"
        )
    if shape[0] < least:
        raise ValueError(f"{name} are {shape[0]}; at least {least} is needed")


def subset(images: Tensor | LazyImages, index: Tensor) -> Tensor | LazyImages:
    """Choose some of the images, and read none for it."""
    return images.subset(index) if isinstance(images, LazyImages) else images[index]


def late(images: UInt8[Tensor, "n 3 h w"]) -> LazyImages:
    """Images in memory, of which each use copies only what it asks for."""
    return LazyImages(len(images), images.shape[-1], images.__getitem__)


def join(
    parts: Sequence[UInt8[Tensor, "_ 3 h w"] | LazyImages],
) -> UInt8[Tensor, "n 3 h w"] | LazyImages:
    """Put sets of images of one size in a row; if one of them is unread, all are read late."""
    if not any(isinstance(part, LazyImages) for part in parts):
        return torch.cat(list(parts))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    size = parts[0].shape[-1]

    def read(index: Tensor) -> Tensor:
        out = torch.empty(len(index), 3, size, size, dtype=torch.uint8)
        which = torch.bucketize(index, ends, right=True)
        for i, part in enumerate(parts):
            here = which == i
            out[here] = part[index[here] - (ends[i] - len(part))]
        return out

    return LazyImages(int(ends[-1]), size, read)


def read_image(file: ImageFile, *, resize: int, crop: int) -> UInt8[Tensor, "3 s s"]:
    """Read one image; grey and palette images become RGB.

    Raises:
        ValueError: if there is no such file or it is no whole image, with file and line.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file.path) as opened:
            if opened.mode.startswith("I;16"):  # Pillow would cut off all that is above 255
                opened = Image.fromarray((np.asarray(opened) // 257).astype(np.uint8))  # noqa: PLW2901
            if opened.mode in ("F", "I"):
                raise ValueError(f"pixels of mode {opened.mode}, whose range nobody knows")
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{file.origin}: there is no file {file.path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file.origin}: {file.path} cannot be read as an image ({error}); replace the file "
            "or take it out of the list"
        ) from None
    width, height = image.size
    if max(width, height) > 100 * min(width, height):  # enlarged, it would fill the memory
        raise ValueError(f"{file.origin}: {file.path} has {width} x {height} pixels, no picture")
    if min(width, height) != resize:
        scale = resize / min(width, height)
        size = max(resize, round(width * scale)), max(resize, round(height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.array(image.crop((left, top, left + crop, top + crop)))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_images(
    files: Sequence[ImageFile], *, resize: int, crop: int, memory: int = IN_MEMORY
) -> UInt8[Tensor, "n 3 s s"] | LazyImages:
    """Read image files into one tensor, in threads; or later, where they would be too large.

    Args:
        files: what to read, in this order.
        resize: see the head of this module.
        crop: the same.
        memory: most bytes to hold; beyond it, images are read when they are asked for.

    Raises:
        ValueError: as `read_image`; for lazy images when they are read.
    """

    def read(index: Tensor) -> Tensor:
        out = torch.empty(len(index), 3, crop, crop, dtype=torch.uint8)

        def fill(place: tuple[int, int]) -> None:
            out[place[0]] = read_image(files[place[1]], resize=resize, crop=crop)

        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(fill, enumerate(index.tolist())):
                pass
        return out

    lazy = LazyImages(len(files), crop, read)
    return lazy if lazy.shape.numel() > memory else lazy[:]
