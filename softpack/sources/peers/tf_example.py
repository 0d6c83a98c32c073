"""tf.Example, TensorFlow's record of named lists of numbers, as it lies in bytes; a protocol buffer of three levels.

    Example { Features features = 1 }      Features { map<string, Feature> feature = 1 }
    Feature { BytesList = 1 or FloatList = 2 or Int64List = 3 }, each of `repeated value = 1`

Lists of floats are little-endian float32; those of integers are varints of 7 bits a byte, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from softpack.errors import DataError

FLOATS, INTEGERS = 2, 3  # fields of a Feature
LENGTH_DELIMITED, VARINT, FIXED_64, FIXED_32 = 2, 0, 1, 5
MAX_VARINT = 10  # bytes


def arrays_of(record: bytes) -> dict[str, np.ndarray]:
    """Return the lists of floats and integers of an example by their names, float32 and int64.

    Raises:
        DataError: it is none, or is damaged.
    """
    found: dict[str, np.ndarray] = {}
    for field, features in _fields(record):
        if field != 1:
            continue
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            name = parts.get(1, b"").decode("utf-8", errors="replace")
            for kind, values in _fields(parts.get(2, b"")):
                if kind in (FLOATS, INTEGERS):
                    found[name] = _numbers(values, kind == FLOATS)
    return found


def _numbers(values: bytes, are_floats: bool) -> np.ndarray:
    """Return the numbers of a list: packed into one field, as writers have it, or a field each."""
    parts = [_floats(part) if are_floats else varints(part) for _, part in _fields(values)]
    return np.concatenate([np.empty(0, np.float32 if are_floats else np.int64), *parts])


def _floats(part: bytes) -> np.ndarray:
    if len(part) % 4:
        raise DataError(f"has floats of {len(part)} bytes; expected four each; it is damaged")
    return np.frombuffer(part, "<f4").astype(np.float32)


def varints(part: bytes) -> np.ndarray:
    """Return integers of 7 bits a byte, int64.

    Raises:
        DataError: the last does not end, or one has more than 10 bytes.
    """
    bytes_Y = np.frombuffer(part, np.uint8)
    end_N = np.flatnonzero(bytes_Y < 0x80)
    start_N = np.concatenate([[0], end_N[:-1] + 1]) if len(end_N) else np.empty(0, np.int64)
    n_N = end_N - start_N + 1
    if (len(bytes_Y) and not (len(end_N) and end_N[-1] == len(bytes_Y) - 1)) or (n_N > MAX_VARINT).any():
        raise DataError("has an integer that does not end where it should; it is damaged")
    found_N = np.zeros(len(end_N), np.uint64)
    for place in range(int(n_N.max(initial=0))):
        has = np.flatnonzero(n_N > place)
        found_N[has] |= (bytes_Y[start_N[has] + place].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(
            7 * place
        )
    return found_N.view(np.int64)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and the bytes of the fields of a message; those of a varint are its own."""
    at, size = 0, len(message)
    while at < size:
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if kind == LENGTH_DELIMITED:
            n, at = _varint(message, at)
        elif kind == VARINT:
            n = _varint(message, at)[1] - at
        elif kind in (FIXED_64, FIXED_32):
            n = 8 if kind == FIXED_64 else 4
        else:
            raise DataError(f"has a field of kind {kind} at byte {at}; it is no tf.Example, or is damaged")
        if n > size - at:
            raise DataError(
                f"has a field of {n} bytes at byte {at} of {size}; it is no tf.Example, or is cut off"
            )
        yield field, message[at : at + n]
        at += n


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(MAX_VARINT):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << (7 * place)
        at += 1
        if byte < 0x80:
            return value, at
    raise DataError("has a number that does not end; it is no tf.Example, or is cut off")


# -- and back ------------------------------------------------------------------------------------------


def example_of(arrays: dict[str, np.ndarray]) -> bytes:
    """Return lists of floats and integers as an example."""
    entries = [
        _field(1, _field(1, name.encode()) + _field(2, _feature(values))) for name, values in arrays.items()
    ]
    return _field(1, b"".join(entries))


def _feature(values: np.ndarray) -> bytes:
    if values.dtype.kind == "f":
        return _field(FLOATS, _field(1, values.astype("<f4").tobytes()))
    return _field(INTEGERS, _field(1, _as_varints(values.astype(np.int64).view(np.uint64))))


def _as_varints(values_N: np.ndarray) -> bytes:
    places = np.arange(MAX_VARINT, dtype=np.uint64) * np.uint64(7)
    groups_NY = (values_N[:, None] >> places) & np.uint64(0x7F)
    more_NY = (values_N[:, None] >> places) > 0x7F
    is_there_NY = np.concatenate([np.ones((len(values_N), 1), bool), more_NY[:, :-1]], axis=1)
    bytes_NY = (groups_NY | (more_NY.astype(np.uint64) << np.uint64(7))).astype(np.uint8)
    packed: bytes = bytes_NY[is_there_NY].tobytes()
    return packed


def _field(number: int, data: bytes) -> bytes:
    size, n = b"", len(data)
    while n > 0x7F:
        size, n = size + bytes([n & 0x7F | 0x80]), n >> 7
    return bytes([number << 3 | LENGTH_DELIMITED]) + size + bytes([n]) + data
