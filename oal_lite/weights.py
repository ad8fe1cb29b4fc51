"""Pretrained models: found on this machine, checked, and never fetched without being asked.

A model is named by a folder or by its hub id ("owner/name"). A hub id is looked for in the local
cache of huggingface_hub; only `download=True` (`--download`) lets the network be used. Weights are
read from safetensors, never from pickles, and no code that comes with a model is run.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from oal_lite.files import sha256_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What is read of a repository; old pickles and other frameworks' weights stay where they are.
PATTERNS = ["*.json", "*.txt", "*.safetensors"]
UNUSED = ["safety_checker/*", "feature_extractor/*", "*.fp16.safetensors", "*non_ema*", "v1-*"]
# The cache is asked for no more than was fetched, or what was left out would count as missing.
WANTED = {"allow_patterns": PATTERNS, "ignore_patterns": UNUSED}
MANIFEST = "manifest.json"  # beside a folder of models
WAY_OUT = "restore it, or install the package anew (models of your own: train them anew)"


class Facts(NamedTuple):
    """What to know of a model before it is downloaded."""

    gigabytes: float
    licence: str
    trained_on: str


# Sizes of the safetensors in float32, as the hub's file lists state them.
KNOWN = {
    "CompVis/stable-diffusion-v1-4": Facts(4.3, "CreativeML OpenRAIL-M", "LAION images and texts"),
    "nateraw/vit-base-patch16-224-cifar10": Facts(0.34, "Apache-2.0", "ImageNet-21k, CIFAR-10"),
    "Ahmed9275/Vit-Cifar100": Facts(0.34, "Apache-2.0", "ImageNet-21k, CIFAR-100"),
    "google/vit-base-patch16-224": Facts(0.35, "Apache-2.0", "ImageNet-21k, ImageNet-1k"),
}


def describe(name: str) -> str:
    """Size, licence and training data of a hub id in one line."""
    if name not in KNOWN:
        return f"{name}: size and licence unknown here, see its page on the hub"
    facts = KNOWN[name]
    return f"{name}: {facts.gigabytes} GB, licence {facts.licence}, trained on {facts.trained_on}"


def in_cache(name: str) -> Path | None:
    """The folder of a hub id in the local cache, without touching the network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, **WANTED))
    except (OSError, ValueError):  # huggingface_hub's "not in the cache" is one of either
        return None


def find(name: str | Path, *, download: bool = False) -> Path:
    """The folder of a model, by folder or hub id.

    A folder beside a `manifest.json` that lists sha256 sums (as the shipped models') is checked
    against it.

    Args:
        name: folder or hub id.
        download: fetch a hub id that is not in the local cache.

    Raises:
        FileNotFoundError: if it is not there, with size, licence and the way to get it.
        ValueError: if a file is not the one of the manifest.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise FileNotFoundError(f"model {name!r}; expected a folder or a hub id 'owner/name'")
    folder = Path(name)
    try:
        there = folder.is_dir()
    except OSError as error:
        raise FileNotFoundError(f"no model {str(name)[:60]!r}... ({error.strerror})") from None
    if there:
        check_manifest(folder)
        return folder
    if folder.is_absolute() or not HUB_ID.fullmatch(str(name)):
        raise FileNotFoundError(
            f"there is no model folder {str(name)!r}; expected a folder or a hub id 'owner/name' "
            "(small ones are made by --pretrain, or python -m oal_lite.pretrain)"
        )
    if cached := in_cache(str(name)):
        return cached
    if not download:
        raise FileNotFoundError(
            f"no model {str(name)!r} on this machine ({describe(str(name))}); allow its download "
            "with --download (download=True), or name a folder"
        )
    return _fetch(str(name))


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode

    offline = is_offline_mode() or os.environ.get("HF_HUB_OFFLINE") == "1"
    if offline:
        raise FileNotFoundError(
            f"cannot download {name}: HF_HUB_OFFLINE is set; unset it, or name a folder"
        )
    try:
        return Path(snapshot_download(name, **WANTED))
    except Exception as error:  # httpx, requests, OSError or the hub's own: all say "not reached"
        raise FileNotFoundError(
            f"cannot download {name} ({type(error).__name__}: {_first_line(error)}); "
            "check its name and the network, or name a folder"
        ) from None


def read_manifest(folder: Path) -> dict:
    """What the `manifest.json` of a folder of models notes; nothing where there is none.

    Raises:
        ValueError: for a damaged one.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text()) if path.is_file() else {}
        if not all(isinstance(part, dict) for part in (manifest, *manifest.values())):
            raise ValueError("it holds no tables by name")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or train all its models anew"
        ) from None
    return manifest


def check_manifest(folder: Path) -> None:
    """Compare a model folder with the sha256 sums in the `manifest.json` beside it, if any.

    Raises:
        ValueError: for the first file that is missing or altered.
    """
    path = folder.resolve().parent / MANIFEST
    for name, expected in read_manifest(path.parent).get("sha256", {}).items():
        if Path(name).parts[:1] != (folder.resolve().name,):
            continue
        file = path.parent / name
        if not file.is_file():
            raise ValueError(f"{file} is missing, but listed in {path}; {WAY_OUT}")
        if sha256_of(file) != expected:
            raise ValueError(
                f"{file} is not the file that {path} lists (its sha256 differs: altered, or cut "
                f"short); {WAY_OUT}"
            )


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Turn what libraries say of damaged or incomplete model folders into one sentence.

    Raises:
        ValueError: for damaged weights or settings.
        FileNotFoundError: for files that are not there.
    """
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"the model in {name} cannot be loaded ({_first_line(error)}); expected a config and "
            "safetensors, as save_pretrained writes them"
        ) from None
    except Exception as error:  # of a damaged config libraries say all sorts of things
        raise ValueError(
            f"the model in {name} is damaged ({type(error).__name__}: {_first_line(error)}); "
            "restore its files"
        ) from None


def need_whole_model(name: str | Path, found: Mapping) -> None:
    """Refuse a model of which a file lacks tensors: their places hold random numbers.

    Args:
        name: of the model.
        found: what transformers' `from_pretrained` says with `output_loading_info`.

    Raises:
        ValueError: naming the first tensor that is not there, or has another shape.
    """
    odd = sorted(found["missing_keys"]) + sorted(str(k[0]) for k in found["mismatched_keys"])
    if odd:
        raise ValueError(
            f"the model in {name} lacks {odd[0]}{f' and {len(odd) - 1} more' * (len(odd) > 1)}, as "
            "its config has them; restore its files"
        )


def _first_line(error: Exception) -> str:
    """What an error says, in short: transformers may list every model that it knows."""
    lines = str(error).strip().splitlines() or ["-"]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:200] + "..."
