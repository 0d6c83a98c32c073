"""One array of integers of a tile <-> bytes.

An array is 16 bytes that describe it and then its planes (`softpack.bits`), as they are or in a zstd frame, or
the words of an entropy coder (`softpack.entropy.ans`).
The numbers [n, S] of n rows are stored number by number, all rows of the first, then of the second: what one
slot or coefficient says of neighbouring rows lies together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from softpack.bits import MAX_WIDTH, needed_width, pack, packed_size, unpack_rows
from softpack.entropy import ans
from softpack.entropy.zstd import LEVEL, expand, shrink
from softpack.errors import CorruptError, DataError, UnsupportedError

DESCRIPTOR = struct.Struct("<BBHIq")  # coding, width, reserved, stored length, base
PLANES = 0
ZSTD_PLANES = 1
ANS = 3  # 2 is never given: a test vector has it as the coding of a later version


@dataclass(frozen=True)
class Described:
    """The 16 bytes before an array.

    Args:
        coding: PLANES, ZSTD_PLANES or ANS.
        width: bits of each number.
        stored_len: bytes that follow.
        base: what is added to each number.
    """

    coding: int
    width: int
    stored_len: int
    base: int


def encode_array(
    values_NS: np.ndarray,
    width: int | None = None,
    tables_SL: np.ndarray | None = None,
    level: int | None = None,
) -> tuple[bytes, int]:
    """Return the bytes of an integer array [n, S], and how many they would be as plain planes.

    Args:
        values_NS: unsigned codes where `width` is given; any integers otherwise.
        width: exact bits; None takes the fewest that the range of the values needs, above its least.
        tables_SL: frequencies of codes; they are used where the array gets smaller by them.
        level: of zstd; its usual one by default.

    Raises:
        DataError: integers are too far apart.
    """
    columns = values_NS.reshape(len(values_NS), -1).T.reshape(-1)
    base = 0
    if width is None:
        wide = columns.astype(np.int64)
        base = int(wide.min())
        if int(wide.max()) - base >= 1 << MAX_WIDTH:
            raise DataError(f"numbers from {base} to {int(wide.max())} are too far apart for {MAX_WIDTH} bits")
        columns = (wide - base).astype(np.uint32)
        width = needed_width(int(columns.max()))
    planes = pack(columns, width)
    frame = shrink(planes, level or LEVEL) if planes else None
    coding, stored = (PLANES, planes) if frame is None else (ZSTD_PLANES, frame)
    if tables_SL is not None and planes:
        words = ans.encode_columns(columns.reshape(len(tables_SL), -1), tables_SL)
        if len(words) < len(stored):
            coding, stored = ANS, words
    return DESCRIPTOR.pack(coding, width, 0, len(stored), base) + stored, DESCRIPTOR.size + len(planes)


def describe(data: bytes | memoryview, where: str) -> Described:
    """Read the 16 bytes before an array.

    Raises:
        CorruptError: there are not 16 bytes, or a field is out of range.
        UnsupportedError: a coding of a later version.
    """
    if len(data) < DESCRIPTOR.size:
        raise CorruptError(f"{where}: found {len(data)} bytes, expected the {DESCRIPTOR.size} that describe it")
    coding, width, reserved, stored_len, base = DESCRIPTOR.unpack(data[: DESCRIPTOR.size])
    if coding not in (PLANES, ZSTD_PLANES, ANS):
        raise UnsupportedError(f"{where}: coding {coding} is not known; install a later softpack")
    if width > MAX_WIDTH or reserved:
        raise CorruptError(f"{where}: width {width} and reserved field {reserved}; expected 0 to 32 and 0")
    if width == 0 and (coding != PLANES or stored_len):
        raise CorruptError(
            f"{where}: {stored_len} bytes of coding {coding} for numbers of no bits; expected none"
        )
    return Described(coding, width, stored_len, base)


def decode_array(
    data: memoryview,
    n_rows: int,
    per_row: int,
    most_bits: int,
    levels: int | None,
    where: str,
    tables_SL: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Read one array from the front of `data`.

    Args:
        data: bytes whose checksum has been verified.
        n_rows: rows that the block says it has.
        per_row: numbers in a row.
        most_bits: width that the header says: codes have it exactly, other integers at most.
        levels: for codes: every number is below this, and the base is 0; None for other integers.
        where: for messages.
        tables_SL: frequencies of codes, where the file has some for this array.

    Returns:
        The numbers [n_rows, per_row], each row in one piece, unsigned codes or int32, and the bytes that they took.

    Raises:
        CorruptError: sizes or values contradict the header.
    """
    described = describe(data, where)
    if described.width > most_bits or (levels is not None and described.width != most_bits):
        raise CorruptError(f"{where}: found numbers of {described.width} bits, expected {most_bits}")
    stop = DESCRIPTOR.size + described.stored_len
    if stop > len(data):
        raise CorruptError(
            f"{where}: says {described.stored_len} bytes, but {len(data) - DESCRIPTOR.size} follow"
        )
    stored = data[DESCRIPTOR.size : stop]
    n_values = n_rows * per_row
    if described.coding == ANS:
        if tables_SL is None or described.base:
            raise CorruptError(
                f"{where}: is entropy-coded, but the file has no tables for it, or it has a base"
            )
        return np.ascontiguousarray(ans.decode_columns(stored, tables_SL, n_rows, where).T), stop
    if described.coding == ZSTD_PLANES:
        stored = memoryview(expand(stored, packed_size(n_values, described.width), where))
    if len(stored) != packed_size(n_values, described.width):
        raise CorruptError(
            f"{where}: found {len(stored)} bytes of planes, expected {packed_size(n_values, described.width)} for "
            f"{n_values} numbers of {described.width} bits"
        )
    rows = unpack_rows(stored, described.width, n_rows, per_row)
    if levels is not None:
        _check_codes(rows, described, levels, where)
    else:
        rows = _with_base(rows, described, where)
    return rows, stop


def _check_codes(rows: np.ndarray, described: Described, levels: int, where: str) -> None:
    if described.base:
        raise CorruptError(f"{where}: codes have base {described.base}, expected 0")
    if levels < 1 << described.width and rows.size and int(rows.max()) >= levels:
        raise CorruptError(f"{where}: found the code {int(rows.max())}, expected codes below {levels}")


def _with_base(rows: np.ndarray, described: Described, where: str) -> np.ndarray:
    largest = described.base + (int(rows.max()) if rows.size else 0)
    if described.base < -(1 << 31) or largest >= 1 << 31:
        raise CorruptError(f"{where}: numbers from {described.base} to {largest}, expected 32-bit integers")
    return (rows.astype(np.int64) + described.base).astype(np.int32)
