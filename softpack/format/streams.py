"""Streams of a file: arrays that are stored together, tile by tile, and how the header says them.

What a later version may bring (a stream, a column, a kind of array) is refused as unsupported; what no version allows
as corrupt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from softpack.bits import MAX_WIDTH
from softpack.format.language import forced_shape_of
from softpack.format.layout import ITEM_TILE, ITEM_TILE_VALUES, MAX_STAGES
from softpack.format.strict import check_fields, check_unique, integer_of, known_of, list_of, name_of
from softpack.records import COLUMNS, MAX_CLASSES, SEQUENCE_COLUMNS, Column

MIX_SHARE = Column("mix_share", (), "uint8")  # made of the others where those are not stored
CORRECTION_COLUMNS = (Column("gap", (), "int32"), Column("value", (), "int32"))
FORCED = Column("log_prob", (), "float32")  # of the shape [F] that the header's `forced` has
STORED_COLUMNS = {
    **COLUMNS, MIX_SHARE.name: MIX_SHARE, FORCED.name: FORCED, **{c.name: c for c in CORRECTION_COLUMNS},
}  # fmt: skip


def code_stream(stage: int) -> str:
    """Return the name of the stream of a stage of the codes, from 1."""
    return "codes" if stage == 1 else f"codes_{stage}"


STREAMS = {  # name: (per, scope, columns)
    **{code_stream(stage): ("row", "codes", ()) for stage in range(1, MAX_STAGES + 1)},
    "prototype": ("item", "item", ()),
    "mix": ("row", "codes", ("mix_item", "mix_share")),
    "forced": ("row", "codes", (FORCED.name,)),
    "replay": ("row", "replay", tuple(name for name, c in COLUMNS.items() if not c.per_item)),
    "correction": ("correction", "codes", ("gap", "value")),
    "source": ("item", "replay", ("source_hw",)),
    "target": ("item", "item", ("target",)),
    "sequence": ("item", "replay", SEQUENCE_COLUMNS),
}
COLUMN_MINORS = {  # minor versions of columns that came later
    "patch_order": 3, "cutout": 4, "aug_seed": 4, "token": 5, "log_z": 5,
}  # fmt: skip
FIRST_STREAMS = ("codes", "replay", "source", "target")  # those of version 1.0
WHOLE_STREAMS = ("mix", "correction", "sequence", "forced")  # that have all of their arrays, in their order
COLUMN_KINDS = {"int32": ("int", 32), "float32": ("float32", 32), "bool": ("bool", 1), "uint8": ("uint", 8)}


@dataclass(frozen=True)
class ArraySpec:
    """One array of a stream.

    Args:
        name: unique in the stream.
        shape: of one row's (or item's) entry.
        kind: "uint" (codes), "int" (int32, base and width by the range of each tile), "float32" (bit patterns)
            or "bool".
        bits: exact width for "uint", the most that a tile may use for the others.
        levels: every number is below this, except an "int".
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    bits: int
    levels: int

    @property
    def values_per_row(self) -> int:
        """Numbers in one row's entry."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StreamSpec:
    """Arrays that are stored together, tile by tile.

    Args:
        name: unique in the file.
        per: "row", "item" or "correction", by its name.
        scope: the ledger's: "codes", "item" or "replay", by its name.
        arrays: in stored order.
    """

    name: str
    per: str
    scope: str
    arrays: tuple[ArraySpec, ...]

    @property
    def values_per_row(self) -> int:
        """Numbers in one row's entry, of all arrays."""
        return sum(array.values_per_row for array in self.arrays)

    @property
    def items_per_tile(self) -> int:
        """Items of a tile of a stream per item; fewer where each has many numbers."""
        return min(ITEM_TILE, max(1, ITEM_TILE_VALUES // self.values_per_row))


def column_stream(name: str) -> StreamSpec:
    """Return a stream that has all of its columns."""
    per, scope, columns = STREAMS[name]
    return StreamSpec(name, per, scope, tuple(column_array(STORED_COLUMNS[column]) for column in columns))


def column_array(column: Column) -> ArraySpec:
    """Return how a column is stored."""
    kind, bits = COLUMN_KINDS[column.dtype]
    return ArraySpec(column.name, column.shape, kind, bits, 1 << bits)


def stream_json(stream: StreamSpec) -> dict[str, Any]:
    """Return how the header says a stream."""
    arrays = [_array_json(array) for array in stream.arrays]
    return {"name": stream.name, "per": stream.per, "scope": stream.scope, "arrays": arrays}


def _array_json(a: ArraySpec) -> dict[str, Any]:
    return {"name": a.name, "shape": list(a.shape), "kind": a.kind, "bits": a.bits, "levels": a.levels}


def stream_of(value: Any) -> StreamSpec:
    """Return the stream that the header says.

    Raises:
        ValueError: no version allows it; a `LaterError` where a later one may.
    """
    check_fields(value, "stream", "name per scope arrays")
    name = known_of(value["name"], STREAMS, "stream")
    per, scope, columns = STREAMS[name]
    known_of(value["per"], (per,), f"stream {name}, per")
    known_of(value["scope"], (scope,), f"stream {name}, scope")
    arrays = tuple(
        _column(array, name, columns) if columns else _code(array) for array in list_of(value["arrays"], name)
    )
    check_unique([array.name for array in arrays], name)
    if name in WHOLE_STREAMS and tuple(array.name for array in arrays) != columns:
        raise ValueError(f"stream {name}: expected the arrays {' and '.join(columns)}")
    stream = StreamSpec(name, per, scope, arrays)
    if not 1 <= stream.values_per_row <= MAX_CLASSES:
        raise ValueError(
            f"stream {name} has {stream.values_per_row} numbers a row; expected 1 to {MAX_CLASSES}"
        )
    return stream


def _code(value: Any) -> ArraySpec:
    check_fields(value, "array of codes", "name shape kind bits levels")
    name = name_of(value["name"], "array of codes")
    kind = known_of(value["kind"], ("uint",), f"{name}.kind")
    shape = tuple(
        integer_of(n, f"{name}.shape", 1, MAX_CLASSES) for n in list_of(value["shape"], f"{name}.shape")
    )
    bits = integer_of(value["bits"], f"{name}.bits", 1, MAX_WIDTH)
    return ArraySpec(name, shape, kind, bits, integer_of(value["levels"], f"{name}.levels", 1, 1 << bits))


def _column(value: Any, stream: str, known: tuple[str, ...]) -> ArraySpec:
    check_fields(value, f"column of {stream}", "name shape kind bits levels")
    array = column_array(STORED_COLUMNS[known_of(value["name"], known, f"column of {stream}")])
    if array.name == FORCED.name:
        array = replace(array, shape=forced_shape_of(value["shape"]))
    if value != _array_json(array):
        raise ValueError(f"column {array.name}: found {value}, expected {_array_json(array)}")
    return array
