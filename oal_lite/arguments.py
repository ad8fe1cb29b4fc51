"""Arguments that cannot be: one clear sentence for each, before a library below speaks of it.

Each function takes arguments by name, so the sentence can name them:

    need_whole(k=k, chunk_size=chunk_size)        # "k=1.5; expected a whole number"
"""

import math
import os
from collections.abc import Iterable
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def need_whole(**values: object) -> None:
    """Refuse what is no integer of 63 bits; True and False are none either.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or abs(value) >= 2**63:
            raise ValueError(
                f"{name}={_short(value)}; expected a whole number below 2**63, such as 2"
            )
        if not isinstance(value, int | np.int64):  # NumPy's others overflow where they are added
            raise ValueError(f"{name} is a {type(value).__name__}; make an int of it")


def need_count(**values: object) -> None:
    """Refuse what is no integer of at least 1.

    Raises:
        ValueError: naming the first.
    """
    need_whole(**values)
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}; expected at least 1")


def need_room(n_bytes: int, **sizes: int) -> None:
    """Refuse sizes for which this machine's memory is too small, before any of it is asked for.

    Args:
        n_bytes: what they will take, at least.
        sizes: by name, for the sentence.

    Raises:
        ValueError: with the sizes, what they take, and what there is.
    """
    import psutil

    there = psutil.virtual_memory().total
    if n_bytes > there:
        asked = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise ValueError(
            f"{asked}: that takes {n_bytes / 1e9:.3g} GB of memory, and this machine has "
            f"{there / 1e9:.3g}; ask for less"
        )


def need_number(**values: object) -> None:
    """Refuse what is no finite number.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        known = isinstance(value, int | float | np.number) and not isinstance(value, np.longdouble)
        if not known or isinstance(value, bool | np.complexfloating) or not _finite(value):
            raise ValueError(f"{name}={_short(value)}; expected a finite number, such as 0.5")


def need_weight(**values: object) -> None:
    """Refuse what is no weight of a loss term: a finite number of 0 or more.

    Raises:
        ValueError: naming the first.
    """
    need_number(**values)
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name}={value}; expected 0 or more: losses are made small")


def need_choice(choices: Iterable[str | None], **values: object) -> None:
    """Refuse what is none of the words to choose from; None counts only where it is one of them.

    Raises:
        ValueError: naming the first.
    """
    choices = tuple(choices)
    for name, value in values.items():
        if not isinstance(value, str | None) or value not in choices:
            raise ValueError(
                f"{name}={_short(value)}; choose one of {', '.join(map(str, choices))}"
            )


def need_names(**values: object) -> None:
    """Refuse what is no list or tuple of strings; a single string is none either.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
            raise ValueError(f"{name}={_short(value)}; expected several names, as ['cat', 'dog']")


def need_path(**values: object) -> None:
    """Refuse what is no path of a file or a folder.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name}={_short(value)}; expected a path, as 'figures'")


def need_kind(kind: type, source: str, **values: object) -> None:
    """Refuse what is of another class than it has to be; `source` says where one comes from.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} is of type {type(value).__name__}; expected {kind.__name__}, {source}"
            )


def need_tensor(**values: object) -> None:
    """Refuse what is no tensor: a NumPy array, a list, None.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} is a {type(value).__name__}; expected a tensor: torch.as_tensor makes one "
                "of an array or a list"
            )
        if value.layout != torch.strided or value.is_nested or value.is_quantized:
            raise ValueError(
                f"{name} is a {_kind(value)} tensor; expected a plain one, whose numbers lie in "
                "memory one by one: .to_dense(), .dequantize()"
            )


def need_content(**values: object) -> None:
    """Refuse what is no tensor, and one of a shape alone, by which `budget` counts FLOPs.

    Raises:
        ValueError: naming the first.
    """
    need_tensor(**values)
    for name, value in values.items():
        if value.is_meta:
            raise ValueError(f"{name} is a tensor of the device 'meta', which holds no numbers")


def need_floats(**values: object) -> None:
    """Refuse what is no tensor of real floating-point numbers.

    Raises:
        ValueError: naming the first.
    """
    need_content(**values)
    for name, value in values.items():
        if value.dtype not in FLOATS:
            raise ValueError(f"{name} are of type {value.dtype}: convert them by .float().")


def need_integers(**values: object) -> None:
    """Refuse what is no tensor of integers.

    Raises:
        ValueError: naming the first.
    """
    need_content(**values)
    for name, value in values.items():
        if value.dtype not in INTEGERS:
            raise ValueError(f"{name} are of type {value.dtype}: convert them by .long().")


def need_finite(**values: Tensor) -> None:
    """Refuse NaN and infinity; on a CPU only, as asking a GPU would stall it at each step.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if value.device.type == "cpu" and not value.isfinite().all():
            raise ValueError(
                f"{name} hold NaN or infinity: find what produced them, or leave those rows out"
            )


def need_answers(model: str, *answers: Tensor) -> None:
    """Refuse NaN and infinity out of a model, on any device.

    Raises:
        FloatingPointError: naming the model.
    """
    if not all(answer.isfinite().all() for answer in answers):
        raise FloatingPointError(
            f"the {model} answers with NaN or infinity; restore its weights or, in half floats, "
            "load it with dtype=torch.float32"
        )


def need_generator(generator: object, *, or_none: bool = True) -> None:
    """Refuse what is neither a `torch.Generator` nor, where that is allowed, None.

    Raises:
        ValueError: with the way to make one.
    """
    if not (or_none and generator is None) and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator={_short(generator)}; expected torch.Generator().manual_seed(0)"
        )


def check_device(device: str | torch.device) -> None:
    """Refuse a device that torch does not know or this machine does not have.

    Raises:
        ValueError: with the devices that there are.
    """
    kinds = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    kinds += ["mps"] * torch.backends.mps.is_available()
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {device!r}; here are {', '.join(kinds)}") from None
    if wanted.type not in kinds:
        raise ValueError(f"device {device!r} is not on this machine; here are {', '.join(kinds)}")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: there are {torch.cuda.device_count()} GPUs here")


def finite_loss(value: Tensor, name: str) -> Tensor:
    """Hand a loss on if it is finite; on a CPU only, as asking a GPU would stall it at each step.

    Raises:
        FloatingPointError: if it is NaN or infinite.
    """
    if value.device.type == "cpu" and not value.isfinite():
        raise FloatingPointError(
            f"{name} is {value.item()}: its inputs hold NaN, infinity or very large numbers; find "
            "what produced them, or lower the learning rate"
        )
    return value


def _kind(value: Tensor) -> str:
    """What keeps a tensor from being a plain one."""
    if value.is_nested:
        return "nested"
    return "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than three hundred digits
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
