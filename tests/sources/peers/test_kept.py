"""Kept classes and their numbers become whole rows."""

from __future__ import annotations

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.sources.peers.kept import class_numbers, share_of_others, spread


def test_classes_from_32768_on_are_negative_in_int16():
    stored = np.array([[1, 32_768, 65_535]], np.uint16)
    for numbers in (stored, stored.view(np.int16), stored.astype(np.int64)):
        found = class_numbers(numbers, 1 << 16)
        assert (found.dtype, found.tolist()) == (np.int64, [[1, 32_768, 65_535]])


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([[0, 1], [9, 10]], "names class 10 in row 71; expected 0 to 9, of --classes"),
        ([[0, 1], [-1, 2]], "names class -1 in row 71"),
        ([[0, 1], [4, 4]], "names a class twice in a row, which is row 71; expected each once"),
    ],
)
def test_numbers_of_no_class_are_named_with_their_row(ids, says):
    with pytest.raises(DataError, match=says):
        class_numbers(np.array(ids, np.int32), 10, np.array([7, 71]))


def test_all_others_have_one_number():
    values = np.array([[3, 2], [1, 0]], np.float16)
    rows = spread(values, np.array([[4, 0], [1, 2]]), np.array([[-np.inf], [0.5]]), 5)
    assert rows.dtype == np.float16
    assert rows.tolist() == [[2, -np.inf, -np.inf, -np.inf, 3], [0.5, 1, 0, 0.5, 0.5]]


def test_others_share_what_is_left_of_1():
    probs = np.array([[0.5, 0.25], [1, 0.25], [np.nan, 0.1]], np.float32)
    found = share_of_others(probs, 4)
    assert found.dtype == np.float32
    assert found.tolist() == [[0.125], [0], [0]]
    assert share_of_others(probs, 2)[1] == 0  # there are none
