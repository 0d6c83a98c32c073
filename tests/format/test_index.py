from __future__ import annotations

import numpy as np
import pytest

from softpack.errors import CorruptError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import Block
from softpack.format.index import Commit, block_offsets, check_blocks, parse_index
from softpack.format.layout import BlockType

FILE_ID = bytes(range(16))


def index_of(*blocks: Block) -> np.ndarray:
    return parse_index(b"".join(block.to_bytes(FILE_ID) for block in blocks), "here")


def test_a_commit_comes_back():
    commit = Commit(64, 1000, 3, 10, 5, 49)

    assert Commit.from_bytes(commit.to_bytes(), "here") == commit


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "a commit has 0 bytes"),
        (Commit(0, 0, 0, 0, 0, 0).to_bytes()[:-1] + b"x", "does not end with"),
        (layout.COMMIT.pack(0, 0, 0, 0, 0, 0, 1, layout.END), "does not end with"),
    ],
)
def test_bad_commits_are_refused(data, says):
    with pytest.raises(CorruptError, match=says):
        Commit.from_bytes(data, "here")


def test_offsets_follow_from_lengths():
    blocks = index_of(
        Block(1, stored_len=1), Block(3, stored_len=64), Block(3), Block(3, stored_len=0xFFFFFFFF)
    )

    assert block_offsets(blocks).tolist() == [64, 192, 320, 384, 384 + 64 + (1 << 32)]
    assert block_offsets(index_of()).tolist() == [64]


def test_an_index_of_half_a_block_is_refused():
    with pytest.raises(CorruptError, match="the index has 63 bytes, expected a multiple of 64"):
        parse_index(bytes(63), "here")


@pytest.mark.parametrize(
    ("second", "error", "says"),
    [
        (Block(3, seq=2), CorruptError, "block 1 is out of order"),
        (Block(1, seq=1), CorruptError, r"header blocks at \[0, 1\]; expected one, at 0"),
        (Block(77, seq=1), UnsupportedError, "block 1 is of type 77"),
        (Block(2, seq=1, coding=9), UnsupportedError, "block 1 has a coding that is not known"),
        (Block(3, seq=1, coding=1), CorruptError, "block 1 is compressed as a whole"),
        (Block(3, seq=1, stored_len=layout.MAX_TILE + 1), CorruptError, "block 1 promises a stored_len above"),
        (Block(4, seq=1, raw_len=layout.MAX_INDEX + 1), CorruptError, "block 1 promises a raw_len above"),
        (Block(2, seq=1, stream=2), UnsupportedError, "block 1 is a part of the model that is not known"),
        (Block(2, seq=1, n_rows=1), CorruptError, "block 1 is no tile, but has a n_rows"),
    ],
)
def test_bad_blocks_are_refused(second, error, says):
    with pytest.raises(error, match=says):
        check_blocks(index_of(Block(1), second), "here")


def test_blocks_that_a_later_version_adds_beside_ours_are_let_through():
    check_blocks(index_of(Block(1), Block(200, seq=1, coding=9, stream=5, n_rows=3)), "here")


def test_tables_do_not_own_their_bytes_twice():
    assert not index_of(Block(BlockType.HEADER)).flags.writeable
