"""A benchmark from folders of your own: one folder per ID class, one per OOD set.

flowers/rose/*.jpg, flowers/tulip/*.jpg, ...       the ID classes
weeds/*.jpg                                        a near-OOD set
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from oal_lite.arguments import need_count, need_number, need_whole
from oal_lite.benchmarks import OOD_LABEL, Benchmark, ImageSet, generator_for
from oal_lite.files import real_path
from oal_lite.images import IN_MEMORY, ImageFile, read_images

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def from_folders(
    id_root: str | Path, near: Mapping[str, str | Path], far: Mapping[str, str | Path], *,
    validation_ood: Mapping[str, str | Path] | None = None, image_size: int = 32,
    shares: tuple[float, float] = (0.1, 0.2), seed: int = 0, memory: int = IN_MEMORY,
) -> Benchmark:  # fmt: skip
    """Make a benchmark of your own images; see `Benchmark.from_folders`."""

    def images(files: list[ImageFile], labels: Tensor) -> ImageSet:
        return ImageSet(
            read_images(files, resize=image_size, crop=image_size, memory=memory), labels
        )

    need_count(image_size=image_size)
    need_whole(seed=seed)
    groups = [_named(near), _named(far), _named(validation_ood or {})]
    names = [name for group in groups for name in group]
    if len(set(names)) < len(names) or "id" in names or any("/" in n for n in names):
        raise ValueError(f"OOD sets are named {names}; each needs its own name, not 'id', no '/'")
    classes, splits = _id_splits(_folder(id_root), shares, seed)
    ood = [{k: _files(_folder(v)) for k, v in group.items()} for group in groups]
    sets = {"the ID images": [f for files, _ in splits for f in files]}
    _need_apart(sets | {f"OOD set {k!r}": f for group in ood for k, f in group.items()})
    near_sets, far_sets, validation = (
        {k: images(f, torch.full((len(f),), OOD_LABEL)) for k, f in group.items()} for group in ood
    )
    train, val, test = (images(f, y) for f, y in splits)
    return Benchmark(
        Path(id_root).name, tuple(classes), train, val, test, near_sets, far_sets, validation
    )


def _named(sets: Mapping[str, str | Path]) -> dict[str, str | Path]:
    if not isinstance(sets, Mapping) or not all(isinstance(name, str) for name in sets):
        raise ValueError(f"OOD sets are {sets!r}; expected folders by name: {{'weeds': 'folder'}}")
    return dict(sets)


def _folder(path: str | Path) -> Path:
    if not isinstance(path, str | Path) or not Path(path).is_dir():
        raise ValueError(f"{path} is no folder; expected one that holds images")
    return Path(path)


def _need_apart(sets: Mapping[str, list[ImageFile]]) -> None:
    """Refuse an image that is in two sets: in one of them it is what it is not."""
    owner: dict[Path, str] = {}
    for name, files in sets.items():
        real = {folder: folder.resolve() for folder in {f.path.parent for f in files}}
        for path in (_real(f.path, real[f.path.parent]) for f in files):
            if owner.setdefault(path, name) != name:
                raise ValueError(
                    f"{path} belongs to {owner[path]} and to {name}; an image is either ID or of "
                    "one OOD set: give each a folder of its own"
                )


def _real(path: Path, folder: Path) -> Path:
    return real_path(path) if path.is_symlink() else folder / path.name


def _files(folder: Path) -> list[ImageFile]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no image; expected files such as 0001.png or 0001.jpg")
    return [ImageFile(p, str(folder)) for p in found]


def _classes(folder: Path) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len({n.replace("_", " ") for n in names}) < len(names):
        raise ValueError(f"{folder} has two folders of one class name, '_' being a space in it")
    if len(names) < 2:
        raise ValueError(f"{folder} holds {len(names)} class folder(s); at least two are needed")
    return names


def _id_splits(
    root: Path, shares: tuple[float, float], seed: int
) -> tuple[list[str], list[tuple[list[ImageFile], Tensor]]]:
    """Class names, then files and labels of train, val and test."""
    parts = [root / split for split in ("train", "val", "test")]
    if all(p.is_dir() for p in parts):
        folders = [_classes(p) for p in parts]
        if folders[1] != folders[0] or folders[2] != folders[0]:
            raise ValueError(f"{root}: train, val and test have different class folders")
        members = [[_files(p / c) for c in folders[0]] for p in parts]
        classes = folders[0]
    elif any(p.is_dir() for p in parts):
        there = ", ".join(p.name for p in parts if p.is_dir())
        raise ValueError(
            f"{root} has {there} and not all of train, val and test; make all three, with the "
            "class folders in each, or put the class folders there themselves"
        )
    else:
        classes = _classes(root)
        members = [[], [], []]
        for name in classes:
            for part, files in zip(
                members, _divide(_files(root / name), shares, seed), strict=True
            ):
                part.append(files)
    labelled = [
        ([f for files in part for f in files],
         torch.arange(len(classes)).repeat_interleave(torch.tensor([len(f) for f in part])))
        for part in members
    ]  # fmt: skip
    return [c.replace("_", " ") for c in classes], labelled


def _divide(files: list[ImageFile], shares: tuple[float, float], seed: int) -> list[list]:
    """Split one class at random into train, val and test."""
    if not isinstance(shares, list | tuple) or len(shares) != 2:
        raise ValueError(f"shares={shares}; expected two, of val and of test, as (0.1, 0.2)")
    need_number(**{"share of val": shares[0], "share of test": shares[1]})
    counts = [max(1, round(share * len(files))) for share in shares]
    if min(shares) <= 0 or sum(counts) >= len(files):
        raise ValueError(
            f"{files[0].origin}: {len(files)} images do not divide into train, val and test with "
            f"shares {shares} for val and test; add images or make folders train, val and test"
        )
    generator = generator_for(seed, "split", files[0].path.parent.name)
    order = torch.randperm(len(files), generator=generator).tolist()
    val, test = order[: counts[0]], order[counts[0] : sum(counts)]
    return [[files[i] for i in sorted(part)] for part in (order[sum(counts) :], val, test)]
