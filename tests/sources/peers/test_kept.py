"""Kept classes and their numbers become whole rows."""

from __future__ import annotations

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.sources.peers.kept import class_numbers, kept_before, share_of_others, spread


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


def test_the_largest_are_kept_whatever_the_others_are():
    rows = np.array([[0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.25, 0.25, 0.5]], np.float32)
    assert kept_before(rows, 1).tolist() == [[1], [0], [2]]
    assert kept_before(rows, 2).tolist() == [[1, 2], [0, 2], [2, 0]]
    coarse = np.random.default_rng(0).integers(1, 4, (200, 50)).astype(np.float32)
    coarse /= coarse.sum(1, keepdims=True)
    kept = np.take_along_axis(coarse, kept_before(coarse, 20), 1)
    np.testing.assert_allclose(kept.sum(1), np.sort(coarse, 1)[:, -20:].sum(1), rtol=1e-6)


def test_those_that_were_kept_before_are_kept_again():
    random = np.random.default_rng(1)
    probs = np.sort(random.dirichlet(np.full(100, 0.03), 500), 1)[:, ::-1]
    values = probs[:, :20].astype(np.float16)
    ids = np.stack([random.permutation(100)[:20] for _ in range(500)])
    rows = spread(values.astype(np.float32), ids, share_of_others(values.astype(np.float32), 100), 100)
    found = kept_before(rows, 20)
    np.testing.assert_array_equal(np.take_along_axis(rows, found, 1).astype(np.float16), values)
