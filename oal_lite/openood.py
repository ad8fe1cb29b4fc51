"""Real images in OpenOOD v1.5's folders.

OpenOOD keeps images and lists apart. A list names one image and its label a line; -1 says that
the image belongs to none of the ID classes:

    data_root/images_classic/cifar10/train/airplane/0000.png
    data_root/benchmark_imglist/cifar10/train_cifar10.txt:  cifar10/train/airplane/0000.png 0
    data_root/benchmark_imglist/cifar10/test_cifar100.txt:  cifar100/test/apple/0001.png -1

Source of the protocol: J. Zhang et al., "OpenOOD v1.5", arXiv:2306.09301, section 3.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from oal_lite.arguments import need_count, need_path, need_whole
from oal_lite.benchmarks import OOD_LABEL, Benchmark, ImageSet, far_sets, generator_for
from oal_lite.images import IN_MEMORY, ImageFile, read_images

LISTS = "benchmark_imglist"
N_EMBEDDED = 1000  # images of each embedded far set


@dataclass(frozen=True)
class Layout:
    """One ID data set of OpenOOD v1.5: its classes, its images' size, its OOD sets.

    Attributes:
        n_classes: labels of the ID lists are 0 .. n_classes - 1.
        resize, crop: see `images`.
        near, far: test-OOD sets; set `x` is listed in `test_x.txt`.
        validation: the validation-OOD set, listed in `val_x.txt`.
        folders: of images, in the order in which they are looked through.
        lists: folders of lists; later ones are looked into where a list is not in the first.
    """

    n_classes: int
    resize: int
    crop: int
    near: tuple[str, ...]
    far: tuple[str, ...]
    validation: str
    folders: tuple[str, ...]
    lists: tuple[str, ...]


CLASSIC, LARGE = "images_classic", "images_largescale"
FAR = ("mnist", "svhn", "texture", "places365")
LAYOUTS = {
    "cifar10": Layout(10, 32, 32, ("cifar100", "tin"), FAR, "tin", (CLASSIC,), ("cifar10",)),
    "cifar100": Layout(100, 32, 32, ("cifar10", "tin"), FAR, "tin", (CLASSIC,), ("cifar100",)),
    "imagenet200": Layout(
        200, 256, 224, ("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o"),
        "openimage_o", (LARGE, CLASSIC), ("imagenet200", "imagenet"),
    ),
}  # fmt: skip


# --- lists ------------------------------------------------------------------------------------


def read_list(path: Path, root: Path, labels: range) -> tuple[list[ImageFile], Tensor]:
    """Read an image list: `path label` a line, paths below `root`, labels within `labels`.

    Raises:
        ValueError: for an empty list, a line of another form or a label out of range, with the
            file and the line.
    """
    files, found = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows puts a mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a list of images ({error})") from None
    expected = "-1 (OOD)" if labels == range(-1, 0) else f"0 to {labels[-1]}"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        origin = f"{path}, line {number}"
        name, _, label = line.strip().rpartition(" ")
        name = name.strip()
        if not name or not label.removeprefix("-").isdecimal() or len(line) > 4000:
            start = line.strip()[:100]
            raise ValueError(f"{origin}: {start!r} is not 'path label', as in 'a/b.png 3'")
        if int(label) not in labels:
            raise ValueError(f"{origin}: label {label} is out of range; expected {expected}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{origin}: {name} leaves the image folder; expected a path below it")
        files.append(ImageFile(root / name, origin))
        found.append(int(label))
    if not files:
        raise ValueError(f"{path} lists no image; expected one 'path label' a line")
    return files, torch.tensor(found)


def _find_list(root: Path, layout: Layout, name: str) -> Path | None:
    places = [root / LISTS / folder / f"{name}.txt" for folder in layout.lists]
    return next((p for p in places if p.is_file()), None)


def _find_images(root: Path, layout: Layout, path: Path) -> Path | None:
    """The folder of images that a list speaks of: where its first line's set (folder) is."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "").strip()
    folders = [root / f for f in layout.folders]
    top = PurePosixPath(first.rpartition(" ")[0]).parts[:1]
    if not top or len(first) > 4000:  # an empty or ill-formed list: reading it will say so
        return folders[0]
    return next((f for f in folders if f.joinpath(*top).exists()), None)


def at_hand(name: str, data_root: str | Path) -> dict[str, tuple[Path, Path]]:
    """The lists of an ID data set whose images are there: `"test_tin"` -> (list, image folder).

    Raises:
        ValueError: if the data set is unknown or `data_root` is no folder.
    """
    if not isinstance(name, str) or name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(LAYOUTS)}")
    need_path(data_root=data_root)
    layout, root = LAYOUTS[name], Path(data_root)
    if not root.is_dir():
        raise ValueError(
            f"data_root {str(data_root)!r} is no folder; expected one that holds {LISTS}/{name} "
            f"and {layout.folders[0]}, as OpenOOD v1.5 lays them out"
        )
    wanted = [f"{split}_{name}" for split in ("train", "val", "test")]
    wanted += [*(f"test_{s}" for s in (*layout.near, *layout.far)), f"val_{layout.validation}"]
    lists = {w: _find_list(root, layout, w) for w in wanted}
    found = {w: (p, _find_images(root, layout, p)) for w, p in lists.items() if p is not None}
    return {w: (p, images) for w, (p, images) in found.items() if images is not None}


