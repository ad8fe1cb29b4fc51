"""Checkpoints: a training's whole state in one safetensors file, written whole or not at all.

State dicts of torch are nested dictionaries and lists with tensors in them. The tensors go into
the file as they are; the nest around them goes into its header as JSON. Nothing is pickled, so
a checkpoint from somebody else can do no more than be wrong.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oal_lite.files import read_tensors_and_header, write_tensors

KEY = "oal_lite.checkpoint"


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Put tensors aside under a number and their place in the nest; what is left is JSON."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"{name} is a sparse tensor, which a checkpoint cannot hold")
        # numbered, as the places "a/b" of one key and of two would be one name
        key = f"{len(tensors)}{name}"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):  # keys may be numbers, which JSON would turn into strings
        if odd := [k for k in value if not isinstance(k, str | int)]:
            raise TypeError(f"{name} has the key {odd[0]!r}; a checkpoint takes words and numbers")
        return {"dict": [[k, _encode(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _decode(v, tensors) for k, v in content}
    items = [_decode(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


def save(path: str | Path, state: dict) -> None:
    """Write a nest of dicts, lists, tuples, numbers, strings, None and tensors.

    Raises:
        TypeError: for anything else in it, with its place.
    """
    tensors: dict[str, Tensor] = {}
    nest = json.dumps(_encode(state, "", tensors))
    write_tensors(Path(path), tensors, {KEY: nest})


def load(path: str | Path) -> dict:
    """Read what `save` wrote, equal to the last bit, with all tensors on the CPU.

    Raises:
        ValueError: if the file is damaged or no checkpoint.
        FileNotFoundError: if it is not there.
    """
    try:
        tensors, header = read_tensors_and_header(Path(path))
        state = _decode(json.loads(header[KEY]), tensors)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path} ").split("; delete")[0]
        raise ValueError(
            f"{path} is no whole checkpoint ({reason}); delete it to start the training anew"
        ) from None


class Keeper:
    """Saves and restores the parts of a training: modules, optimisers, schedules, generators.

    Args:
        path: of the checkpoint file; None keeps nothing.
        parts: by name, each with `state_dict` and `load_state_dict`, or a `torch.Generator`.
        belongs_to: settings that must be the same for a checkpoint to be taken up.
    """

    def __init__(self, path: str | Path | None, parts: dict[str, Any], belongs_to: dict):
        self.path = None if path is None else Path(path)
        self._parts, self._belongs_to = parts, json.loads(json.dumps(belongs_to))

    def save(self, progress: dict) -> None:
        """Write all parts, and how far the training is."""
        if self.path is None:
            return
        parts = {
            name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
            for name, part in self._parts.items()
        }
        save(self.path, {"for": self._belongs_to, "progress": progress, "parts": parts})

    def restore(self) -> dict | None:
        """Put all parts into the saved state; returns how far it was, None without a checkpoint.

        Raises:
            ValueError: if the checkpoint is damaged or belongs to a training with other settings.
        """
        if self.path is None:
            return None
        try:
            state = load(self.path)
        except FileNotFoundError:  # not asked beforehand: another run may delete it meanwhile
            return None
        if state.get("for") != self._belongs_to:
            theirs = state.get("for")
            theirs = theirs if isinstance(theirs, dict) else {}
            differ = [k for k, v in self._belongs_to.items() if theirs.get(k, object()) != v]
            raise ValueError(
                f"checkpoint {self.path} belongs to a training with other settings "
                f"({', '.join(differ) or 'more of them'}); delete it or give another path"
            )
        try:
            return self._restored(state)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            first = str(error).strip().split("\n")[0]
            raise ValueError(
                f"checkpoint {self.path} is of a training with other models "
                f"({type(error).__name__}: {first}); delete it or give another path"
            ) from None

    def _restored(self, state: dict) -> dict:
        if state["parts"].keys() != self._parts.keys():
            odd = sorted(state["parts"].keys() ^ self._parts.keys())
            raise ValueError(
                f"checkpoint {self.path} belongs to a training with other parts "
                f"({', '.join(odd)}), as one in half precision on another device has; delete it or "
                "give another path"
            )
        for name, part in self._parts.items():
            saved = state["parts"][name]
            if isinstance(part, torch.Generator):
                part.set_state(saved)
            else:
                part.load_state_dict(saved)
        return state["progress"]
