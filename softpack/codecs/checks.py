"""What every codec refuses in the same words: settings out of range, tensors that are not as declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from softpack.errors import CodecError
from softpack.records import DECIMAL

MAX_TEMPERATURES = 16


def check_integer(codec_id: str, name: str, value: Any, least: int, most: int) -> None:
    """Refuse a setting that is not a whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise CodecError(f"{codec_id}: {name} is {value!r}; expected a whole number from {least} to {most}")


def check_choice(codec_id: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a setting that is not one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise CodecError(f"{codec_id}: {name} is {value!r}; expected one of {', '.join(choices)}")


def check_positive(codec_id: str, name: str, value: Any) -> None:
    """Refuse a setting that is not a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CodecError(f"{codec_id}: {name} is {value!r}; expected a positive number")


def temperatures_text(codec_id: str, given: Any) -> str:
    """Return a setting of temperatures as files spell it: decimals with commas between; or refuse it.

    Args:
        codec_id: for messages.
        given: such text, one number or several.
    """
    text = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
    values = temperatures_of(codec_id, text)
    parts = [
        part if DECIMAL.fullmatch(part) else repr(T) for part, T in zip(text.split(","), values, strict=True)
    ]
    return ",".join(parts)


def temperatures_of(codec_id: str, text: Any) -> tuple[float, ...]:
    """Return the temperatures that a setting such as "1,4,20" names, or refuse it."""
    try:
        values = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        values = ()
    if not 0 < len(values) <= MAX_TEMPERATURES or not all(1e-3 <= value <= 1e4 for value in values):
        raise CodecError(
            f"{codec_id}: temperatures is {text!r}; expected 1 to {MAX_TEMPERATURES} numbers from 0.001 to 10000 "
            'with commas between, such as "1,4,20"'
        )
    return values


def check_tensors(
    codec_id: str,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    """Refuse tensors that differ from `expected` in names, dtypes or shapes, or that hold inf or nan."""
    if tensors.keys() != expected.keys():
        found = ", ".join(sorted(tensors)) or "none"
        raise CodecError(f"{codec_id}: found the tensors {found}; expected {', '.join(sorted(expected))}")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise CodecError(
                f"{codec_id}: tensor {name} is {tensor.dtype} {list(tensor.shape)}; expected {dtype} "
                f"{list(shape)}, as the settings say; the model and the settings are not of one codec"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CodecError(f"{codec_id}: tensor {name} holds inf or nan; expected finite numbers")