def fingerprint(name: str, data_root: str | Path) -> str:
    """A hash of all lists whose images are there: another one means other data, and new runs."""
    digest = hashlib.sha256()
    for what, (path, _) in at_hand(name, data_root).items():
        digest.update(what.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


# --- benchmarks -------------------------------------------------------------------------------


def load(
    name: str, data_root: str | Path, *, seed: int = 0, n_train: int | None = None,
    n_val: int | None = None, n_test: int | None = None, n_ood: int | None = None,
    class_names: Sequence[str] | None = None, memory: int = IN_MEMORY, embedded_far: bool = False,
) -> Benchmark:  # fmt: skip
    """Read an ID data set of OpenOOD v1.5 with its official splits and OOD sets.

    An OOD set whose list or images are missing is left out; one warning names all of them, and
    `Benchmark.missing` keeps the names for the table.

    Args:
        name: `"cifar10"`, `"cifar100"` or `"imagenet200"`.
        data_root: the folder that holds `benchmark_imglist` and `images_classic`.
        seed: of the choice, where a size below asks for fewer images.
        n_train: most training images, spread evenly over the classes; all if None.
        n_val: the same for validation.
        n_test: the same for the ID test set.
        n_ood: most images of each OOD set.
        class_names: a word for each class; the folders of the training images if None.
        memory: a set above so many bytes is read batch by batch (see `images.read_images`).
        embedded_far: where no official far set is there, and images have 32 px, take those of the
            embedded benchmark: 1,000 digits, photographs, stripes and noise images. They are other
            sets than the official ones, and the averages are not to be compared.

    Raises:
        ValueError: for a missing ID list, and everything that `read_list` and `read_image` raise.
    """
    found, layout = at_hand(name, data_root), LAYOUTS[name]
    sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test, "n_ood": n_ood}
    need_count(memory=memory, **{size: n for size, n in sizes.items() if n is not None})
    need_whole(seed=seed)
    if not isinstance(embedded_far, bool):
        raise ValueError(f"embedded_far={embedded_far!r:.80}; expected True or False")
    required = [f"{split}_{name}" for split in ("train", "val", "test")]
    if lacking := [r for r in required if r not in found]:
        raise ValueError(
            f"{Path(data_root) / LISTS / name} lacks {lacking[0]}.txt, or {layout.folders[0]} the "
            f"images that it lists; all of {', '.join(r + '.txt' for r in required)} are needed"
        )

    def read(what: str, labels: range, n: int | None) -> ImageSet:
        path, images = found[what]
        return _image_set(*read_list(path, images, labels), n=n, layout=layout, memory=memory,
                          generator=generator_for(seed, what))  # fmt: skip

    train_list = read_list(*found[required[0]], range(layout.n_classes))
    if class_names is None:
        class_names = _folder_names(*train_list, layout.n_classes, found[required[0]][0])
    splits = dict(zip(required, (n_train, n_val, n_test), strict=True))
    id_sets = {what: read(what, range(layout.n_classes), n) for what, n in splits.items()}
    ood = {w: read(w, range(OOD_LABEL, 0), n_ood) for w in found if w not in required}
    near, far = ({s: ood[f"test_{s}"] for s in names if f"test_{s}" in ood}
                 for names in (layout.near, layout.far))  # fmt: skip
    validation = f"val_{layout.validation}"
    missing = tuple(s for s in (*layout.near, *layout.far) if s not in near and s not in far)
    missing += () if validation in ood else (validation,)
    if embedded_far and not far and layout.crop == 32:
        far = far_sets(n_ood or N_EMBEDDED, seed)
    if missing:
        warnings.warn(
            f"{name}: no images or no list of {', '.join(missing)} in {data_root}; averages leave "
            "them out",
            stacklevel=3,
        )
    return Benchmark(
        name, _checked_names(class_names, layout.n_classes), *id_sets.values(), near, far,
        {k: v for k, v in ood.items() if k == validation}, missing,
    )  # fmt: skip


def _image_set(
    files: Sequence[ImageFile], labels: Tensor, *, n: int | None, layout: Layout, memory: int,
    generator: torch.Generator,
) -> ImageSet:  # fmt: skip
    """Read all of the files, or n of them with as many of each label as there are."""
    if n is not None and n < len(files):
        pick = spread(labels, n, generator)
        files, labels = [files[i] for i in pick.tolist()], labels[pick]
    images = read_images(files, resize=layout.resize, crop=layout.crop, memory=memory)
    return ImageSet(images, labels)


def spread(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Indices of n items, at random, as evenly over the labels as can be; in ascending order."""
    order = torch.rand(len(labels), generator=generator).argsort()
    turn = torch.empty_like(labels)
    for label in labels.unique():
        mine = order[labels[order] == label]
        turn[mine] = torch.arange(len(mine))
    return order[turn[order].argsort(stable=True)[:n]].sort().values


def _folder_names(
    files: Sequence[ImageFile], labels: Tensor, n_classes: int, path: Path
) -> list[str]:
    """The folder of each class's images, with spaces for underscores."""
    folders: dict[int, set[str]] = {c: set() for c in range(n_classes)}
    for file, label in zip(files, labels.tolist(), strict=True):
        folders[label].add(file.path.parent.name)
    if empty := [c for c, names in folders.items() if not names]:
        raise ValueError(
            f"{path} lists no image of class {empty[0]}; expected 0 to {n_classes - 1}"
        )
    if [c for c, names in folders.items() if len(names) > 1]:
        raise ValueError(f"{path}: images of one class lie in several folders; pass class_names=")
    return [names.pop().replace("_", " ") for names in folders.values()]


def _checked_names(names: Sequence[str], n_classes: int) -> tuple[str, ...]:
    if len(names) != n_classes or len(set(names)) != n_classes:
        raise ValueError(f"{len(set(names))} different class names for {n_classes} classes")
    if all(name[1:].isdecimal() and name.startswith("n") for name in names):
        warnings.warn(
            f"class names are WordNet ids such as {names[0]}, of which a prompt makes nothing; "
            "pass class_names= before outliers are synthesised",
            stacklevel=4,
        )
    return tuple(names)
