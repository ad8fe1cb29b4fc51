"""The files of runs: where each lies, and what its name says of how it was made.

A name ends in a hash of the settings and of the code, so that a file made by others is never
mistaken for what is asked for; it is simply not found, and what it would hold is made anew.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache
from pathlib import Path

from oal_lite import __version__, openood
from oal_lite.files import sha256_of
from oal_lite.presets import MODELS, Preset

MODEL_FILES = (".json", ".safetensors", ".txt")  # endings of what a model consists of
# What a record must have.
RECORD = (
    "arm", "recipe", "seed", "preset", "code", "made", "id_accuracy", "metrics", "history",
    "seconds",
)  # fmt: skip
# What shows, or only chooses among runs, cannot change one.
SHOWING = (
    "__main__.py", "ablations.py", "budget.py", "claims.py", "command.py", "contrastive_bounds.py",
    "costs.py", "maps.py", "notebooks.py", "plots.py", "readme.py", "report.py",
    "study_command.py",
)  # fmt: skip


@cache
def code_version() -> str:
    """The package's version and a hash of its sources and of the shipped models' manifest.

    So changed code, or other models, mean new runs. What only shows results does not count. It is
    read once: who edits the sources during a run changes the files, not the code that is running.
    """
    return version_of(Path(__file__).parent)


def version_of(package: Path) -> str:
    """The same of a package in any folder."""
    digest = hashlib.sha256()
    sources = [p for p in sorted(package.glob("*.py")) if p.name not in SHOWING]
    for path in [*sources, *sorted(package.glob("assets/*/manifest.json"))]:
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


def portable(preset: Preset, unseen: Sequence[str] = ()) -> dict:
    """Settings as plain data, without those that are `unseen`; folders of this package by place.

    A model outside the package is a folder whose content goes with its name: trained anew, it is
    another.
    """
    inside = {part: _named(getattr(preset, part)) for part in MODELS if part not in unseen}
    # Of real images it counts what they are, not where they lie.
    if preset.benchmark in openood.LAYOUTS and preset.data_root is not None:
        inside["data_root"] = openood.fingerprint(preset.benchmark, preset.data_root)
    whole = asdict(replace(preset, **inside, download=False))
    return {name: value for name, value in whole.items() if name not in unseen}


def _named(model: str) -> str:
    folder, place = Path(model), place_of(model)
    # those of the package count in the code's version
    return f"{model}@{content_of(folder)}" if place == model and folder.is_dir() else place


def place_of(model: str) -> str:
    """A model's name on every machine: a folder of this package by its place in it."""
    folder, package = Path(model), Path(__file__).parent
    if folder.is_relative_to(package):
        return ("oal_lite" / folder.relative_to(package)).as_posix()
    return model


def without_content(model: str) -> str:
    """What `portable` calls a model, without the hash of its content."""
    return re.sub("@[0-9a-f]{8}$", "", model)


def content_of(model: Path) -> str:
    """Hash of a model's files; computed once, as long as their sizes and times are the same."""
    found = []
    for folder, folders, names in os.walk(model):
        # hidden ones are of a model that is just being saved, or of a writer that was killed
        folders[:] = (name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if name.endswith(MODEL_FILES)]
    stats = ((f, f.stat()) for f in sorted(found))
    return _content(model, tuple((f, s.st_size, s.st_mtime_ns) for f, s in stats))


@lru_cache
def _content(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}".encode())
    return digest.hexdigest()[:8]


def run_path(
    runs: Path, preset: Preset, what: str, seed: int, ending: str, *, unseen: Sequence[str] = ()
) -> Path:
    """Where a run's file lies; the name holds a hash of the code and of all but unseen settings."""
    key = json.dumps([portable(preset, unseen), code_version()], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    return runs / preset.name / f"{what}-seed{seed}-{digest}.{ending}"
