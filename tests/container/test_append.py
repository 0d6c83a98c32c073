# ruff: noqa: PT012, SIM117 (what a writer refuses may come when its context ends)
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import softpack
from softpack.container import tile_writer
from softpack.errors import CodecError, CorruptError, DataError, TruncatedError, UnsupportedError
from softpack.format import layout
from softpack.format.blocks import payload_hash


@pytest.fixture
def all_rows(random_rows):
    """5 items x 4 views, by item and view."""
    return random_rows(np.ones((5, 4), bool)).sorted()


def of_items(rows, n_items):
    return replace(rows, item_columns={name: values[:n_items] for name, values in rows.item_columns.items()})


def unmixed(rows):
    none = {"mix_item": np.full(len(rows), -1, np.int32), "mix_box_xyxy": np.full((len(rows), 4), -1, np.int32)}
    return replace(rows, columns={**rows.columns, **none})


def test_new_rows_fall_into_old_tiles_and_new_ones(tmp_path, all_rows):
    all_rows = unmixed(all_rows)
    path = tmp_path / "a.spk"
    known = (all_rows.item_B < 3) & (all_rows.view_B != 1)
    of_items(all_rows.take(known), 3).write(path, tile=(2, 3))
    first = path.read_bytes()

    with softpack.append(path) as writer:
        writer.set_items(**all_rows.item_columns)
        for batch in all_rows.take(~known).batches(3):
            batch.append_to(writer)

    assert path.read_bytes()[: len(first)] == first
    labels = softpack.open(path)
    all_rows.check(labels)
    assert labels.shape == (5, 4, 3)
    assert labels.file.commit.number == 1
    assert softpack.verify(path).problems == ()
    assert softpack.ledger(path).total_bits == 8 * path.stat().st_size


def test_many_appends(tmp_path, all_rows):
    rows = replace(unmixed(all_rows), item_columns={})
    path = tmp_path / "a.spk"
    batches = list(rows.batches(3))
    batches[0].write(path, tile=(4, 3))

    for batch in batches[1:]:
        with softpack.append(path) as writer:
            batch.append_to(writer)

    labels = softpack.open(path)
    rows.check(labels)
    assert labels.file.commit.number == len(batches) - 1
    assert softpack.verify(path).problems == ()


def test_an_open_reader_reads_on(tmp_path, all_rows):
    rows = replace(unmixed(all_rows), item_columns={})
    first, second = rows.batches(10)
    labels = softpack.open(first.write(tmp_path / "a.spk"))

    with softpack.append(tmp_path / "a.spk") as writer:
        second.append_to(writer)
        writer.commit()
        first.check(labels)

    first.check(labels)
    rows.check(softpack.open(tmp_path / "a.spk"))


