"""The payload of a tile: the arrays of one stream. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softpack.bits import packed_size, unsigned_dtype
from softpack.container.file import Part, SpkFile
from softpack.entropy.arrays import DESCRIPTOR, decode_array, describe, encode_array
from softpack.entropy.tables import table_name
from softpack.errors import CorruptError
from softpack.format import layout
from softpack.format.streams import ArraySpec, StreamSpec

OTHERS: dict[str, np.dtype] = {"int": np.dtype("i4"), "float32": np.dtype("f4"), "bool": np.dtype("?")}
Tables = Mapping[str, np.ndarray]  # frequencies uint32 [S, levels] by "<stream>.<array>"
NO_TABLES: Tables = {}
PRESENCE = StreamSpec("ids", "row", "ids", (ArraySpec("present", (), "bool", 1, 2),))


def array_dtype(spec: ArraySpec) -> np.dtype:
    """Return the dtype in which an array is read: unsigned for codes, the column's for the rest."""
    if spec.kind == "uint":
        return unsigned_dtype(spec.bits)
    return OTHERS[spec.kind]


def encode_tile(
    stream: StreamSpec, arrays: Mapping[str, np.ndarray], tables: Tables = NO_TABLES, level: int | None = None
) -> tuple[bytes, int]:
    """Return the payload of a tile, and how long it would be in plain planes.

    Args:
        stream: whose arrays they are.
        arrays: by name, each [n, ...]: unsigned codes, or the dtypes of the columns.
        tables: frequencies of codes, for those arrays that have some.
        level: of zstd; its usual one by default.
    """
    chunks, raw_len = [], 0
    for spec in stream.arrays:
        chunk, raw = encode_array(
            _to_integers(arrays[spec.name], spec),
            None if spec.kind == "int" else spec.bits,
            tables.get(table_name(stream.name, spec.name)),
            level,
        )
        chunks.append(chunk)
        raw_len += raw
    return b"".join(chunks), raw_len


def decode_tile(
    payload: bytes, stream: StreamSpec, n_rows: int, raw_len: int, where: str, tables: Tables = NO_TABLES
) -> dict[str, np.ndarray]:
    """Return the arrays of a tile by name, [n, *shape]: unsigned codes, or int32, float32 and bool.

    Raises:
        CorruptError: sizes or values contradict the header.
    """
    view, arrays, raw = memoryview(payload), {}, 0
    for spec in stream.arrays:
        name = f"{where}, array {spec.name}"
        levels = None if spec.kind == "int" else spec.levels
        raw += DESCRIPTOR.size + packed_size(n_rows * spec.values_per_row, describe(view, name).width)
        if raw > raw_len:  # before memory is taken for it
            raise CorruptError(f"{name}: needs {raw} bytes before compression; the block says {raw_len}")
        table = tables.get(table_name(stream.name, spec.name))
        values, used = decode_array(view, n_rows, spec.values_per_row, spec.bits, levels, name, table)
        arrays[spec.name] = _from_integers(values, spec).reshape(n_rows, *spec.shape)
        view = view[used:]
    if len(view):
        raise CorruptError(f"{where}: {len(view)} bytes are left over after the last array")
    if raw != raw_len:
        raise CorruptError(f"{where}: says {raw_len} bytes before compression, found {raw}")
    return arrays


def read_tile(file: SpkFile, part: Part, number: int) -> dict[str, np.ndarray]:
    """Return the arrays of stream `number` of a part."""
    block = part.blocks[number]
    where = f"{file.name}, block {block}"
    entry = file.blocks[block]
    payload = file.payload(block)
    stream, raw_len = file.header.streams[number - 1], int(entry["raw_len"])
    return decode_tile(payload, stream, part.n_rows, raw_len, where, file.tables)


def read_items(file: SpkFile, number: int, stream: StreamSpec) -> dict[str, np.ndarray]:
    """Return the arrays of stream `number`, which is per item, [items, ...]; those of the tiles that are there."""
    tiles = sorted(tile for stream_number, tile in file.item_parts if stream_number == number)
    read = [read_tile(file, file.item_parts[number, tile], number) for tile in tiles]
    return {
        a.name: np.concatenate([np.empty((0, *a.shape), array_dtype(a)), *(arrays[a.name] for arrays in read)])
        for a in stream.arrays
    }


def read_presence(file: SpkFile, part: Part) -> np.ndarray:
    """Return bool [span_items, span_views]: which (item, view) a part holds."""
    if part.is_full:
        return np.ones((part.span_items, part.span_views), bool)
    block = part.blocks[layout.IDS_STREAM]
    where = f"{file.name}, block {block}"
    cells = part.span_items * part.span_views
    raw_len = int(file.blocks[block]["raw_len"])
    present = decode_tile(file.payload(block), PRESENCE, cells, raw_len, where)["present"]
    if int(present.sum()) != part.n_rows:
        raise CorruptError(f"{where}: marks {int(present.sum())} rows as present, expected {part.n_rows}")
    return present.reshape(part.span_items, part.span_views)


def _to_integers(values: np.ndarray, spec: ArraySpec) -> np.ndarray:
    if spec.kind == "float32":
        return np.ascontiguousarray(values, np.float32).view(np.uint32)
    if spec.kind == "bool":
        return values.astype(np.uint8)
    return values


def _from_integers(values: np.ndarray, spec: ArraySpec) -> np.ndarray:
    if spec.kind == "float32":
        return np.ascontiguousarray(values, np.uint32).view(np.float32)
    return values.astype(array_dtype(spec), copy=False)
