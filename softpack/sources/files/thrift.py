"""Structs of Thrift's compact protocol, in which Parquet says what a file holds."""

from __future__ import annotations

import struct
from typing import Any

from softpack.errors import DataError

MAX_DEPTH = 16
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


class Compact:
    """Reads structs from bytes.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0  # how many bytes were read

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a struct by their numbers; structs in it are such dictionaries too.

        Raises:
            EOFError: it does not end in the bytes.
            DataError: it is none.
        """
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise DataError(f"has structs more than {MAX_DEPTH} deep")
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == STRUCT:
            return self.struct(depth)
        if kind in (LIST, SET):
            return self._list(depth)
        if kind in (TRUE, FALSE, BYTE):  # of a list, where each takes a byte
            return self._byte()
        if kind == DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        raise DataError(f"has a value of kind {kind}, which no Parquet file has")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        n = self._varint() if head >> 4 == 15 else head >> 4
        if n > len(self._data) - self.at:  # each takes a byte at least
            raise EOFError("the data ends too early")
        return [self._value(head & 15, depth + 1) for _ in range(n)]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, n: int) -> bytes:
        part = self._data[self.at : self.at + n]
        if len(part) < n:
            raise EOFError("the data ends too early")
        self.at += n
        return part

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise DataError("has a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
