"""The parts of the small models: trained one after the other, and noted in a manifest."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from oal_lite.files import make_folder, sha256_of, sweep_folders, write_atomically
from oal_lite.presets import MODELS, Preset, pretrain_command
from oal_lite.pretrain import loop
from oal_lite.pretrain.autoencoder import train_vae
from oal_lite.pretrain.settings import SETTINGS, PretrainSettings, Source, source_for
from oal_lite.pretrain.teacher import train_teacher
from oal_lite.pretrain.unet import train_unet
from oal_lite.run_files import content_of
from oal_lite.weights import MANIFEST, read_manifest

PARTS = {
    "teacher": train_teacher,
    "autoencoder": train_vae,
    "unet": train_unet,
}
DIFFUSION = ("autoencoder", "unet")  # the two halves of the diffusion model
# A file of each part from which another learns.
BEFORE = {
    "autoencoder": {"teacher": "teacher/config.json"},
    "unet": {"teacher": "teacher/config.json", "autoencoder": "pipeline/vae/config.json"},
}


@contextmanager
def _forgotten_hashes(folder: Path) -> Iterator[None]:
    """Without the sha256 sums in the manifest: what is being trained anew cannot match them.

    Where the training fails before it has saved anything, they are put back.
    """
    manifest, before = read_manifest(folder), _models_of(folder)

    def note(sums: dict) -> None:
        text = json.dumps(manifest | {"sha256": sums}, indent=1)
        write_atomically(folder / MANIFEST, lambda p: p.write_text(text))

    sums = manifest.get("sha256", {})
    try:
        if sums:
            note({})
        yield
    except BaseException:
        if sums and _models_of(folder) == before:
            note(sums)
        raise


def _models_of(folder: Path) -> dict[Path, int]:
    """When each file of the models was written; not of the manifest, nor of what passes."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f != folder / MANIFEST)
    return {f: f.stat().st_mtime_ns for f in files if not _passing(f.relative_to(folder))}


def write_manifest(
    folder: Path, part: str, settings: PretrainSettings, source: Source, measured: dict
) -> None:
    """Note in `manifest.json` how a part was made, and the sha256 of every file of the folder."""
    path, manifest = folder / MANIFEST, read_manifest(folder)
    manifest[part] = {
        "command": pretrain_command(part, source.name, source.held_out),
        "settings": asdict(settings),
        "torch": torch.__version__,
        "teacher": content_of(folder / "teacher"),
        "measured": {"trained_on": source.name, **measured},
    }
    manifest["sha256"] = {str(f.relative_to(folder)): sha256_of(f) for f in _models_of(folder)}
    text = json.dumps(manifest, indent=1)
    write_atomically(path, lambda p: p.write_text(text))


def _passing(path: Path) -> bool:
    """Whether a file is here for a while only: a training's state, or what a kill left behind."""
    return any(part.startswith(("unfinished-", ".")) for part in path.parts)


def sweep(folder: Path) -> None:
    """Delete the temporary folders of saves that were killed long ago."""
    sweep_folders(folder.rglob(".*.tmp"))


def train(
    parts: Sequence[str], settings: PretrainSettings, out: Path, device: str, source: Source,
    say: Callable[[str], object],
) -> None:  # fmt: skip
    """Train parts in this order, each from what those before it have left in the folder.

    Args:
        parts: names of `PARTS`.
        settings: of all parts.
        out: folder of teacher, pipeline and manifest; made if need be.
        device: where to train.
        source: of the images.
        say: called with what was measured, as JSON, after every part.

    Raises:
        FileNotFoundError: if a part is not there from which another learns.
    """
    make_folder(out)
    sweep(out)
    for part in parts:
        for first, file in BEFORE.get(part, {}).items():
            if not (out / file).exists():
                raise FileNotFoundError(
                    f"there is no {out / file}, from which {part} learns; train it first: "
                    f"{pretrain_command(first, source.name, source.held_out)} --out {out}"
                )
        with _forgotten_hashes(out):
            measured = PARTS[part](settings, out, device, source)
        write_manifest(out, part, settings, source, measured)
        say(json.dumps({part: measured}, indent=1))
    # Not before: an interrupted unet shall not train the autoencoder again. After it all is done.
    for part in PARTS if "unet" in parts else parts:
        loop.unfinished(out, part).unlink(missing_ok=True)


def missing(preset: Preset, models: Sequence[str] = MODELS) -> list[str]:
    """Parts that have to be trained before so many of the preset's models are whole.

    Raises:
        ValueError: if the preset's models are not trained here, or lie in two folders.
    """
    if preset.pretrain is None:
        raise ValueError(
            f"preset {preset.name!r} takes its models from outside; --pretrain is for presets "
            "whose models are trained here, such as cifar10-scratch"
        )
    teacher, pipeline = Path(preset.teacher), Path(preset.pipeline)
    if (teacher, pipeline) != (teacher.parent / "teacher", teacher.parent / "pipeline"):
        raise ValueError(
            f"teacher {preset.teacher} and pipeline {preset.pipeline}: what is pretrained lies in "
            "one folder, as FOLDER/teacher and FOLDER/pipeline"
        )
    parts = [] if (teacher / "config.json").exists() or not models else ["teacher"]
    if "pipeline" not in models:
        return parts
    unfinished = any(loop.unfinished(teacher.parent, half).exists() for half in DIFFUSION)
    whole = (pipeline / "model_index.json").exists() and not unfinished
    if parts or not whole or not _learnt_from(teacher):  # both halves learn from the teacher
        parts += DIFFUSION
    return parts


def _learnt_from(teacher: Path) -> bool:
    """Whether the diffusion model beside this teacher has its class words from it.

    A teacher that was trained anew has others. Where nothing is noted it is taken to be so.
    """
    noted = read_manifest(teacher.parent).get("unet", {}).get("teacher")
    return noted in (None, content_of(teacher))


def train_missing(
    preset: Preset, device: str, say: Callable[[str], object], models: Sequence[str] = MODELS
) -> None:
    """Train what `missing` names, with the settings that the preset names.

    Raises:
        ValueError: as `missing`, and for images that cannot be read.
    """
    if parts := missing(preset, models):
        settings = SETTINGS[preset.pretrain]
        source = source_for(preset.pretrain, settings, preset.data_root, preset.held_out)
        train(parts, settings, Path(preset.teacher).parent, device, source, say)
