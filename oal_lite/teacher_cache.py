"""Teacher features kept on disk, so that the teacher looks at every view once and never again.

A file holds the features of V pre-drawn views, and only these: the logits are one linear layer
away. Its name is a hash of all that decides them: the images, the state of the generator that
draws the views, the number of views, the teacher's weights, and the number format. So a feature
can only meet the very view from which it was computed; of a flipped image the teacher says
something else than of the image.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from oal_lite.arguments import need_choice
from oal_lite.files import bytes_of, write_atomically
from oal_lite.run_files import code_version
from oal_lite.teacher import Teacher

log = logging.getLogger(__name__)

IN_MEMORY = 2**28  # bytes; larger files stay on disk and are read where they are indexed
DTYPES = {"float32": np.float32, "float16": np.float16}


def view_key(
    images: UInt8[Tensor, "n 3 h w"],
    teacher: Teacher,
    *,
    n_views: int,
    generator: torch.Generator,
    dtype: str = "float32",
) -> dict:
    """What decides the features of views yet to be drawn: data, weights, view settings, format.

    Raises:
        ValueError: if the format is not one of `DTYPES`.
    """
    need_choice(DTYPES, dtype=dtype)
    weights = hashlib.sha256()
    for name, tensor in sorted(teacher.state_dict().items()):
        weights.update(name.encode())
        weights.update(bytes_of(tensor))
    return {
        "images": hashlib.sha256(bytes_of(images)).hexdigest(),
        "shape": [n_views, len(images), teacher.feature_dim],
        "generator": hashlib.sha256(bytes_of(generator.get_state())).hexdigest(),
        "teacher": weights.hexdigest(),
        "image_size": teacher.image_size,
        "dtype": dtype,
        "code": code_version(),  # how views are drawn, and how the teacher looks
    }


def cached_features(
    folder: Path, key: dict, compute: Callable[[], Float[Tensor, "v n d"]]
) -> Float[Tensor, "v n d"]:
    """Features from the folder if a whole file of this key is there; else computed, and put there.

    Features above `IN_MEMORY` bytes stay on disk, mapped into memory. A file whose length, format
    or checksum is not what its description says is computed again.

    Args:
        folder: of the cache; made if need be.
        key: from `view_key`.
        compute: gives the features.

    Returns:
        The features in the key's number format.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"teacher-{digest}.npy"
    if (found := _read(path, key)) is not None:
        return found
    features = np.ascontiguousarray(compute().numpy(), dtype=DTYPES[key["dtype"]])
    note = {**key, "crc32": _checksum(features)}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would add an ending to it
            np.save(file, features, allow_pickle=False)

    write_atomically(path, save)
    # The description goes last: where it is, the features are whole.
    write_atomically(path.with_suffix(".json"), lambda p: p.write_text(json.dumps(note, indent=1)))
    # Where another run, with rounding of its own, has just written one of the two files, they do
    # not fit; whoever reads them next will compute anew, and here are the features anyway.
    kept = _read(path, key)
    return torch.from_numpy(features) if kept is None else kept


def _read(path: Path, key: dict) -> Tensor | None:
    """Features from a file, or None where there is none or not a whole one."""
    description = path.with_suffix(".json")
    if not (path.exists() and description.exists()):
        return None
    try:
        # copy on write: the pages are those of the file until somebody changes them
        features = np.load(path, mmap_mode="c", allow_pickle=False)
        fits = (list(features.shape), features.dtype.name) == (key["shape"], key["dtype"])
        whole = json.loads(description.read_text()) == {**key, "crc32": _checksum(features)}
    except Exception as error:  # of a damaged header numpy says all sorts of things
        log.warning("%s cannot be read (%s); its features are computed again", path, error)
        return None
    if not (fits and whole):
        log.warning("%s is not what its description says; its features are computed again", path)
        return None
    return torch.from_numpy(features if features.nbytes > IN_MEMORY else np.array(features))


def _checksum(array: np.ndarray) -> int:
    """CRC-32, block by block, so that a mapped file is never in memory as a whole."""
    total, flat = 0, array.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), 2**24):
        total = zlib.crc32(flat[start : start + 2**24], total)
    return total
