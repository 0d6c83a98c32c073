from __future__ import annotations

import numpy as np
import torch

import softpack


def test_codes_that_were_read_are_the_readers_own(tmp_path, random_rows):
    rows = random_rows(np.ones((3, 4), bool), classes=40, columns=())
    labels = softpack.open(rows.write(tmp_path / "a.spk", tile=(3, 4)))
    items, views = labels.cells()

    codes = labels.read_codes(items, views)
    before = {name: array.clone() for name, array in codes.items()}
    for array in codes.values():
        array.zero_()

    again = labels.read_codes(items, views)
    assert again
    assert all(torch.equal(again[name], before[name]) for name in before)
    assert any(bool(array.any()) for array in before.values())
