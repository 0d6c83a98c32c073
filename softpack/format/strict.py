"""Values of a parsed header, taken strictly: what is of another kind is refused, and what may be of a later version."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from softpack.records import DECIMAL

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class LaterError(ValueError):
    """Something that is not known here, but may be to a later version."""


def check_fields(value: Any, where: str, names: str, optional: str = "") -> None:
    """Check that a value is an object of these fields, perhaps with optional ones, and of no others."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: found {value!r}; expected an object of {names}")
    missing = sorted({*names.split()} - {*value})
    if missing:
        raise ValueError(f"{where}: lacks {', '.join(missing)}; expected the fields {names}")
    for field_name in value:
        known_of(field_name, [*names.split(), *optional.split()], f"{where}, field")


def list_of(value: Any, where: str) -> list[Any]:
    """Return a value that is a list."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: found {value!r}; expected a list")
    return value


def integer_of(value: Any, where: str, least: int, most: int) -> int:
    """Return a value that is an integer from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{where}: found {value!r}; expected an integer from {least} to {most}")
    return value


def decimal_of(value: Any, where: str) -> float:
    """Return the number of a decimal."""
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise ValueError(f"{where}: found {value!r}; expected a string such as '4.0'")
    return float(value)


def positive_of(value: Any, where: str) -> float:
    """Return the number of a decimal that is above 0 and finite."""
    number = decimal_of(value, where)
    if not 0 < number < math.inf:
        raise ValueError(f"{where}: found {value!r}; expected a positive number")
    return number


def name_of(value: Any, where: str) -> str:
    """Return a value that is a name."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{where}: found {value!r}; expected a name of a-z, 0-9 and _")
    return value


def known_of(value: Any, choices: Collection[str], where: str) -> str:
    """Return a value that is one of `choices`; any other string may be of a later version."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: found {value!r}; expected a string")
    if value not in choices:
        raise LaterError(f"{where} {value!r}, which this softpack does not know ({', '.join(choices)})")
    return value


def check_unique(names: list[str], where: str) -> None:
    """Check that no name stands twice."""
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: a name stands twice")
