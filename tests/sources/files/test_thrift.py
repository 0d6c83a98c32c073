"""Thrift's compact protocol, as far as Parquet needs it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softpack.errors import DataError
from softpack.sources.files.thrift import Compact


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00", {}),
        (b"\x15\x04\x00", {1: 2}),
        (b"\x35\x03\x00", {3: -2}),
        (b"\x16\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", {1: 2**63 - 1}),
        (b"\x11\x12\x00", {1: True, 2: False}),
        (b"\x18\x02hi\x00", {1: b"hi"}),
        (b"\x05\x28\x02\x00", {20: 1}),  # whose number is written out
        (b"\x19\x35\x02\x04\x06\x00", {1: [1, 2, 3]}),
        (b"\x19\x21\x01\x02\x00", {1: [1, 2]}),  # of bool, a byte each
        (b"\x1c\x15\x02\x00\x15\x04\x00", {1: {1: 1}, 2: 2}),
        (b"\x17\x00\x00\x00\x00\x00\x00\xf8\x3f\x00", {1: 1.5}),
    ],
)
def test_structs(data: bytes, expected: dict[int, object]) -> None:
    reader = Compact(data + b"more")
    assert reader.struct() == expected
    assert reader.at == len(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", EOFError, "the data ends too early"),
        (b"\x15\x84", EOFError, "the data ends too early"),
        (b"\x18\x05hi\x00", EOFError, "the data ends too early"),
        (
            b"\x19\xf5\xff\xff\xff\x7f\x02",
            EOFError,
            "the data ends too early",
        ),  # a list of more values than there are bytes
        (b"\x16" + b"\xff" * 12, DataError, "has a number of more than 64 bits"),
        (b"\x1c" * 40, DataError, "has structs more than 16 deep"),
        (b"\x1e\x00", DataError, "has a value of kind 14, which no Parquet file has"),
    ],
)
def test_bytes_that_are_no_struct(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Compact(data).struct()


def test_the_footer_of_a_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(10)}), tmp_path / "a.parquet", row_group_size=4)
    data = (tmp_path / "a.parquet").read_bytes()
    footer = Compact(data[-8 - int.from_bytes(data[-8:-4], "little") : -8]).struct()
    assert footer[3] == 10
    assert [group[3] for group in footer[4]] == [4, 4, 2]
    assert footer[4][0][1][0][3][3] == [b"a"]
