"""The header: one canonical JSON object that says what the file holds.

Canonical is `json.dumps(sort_keys=True, separators=(",", ":"), ensure_ascii=False)` in UTF-8, without floats:
one object has one spelling, so a reader compares bytes and thereby refuses duplicate keys, NaN and the rest.
A number with a fraction stands as a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softpack.bits import MAX_WIDTH
from softpack.errors import CorruptError, DataError
from softpack.format.layout import MAX_TILE_CELLS
from softpack.records import LabelSpec

MAX_DEPTH = 16
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
KINDS = ("uint", "int", "float32", "bool")
SCOPES = ("codes", "item", "replay")
PER = ("row", "item")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a stream.

    Args:
        name: unique in the stream.
        shape: of one row's (or item's) entry.
        kind: "uint" (codes: base 0, below `levels`), "int" (int32, base and width by the range of each
            tile), "float32" (bit patterns) or "bool".
        bits: exact width for "uint", the most that a tile may use for the others.
        levels: every number is below this.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    bits: int
    levels: int

    @property
    def values_per_row(self) -> int:
        """Numbers in one row's entry."""
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class StreamSpec:
    """Arrays that are stored together, tile by tile.

    Args:
        name: unique in the file.
        per: "row" or "item".
        scope: the ledger's: "codes", "item" or "replay".
        arrays: in stored order.
    """

    name: str
    per: str
    scope: str
    arrays: tuple[ArraySpec, ...]


