"""Which arrays of codes are worth tables of their frequencies, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softpack.codecs.abc import CodeArray, Codec
from softpack.container.tiles import Tables
from softpack.entropy import ans
from softpack.entropy.arrays import encode_array
from softpack.entropy.tables import pack_tables, table_name
from softpack.entropy.zstd import shrink_model
from softpack.format.streams import code_stream


def tables_of_sample(
    codec: Codec, parts: Sequence[Mapping[str, np.ndarray]], n_rows: int
) -> dict[str, np.ndarray]:
    """Return tables for the codes of a codec, by those of some rows, [n, ...] in each part; see `fit_tables`."""
    sample = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return fit_tables(codec.codes, sample, n_rows, "codes")


def fit_tables(
    arrays: Sequence[CodeArray], codes: Mapping[str, np.ndarray], n_rows: int, stream: str
) -> dict[str, np.ndarray]:
    """Return tables for those arrays of codes that they make smaller, what they weigh themselves included.

    Args:
        arrays: of a codec, or of an item's prototypes.
        codes: of a sample of rows, unsigned [n, ...] by name, in the order in which they will be stored.
        n_rows: of the file.
        stream: "codes" or "prototype": what the codes say.

    Returns:
        uint32 [S, levels], by `<stream>.<array>`.
    """
    tables: dict[str, np.ndarray] = {}
    if not ans.is_available():
        return tables
    for array in arrays:
        codes_NS = codes[array.name].reshape(-1, array.values_per_row)
        if array.levels > ans.MAX_LEVELS or not len(codes_NS):
            continue
        found = {array.name: ans.fit_tables(ans.count_codes(codes_NS, array.levels))}
        plain = len(encode_array(codes_NS, array.bits)[0])
        coded = len(encode_array(codes_NS, array.bits, found[array.name])[0])
        packed = pack_tables(found)
        weight = len(shrink_model(packed) or packed)
        if (plain - coded) * n_rows / len(codes_NS) > weight:
            tables[_name(stream, array)] = found[array.name]
    return tables


def bits_per_row(
    arrays: Sequence[CodeArray],
    codes: Mapping[str, np.ndarray],
    tables: Tables,
    stream: str,
    tile_rows: int | None = None,
) -> float:
    """Return the bits that a row takes as it is stored, by those of a sample.

    Args:
        arrays: of a codec, or of an item's prototypes.
        codes: of the sample, unsigned [n, ...] by name, in the order in which they will be stored.
        tables: as `fit_tables` gave them.
        stream: the same as there.
        tile_rows: rows that are stored together; all of them by default.
    """
    n_rows, n_bytes = len(next(iter(codes.values()))), 0
    tile_rows = tile_rows or max(1, n_rows)
    for array in arrays:
        values_NS, table = codes[array.name].reshape(n_rows, -1), tables.get(_name(stream, array))
        for start in range(0, n_rows, tile_rows):
            n_bytes += len(encode_array(values_NS[start : start + tile_rows], array.bits, table)[0])
    return 8 * n_bytes / max(1, n_rows)


def _name(stream: str, array: CodeArray) -> str:
    """Return the name of an array's table; only the codes of rows have later stages."""
    return table_name(stream if array.stage == 1 else code_stream(array.stage), array.name)
