from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import softpack
from softpack.checks import lonely_mix
from softpack.container import tile_cache, tile_writer
from softpack.errors import DataError

ROW_COLUMNS = ("crop_xywh", "crop_xywh_fraction", "flip", "mix_item", "mix_lam", "mix_box_xyxy")
numbers = count()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


@st.composite
def shapes(draw: st.DrawFn) -> dict:
    """What rows to make, and how to write them."""
    items, views = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    missing = draw(st.sets(st.tuples(st.integers(0, items - 1), st.integers(0, views - 1)), max_size=9))
    present_NV = np.ones((items, views), bool)
    for cell in missing:
        present_NV[cell] = False
    present_NV[-1, -1] = True  # so that the file is as large where nobody says how large it is
    return {
        "rows": {
            "present_NV": present_NV,
            "classes": draw(st.integers(2, 9)),
            "columns": draw(st.sets(st.sampled_from(ROW_COLUMNS)).filter(lambda names: not lonely_mix(names))),
            "item_columns": draw(st.sets(st.sampled_from(("source_hw", "target")))),
            "seed": draw(st.integers(0, 2**32)),
        },
        "order": draw(st.sampled_from(("item", "view", "random"))),
        "batch": draw(st.integers(1, 20)),
        "tile": draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "known": draw(st.booleans()),
        "pending_bytes": draw(st.sampled_from((1, 300, 1 << 20))),
        "commit_bytes": draw(st.sampled_from((1, 1 << 20))),
    }


def in_order(rows, order):
    if order == "random":
        return rows
    keys = (rows.view_B, rows.item_B) if order == "item" else (rows.item_B, rows.view_B)
    return rows.take(np.lexsort(keys))


@given(shapes())
def test_a_file_holds_what_was_written(folder, random_rows, shape):
    rows = random_rows(**shape["rows"])
    items, views = shape["rows"]["present_NV"].shape
    path = folder / f"{next(numbers)}.spk"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_writer, "PENDING_BYTES", shape["pending_bytes"])
        patch.setattr(tile_writer, "COMMIT_BYTES", shape["commit_bytes"])
        known = {"items": items, "views": views} if shape["known"] else {}
        in_order(rows, shape["order"]).write(path, shape["batch"], tile=shape["tile"], **known)

    labels = softpack.open(path)

    assert labels.shape == (items, views, shape["rows"]["classes"])
    rows.check(labels)
    assert softpack.verify(path).problems == ()
    check_against_dict(labels, rows, shape["batch"])


def check_against_dict(labels, rows, batch):
    """Compare every way of reading with a dictionary from (item, view) to the row."""
    expected = {
        (i, v): row
        for i, v, row in zip(rows.item_B.tolist(), rows.view_B.tolist(), rows.labels_BC, strict=True)
    }
    items, views, classes = labels.shape
    cells = [(i, v) for i in range(-1, items + 1) for v in range(-1, views + 1)]
    has = labels.has(*np.array(cells).T)
    assert {cell for cell, there in zip(cells, has.tolist(), strict=True) if there} == expected.keys()
    counts = [sum((i, v) in expected for v in range(views)) for i in range(items)]
    assert labels.view_counts().tolist() == counts
    for item in range(items):
        there = [v for v in range(views) if (item, v) in expected]
        found = labels[item]
        assert found.shape == (len(there), classes)
        for n, view in enumerate(there):
            assert labels.nth_view([item], [n]).tolist() == [view]
            np.testing.assert_array_equal(found[n], expected[item, view])
            np.testing.assert_array_equal(labels[item, view], expected[item, view])
    resident = labels.load()
    np.testing.assert_array_equal(resident.read(rows.item_B, rows.view_B), rows.labels_BC)
    assert resident.n_bytes == labels.n_rows * classes * 4
    streamed = list(labels.blocks(batch))
    assert all(len(block) <= batch for block in streamed)
    sorted_rows = rows.sorted()
    np.testing.assert_array_equal(np.concatenate([b.labels_BC for b in streamed]), sorted_rows.labels_BC)
    for name, values in sorted_rows.columns.items():
        np.testing.assert_array_equal(np.concatenate([b.replay[name] for b in streamed]), values)


