"""Files that are whole or not there at all."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename: all of it or nothing."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to.

    Raises:
        OSError: if a file stands in its place, or it may not be written to, with the way out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(f"cannot write into {folder} ({reason}); choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"cannot write into {folder} (no permission); choose another folder")


def read_record(path: Path, keys: Iterable[str]) -> dict:
    """Read a JSON object that must have these keys.

    Raises:
        ValueError: if it is damaged or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make it anew") from None
    lacking = [k for k in keys if not isinstance(record, dict) or k not in record]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: another version wrote it; delete it")
    return record


def read_tensors(path: Path) -> dict:
    """Read tensors from a safetensors file.

    Raises:
        ValueError: if it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make it anew") from None
