"""Benchmarks: in-distribution (ID) splits, near-OOD, far-OOD and validation-OOD sets.

An OOD benchmark is a classification task plus images that belong to none of its classes.
*Near* OOD images look like the task (other shapes); *far* ones do not (digits, photographs).
*Validation-OOD* is a third, separate group: any choice of a setting may look at it, and only at
it. The near and far sets are for the final table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from oal_lite import shapes
from oal_lite.arguments import need_count, need_names, need_room, need_tensor, need_whole
from oal_lite.images import LazyImages, check_images, subset

OOD_LABEL = -1
SIZES = ("n_train", "n_val", "n_test", "n_ood")
NAMES = ("shapes", "cifar10", "cifar100", "imagenet200")


@dataclass(frozen=True)
class ImageSet:
    """Images as 8-bit RGB and one label each; label -1 says "none of the ID classes".

    Sets too large for memory are `LazyImages`, read batch by batch.
    """

    images: UInt8[Tensor, "n 3 h w"] | LazyImages
    labels: Int[Tensor, " n"]

    def __post_init__(self):
        check_images(self.images, least=0)
        need_tensor(labels=self.labels)
        if self.labels.shape != (len(self.images),) or self.labels.is_floating_point():
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)} and type {self.labels.dtype} for "
                f"{len(self.images)} images; expected one integer each"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def ood(cls, images: UInt8[Tensor, "n 3 h w"]) -> "ImageSet":
        """Wrap out-of-distribution images: every label is -1."""
        return cls(images, torch.full((len(images),), OOD_LABEL))


@dataclass(frozen=True)
class Benchmark:
    """One ID task and the OOD sets to tell from it.

    Attributes:
        name: of the benchmark.
        class_names: one word per ID class; a prompt can hold it.
        train, val, test: the ID splits.
        near, far: test-OOD sets by name, for the final table only.
        validation_ood: OOD sets by name for every choice that is made on the way.
        missing: OOD sets that belong to the benchmark but were not found; averages lack them.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    near: Mapping[str, ImageSet]
    far: Mapping[str, ImageSet]
    validation_ood: Mapping[str, ImageSet]
    missing: tuple[str, ...] = ()

    @classmethod
    def from_folders(
        cls, id_root: str | Path, near: Mapping[str, str | Path],
        far: Mapping[str, str | Path] | None = None, *,
        validation_ood: Mapping[str, str | Path] | None = None, image_size: int = 32,
        shares: tuple[float, float] = (0.1, 0.2), seed: int = 0,
    ) -> "Benchmark":  # fmt: skip
        """Make a benchmark of your own images.

        Args:
            id_root: one folder of images per ID class, or `train`, `val` and `test` with such
                folders in each.
            near: a folder of images for every near-OOD set, by name.
            far: the same for far-OOD.
            validation_ood: the same; without it there is nothing to choose settings on.
            image_size: side in pixels; images are resized and cropped to it.
            shares: of val and test, where the ID images are not divided yet.
            seed: of that division.

        Raises:
            ValueError: for a missing or empty folder, too few images, an unreadable image.
        """
        from oal_lite.image_folders import from_folders

        return from_folders(
            id_root, near, far or {}, validation_ood=validation_ood, image_size=image_size,
            shares=shares, seed=seed,
        )  # fmt: skip

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.train.images.shape[-1]

    def hold_out(self, classes: Sequence[str]) -> "Benchmark":
        """Take classes out of the ID task: what a choice can be made on where no other OOD is.

        Their training images become the validation-OOD set `"held-out"`. They must be unseen:
        teacher and diffusion model have to be trained without them, too. The OOD sets of the whole
        task are left out, so that no choice can look at them.

        Args:
            classes: names; none of them leaves the benchmark as it is.

        Raises:
            ValueError: for a class that is not there or is named twice, or if fewer than two stay.
        """
        need_names(classes=classes)
        if not classes:
            return self
        names = self.class_names
        if odd := sorted(set(classes) - set(names)):
            raise ValueError(f"held-out class {odd[0]!r} is not one of {', '.join(names)}")
        if len(set(classes)) < len(classes) or len(names) - len(classes) < 2:
            raise ValueError(
                f"held out are {', '.join(classes)} of {len(names)} classes; name each class once, "
                "and leave at least two"
            )
        kept = [c for c, name in enumerate(names) if name not in classes]
        place = torch.full((len(names),), OOD_LABEL)
        place[kept] = torch.arange(len(kept))

        def part(images: ImageSet, *, known: bool) -> ImageSet:
            labels = place[images.labels.long()]
            pick = ((labels != OOD_LABEL) == known).nonzero()[:, 0]
            return ImageSet(subset(images.images, pick), labels[pick])

        return replace(
            self, class_names=tuple(names[c] for c in kept), train=part(self.train, known=True),
            val=part(self.val, known=True), test=part(self.test, known=True), near={}, far={},
            validation_ood={"held-out": part(self.train, known=False)}, missing=(),
        )  # fmt: skip


