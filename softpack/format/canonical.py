"""JSON in its one spelling: without floats, spaces and choices.

Canonical is `json.dumps(sort_keys=True, separators=(",", ":"), ensure_ascii=False)` in UTF-8, without floats:
one object has one spelling, so a reader compares bytes and thereby refuses duplicate keys, NaN and the rest.
A number with a fraction stands as a string, and so does an integer that binary64 does not hold.
"""

from __future__ import annotations

import json
from typing import Any

from softpack.errors import CorruptError

MAX_DEPTH = 16
MAX_INTEGER = (1 << 53) - 1


def canonical(document: Any) -> bytes:
    """Return the one spelling of a JSON document that has no floats."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_canonical(data: bytes, where: str) -> Any:
    """Parse JSON and refuse any spelling but the canonical one."""
    try:
        document = json.loads(
            data.decode(), parse_int=_integer_of, parse_float=_no_float, parse_constant=_no_float
        )
        if _depth(document) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        spelled = canonical(document)  # half a surrogate pair cannot be spelled
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where}: the header is not JSON: {error}") from None
    if spelled != data:
        raise CorruptError(
            f"{where}: the header's JSON is not canonical (sorted keys, no spaces, no duplicates)"
        )
    return document


def without_floats(value: Any) -> Any:
    """Return settings with every float, and integers too large for JSON, as strings that read back exactly."""
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > MAX_INTEGER):
        return repr(value)
    if isinstance(value, dict):
        return {key: without_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_floats(item) for item in value]
    return value


def _integer_of(text: str) -> int:
    value = int(text)
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"found the integer {text}; beyond 2**53 - 1 they stand as strings")
    return value


def _no_float(text: str) -> Any:
    raise ValueError(f"found the float {text}; numbers with a fraction stand as strings")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth
