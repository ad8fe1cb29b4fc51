"""Files that are whole or not there at all, and that say so themselves.

Every file is written under a temporary name and renamed. Tensors and records carry a checksum of
their content, so that a file that was cut short or altered is told from a whole one. Nothing is
pickled, so a file from somebody else can do no more than be wrong.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

CHECKSUM = "sha256"  # its key in a record, and in the header of a file of tensors
FORGOTTEN = 3600  # seconds after which a temporary file belongs to nobody who still lives


class CannotWrite(OSError):
    """What could not be written, why, and the way out."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename: all of it or nothing.

    A file that is replaced keeps its permissions; of a link, what it points to is replaced.

    Two processes that write the same file do not meet: each has a temporary file of its own, and
    the last to finish wins. What a killed process left behind is deleted by a later write.

    Raises:
        OSError: if the file cannot be written (a full disk, for example), with the way out.
    """
    path = real_path(path) if Path(path).is_symlink() else Path(path)
    make_folder(path.parent)
    if _no_plain_file(path):
        raise CannotWrite(f"cannot write {path}: it is no plain file; choose another name")
    _sweep(path)
    temporary = path.with_name(f"{_hidden(path)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _telling(path):
            temporary.touch()
            usual = stat.S_IMODE(temporary.stat().st_mode)
            write(temporary)
            temporary.chmod(usual)  # safetensors lets nobody but its writer read
            with suppress(FileNotFoundError):  # the first of its name
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Say of an error in here what could not be written, and the way out."""
    try:
        yield
    except CannotWrite:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CannotWrite(
            f"cannot write {path} ({reason}); make room, or choose another folder"
        ) from None


def real_path(path: Path) -> Path:
    """Where a link leads to.

    Raises:
        OSError: if it leads in a circle.
    """
    with suppress(OSError, RuntimeError):  # what Python 3.11 and 3.12 say of a circle
        real = path.resolve()
        if not real.is_symlink():  # later ones hand the link back
            return real
    raise OSError(f"{path} is a link that leads to itself; delete it")


def _hidden(path: Path) -> str:
    """How the names of this path's temporary files begin; a file's name has 255 bytes at most."""
    return f".{path.name.encode()[:150].decode(errors='ignore')}."


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, then move its files into `folder`, each of them whole.

    Files that are there under other names stay. For models, which libraries save as folders.

    Raises:
        OSError: if it cannot be written, before a file of it has moved, with the way out.
    """
    with temporary_folder(folder) as temporary:
        write(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        places = [folder / file.relative_to(temporary) for file in files]
        for place in places:
            make_folder(place.parent)
            if _no_plain_file(place):
                raise CannotWrite(
                    f"cannot write {place}: it is no plain file; choose another folder"
                )
        for file, place in zip(files, places, strict=True):
            os.replace(file, place)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder within `folder` while this context is open.

    What a killed process left behind under such a name is deleted by a later call.

    Raises:
        OSError: for an error of writing within the context, with the way out.
    """
    make_folder(folder)
    sweep_folders(folder.glob(".folder-*.tmp"))
    with (
        _telling(folder),
        tempfile.TemporaryDirectory(dir=folder, prefix=".folder-", suffix=".tmp") as temporary,
    ):
        yield Path(temporary)


def sweep_folders(temporary: Iterable[Path]) -> None:
    """Delete those of these folders that were left long ago by a process that was killed."""
    for left in temporary:
        if left.is_dir() and _forgotten(left):
            shutil.rmtree(left, ignore_errors=True)  # another process may be faster


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, read block by block, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_plain_file(path: Path) -> bool:
    """Whether something else stands there; asked once, as another run may delete it meanwhile."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # not there, or a name that no file system takes
        return False


def _sweep(path: Path) -> None:
    """Delete temporary files of this path that were left long ago by a process that was killed."""
    for left in path.parent.glob(".*.tmp"):
        if left.name.startswith(_hidden(path)) and _forgotten(left):
            with suppress(OSError):  # another process was faster
                left.unlink()


def _forgotten(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > FORGOTTEN
    except OSError:  # another process swept it, or its owner renamed it
        return False


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to.

    Raises:
        OSError: if a file stands in its place, or it may not be written to, with the way out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CannotWrite(f"cannot write into {folder} ({reason}); choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise CannotWrite(f"cannot write into {folder} (no permission); choose another folder")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time read, change and write `path`; the others wait.

    The lock is on the folder, so it leaves no file, and it ends with the process, however that
    ends. On systems without such locks (Windows) nothing is held.
    """
    make_folder(path.parent)
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


