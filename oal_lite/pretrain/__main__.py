"""The command `python -m oal_lite.pretrain`, and the manifest that it leaves."""

import argparse
import hashlib
import json
import shutil
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from oal_lite import command, pretrain
from oal_lite.arguments import check_device
from oal_lite.files import FORGOTTEN, make_folder, write_atomically
from oal_lite.pretrain import loop
from oal_lite.pretrain.autoencoder import train_vae
from oal_lite.pretrain.settings import ASSETS, SETTINGS, PretrainSettings, source_for
from oal_lite.pretrain.teacher import train_teacher
from oal_lite.pretrain.unet import train_unet

PARTS = {
    "teacher": train_teacher,
    "autoencoder": train_vae,
    "unet": train_unet,
}


def forget_hashes(folder: Path) -> None:
    """Take the sha256 sums out of the manifest: what is being trained anew cannot match them."""
    path = folder / "manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text()) | {"sha256": {}}
        write_atomically(path, lambda p: p.write_text(json.dumps(manifest, indent=1)))


def write_manifest(folder: Path, part: str, settings: PretrainSettings, measured: dict) -> None:
    """Note in `manifest.json` how a part was made, and the sha256 of every file of the folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    manifest[part] = {
        "command": f"python -m oal_lite.pretrain {part}",
        "settings": asdict(settings),
        "torch": torch.__version__,
        "measured": measured,
    }
    manifest["sha256"] = {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f != path and not _passing(f.relative_to(folder))
    }
    text = json.dumps(manifest, indent=1)
    write_atomically(path, lambda p: p.write_text(text))


def _passing(path: Path) -> bool:
    """Whether a file is here for a while only: a training's state, or what a kill left behind."""
    return any(part.startswith(("unfinished-", ".")) for part in path.parts)


def sweep(folder: Path) -> None:
    """Delete the temporary folders of saves that were killed long ago."""
    for left in folder.rglob(".*.tmp"):
        if left.is_dir() and time.time() - left.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(left, ignore_errors=True)


def _setting(assignment: str) -> tuple[str, int | float]:
    """Read NAME=VALUE, the value as the type of that field of `PretrainSettings`.

    Raises:
        ValueError: if there is no such field, or the value is no number.
    """
    known = {f.name: type(f.default) for f in fields(PretrainSettings)}
    name, _, value = assignment.partition("=")
    if name not in known:
        raise ValueError(f"--set {assignment}: unknown name; choose from {', '.join(known)}")
    try:
        return name, known[name](value)
    except ValueError:
        kind = known[name].__name__
        raise ValueError(f"--set {assignment}: expected {name}=NUMBER, {kind}") from None


def main(argv: list[str] | None = None) -> int:
    """Train one part and save it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m oal_lite.pretrain", description=pretrain.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("part", choices=["teacher", "diffusion", "autoencoder", "unet"])
    parser.add_argument(
        "--preset", default="shapes", help=f"{', '.join(SETTINGS)} (default: shapes)"
    )
    parser.add_argument("--data-root", help="folder of real images in OpenOOD v1.5's layout")
    parser.add_argument(
        "--out", type=Path, help="default: the shipped folder for shapes, else models/PRESET"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a field of PretrainSettings, for example --set unet_steps=40000",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    return command.guarded(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Train what the arguments name.

    Raises:
        ValueError, OSError: for what they ask for and cannot have.
    """
    changes = dict(map(_setting, arguments.set))
    settings = replace(SETTINGS.get(arguments.preset, PretrainSettings()), **changes)
    check_device(arguments.device)
    source = source_for(arguments.preset, settings, arguments.data_root)
    shipped = arguments.preset == "shapes"
    out = arguments.out or (ASSETS if shipped else Path("models") / arguments.preset)
    make_folder(out)
    sweep(out)
    parts = ["autoencoder", "unet"] if arguments.part == "diffusion" else [arguments.part]
    for part in parts:
        forget_hashes(out)
        measured = PARTS[part](settings, out, arguments.device, source)
        write_manifest(out, part, settings, {"trained_on": source.name, **measured})
        sys.stdout.write(json.dumps({part: measured}, indent=1) + "\n")
    for part in parts:  # not before: an interrupted unet shall not train the autoencoder again
        loop.unfinished(out, part).unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
