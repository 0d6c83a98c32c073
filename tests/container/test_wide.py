"""Rows of very many classes, and files of very many rows: nothing is held or read that is not needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.raw import Raw
from softpack.container import tile_cache, tile_writer
from softpack.container.gathering import fit_rows
from softpack.container.rows import part_cells
from softpack.errors import CorruptError, DataError
from softpack.sources.base import block_rows

LENGTHS = np.array([5, 9, 1, 7, 12, 3, 8, 12])  # of sequences


@pytest.fixture(name="ragged")
def ragged_file(tmp_path):
    """A file of sequences in several tiles and parts, of which most lack rows; and its items and views."""
    path, random = tmp_path / "ragged.spk", np.random.default_rng(0)
    item = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    view = np.concatenate([np.arange(n) for n in LENGTHS])
    order = random.permutation(len(item))
    with softpack.create(path, "raw", classes=2, items=8, views=12, tile=(3, 5)) as writer:
        for rows in np.array_split(order, 3):
            labels = np.stack([item[rows], view[rows]], 1).astype(np.float32)
            writer.append(labels, item=item[rows], view=view[rows])
            writer.commit()
    return path, item, view


def test_samples_and_blocks_of_a_vocabulary_stay_small():
    for classes in (1000, 32_000, 262_144, 1 << 24):
        assert 1 <= fit_rows(classes) <= max(4096, (1 << 25) // classes)
        assert fit_rows(classes) * classes <= 1 << 29 or fit_rows(classes) == 1
        assert block_rows(classes) * classes <= 1 << 24 or block_rows(classes) == 1
    assert (fit_rows(1000), block_rows(1000)) == (33_554, 4194)
    assert (fit_rows(262_144), block_rows(262_144)) == (2048, 64)


def test_rows_are_encoded_a_few_at_a_time_where_classes_are_many(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(tile_writer, "ENCODE_VALUES", 100)
    encode = Raw.encode
    monkeypatch.setattr(
        Raw, "encode", lambda self, rows, *rest: sizes.append(len(rows)) or encode(self, rows, *rest)
    )
    rows_BC = torch.arange(250.0).view(10, 25)
    with softpack.create(tmp_path / "a.spk", "raw", classes=25, items=10, views=1) as writer:
        writer.append(rows_BC, item=np.arange(10), view=0)
    assert sizes == [4, 4, 2]
    assert torch.equal(softpack.open(tmp_path / "a.spk").read(range(10), [0] * 10), rows_BC)


def test_the_map_of_a_ragged_file_is_in_order(ragged):
    path, item, view = ragged
    labels = softpack.open(path)
    found_item, found_view = labels.cells()
    assert found_item.tolist() == item.tolist()
    assert found_view.tolist() == view.tolist()
    assert torch.equal(labels.read(item, view), torch.from_numpy(np.stack([item, view], 1)).float())


def test_a_row_needs_the_presence_of_its_own_tile_alone(ragged, monkeypatch):
    path, _, _ = ragged
    read, presence = [], tile_cache.read_presence
    monkeypatch.setattr(tile_cache, "read_presence", lambda f, part: read.append(part) or presence(f, part))
    monkeypatch.setattr("softpack.container.reader.row_map", None)  # is not asked for
    labels = softpack.open(path)
    assert labels.read([1], [8]).tolist() == [[1, 8]]
    assert {(part.first_item, part.first_view) for part in read} == {(0, 5)}


@pytest.mark.parametrize("cell", [(2, 1), (0, 11), (-1, 0), (8, 0), (0, -1), (0, 12), (0, 1 << 40)])
def test_a_row_that_is_not_there_is_named(ragged, cell):
    labels = softpack.open(ragged[0])
    message = rf"there is no label of item {cell[0]}, view {cell[1]}; it holds 57 labels of items 0 to 7"
    with pytest.raises(DataError, match=message):
        labels.read([0, cell[0]], [0, cell[1]])


def test_a_row_that_two_parts_hold_is_refused(ragged, monkeypatch):
    labels = softpack.open(ragged[0])
    parts = labels.file.parts
    monkeypatch.setitem(labels.file.__dict__, "parts", [*parts, parts[0]])
    item, view = (int(axis[0]) for axis in part_cells(labels.file, parts[0]))
    with pytest.raises(CorruptError, match=f"item {item}, view {view} is there twice"):
        labels.read([item], [view])
