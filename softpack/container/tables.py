"""Which arrays of codes are worth tables of their frequencies, and the tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from softpack.codecs.abc import Codec
from softpack.entropy import ans
from softpack.entropy.arrays import encode_array
from softpack.entropy.tables import pack_tables
from softpack.entropy.zstd import shrink


def fit_tables(
    codec: Codec, codes: Mapping[str, np.ndarray], n_rows: int, stream: str
) -> dict[str, np.ndarray]:
    """Return tables for those arrays of a codec that they make smaller, what they weigh themselves included.

    Args:
        codec: whose codes they are.
        codes: of a sample of rows, unsigned [n, ...] by name, in the order in which they will be stored.
        n_rows: of the file.
        stream: name of the stream that they are stored in; of those of later stages the number is added.

    Returns:
        uint32 [S, levels], by `<stream>.<array>`.
    """
    tables: dict[str, np.ndarray] = {}
    if not ans.is_available():
        return tables
    for array in codec.codes:
        codes_NS = codes[array.name].reshape(len(codes[array.name]), -1)
        if array.levels > ans.MAX_LEVELS or not len(codes_NS):
            continue
        found = {array.name: ans.fit_tables(ans.count_codes(codes_NS, array.levels))}
        plain = len(encode_array(codes_NS, array.bits)[0])
        coded = len(encode_array(codes_NS, array.bits, found[array.name])[0])
        packed = pack_tables(found)
        weight = len(shrink(packed, 19) or packed)
        if (plain - coded) * n_rows / len(codes_NS) > weight:
            name = stream if array.stage == 1 else f"{stream}_{array.stage}"
            tables[f"{name}.{array.name}"] = found[array.name]
    return tables
