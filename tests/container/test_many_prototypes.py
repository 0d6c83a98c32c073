"""Prototypes of many items: what is kept of them in memory, and where they end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import softpack
from softpack.codecs.lowrank import LowRank
from softpack.container import context
from softpack.errors import CorruptError
from softpack.format import layout

VECTORS = Path(__file__).resolve().parents[2] / "formats" / "vectors" / "valid"
BOXES = VECTORS / "1.1_context_boxes.spk"  # the last of 6 items has no prototype


def test_many_are_decoded_as_rows_need_them(monkeypatch):
    kept = softpack.open(BOXES)
    items, views = kept.cells()
    expected = kept.read(items, views)
    assert kept.prototypes.rows_RC is not None
    monkeypatch.setattr(context, "KEPT_VALUES", 5 * 12 - 1)
    sizes, decode = [], LowRank.decode

    def counted(self, codes, context_BC=None):
        sizes.append(len(codes["levels"]))
        return decode(self, codes, context_BC)

    monkeypatch.setattr(LowRank, "decode", counted)
    labels = softpack.open(BOXES)

    np.testing.assert_allclose(labels.read(items, views), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(labels.load().read(items, views), expected, rtol=1e-5, atol=1e-5)
    assert labels.prototypes.rows_RC is None
    sizes.clear()
    labels.read([2], [0])
    assert sizes == [1]


def test_items_without_a_prototype_are_not_given_that_of_another(monkeypatch):
    for kept_values in (context.KEPT_VALUES, 0):
        monkeypatch.setattr(context, "KEPT_VALUES", kept_values)
        context_BC = softpack.open(BOXES).context([5, 0], [0, 0])  # neither is mixed

        assert not context_BC[0].any()
        assert context_BC[1].any()


def test_more_prototypes_than_a_reader_holds_are_refused(monkeypatch):
    monkeypatch.setattr(layout, "MAX_PROTOTYPE_VALUES", 14)  # of 5 items, 3 numbers each

    with pytest.raises(
        CorruptError, match=r"boxes\.spk: the prototypes of 5 items have 15 numbers; expected 14"
    ):
        softpack.open(BOXES)
