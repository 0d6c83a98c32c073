"""Damage in the middle of a file: what is whole before and behind it is given back, and the rest is named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import softpack
from softpack.container.blockfile import BlockFile
from softpack.container.file import SpkFile
from softpack.errors import FormatError
from softpack.format.layout import BLOCK, BlockType

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "formats"))

import reference_reader

PAYLOAD, HEADER = BLOCK.size + 1, 20  # where in a block a bit is flipped
OF_ITEMS = {3: "source_hw", 4: "target"}


@pytest.fixture(scope="module", name="rows")
def some_rows(random_rows):
    """Rows of 6 items x 3 views, one of which is missing in each third item, with all columns."""
    present_NV = np.ones((6, 3), bool)
    present_NV[::3, 1] = False
    return random_rows(present_NV).sorted()


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    """A file of a tile for each item: header, item columns, tiles; not to be changed."""
    return rows.write(tmp_path_factory.mktemp("whole") / "a.spk", items=6, views=3, tile=(1, 3))


def blocks_of(path):
    """Return (offset, block header) of each block that the index of a file lists."""
    file = SpkFile(path)
    return list(zip(file.offsets.tolist(), file.blocks, strict=False))


def numbers_of(path, stream):
    """Return the numbers of the tile blocks of a stream."""
    blocks = SpkFile(path).blocks
    return np.flatnonzero((blocks["type"] == BlockType.TILE) & (blocks["stream"] == stream)).tolist()


def spoilt(path, *places):
    """Return the bytes of a file with a bit flipped in some blocks: (number, where in the block)."""
    data, blocks = bytearray(path.read_bytes()), blocks_of(path)
    for number, where in places:
        data[blocks[number][0] + where] ^= 16
    return bytes(data)


def check_sound(path, rows):
    """Check that a file holds some rows to the bit, in the eyes of both readers."""
    labels = softpack.open(path)
    np.testing.assert_array_equal(labels.cells(), (rows.item_B, rows.view_B))
    np.testing.assert_array_equal(labels.read(rows.item_B, rows.view_B), rows.labels_BC)
    for name, values in labels.replay(rows.item_B, rows.view_B).items():
        np.testing.assert_array_equal(values, rows.columns[name], err_msg=name)
    for name in labels.item_columns:
        np.testing.assert_array_equal(labels.item_column(name), rows.item_columns[name], err_msg=name)
    found = reference_reader.read(path)
    np.testing.assert_array_equal(found["item"], rows.item_B)
    np.testing.assert_array_equal(found["labels"], rows.labels_BC)
    assert softpack.verify(path).problems == ()
    assert softpack.ledger(path).total_bits == 8 * path.stat().st_size
    return labels


def refuses(path, data, says):
    """Check that nothing is given back, and the file stays as it is."""
    path.write_bytes(data)
    with pytest.raises(FormatError, match=says) as refused:
        softpack.recover(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("end", "where"), [("sound", PAYLOAD), ("sound", HEADER), ("cut off", PAYLOAD)], ids=str
)
def test_a_damaged_block_costs_its_own_tile_and_no_other(whole, rows, tmp_path, end, where):
    path = tmp_path / "a.spk"
    for number, (_, block) in enumerate(blocks_of(whole)):
        data = spoilt(whole, (number, where))
        data = data if end == "sound" else data[:-1]
        if number == 0:
            refuses(path, data, r"a\.spk, block 0|a\.spk, .*header")
            continue
        path.write_bytes(data)
        recovered = softpack.recover(path)
        lost = [] if block["stream"] in OF_ITEMS else [int(block["tile_item"])]
        (line,) = recovered.lost
        if lost:
            says = f"{block['n_rows']} labels of items {lost[0]} to {lost[0]}, views 0 to {block['span_views'] - 1} ("
        else:
            says = f"{OF_ITEMS[int(block['stream'])]} of items 0 to 5 ("
        assert line.startswith((f"{says}block {number} (tile): ", f"{says}block {number}: the block header"))
        labels = check_sound(path, rows.take(~np.isin(rows.item_B, lost)))
        assert recovered.n_rows == len(labels) == len(rows) - (int(block["n_rows"]) if lost else 0)
        assert not recovered.was_whole
        assert recovered.dropped_bytes > 0
        expected = [name for stream, name in OF_ITEMS.items() if stream != block["stream"]]
        assert list(labels.item_columns) == expected
        assert softpack.recover(path).was_whole


def test_a_file_without_an_end_is_walked_to_the_first_bad_header(whole, rows, tmp_path):
    path = tmp_path / "a.spk"
    for number, (_, block) in enumerate(blocks_of(whole)):
        data = spoilt(whole, (number, HEADER))[:-1]
        if block["tile_item"] == 0:  # nothing is complete before it
            refuses(path, data, r"a\.spk, block 0|none of its labels is whole: .*left as it is")
            continue
        path.write_bytes(data)
        recovered = softpack.recover(path)
        check_sound(path, rows.take(rows.item_B < block["tile_item"]))
        says = f"bytes (block {number}: the block header fails its checksum: damaged, or of another file)"
        assert recovered.lost[-1].startswith("the last ")
        assert recovered.lost[-1].endswith(says)


@pytest.mark.parametrize("cut", [0, 1, 300])
def test_several_tiles(whole, rows, tmp_path, cut):
    path = tmp_path / "a.spk"
    codes = numbers_of(whole, 1)
    data = spoilt(whole, *((codes[item], PAYLOAD) for item in (0, 2, 5)))
    path.write_bytes(data[: len(data) - cut])

    recovered = softpack.recover(path)

    assert [line.split(" (")[0] for line in recovered.lost] == [
        "2 labels of items 0 to 0, views 0 to 2",
        "3 labels of items 2 to 2, views 0 to 2",
        "3 labels of items 5 to 5, views 0 to 2",
    ]
    check_sound(path, rows.take(~np.isin(rows.item_B, [0, 2, 5])))


def test_what_was_left_out_can_be_labelled_again(whole, rows, tmp_path):
    path = tmp_path / "a.spk"
    path.write_bytes(spoilt(whole, (numbers_of(whole, 2)[3], PAYLOAD)))
    softpack.recover(path)

    with softpack.append(path) as writer:
        rows.take(rows.item_B == 3).append_to(writer)

    assert check_sound(path, rows).item_columns == ("source_hw", "target")


def test_the_first_part_of_a_tile_may_be_lost_and_come_again(tmp_path, random_rows):
    rows = random_rows(np.ones((2, 6), bool), columns=(), item_columns=()).sorted()
    parts = [rows.take(rows.view_B // 2 == part) for part in range(3)]
    path = tmp_path / "a.spk"
    with softpack.create(path, "raw", classes=3, dtype="fp32", tile=(2, 6)) as writer:
        for part in parts:
            part.append_to(writer)
            writer.commit()
    path.write_bytes(spoilt(path, (numbers_of(path, 1)[0], PAYLOAD)))

    assert softpack.recover(path).n_rows == 8
    with softpack.append(path) as writer:
        parts[0].append_to(writer)

    check_sound(path, rows)


def test_old_values_of_items_do_not_come_back(tmp_path, random_rows):
    rows = random_rows(np.ones((2, 2), bool), columns=(), item_columns=("target",)).sorted()
    path = rows.write(tmp_path / "a.spk")
    with softpack.append(path) as writer:
        writer.set_items(target=rows.item_columns["target"] + 7)
    first, second = numbers_of(path, 2)
    data = path.read_bytes()

    path.write_bytes(spoilt(path, (second, PAYLOAD)))
    assert softpack.recover(path).lost[0].startswith(f"target of items 0 to 1 (block {second} (tile): ")
    assert check_sound(path, rows).item_columns == ()

    path.write_bytes(data)
    path.write_bytes(spoilt(path, (first, PAYLOAD)))
    assert softpack.recover(path).lost == ()  # it had been replaced
    np.testing.assert_array_equal(softpack.open(path).item_column("target"), rows.item_columns["target"] + 7)


def test_a_recovery_that_is_stopped_can_be_done_again(whole, rows, tmp_path, monkeypatch):
    path = tmp_path / "a.spk"
    codes = numbers_of(whole, 1)
    data = spoilt(whole, (codes[1], PAYLOAD), (codes[3], PAYLOAD))
    overwrite = BlockFile.overwrite
    for end in (0, 1):
        for n_steps in range(6):
            path.write_bytes(data[: len(data) - end])
            left = iter(range(n_steps))

            def stopped(file, offset, head, left=left):
                next(left)  # StopIteration stands for the end of the process
                overwrite(file, offset, head)

            with monkeypatch.context() as patch:
                patch.setattr(BlockFile, "overwrite", stopped)
                patch.setattr(BlockFile, "resume", lambda *arguments: next(iter(())))
                with pytest.raises(StopIteration):
                    softpack.recover(path)
            assert softpack.recover(path).n_rows == len(rows) - 5
            check_sound(path, rows.take(~np.isin(rows.item_B, [1, 3])))


def test_without_a_whole_label_the_file_stays_as_it_is(tmp_path, random_rows):
    rows = random_rows(np.ones((2, 2), bool), columns=(), item_columns=())
    path = rows.write(tmp_path / "a.spk")
    (codes,) = numbers_of(path, 1)
    end = blocks_of(path)[codes][0]
    data, damaged = path.read_bytes(), spoilt(path, (codes, PAYLOAD))
    labels = r"a\.spk: none of its labels is whole: 4 labels of items 0 to 1, views 0 to 1 \(block 1 \(tile\): "

    refuses(
        path, damaged, rf"{labels}the payload fails its checksum.*\); the file is left as it is; copy it again"
    )
    refuses(path, data[: end + 80], rf"{labels}promises .* bytes, but the file ends 16 bytes on\)")
    refuses(
        path, data[: end + 20], r"none of its labels is whole: the last 20 bytes \(block 1: found 20 bytes of"
    )
    refuses(path, data[:end], r"none of its labels is whole: it ends before the first of them")


def test_without_its_model_a_file_stays_as_it_is(tmp_path, random_rows):
    rows = random_rows(np.ones((9, 9), bool), columns=(), item_columns=())
    path = tmp_path / "a.spk"
    with softpack.create(path, "lowrank", classes=3, rank=2) as writer:
        rows.append_to(writer)
    damaged = spoilt(path, (1, PAYLOAD))

    for data in (damaged, damaged[:-1]):
        refuses(
            path,
            data,
            r"a\.spk, block 1 \(decoder\): .*checksum.*Without its header and its model no label can be read; ",
        )


@pytest.mark.parametrize(
    "lie", [{"items": 1 << 40}, {"views": 7, "file_len": 5}, {"n_rows": 1 << 50}, {"index_offset": 1 << 60}]
)
def test_a_commit_that_contradicts_the_file_is_written_anew(whole, rows, forge, tmp_path, lie):
    path = forge(whole).write(tmp_path / "a.spk", commit=lambda commit: replace(commit, **lie))
    with pytest.raises(FormatError):
        softpack.open(path)

    assert softpack.recover(path).n_rows == len(rows)
    assert check_sound(path, rows).shape[:2] == (6, 3)


def test_a_tile_that_contradicts_its_header_is_left_out(whole, rows, forge, tmp_path):
    made, number = forge(whole), numbers_of(whole, 1)[2]
    made.change(number, made.blocks[number][1][:-2])
    path = made.write(tmp_path / "a.spk")

    assert (
        softpack.recover(path).lost[0].startswith(f"3 labels of items 2 to 2, views 0 to 2 (block {number}, ")
    )
    check_sound(path, rows.take(rows.item_B != 2))


def test_how_far_it_is(whole, tmp_path):
    path, seen = tmp_path / "a.spk", []
    path.write_bytes(whole.read_bytes()[:-1])
    softpack.recover(path, lambda done, total: seen.append((done, total)))
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {whole.stat().st_size - 1}
    assert 0 < seen[0][0] < seen[-1][0] <= seen[0][1]