def test_an_error_cuts_back_to_what_was_there(tmp_path, all_rows, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    rows = replace(unmixed(all_rows), item_columns={})
    first, second = rows.batches(10)
    path = first.write(tmp_path / "a.spk")
    before = path.read_bytes()

    with pytest.raises(ZeroDivisionError), softpack.append(path) as writer:
        second.append_to(writer)
        assert path.stat().st_size > len(before)
        _ = 1 / 0

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.spk"]


def test_what_was_committed_survives_a_later_error(tmp_path, all_rows):
    rows = replace(unmixed(all_rows), item_columns={})
    first, second, third = rows.batches(7)
    path = first.write(tmp_path / "a.spk")

    with pytest.raises(ZeroDivisionError), softpack.append(path) as writer:
        second.append_to(writer)
        writer.commit()
        third.append_to(writer)
        _ = 1 / 0

    rows.take(slice(0, 14)).check(softpack.open(path))


def test_a_row_that_is_there_is_refused(tmp_path, all_rows):
    rows = replace(all_rows, item_columns={})
    path = rows.write(tmp_path / "a.spk", tile=(3, 3))
    before = path.read_bytes()

    with (
        pytest.raises(DataError, match="item 4, view 3 is there already; every"),
        softpack.append(path) as writer,
    ):
        rows.take(slice(19, 20)).append_to(writer)

    assert path.read_bytes() == before


def test_partners_may_be_in_what_was_there_before(tmp_path, all_rows):
    rows = replace(unmixed(all_rows), item_columns={})
    path = rows.take(rows.item_B < 4).write(tmp_path / "a.spk")
    mixed = rows.take(rows.item_B == 4)
    mixed.columns["mix_item"][:] = 2

    with softpack.append(path) as writer:
        mixed.append_to(writer)
    with (
        pytest.raises(DataError, match="item 9, view 0 is named as a mix partner"),
        softpack.append(path) as writer,
    ):
        columns = {**mixed.take(slice(0, 1)).columns, "mix_item": [9]}
        writer.append(mixed.labels_BC[:1], item=5, view=0, **columns)

    assert softpack.open(path).replay([4], [1])["mix_item"].tolist() == [2]


def test_columns_stay_what_they_were(tmp_path, all_rows):
    rows = replace(unmixed(all_rows), item_columns={})
    path = rows.write(tmp_path / "a.spk")

    with pytest.raises(DataError, match="found the columns none; the rows before have crop_xywh"):
        with softpack.append(path) as writer:
            writer.append(rows.labels_BC[:1], item=9, view=0)
    with pytest.raises(DataError, match="say target before the first rows"), softpack.append(path) as writer:
        writer.set_items(target=np.zeros(5, int))


def test_new_items_need_their_item_columns(tmp_path, all_rows):
    rows = unmixed(all_rows)
    path = rows.write(tmp_path / "a.spk")
    before = path.read_bytes()

    with pytest.raises(DataError, match="has 5 items, the file has 6; give one entry"):
        with softpack.append(path) as writer:
            row = rows.take(slice(0, 1))
            writer.append(row.labels_BC, item=5, view=0, **row.columns)

    assert path.read_bytes() == before


def test_the_encoder_may_be_in_the_file_or_beside_it(tmp_path, random_rows):
    rows = random_rows(np.ones((20, 8), bool), classes=12, columns=(), item_columns=())
    first, second = rows.batches(80)
    with softpack.create(tmp_path / "a.spk", "lowrank", classes=12, rank=4, bits=6, appendable=True) as writer:
        first.append_to(writer)
    softpack.save_model(tmp_path / "a.spkm", writer.codec)
    with softpack.create(tmp_path / "b.spk", writer.codec) as other:
        first.append_to(other)

    with softpack.append(tmp_path / "a.spk") as writer:
        second.append_to(writer)
    model = softpack.load_model(tmp_path / "a.spkm")
    with softpack.append(tmp_path / "b.spk", model) as writer:
        second.append_to(writer)

    with_encoder, without = softpack.open(tmp_path / "a.spk"), softpack.open(tmp_path / "b.spk")
    np.testing.assert_array_equal(
        with_encoder.read(rows.item_B, rows.view_B), without.read(rows.item_B, rows.view_B)
    )
    assert len(without) == 160


def test_another_model_is_refused(tmp_path, random_rows):
    rows = random_rows(np.ones((20, 8), bool), classes=12, columns=(), item_columns=())
    models = []
    for name, some in (("a", rows), ("b", rows.take(slice(40, None)))):
        with softpack.create(tmp_path / f"{name}.spk", "lowrank", classes=12, rank=4) as writer:
            some.append_to(writer)
        models.append(writer.codec)
    before = (tmp_path / "a.spk").read_bytes()

    with pytest.raises(CodecError, match="with another model than the one given"):
        softpack.append(tmp_path / "a.spk", models[1])
    with pytest.raises(CodecError, match="with another model than the one given"):
        with softpack.create(tmp_path / "c.spk", "raw", classes=12) as writer:
            pass
        softpack.append(tmp_path / "a.spk", softpack.load_model(tmp_path / "c.spk"))

    assert (tmp_path / "a.spk").read_bytes() == before
    with softpack.append(tmp_path / "a.spk", models[0]):  # nothing holds its lock
        pass


def test_a_damaged_file_is_not_appended_to(damaged):
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-100])

    with pytest.raises(TruncatedError, match="softpack recover"):
        softpack.append(damaged)
    assert damaged.read_bytes() == data[:-100]


def test_a_damaged_presence_is_found_before_anything_is_written(damaged, forge):
    data = bytearray(damaged.read_bytes())
    data[data.index(forge(damaged).blocks[1][1])] ^= 1
    damaged.write_bytes(data)

    with pytest.raises(CorruptError, match="checksum"):
        softpack.append(damaged)
    assert damaged.read_bytes() == data


def test_features_that_only_readers_may_ignore_forbid_appending(damaged, ragged):
    data = bytearray(damaged.read_bytes())
    at = layout.SUPERBLOCK.size - 24
    data[at] = 1
    data[56:64] = payload_hash(bytes(data[:56])).to_bytes(8, "little")
    damaged.write_bytes(data)

    ragged.check(softpack.open(damaged))
    with pytest.raises(UnsupportedError, match="features 0x1"):
        softpack.append(damaged)
    damaged.write_bytes(data[:-1])
    with pytest.raises(UnsupportedError, match="features 0x1"):
        softpack.recover(damaged)
