# fmt: off
"""Settings of codecs: how numbers are spelled, and those that several codecs have.

A ValueError is a file that is Corrupt.
"""
import math
import re
from typing import Any

DECIMAL = r"(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?"


def require(true: Any, what: str) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise ValueError(what)

def as_number(value: Any) -> float:
    """Return the number of a setting: an integer, or a decimal."""
    require(type(value) is int or (type(value) is str and re.fullmatch(DECIMAL, value)), f"number {value}")
    return float(value)
def check_fit(s: dict[str, Any]) -> None:
    """Refuse settings of a transform coder that say how it was fitted, which readers do not need."""
    require(0 < as_number(s["bits"]) < math.inf and 0 < as_number(s["step"]) < math.inf, "bits or step")
    require(type(s["search"]) is int and 0 <= s["search"] <= 100, "search")
    found = [as_number(text) for text in s["temperatures"].split(",")]
    require(len(found) <= 16 and all(1e-3 <= t <= 1e4 for t in found), "temperatures")
def groups_of(s: dict[str, Any]) -> list[tuple[int, int]]:
    """Return bits and number of the axes of each array of a transform coder."""
    groups = [(int(bits), int(n)) for bits, n in (part.split("x") for part in s["widths"].split(","))]
    require(",".join(f"{bits}x{n}" for bits, n in groups) == s["widths"], "widths: spelling")
    widths, counts = zip(*groups, strict=True)
    falling = [*widths] == sorted({*widths} & {*range(1, 13)}, reverse=True)
    require(falling and min(counts) > 0 and sum(counts) == s["rank"], "widths")
    return groups
def same_labels(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two say the same of labels, however their temperatures are spelled."""
    a, b = ({**facts, "temperature": as_number(facts["temperature"])} for facts in (one, other))
    return a == b