@dataclass(frozen=True)
class Header:
    """What a file holds, apart from how much of it.

    Args:
        codec_id: of the codec.
        config: the codec's settings, flat; floats as strings.
        takes: what the rows were before encoding.
        gives: what they are after decoding.
        tile_items: items in a tile.
        tile_views: views in a tile.
        streams: stream number n of the blocks is `streams[n - 1]`.
        made_by: versions and seed, for people.
    """

    codec_id: str
    config: Mapping[str, Any]
    takes: LabelSpec
    gives: LabelSpec
    tile_items: int
    tile_views: int
    streams: tuple[StreamSpec, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical(
            {
                "codec": {"id": self.codec_id, "config": without_floats(dict(self.config))},
                "takes": _spec_json(self.takes),
                "gives": _spec_json(self.gives),
                "tile": {"items": self.tile_items, "views": self.tile_views},
                "streams": [_stream_json(stream) for stream in self.streams],
                "made_by": dict(self.made_by),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Header:
        """Read a header strictly.

        Raises:
            CorruptError: it is not canonical JSON of exactly these fields.
        """
        document = parse_canonical(data, where)
        try:
            return _header(document)
        except (KeyError, TypeError, ValueError, AttributeError, DataError, RecursionError) as error:
            raise CorruptError(
                f"{where}: the header is not valid: {error}; see formats/header.schema.json"
            ) from None

    def stream(self, name: str) -> tuple[int, StreamSpec] | None:
        """Return number and description of a stream, None where the file has none of that name."""
        for number, stream in enumerate(self.streams, 1):
            if stream.name == name:
                return number, stream
        return None


def canonical(document: Any) -> bytes:
    """Return the one spelling of a JSON document that has no floats."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_canonical(data: bytes, where: str) -> Any:
    """Parse JSON and refuse any spelling but the canonical one."""
    try:
        document = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
        if _depth(document) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where}: the header is not JSON: {error}") from None
    if canonical(document) != data:
        raise CorruptError(
            f"{where}: the header's JSON is not canonical (sorted keys, no spaces, no duplicates)"
        )
    return document


def without_floats(value: Any) -> Any:
    """Return settings with every float as a string that `float` reads back exactly."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: without_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_floats(item) for item in value]
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


def _spec_json(spec: LabelSpec) -> dict[str, Any]:
    return {"classes": spec.classes, "space": spec.space, "temperature": repr(float(spec.temperature))}


def _stream_json(stream: StreamSpec) -> dict[str, Any]:
    arrays = [
        {"name": a.name, "shape": list(a.shape), "kind": a.kind, "bits": a.bits, "levels": a.levels}
        for a in stream.arrays
    ]
    return {"name": stream.name, "per": stream.per, "scope": stream.scope, "arrays": arrays}


def _header(document: Any) -> Header:
    _fields(document, "header", "codec takes gives tile streams made_by")
    _fields(document["codec"], "codec", "id config")
    _fields(document["tile"], "tile", "items views")
    tile_items = _integer(document["tile"]["items"], "tile.items", 1, MAX_TILE_CELLS)
    tile_views = _integer(document["tile"]["views"], "tile.views", 1, MAX_TILE_CELLS)
    if tile_items * tile_views > MAX_TILE_CELLS:
        raise ValueError(f"a tile has {tile_items} x {tile_views} cells; expected {MAX_TILE_CELLS} at most")
    streams = tuple(_stream(stream) for stream in _list(document["streams"], "streams"))
    _unique([stream.name for stream in streams], "streams")
    if not streams or streams[0].scope != "codes" or streams[0].per != "row":
        raise ValueError("the first stream is not the codes of the rows")
    config, made_by = document["codec"]["config"], document["made_by"]
    if not isinstance(config, dict) or not isinstance(made_by, dict):
        raise ValueError("codec.config and made_by: expected objects")
    return Header(
        codec_id=_name(document["codec"]["id"], "codec.id"),
        config=config,
        takes=_spec(document["takes"], "takes"),
        gives=_spec(document["gives"], "gives"),
        tile_items=tile_items,
        tile_views=tile_views,
        streams=streams,
        made_by=made_by,
    )


def _spec(value: Any, where: str) -> LabelSpec:
    _fields(value, where, "classes space temperature")
    if not isinstance(value["temperature"], str):
        raise ValueError(f"{where}.temperature: expected a string")
    temperature = float(value["temperature"])
    if repr(temperature) != value["temperature"]:
        raise ValueError(f"{where}.temperature: found {value['temperature']!r}, expected {temperature!r}")
    return LabelSpec(_integer(value["classes"], f"{where}.classes", 2, 1 << 24), value["space"], temperature)


def _stream(value: Any) -> StreamSpec:
    _fields(value, "stream", "name per scope arrays")
    name = _name(value["name"], "stream.name")
    arrays = tuple(_array(array, name) for array in _list(value["arrays"], f"{name}.arrays"))
    _unique([array.name for array in arrays], name)
    if not arrays:
        raise ValueError(f"stream {name} has no arrays")
    return StreamSpec(name, _one_of(value["per"], PER, name), _one_of(value["scope"], SCOPES, name), arrays)


def _array(value: Any, stream: str) -> ArraySpec:
    _fields(value, f"array of {stream}", "name shape kind bits levels")
    name = _name(value["name"], f"array of {stream}")
    shape = tuple(_integer(n, f"{name}.shape", 1, 1 << 24) for n in _list(value["shape"], f"{name}.shape"))
    bits = _integer(value["bits"], f"{name}.bits", 1, MAX_WIDTH)
    levels = _integer(value["levels"], f"{name}.levels", 1, 1 << bits)
    array = ArraySpec(name, shape, _one_of(value["kind"], KINDS, name), bits, levels)
    if array.values_per_row > 1 << 24:
        raise ValueError(f"array {name} has {array.values_per_row} numbers a row; expected {1 << 24} at most")
    return array


def _fields(value: Any, where: str, names: str) -> None:
    if not isinstance(value, dict) or sorted(value) != sorted(names.split()):
        found = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
        raise ValueError(f"{where}: found {found}; expected the fields {names}")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: found {value!r}; expected a list")
    return value


def _integer(value: Any, where: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{where}: found {value!r}; expected an integer from {least} to {most}")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{where}: found {value!r}; expected a name of a-z, 0-9 and _")
    return value


def _one_of(value: Any, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise ValueError(f"{where}: found {value!r}; expected one of {', '.join(choices)}")
    return str(value)


def _unique(names: list[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: a name stands twice")
