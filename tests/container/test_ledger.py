from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import softpack
from softpack.accounting import SCOPES
from softpack.container import tile_writer
from softpack.errors import CorruptError, DataError, FormatError
from softpack.format.layout import BlockType

numbers = count()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ledgers")


@given(
    present=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
    columns=st.sets(st.sampled_from(("crop_xywh", "flip", "mix_item mix_lam"))).map(" ".join).map(str.split),
    item_columns=st.sets(st.sampled_from(("source_hw", "target"))),
    codec=st.sampled_from((("raw", {"dtype": "fp32"}), ("quantize", {"bits": 3}), ("topk", {"k": 2}))),
    appended=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_sum_is_the_file(folder, random_rows, present, columns, item_columns, codec, appended, seed):
    present_NV = np.array(present)
    present_NV[-1, -1] = True
    rows = random_rows(present_NV, 5, columns, item_columns, seed)
    path = folder / f"{next(numbers)}.spk"
    with softpack.create(path, codec[0], classes=5, tile=(2, 2), **codec[1]) as writer:
        writer.set_items(**rows.item_columns)
        rows.append_to(writer)
    if appended:
        with softpack.append(path):
            pass

    ledger = softpack.ledger(path)

    assert ledger.total_bits == sum(entry.n_bits for entry in ledger.entries) == 8 * path.stat().st_size
    assert ledger.file_bytes == path.stat().st_size
    assert ledger.n_rows == len(rows)
    assert all(entry.n_bits > 0 for entry in ledger.entries)
    assert {entry.scope for entry in ledger.entries} <= set(SCOPES)
    codec = softpack.open(path).codec
    exact = codec.bits_per_label() * len(rows)
    assert ledger.bits_of("codes") <= exact
    assert not ledger.bits_of("replay") or columns or "source_hw" in item_columns  # equal numbers take no bits
    assert not ledger.bits_of("item") or "target" in item_columns
    assert (ledger.bits_of("ids") > 0) == any(not part.is_full for part in softpack.open(path).file.parts)


@pytest.mark.parametrize(
    ("codec", "settings"), [("raw", {"dtype": "fp32"}), ("quantize", {"bits": 5}), ("topk", {"k": 3})]
)
def test_codes_cost_what_the_codec_says(tmp_path, random_rows, monkeypatch, codec, settings):
    """Where zstd does not help, the two independent counts agree to the bit."""
    monkeypatch.setattr("softpack.entropy.arrays.shrink", lambda planes, level: None)
    rows = random_rows(np.ones((7, 3), bool), classes=9)
    with softpack.create(tmp_path / "a.spk", codec, classes=9, tile=(4, 2), **settings) as writer:
        rows.append_to(writer)

    ledger = softpack.ledger(tmp_path / "a.spk")

    assert ledger.bits_of("codes") == 21 * writer.codec.bits_per_label()
    exact = {"flip": 21, "mix_lam": 21 * 32, "crop_xywh_fraction": 21 * 4 * 32}
    found = {entry.what: entry.n_bits for entry in ledger.entries}
    assert {name: found[f"replay: {name}"] for name in exact} == exact


def test_scopes_of_a_small_file(ragged_file, forge):
    ledger = softpack.ledger(ragged_file)
    n_blocks = len(forge(ragged_file).blocks) + 2

    found = {entry.what: entry.n_bits for entry in ledger.entries}

    assert found["superblock"] + found["checksum of the superblock"] == 8 * 64
    assert found["headers of blocks"] + found["checksums of blocks"] == 8 * 64 * n_blocks
    assert found["commits"] == 8 * 64
    assert found["codes: values"] == 17 * 3 * 32
    assert found["ids: present"] == 3 * 4 + 2 * 4
    assert ledger.bits_of("model") == 0


def test_a_model_is_counted_and_its_encoder_apart(tmp_path, random_rows):
    rows = random_rows(np.ones((30, 4), bool), classes=12, columns=(), item_columns=())
    for appendable in (False, True):
        path = tmp_path / f"{appendable}.spk"
        with softpack.create(path, "lowrank", classes=12, rank=4, appendable=appendable) as writer:
            rows.append_to(writer)
        found = {entry.what: entry for entry in softpack.ledger(path).entries}
        assert found["decoder and what it needs"].scope == "model"
        has_more = appendable and bool(writer.codec.encoder_state())
        assert ("encoder" in found) == has_more


def test_commits_and_indexes_are_counted_each_time(tmp_path, random_rows, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 1)
    monkeypatch.setattr(tile_writer, "COMMIT_BYTES", 1)
    path = random_rows(np.ones((6, 4), bool)).write(tmp_path / "a.spk", batch=6)

    ledger = softpack.ledger(path)

    commits = next(entry.n_bits for entry in ledger.entries if entry.what == "commits")
    assert commits == 8 * 64 * (softpack.open(path).file.commit.number + 1) > 8 * 64
    assert ledger.total_bits == 8 * path.stat().st_size


def test_images_are_measured_beside_the_file(ragged_file, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(bytes(100))
    (tmp_path / "deep" / "b.png").write_bytes(bytes(23))

    assert softpack.ledger(ragged_file, tmp_path).image_bytes == 123
    assert softpack.ledger(ragged_file, tmp_path / "a.png").image_bytes == 100
    assert softpack.ledger(ragged_file).image_bytes is None
    with pytest.raises(DataError, match="there are no images here"):
        softpack.ledger(ragged_file, tmp_path / "none")


@pytest.mark.parametrize("field", [1, 4], ids=["width", "length"])
def test_a_description_that_does_not_add_up_is_refused(damaged, forge, field):
    made = forge(damaged)
    payload = made.blocks[made.find(BlockType.TILE, 1)][1]
    data = bytearray(damaged.read_bytes())
    data[data.index(payload) + field] += 1
    damaged.write_bytes(data)

    with pytest.raises(FormatError) as refused:
        softpack.ledger(damaged)

    assert isinstance(refused.value, CorruptError)