@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        ("raw", {}),
        ("quantize", {"bits": 3}),
        ("quantize", {"bits": 8}),
        ("topk", {"k": 4}),
        ("lowrank", {"rank": 3}),
    ],
    ids=str,
)
def test_what_a_codec_loses_does_not_depend_on_the_way_of_reading(tmp_path, random_rows, codec, settings):
    rows = random_rows(np.ones((6, 5), bool), classes=11)
    path = write_with(tmp_path / "a.spk", rows, codec, settings)

    labels = softpack.open(path)

    made = (
        labels.codec.decode(labels.codec.encode(torch.from_numpy(rows.labels_BC)))
        if labels.codec.can_encode
        else None
    )
    read = labels.read(rows.item_B, rows.view_B)
    if made is not None:
        torch.testing.assert_close(read, made, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(labels.load().read(rows.item_B, rows.view_B), read, rtol=1e-6, atol=1e-6)
    assert softpack.verify(path).problems == ()


def write_with(path, rows, codec, settings):
    with softpack.create(path, codec, classes=rows.labels_BC.shape[1], **settings) as writer:
        rows.append_to(writer)
    return path


@pytest.mark.parametrize("classes", [2, 262_144])
def test_few_and_many_classes(tmp_path, random_rows, classes):
    rows = random_rows(np.ones((2, 2), bool), classes=classes)

    labels = softpack.open(rows.write(tmp_path / "a.spk"))

    rows.check(labels)
    np.testing.assert_array_equal(labels.load().read(rows.item_B, rows.view_B), rows.labels_BC)


def test_a_single_row(tmp_path, random_rows):
    rows = random_rows(np.ones((1, 1), bool))

    path = rows.write(tmp_path / "a.spk")

    rows.check(softpack.open(path))
    assert path.stat().st_size < 4096


@pytest.mark.parametrize("grid", [{}, {"items": 3, "views": 2}])
def test_a_file_without_rows(tmp_path, grid):
    path = tmp_path / "a.spk"
    with softpack.create(path, "raw", classes=3, **grid):
        pass

    labels = softpack.open(path)

    assert (len(labels), labels.shape) == (0, (grid.get("items", 0), grid.get("views", 0), 3))
    assert labels.read([], []).shape == (0, 3)
    assert list(labels.blocks(10)) == []
    assert not labels.has([0], [0]).any()
    assert labels.view_counts().tolist() == [0] * grid.get("items", 0)
    assert labels.load().read([], []).shape == (0, 3)
    assert softpack.verify(path).problems == ()
    assert softpack.ledger(path).marginal_bits_per_label == 0


def test_infinite_log_probabilities_survive(tmp_path, random_rows):
    row = np.array([[0, -np.inf, -np.inf]], np.float32)
    with softpack.create(tmp_path / "a.spk", "raw", classes=3, space="log_probs", temperature=4.0) as writer:
        writer.append(row, item=0, view=0)

    labels = softpack.open(tmp_path / "a.spk")

    assert (labels.spec.space, labels.spec.temperature) == ("log_probs", 4.0)
    np.testing.assert_array_equal(labels[0, 0], row[0])


def test_a_tile_may_come_in_many_parts(tmp_path, random_rows, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    rows = random_rows(np.ones((4, 4), bool))

    labels = softpack.open(rows.write(tmp_path / "a.spk", batch=1, tile=(4, 4)))

    assert len(labels.file.parts) == 16
    rows.check(labels)


def test_reading_keeps_few_tiles(tmp_path, random_rows, monkeypatch):
    monkeypatch.setattr(tile_cache, "CACHE_BYTES", 200)
    rows = random_rows(np.ones((9, 9), bool), columns=())

    labels = softpack.open(rows.write(tmp_path / "a.spk", tile=(2, 2)))

    rows.check(labels)
    kept = [array for tile in labels._tiles._kept.values() for array in tile.values()]
    assert labels._tiles._kept_bytes == sum(array.nbytes for array in kept) <= 200


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            lambda labels: labels[0, 1],
            "no label of item 0, view 1; it holds 17 labels of items 0 to 4 and views 0 to 3",
        ),
        (lambda labels: labels[5, 0], "no label of item 5, view 0"),
        (lambda labels: labels[-1, 0], "no label of item -1"),
        (lambda labels: labels[5], "no item 5; it holds items 0 to 4"),
        (lambda labels: labels.read([0, 1], [0]), r"shapes \(2,\) and \(1,\)"),
        (lambda labels: labels.read([0.5], [0]), "float64 and int64; expected integers"),
        (lambda labels: labels.replay([9], [9]), "no label of item 9"),
        (lambda labels: labels.nth_view([0], [3]), "item 0 has 3 views; view number 3 was asked for"),
        (lambda labels: labels.nth_view([5], [0]), "item 5 has 0 views"),
        (lambda labels: labels.nth_view([1], [-1]), "view number -1"),
        (lambda labels: labels.cells(np.array([17])), "row numbers 17 to 17; expected 0 to 16"),
        (
            lambda labels: labels.item_column("mix_lam"),
            "no column 'mix_lam'; its item columns are source_hw, target",
        ),
        (lambda labels: labels.item_column("nothing"), "no column 'nothing'"),
    ],
)
def test_what_is_not_there_is_refused(ragged_file, ask, says):
    with pytest.raises(DataError, match=says):
        ask(softpack.open(ragged_file))


def test_what_is_not_there_is_refused_in_a_full_file(tmp_path, random_rows):
    labels = softpack.open(random_rows(np.ones((2, 3), bool)).write(tmp_path / "a.spk"))

    with pytest.raises(DataError, match="item 1 has 3 views"):
        labels.nth_view([0, 1], [2, 3])
    with pytest.raises(DataError, match="row numbers"):
        labels.cells(np.array([-1]))


def test_tensors_and_lists_address_rows_alike(ragged_file, ragged):
    labels = softpack.open(ragged_file)
    items, views = ragged.item_B, ragged.view_B

    by_array = labels.read(items, views)

    assert torch.equal(labels.read(torch.from_numpy(items), torch.from_numpy(views)), by_array)
    assert torch.equal(labels.read(items.tolist(), views.tolist()), by_array)
    assert torch.equal(labels.read(items.astype(np.uint8), views.astype(np.int32)), by_array)


def test_labels_show_what_they_are(ragged_file):
    labels = softpack.open(ragged_file)

    assert "17 logits of 5 items x 4 views, 3 classes, codec raw" in repr(labels)
    assert "bytes of codes on cpu" in repr(labels.load())
    assert len(labels.load()) == 17
