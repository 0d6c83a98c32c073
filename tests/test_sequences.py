from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import xxhash

from softpack.errors import DataError
from softpack.sequences import Sequences, as_tokens, token_hash

GIVEN = [[5, 1, 2], np.array([7], np.int64), torch.tensor([], dtype=torch.int64), torch.tensor([3, 3, 0, 9])]


def test_lists_arrays_and_tensors_are_sequences():
    found = Sequences.of(GIVEN)

    assert [found[n].tolist() for n in range(4)] == [[5, 1, 2], [7], [], [3, 3, 0, 9]]
    assert (len(found), found.n_rows, found.n_views) == (4, 5, 3)
    assert Sequences.of(found) is found
    assert found.tokens_T.dtype == np.int32


def test_no_sequences_are_none():
    found = Sequences.of([])

    assert (len(found), found.n_rows, found.n_views) == (0, 0, 0)
    assert found.columns()["token_hash"].shape == (0, 2)


def test_the_token_of_a_row_is_the_next_one():
    item, view = np.array([3, 0, 3, 0]), np.array([2, 0, 0, 1])

    assert Sequences.of(GIVEN).next_tokens(item, view).tolist() == [9, 1, 3, 2]


@pytest.mark.parametrize(
    ("item", "view", "said"),
    [
        (0, 2, "item 0, view 2: its sequence has 3 tokens, so views 0 to 1; row v is what the teacher says"),
        (1, 0, "item 1, view 0: its sequence has 1 tokens, so no row"),
        (2, 0, "item 2, view 0: its sequence has 0 tokens, so no row"),
        (4, 0, "item 4, view 0: is of no sequence; expected items 0 to 3, of 4 sequences"),
        (0, -1, "item 0, view -1"),
    ],
)
def test_rows_that_no_sequence_has_are_refused(item, view, said):
    with pytest.raises(DataError, match=said):
        Sequences.of(GIVEN).next_tokens(np.array([item]), np.array([view]))


def test_columns_are_length_first_token_and_hash():
    columns = Sequences.of(GIVEN).columns()

    assert columns["length"].tolist() == [3, 1, 0, 4]
    assert columns["first_token"].tolist() == [5, 7, -1, 3]
    digests = [
        xxhash.xxh64_intdigest(np.array(tokens, "<i4").tobytes())
        for tokens in ([5, 1, 2], [7], [], [3, 3, 0, 9])
    ]
    assert [
        (int(low) & 0xFFFFFFFF) | (int(high) & 0xFFFFFFFF) << 32 for low, high in columns["token_hash"]
    ] == digests


def test_a_hash_is_its_low_half_and_then_its_high_one():
    low, high = token_hash(np.array([], np.int32))

    assert (low & 0xFFFFFFFF) == 0x51D8E999
    assert (high & 0xFFFFFFFF) == 0xEF46DB37


def test_the_fingerprint_is_of_lengths_and_tokens():
    lengths, tokens = np.array([3, 1, 0, 4], "<i8"), np.array([5, 1, 2, 7, 3, 3, 0, 9], "<i4")

    assert Sequences.of(GIVEN).fingerprint == hashlib.sha256(lengths.tobytes() + tokens.tobytes()).hexdigest()
    assert Sequences.of([[5, 1], [2]]).fingerprint != Sequences.of([[5], [1, 2]]).fingerprint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.5], "sequence 0: is float64 of shape"),
        ([[1, 2], [3]], r"expected the ids of its tokens, a list of whole numbers"),
        (3, "sequence 0: is int64 of shape"),
        ([1, -100], "sequence 0: token 1 is -100; expected 0 to 2147483647; leave padding out"),
        ([1 << 31], "sequence 0: token 0 is 2147483648"),
        (["a"], "sequence 0: is <U1"),
    ],
)
def test_what_are_no_tokens_is_refused(given, said):
    with pytest.raises(DataError, match=said):
        as_tokens(given, "sequence 0")


def test_tokens_outside_the_vocabulary_are_refused():
    found = Sequences.of(GIVEN)

    found.check_vocabulary(10, "the teacher")
    with pytest.raises(
        DataError, match="sequence 3: token 3 is 9; expected 0 to 8, as the teacher has 9 tokens"
    ):
        found.check_vocabulary(9, "the teacher")