def generator_for(seed: int, *stage: str) -> torch.Generator:
    """Give every named stage of a run its own stream of random numbers.

    One seed per run is split by name, so that a change in one stage (more images, another batch
    size) leaves the random numbers of all the others as they were.
    """
    import hashlib

    digest = hashlib.sha256("/".join([str(seed), *stage]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def load(
    name: str = "shapes", *, seed: int = 0, data_root: str | Path | None = None,
    embedded_far: bool = False, **sizes: int,
) -> Benchmark:  # fmt: skip
    """Load a benchmark by name.

    Args:
        name: `"shapes"`, the embedded benchmark, rendered on the fly in two seconds; or
            `"cifar10"`, `"cifar100"`, `"imagenet200"`, read from `data_root`.
        seed: of the rendering, or of the choice where `sizes` ask for fewer images than there are.
        data_root: folder in OpenOOD v1.5's layout (see `openood`); for real images only.
        embedded_far: of real images, take the far sets of the embedded benchmark where none of the
            official ones is there.
        sizes: `n_train`, `n_val`, `n_test`, `n_ood` (images per OOD set); see `load_shapes` and
            `openood.load`.

    Raises:
        ValueError: if there is no benchmark of that name, or no `data_root` where one is needed.
    """
    if name not in NAMES:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(NAMES)}")
    if unknown := set(sizes) - set(SIZES):
        raise ValueError(f"unknown size {min(unknown)!r}; choose from {', '.join(SIZES)}")
    need_whole(seed=seed, **sizes)
    if name == "shapes":
        need_no_root(data_root)
        return load_shapes(seed=seed, **sizes)
    if data_root is None:
        raise ValueError(
            f"{name} is read from files: name the folder that holds benchmark_imglist and the "
            "images (data_root=..., or --data-root on the command line)"
        )
    from oal_lite import openood  # it imports this module

    return openood.load(name, data_root, seed=seed, embedded_far=embedded_far, **sizes)


def need_no_root(data_root: str | Path | None) -> None:
    """Refuse a folder of images where none are read.

    Raises:
        ValueError: if there is one.
    """
    if data_root is not None:
        raise ValueError(f"data_root={str(data_root)!r}: 'shapes' is rendered, it reads none")


def load_shapes(
    *, seed: int = 0, n_train: int = 5000, n_val: int = 1000, n_test: int = 2000, n_ood: int = 500
) -> Benchmark:
    """Render the embedded benchmark: ten shapes to know, six near ones, four far sets.

    Args:
        seed: fixes every pixel.
        n_train: training images in all, spread evenly over the ten classes.
        n_val: the same for validation.
        n_test: the same for the ID test set.
        n_ood: images in each OOD set.

    Raises:
        ValueError: if a split would hold less than one image of every class.
    """
    classes = shapes.ID_SHAPES
    for split, n in {"n_train": n_train, "n_val": n_val, "n_test": n_test}.items():
        if n < len(classes):
            raise ValueError(f"{split}={n} is too few: {len(classes)} classes need one image each")

    def id_split(split: str, n: int) -> ImageSet:
        counts = [n // len(classes) + (i < n % len(classes)) for i in range(len(classes))]
        images = [
            shapes.render(shape, count, generator=generator_for(seed, split, shape))
            for shape, count in zip(classes, counts, strict=True)
        ]
        return ImageSet(torch.cat(images), torch.arange(len(classes)).repeat_interleave(
            torch.tensor(counts)))  # fmt: skip

    if n_ood < 1:
        raise ValueError(f"n_ood={n_ood} is too few: each OOD set needs an image")

    def ood_shapes(names: tuple[str, ...]) -> dict[str, ImageSet]:
        return {
            shape: ImageSet.ood(shapes.render(shape, n_ood, generator=generator_for(seed, shape)))
            for shape in names
        }

    return Benchmark(
        name="shapes",
        class_names=classes,
        train=id_split("train", n_train),
        val=id_split("val", n_val),
        test=id_split("test", n_test),
        near=ood_shapes(shapes.NEAR_SHAPES),
        far=far_sets(n_ood, seed),
        validation_ood=ood_shapes(shapes.VALIDATION_SHAPES),
    )


# --- far-OOD sets of the embedded benchmark: nothing is downloaded, scikit-learn ships them -----


def far_sets(n: int, seed: int) -> dict[str, ImageSet]:
    """Digits, photographs, stripes and noise, n images of 32 px each.

    Raises:
        ValueError: if n is below one.
    """
    need_count(n=n)
    need_whole(seed=seed)
    need_room(4 * 3 * 32**2 * n, n=n)
    sets = {"digits": _digits, "photos": _photos, "stripes": _stripes, "noise": _noise}
    return {k: ImageSet.ood(draw(n, generator_for(seed, k))) for k, draw in sets.items()}


def _pick(n: int, of: int, generator: torch.Generator) -> Tensor:
    return torch.randint(of, (n,), generator=generator)


def _digits(n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 32 32"]:
    """Handwritten digits (UCI, 8 x 8 px, enlarged) in the same colours and noise as the shapes."""
    from sklearn.datasets import load_digits

    ink = torch.from_numpy(load_digits().images).float() / 16
    ink = ink[_pick(n, len(ink), generator), None]
    large = F.interpolate(ink, size=(24, 24), mode="bicubic", align_corners=False)
    return shapes.paint(F.pad(large[:, 0], (4, 4, 4, 4)).clamp(0, 1), generator=generator)


def _photos(n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 32 32"]:
    """Patches of 64 px from two photographs (a temple, a flower), halved in size."""
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]
    rows = _pick(n, photos[0].shape[1] - 64, generator).tolist()
    columns = _pick(n, photos[0].shape[2] - 64, generator).tolist()
    patches = torch.stack(
        [
            photos[i % 2][:, r : r + 64, c : c + 64]
            for i, (r, c) in enumerate(zip(rows, columns, strict=True))
        ]
    )
    return F.avg_pool2d(patches.float(), 2).round().to(torch.uint8)


def _stripes(n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 32 32"]:
    """Two-coloured stripes of random direction and 2 to 6 periods per image."""
    angle = torch.rand(n, 1, 1, generator=generator) * torch.pi
    periods = 2 + 4 * torch.rand(n, 1, 1, generator=generator)
    axis = torch.linspace(0, 1, 32)
    along = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
    return shapes.paint(
        ((2 * torch.pi * periods * along).sin() * 4 + 0.5).clamp(0, 1), generator=generator
    )


def _noise(n: int, generator: torch.Generator) -> UInt8[Tensor, "n 3 32 32"]:
    """Every pixel and channel uniform on 0..255, independent."""
    return torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
