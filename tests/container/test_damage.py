"""Damaged files: found, never wrong numbers in silence, and given back as far as they are whole."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import softpack
from softpack.container import tile_writer
from softpack.container.recover import Recovered
from softpack.errors import CorruptError, ExistsError, FormatError, NotSpkError, TruncatedError
from softpack.format import layout
from softpack.format.layout import BlockType

STRUCTURE = 128  # bytes at either end: superblock and first block, last commit
OTHER = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


def is_found(path):
    """Whether opening refuses a file, or `verify` reports it; any other error passes through."""
    try:
        return bool(softpack.verify(path).problems)
    except FormatError:
        return True


def reads_right_or_refuses(path, rows):
    """Read all rows and columns; what is read must be right."""
    try:
        labels = softpack.open(path)
        read = labels.read(rows.item_B, rows.view_B).numpy()
        columns = labels.replay(rows.item_B, rows.view_B)
        of_items = {name: labels.item_column(name) for name in labels.item_columns}
    except FormatError:
        return
    np.testing.assert_array_equal(read, rows.labels_BC)
    for name, values in columns.items():
        np.testing.assert_array_equal(values, rows.columns[name])
    for name, values in of_items.items():
        np.testing.assert_array_equal(values, rows.item_columns[name])


def bits_to_flip(n_bytes):
    """All bits of the first and last bytes, where everything hangs; one of each byte between."""
    for offset in range(n_bytes):
        all_bits = min(offset, n_bytes - 1 - offset) < STRUCTURE
        yield from ((offset, bit) for bit in (range(8) if all_bits else [offset * 5 % 8]))


def test_every_flipped_bit_is_found(damaged, ragged):
    whole = damaged.read_bytes()
    assert len(whole) < 6000
    with open(damaged, "r+b", buffering=0) as file:
        for n, (offset, bit) in enumerate(bits_to_flip(len(whole))):
            file.seek(offset)
            file.write(bytes([whole[offset] ^ 1 << bit]))
            assert is_found(damaged), f"bit {bit} of byte {offset}"
            if n % 8 == 0:
                reads_right_or_refuses(damaged, ragged)
            file.seek(offset)
            file.write(whole[offset : offset + 1])
    assert not is_found(damaged)


def test_verify_goes_on_after_damage_and_counts_what_is_lost(damaged, forge):
    blocks = forge(damaged).blocks
    data = bytearray(damaged.read_bytes())
    first, second = (
        data.index(payload) for block, payload in blocks if (block.type, block.stream) == (BlockType.TILE, 1)
    )
    data[first] ^= 1
    data[second + 20] ^= 1
    damaged.write_bytes(data)

    report = softpack.verify(damaged)

    assert report.lost_rows == report.n_rows == 17
    assert len(report.problems) == 2
    assert "10 labels of items 0 to 2, views 0 to 3, cannot be read" in report.problems[0]
    assert "7 labels of items 3 to 4, views 0 to 3, cannot be read" in report.problems[1]


def test_rows_of_other_tiles_can_still_be_read(damaged, ragged, forge):
    data = bytearray(damaged.read_bytes())
    payload = next(
        p for block, p in forge(damaged).blocks if (block.type, block.stream, block.tile_item) == (3, 1, 0)
    )
    data[data.index(payload) + 30] ^= 4
    damaged.write_bytes(data)
    labels = softpack.open(damaged)
    sound = ragged.take(ragged.item_B >= 3)

    np.testing.assert_array_equal(labels.read(sound.item_B, sound.view_B), sound.labels_BC)
    with pytest.raises(CorruptError, match=r"block 4 \(tile\): the payload fails its checksum"):
        labels[0, 0]


def test_every_truncation_is_refused_and_gives_back_complete_tiles(damaged, ragged, forge):
    whole = damaged.read_bytes()
    made = forge(damaged)
    ends = np.cumsum([64, *(block.total_len for block, _ in made.blocks)])
    header_end = int(ends[1])
    by_tile = [ragged.take(ragged.item_B < 3), ragged.take(ragged.item_B >= 3)]
    tile_ends = [int(ends[3 + 3]), int(ends[3 + 6])]  # after the item columns, 3 blocks of each
    results = set()
    for length in range(len(whole)):
        damaged.write_bytes(whole[:length])
        with pytest.raises(FormatError) as refused:
            softpack.open(damaged)
        assert type(refused.value) is (NotSpkError if length == 0 else TruncatedError)
        if length % 41 and length + 1 not in ends and length not in ends:
            continue
        if length < header_end:
            with pytest.raises(FormatError):
                softpack.recover(damaged)
            assert damaged.read_bytes() == whole[:length]  # as it was
            continue
        n_tiles = sum(length >= end for end in tile_ends)
        rows = [*by_tile[:n_tiles]]
        if not rows:
            with pytest.raises(
                FormatError, match=r"damaged\.spk: none of its labels is whole: .*left as it is"
            ):
                softpack.recover(damaged)
            assert damaged.read_bytes() == whole[:length]
            continue
        recovered = softpack.recover(damaged)
        n_rows, n_bytes, lost = sum(map(len, rows)), recovered.dropped_bytes, recovered.lost
        assert recovered == Recovered(damaged, n_rows, n_bytes, was_whole=False, lost=lost)
        assert not is_found(damaged)
        labels = softpack.open(damaged)
        assert len(labels) == recovered.n_rows
        for tile in rows:
            np.testing.assert_array_equal(labels.read(tile.item_B, tile.view_B), tile.labels_BC)
            assert labels.replay(tile.item_B, tile.view_B).keys() == ragged.columns.keys()
        for name in labels.item_columns:
            np.testing.assert_array_equal(
                labels.item_column(name), ragged.item_columns[name][: labels.shape[0]]
            )
        results.add((n_tiles, labels.item_columns))
    assert results == {(1, ("source_hw", "target")), (2, ("source_hw", "target"))}


@pytest.mark.parametrize("junk", [b"\0", b"x" * 64, bytes(128), b"SPKB" + bytes(124)])
def test_junk_at_the_end_is_refused_and_cut_off(damaged, ragged, junk):
    with open(damaged, "ab") as file:
        file.write(junk)

    assert is_found(damaged)
    assert softpack.recover(damaged).n_rows == len(ragged)
    ragged.check(softpack.open(damaged))


def test_what_is_whole_is_left_alone(damaged, ragged):
    before = damaged.read_bytes()

    assert softpack.recover(damaged) == Recovered(damaged, len(ragged), 0, was_whole=True)
    assert damaged.read_bytes() == before


def test_a_partial_file_gets_its_name(damaged, ragged):
    partial = damaged.with_name("labels.spk.partial")
    damaged.rename(partial)
    with open(partial, "ab") as file:
        file.write(b"half a block")

    recovered = softpack.recover(partial)

    lost = ("the last 12 bytes (block 11: found 12 bytes of a block header, expected 64)",)
    assert recovered == Recovered(damaged.with_name("labels.spk"), len(ragged), 12, was_whole=False, lost=lost)
    assert not partial.exists()
    ragged.check(softpack.open(recovered.path))


def test_a_partial_file_never_overwrites(damaged):
    partial = damaged.with_name(damaged.name + ".partial")
    partial.write_bytes(damaged.read_bytes())

    with pytest.raises(ExistsError, match=r"damaged\.spk is there already; move it away"):
        softpack.recover(partial)


def test_commits_before_the_damage_are_kept(tmp_path, random_rows, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    monkeypatch.setattr(tile_writer, "COMMIT_BYTES", 1)
    rows = random_rows(np.ones((6, 2), bool)).sorted()
    path = rows.write(tmp_path / "a.spk", batch=2, tile=(1, 2))
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    recovered = softpack.recover(path)

    assert 0 < recovered.n_rows < 12
    labels = softpack.open(path)
    found = rows.take(slice(0, recovered.n_rows))
    np.testing.assert_array_equal(labels.read(found.item_B, found.view_B), found.labels_BC)
    assert labels.item_columns == ()  # they come last
    assert not is_found(path)


def test_what_was_recovered_can_be_finished(damaged, ragged, forge):
    whole = damaged.read_bytes()
    made = forge(damaged)
    damaged.write_bytes(whole[: 64 + sum(block.total_len for block, _ in made.blocks[:6])])
    softpack.recover(damaged)

    with softpack.append(damaged) as writer:
        ragged.take(ragged.item_B >= 3).append_to(writer)

    ragged.check(softpack.open(damaged))


# -- splices ------------------------------------------------------------------------------------------------


def spans(path, forge):
    """Return where each block begins and ends, the last index and commit left out."""
    ends = np.cumsum([64, *(block.total_len for block, _ in forge(path).blocks)]).tolist()
    return list(pairwise(ends))


@pytest.fixture(scope="module")
def twin(tmp_path_factory, ragged):
    """A file with the same header, and so the same id, and other labels."""
    other = replace(ragged, labels_BC=ragged.labels_BC[::-1].copy())
    return other.write(tmp_path_factory.mktemp("twin") / "twin.spk", items=5, views=4, tile=(3, 4))


def test_moved_blocks_are_found(damaged, ragged, twin, tmp_path, forge):
    whole, other = damaged.read_bytes(), twin.read_bytes()
    stranger = ragged.write(tmp_path / "stranger.spk", items=5, views=4, tile=(3, 4), seed=7).read_bytes()
    assert whole[8:32] == other[8:32] != stranger[8:32]  # ids
    blocks = spans(damaged, forge)
    for n, (start, stop) in enumerate(blocks):
        block = whole[start:stop]
        spliced = {
            "dropped": whole[:start] + whole[stop:],
            "doubled": whole[:stop] + whole[start:],
            "from a twin": whole[:start] + other[start:stop] + whole[stop:],
            "from a stranger": whole[:start] + stranger[start:stop] + whole[stop:],
            "zeroed": whole[:start] + bytes(len(block)) + whole[stop:],
        }
        for later_start, later_stop in blocks[n + 1 :]:
            later = whole[later_start:later_stop]
            spliced[f"swapped with {later_start}"] = (
                whole[:start] + later + whole[stop:later_start] + block + whole[later_stop:]
            )
        for what, data in spliced.items():
            if data == whole:  # the twin has the same presence and columns
                continue
            damaged.write_bytes(data)
            assert is_found(damaged), f"block {n} {what}"
            reads_right_or_refuses(damaged, ragged)


def test_an_end_of_another_file_is_found(damaged, twin, forge):
    whole, other = damaged.read_bytes(), twin.read_bytes()
    for start, _ in spans(damaged, forge)[1:4]:
        damaged.write_bytes(whole[:start] + other[start:])
        assert is_found(damaged) == (whole[:start] != other[:start])


def test_random_splices_are_found(damaged, ragged, twin):
    whole, other = damaged.read_bytes(), twin.read_bytes()
    chance = random.Random(0)
    tried = 0
    while tried < 300:
        a, b, c = sorted(chance.sample(range(len(whole) + 1), 3))
        source = chance.choice([whole, other])
        length = chance.choice([0, b - a, chance.randrange(200)])
        begin = chance.randrange(len(source))
        if chance.random() < 0.5:  # where blocks begin
            a, b, begin, length = (n // 64 * 64 for n in (a, b, begin, length))
        data = whole[:a] + source[begin : begin + length] + whole[b if chance.random() < 0.7 else c :]
        if data in (whole, other):
            continue
        tried += 1
        damaged.write_bytes(data)
        assert is_found(damaged)
        reads_right_or_refuses(damaged, ragged)


def test_an_earlier_end_put_behind_later_blocks_is_found(damaged, ragged):
    first = damaged.read_bytes()
    with softpack.append(damaged) as writer:
        writer.set_items(source_hw=np.ones((6, 2), int), target=np.zeros(6, int))
        unmixed = {"mix_item": np.array([-1]), "mix_box_xyxy": np.full((1, 4), -1)}
        row = {name: values[:1] for name, values in ragged.columns.items()} | unmixed
        writer.append(ragged.labels_BC[:1], item=5, view=0, **row)
    second = damaged.read_bytes()
    assert second[: len(first)] == first

    damaged.write_bytes(second + first[-layout.COMMIT_BLOCK_LEN :])
    assert is_found(damaged)
    damaged.write_bytes(first)
    assert not is_found(damaged)
