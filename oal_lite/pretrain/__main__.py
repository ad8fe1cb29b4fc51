"""The command `python -m oal_lite.pretrain`."""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from oal_lite import command, pretrain
from oal_lite.arguments import check_device
from oal_lite.presets import models_folder
from oal_lite.pretrain.parts import DIFFUSION, PARTS, train
from oal_lite.pretrain.settings import ASSETS, SETTINGS, PretrainSettings, source_for

GROUPS = {"diffusion": DIFFUSION, "all": tuple(PARTS)}


def _setting(assignment: str) -> tuple[str, int | float | str]:
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
    parser.add_argument("part", choices=[*PARTS, *GROUPS])
    parser.add_argument(
        "--preset", default="shapes", help=f"{', '.join(SETTINGS)} (default: shapes)"
    )
    parser.add_argument("--data-root", help="folder of real images in OpenOOD v1.5's layout")
    parser.add_argument("--out", help="default: the shipped folder for shapes, else models/PRESET")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument(
        "--hold-out", default="", metavar="CLASS,CLASS",
        help="classes that the models must not see, for a choice on validation-OOD",
    )  # fmt: skip
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
    if arguments.out is not None and not arguments.out.strip():  # Path("") is the current folder
        raise ValueError("--out is empty; name a folder, or leave it out")
    held_out = command.words(arguments.hold_out)
    source = source_for(arguments.preset, settings, arguments.data_root, held_out)
    shipped = arguments.preset == "shapes" and not held_out
    own = ASSETS if shipped else models_folder(arguments.preset, held_out)
    out = own if arguments.out is None else Path(arguments.out)
    parts = GROUPS.get(arguments.part, [arguments.part])
    train(parts, settings, out, arguments.device, source, lambda s: sys.stdout.write(s + "\n"))


if __name__ == "__main__":
    raise SystemExit(main())
