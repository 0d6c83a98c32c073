from __future__ import annotations

import numpy as np
import pytest
import torch

import softpack
from softpack.container.tile_cache import by_row

N_ROWS = 7


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "?"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (64,), (65,), (5, 4), (17, 9), (0,)])
def test_what_is_stored_by_number_is_turned_to_rows(dtype, shape):
    per_row = int(np.prod(shape))
    stored = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 200, (per_row, N_ROWS)).astype(dtype)
    values = stored.T.reshape(N_ROWS, *shape)

    rows = by_row(values)

    assert rows.flags.c_contiguous
    assert (rows.dtype, rows.shape) == (values.dtype, values.shape)
    assert np.array_equal(rows, values)


def test_a_tile_of_no_rows_is_turned_too():
    assert by_row(np.empty((40, 0), np.uint16).T).shape == (0, 40)


def test_codes_that_were_read_are_the_readers_own(tmp_path, random_rows):
    rows = random_rows(np.ones((3, 4), bool), classes=40, columns=())
    labels = softpack.open(rows.write(tmp_path / "a.spk", tile=(3, 4)))
    items, views = labels.cells()

    codes = labels.read_codes(items, views)
    before = {name: array.clone() for name, array in codes.items()}
    for array in codes.values():
        array.zero_()

    again = labels.read_codes(items, views)
    assert again and all(torch.equal(again[name], before[name]) for name in before)
    assert any(bool(array.any()) for array in before.values())