# --- records ----------------------------------------------------------------------------------


def write_record(path: Path, record: Mapping) -> None:
    """Write a JSON object, with a checksum of its content among its keys.

    Raises:
        ValueError: if it holds NaN, infinity or what JSON does not know.
    """
    try:
        text = json.dumps({**record, CHECKSUM: _checksum_of(record)}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the record cannot be kept ({error}); expected finite numbers and words"
        ) from None
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def read_record(path: Path, keys: Iterable[str]) -> dict:
    """Read what `write_record` wrote; the record must have these keys.

    Raises:
        ValueError: if it is damaged, altered or of another version.
        OSError: if it is not there, or is no file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise type(error)(f"cannot read {path} ({error.strerror}); delete it, or give it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make it anew") from None
    wanted = [*keys, CHECKSUM]
    lacking = [k for k in wanted if not isinstance(record, dict) or k not in record]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: another version wrote it; delete it")
    if record.pop(CHECKSUM) != _checksum_of(record):
        raise ValueError(
            f"{path} was altered (its content does not have its sha256); delete it to make it anew"
        )
    return record


def _checksum_of(record: Mapping) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


# --- tensors ----------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping, header: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, and words by name, as safetensors with a checksum of both.

    Raises:
        ValueError: for what are no tensors by name.
        OSError: if the file cannot be written.
    """
    from safetensors.torch import save_file

    from oal_lite.arguments import need_content, need_kind, need_names  # it imports torch

    need_kind(Mapping, "tensors by name", tensors=tensors)
    need_names(**{"names of tensors": [*tensors]})
    need_content(**tensors)
    whole, memory = {}, set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        # safetensors refuses two views of one memory
        whole[name] = tensor.clone() if place in memory else tensor.contiguous()
        memory.add(place)
    header = dict(header or {})
    header[CHECKSUM] = _checksum(whole, header)
    write_atomically(path, lambda p: save_file(whole, p, metadata=header))


def read_tensors(path: Path) -> dict:
    """Read the tensors that `write_tensors` wrote.

    Raises:
        ValueError: if the file is damaged, altered or of another version.
        FileNotFoundError: if it is not there.
    """
    return read_tensors_and_header(path)[0]


def read_tensors_and_header(path: Path) -> tuple[dict, dict[str, str]]:
    """The same, with the words; raises as `read_tensors`."""
    from safetensors import safe_open

    if _no_plain_file(path):
        raise ValueError(f"{path} is damaged (it is no plain file); delete it to make it anew")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except FileNotFoundError:
        if path.exists():  # so safetensors says, too, of what it may not open
            raise PermissionError(f"{path} may not be read; change its permissions") from None
        raise FileNotFoundError(f"there is no file {path}") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make it anew") from None
    if CHECKSUM not in header:
        raise ValueError(f"{path} lacks its sha256: another version wrote it; delete it")
    if header.pop(CHECKSUM) != _checksum(tensors, header):
        raise ValueError(
            f"{path} was altered (its content does not have its sha256); delete it to make it anew"
        )
    return tensors, header


def bytes_of(tensor) -> memoryview:  # noqa: ANN001 - torch is imported inside
    """A tensor's numbers as they lie in memory, to be taken for a hash."""
    import torch

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _checksum(tensors: Mapping, header: Mapping[str, str]) -> str:
    """Of names, types, shapes and every bit."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(bytes_of(x))
    return digest.hexdigest()
