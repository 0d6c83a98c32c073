from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from softpack.errors import CorruptError, NotSpkError, TruncatedError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import Block, make_file_id, pack_superblock, payload_hash, read_superblock
from softpack.format.layout import BLOCK, BLOCK_DTYPE, SUPERBLOCK, BlockType

FILE_ID = make_file_id(b"a header")
FULL = Block(3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)


def resealed(data: bytes) -> bytes:
    return data[:-8] + payload_hash(data[:-8]).to_bytes(8, "little")


def test_the_layout_is_64_bytes():
    assert SUPERBLOCK.size == BLOCK.size == BLOCK_DTYPE.itemsize == layout.COMMIT.size == layout.ALIGN == 64


def test_a_block_comes_back():
    assert Block.from_bytes(FULL.to_bytes(FILE_ID), FILE_ID, "here") == FULL


def test_both_readings_of_a_block_agree():
    entry = np.frombuffer(FULL.to_bytes(FILE_ID), BLOCK_DTYPE)[0]

    assert {name: int(entry[name]) for name in vars(FULL)} == vars(FULL)


@pytest.mark.parametrize(("stored_len", "total_len"), [(0, 64), (1, 128), (64, 128), (65, 192)])
def test_blocks_are_padded(stored_len, total_len):
    assert replace(FULL, stored_len=stored_len).total_len == total_len


def test_every_flipped_bit_of_a_block_is_found():
    data = FULL.to_bytes(FILE_ID)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match="here: "):
            Block.from_bytes(bytes(flipped), FILE_ID, "here")


def test_a_block_of_another_file_is_refused():
    with pytest.raises(CorruptError, match="damaged, or of another file"):
        Block.from_bytes(FULL.to_bytes(make_file_id(b"another")), FILE_ID, "here")


def test_a_block_cut_off_is_refused():
    with pytest.raises(TruncatedError, match="found 63 bytes of a block header, expected 64"):
        Block.from_bytes(FULL.to_bytes(FILE_ID)[:63], FILE_ID, "here")


def test_a_superblock_gives_the_id():
    assert read_superblock(pack_superblock(FILE_ID), "here") == FILE_ID


def test_every_flipped_bit_of_a_superblock_is_found():
    data = pack_superblock(FILE_ID)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotSpkError if bit < 64 else CorruptError):
            read_superblock(bytes(flipped), "here")


@pytest.mark.parametrize("length", range(1, 64))
def test_a_superblock_cut_off_is_refused(length):
    with pytest.raises(TruncatedError, match=f"found {length} bytes, .* cut off: copy it again"):
        read_superblock(pack_superblock(FILE_ID)[:length], "here")


def test_an_empty_file_is_no_spk():
    with pytest.raises(NotSpkError, match=r"here is empty, and so not an \.spk file; copy it again, or encode"):
        read_superblock(b"", "here")


@pytest.mark.parametrize("data", [b"PK\3\4" + bytes(60), b"\x89SPK\n\x1a\n" + bytes(57)])
def test_other_files_are_no_spk(data):
    with pytest.raises(NotSpkError, match=r"here is not an \.spk file: it begins with"):
        read_superblock(data, "here")


def with_field(offset: int, value: int) -> bytes:
    data = bytearray(pack_superblock(FILE_ID))
    data[offset] = value
    return resealed(bytes(data))


def test_later_versions_are_refused_by_their_major_number():
    with pytest.raises(UnsupportedError, match=r"of \.spk version 2\.0; this softpack reads 1\.x"):
        read_superblock(with_field(8, 2), "here")
    assert read_superblock(with_field(10, 7), "here") == FILE_ID


def test_features_are_refused_where_they_matter():
    with pytest.raises(UnsupportedError, match="features 0x4"):
        read_superblock(with_field(32, 4), "here")
    assert read_superblock(with_field(40, 4), "here") == FILE_ID
    with pytest.raises(UnsupportedError, match="features 0x4"):
        read_superblock(with_field(40, 4), "here", append=True)
    assert read_superblock(with_field(48, 4), "here", append=True) == FILE_ID


def test_a_superblock_of_another_size_is_refused():
    with pytest.raises(CorruptError, match="expected 64"):
        read_superblock(with_field(12, 65), "here")


def test_types_are_never_given_again():
    assert [int(t) for t in BlockType] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("block", "what"),
    [
        (Block(1), "header"),
        (Block(2, stream=3), "prototypes"),
        (Block(2, stream=4), "prototype encoder"),
        (Block(2, stream=2), "of type 2"),
        (Block(3, stream=2), "tile"),
        (Block(200), "of type 200"),
    ],
)
def test_a_block_says_what_it_holds(block, what):
    assert block.what == what
