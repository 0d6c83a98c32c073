"""Entropy tables: where they pay, what they cost, and what becomes of files that lie about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import softpack
from softpack.codecs.registry import make_codec
from softpack.container.file import SpkFile
from softpack.container.model import Model
from softpack.container.repack import repack
from softpack.container.tables import bits_per_row, fit_tables
from softpack.container.tile_writer import code_arrays
from softpack.entropy import ans
from softpack.entropy.arrays import ANS
from softpack.entropy.tables import MAX_TABLES, pack_tables, read_tables
from softpack.errors import CorruptError
from softpack.format.layout import BlockType, ModelPart
from softpack.records import LabelSpec
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.testing import random_rows

SPEC = LabelSpec(6)
QUANTIZE = make_codec("quantize", SPEC, {"bits": 4})
ITEMS, VIEWS = 100, 30


def peaked_rows(n_rows=ITEMS * VIEWS):
    """One class far in front, so that most levels are low ones."""
    generator = torch.Generator().manual_seed(0)
    rows_BC = torch.randn(n_rows, SPEC.classes, generator=generator)
    rows_BC[:, 2] += 20
    return rows_BC


@pytest.fixture(scope="module")
def codes():
    return code_arrays(QUANTIZE.encode(peaked_rows()))


@pytest.fixture(scope="module")
def tables(codes):
    return fit_tables(QUANTIZE.codes, codes, 3000, "codes")


@pytest.fixture(scope="module")
def path(tables, tmp_path_factory):
    return write(tmp_path_factory.mktemp("tables") / "a.spk", Model(QUANTIZE, tables=tables))


def write(path, model):
    item_B, view_B = np.divmod(np.arange(ITEMS * VIEWS), VIEWS)
    with softpack.create(path, model, items=ITEMS, views=VIEWS) as out:
        out.append(peaked_rows(), item=item_B, view=view_B)
    return path


# -- where they pay ----------------------------------------------------------------------------------------


def test_codes_that_are_not_uniform_get_tables(tables):
    assert list(tables) == ["codes.levels"]
    ans.check_tables(tables["codes.levels"], (6, 16), "test")


def test_uniform_codes_get_none():
    random = np.random.default_rng(0)
    uniform = {
        "levels": random.integers(0, 16, (4000, 6), np.uint8),
        "minimum": random.integers(0, 1 << 16, 4000, np.uint16),
        "step": random.integers(0, 1 << 16, 4000, np.uint16),
    }
    assert fit_tables(QUANTIZE.codes, uniform, 1 << 20, "codes") == {}


def test_tables_must_earn_what_they_weigh(codes, tables):
    """The same codes of a file of few rows save less than 6 x 16 frequencies take."""
    few = {name: values[:40] for name, values in codes.items()}
    assert fit_tables(QUANTIZE.codes, few, 40, "codes") == {}
    assert list(fit_tables(QUANTIZE.codes, few, 4000, "codes")) == list(tables)


def test_a_sample_of_no_rows_gives_no_tables(codes):
    assert fit_tables(QUANTIZE.codes, {name: values[:0] for name, values in codes.items()}, 9, "codes") == {}


def test_without_the_library_there_are_none(codes, monkeypatch):
    monkeypatch.setattr(ans, "is_available", lambda: False)
    assert fit_tables(QUANTIZE.codes, codes, 3000, "codes") == {}


def test_later_stages_are_streams_of_their_own():
    codec = make_codec("vqae", SPEC, {"slots": 2, "k": 16, "stages": 2})
    skewed = np.minimum(np.random.default_rng(0).geometric(0.6, (3000, 2)) - 1, 15).astype(np.uint8)
    found = fit_tables(codec.codes, {"index": skewed, "index_2": skewed}, 10**6, "codes")
    assert list(found) == ["codes.index", "codes_2.index_2"]


def test_bits_per_row_are_what_the_ledger_finds(codes, tables, path):
    with_tables = bits_per_row(QUANTIZE.codes, codes, tables, "codes")
    plain = bits_per_row(QUANTIZE.codes, codes, {}, "codes")
    assert with_tables < plain - 1
    found = softpack.ledger(path).bits_of("codes") / (ITEMS * VIEWS)
    assert found == pytest.approx(with_tables, rel=0.02)


# -- files -------------------------------------------------------------------------------------------------


def test_labels_are_the_same_with_tables_and_without(path, tmp_path):
    plain = write(tmp_path / "plain.spk", Model(QUANTIZE))
    labels = softpack.open(path)
    assert list(labels.model.tables) == ["codes.levels"]
    cells = labels.cells()
    assert torch.equal(labels.read(*cells), softpack.open(plain).read(*cells))
    assert torch.equal(labels.load().read(*cells), labels.read(*cells))
    assert path.stat().st_size < plain.stat().st_size


def test_the_ledger_counts_tables_and_sums_to_the_file(path):
    ledger = softpack.ledger(path)
    (entry,) = [entry for entry in ledger.entries if entry.what == "entropy tables"]
    assert entry.scope == "model"
    assert 0 < entry.n_bits <= 8 * len(pack_tables(SpkFile(path).tables))
    assert ledger.total_bits == 8 * path.stat().st_size


def test_some_tiles_are_coded_and_say_so(path):
    file = SpkFile(path)
    numbers = np.flatnonzero((file.blocks["type"] == BlockType.TILE) & (file.blocks["stream"] == 1))
    assert {file.payload(int(number))[0] for number in numbers} == {ANS}


def test_repacking_and_appending_keep_the_tables(path, tmp_path):
    repack(path, tmp_path / "b.spk")
    with softpack.append(tmp_path / "b.spk", QUANTIZE) as more:
        more.append(peaked_rows(50), item=np.arange(50), view=VIEWS)

    labels = softpack.open(tmp_path / "b.spk")

    assert labels.file.tables.keys() == {"codes.levels"}
    assert torch.equal(
        labels.read(*softpack.open(path).cells()), softpack.open(path).read(*softpack.open(path).cells())
    )
    expected = QUANTIZE.decode(QUANTIZE.encode(peaked_rows(50)))
    assert torch.equal(labels.read(np.arange(50), np.full(50, VIEWS)), expected)
    assert softpack.ledger(tmp_path / "b.spk").total_bits == 8 * (tmp_path / "b.spk").stat().st_size


def test_codes_that_the_sample_had_not_are_coded_too(codes, tmp_path):
    """A table fitted to rows that use few levels serves rows that use them all."""
    narrow = {**codes, "levels": np.minimum(codes["levels"], 3)}
    tables = fit_tables(QUANTIZE.codes, narrow, 10**6, "codes")
    path = write(tmp_path / "a.spk", Model(QUANTIZE, tables=tables))
    labels = softpack.open(path)
    assert torch.equal(labels.read(*labels.cells()), QUANTIZE.decode(QUANTIZE.encode(peaked_rows())))


@pytest.mark.parametrize("codec", ["lowrank", "vqae"])
def test_a_source_is_coded_with_tables_where_they_pay(codec, views_of_items, tmp_path):
    np.savez(tmp_path / "a.npz", **views_of_items(items=60, views=20))
    source = open_source(tmp_path / "a.npz")
    settings = {"rank": 6, "bits": 5} if codec == "lowrank" else {"slots": 2, "k": 8, "steps": 30, "d_h": 8}
    model = fit_model(source, codec, settings)
    plain = Model(model.codec)
    sizes = []
    for name, of_model in (("tables", model), ("plain", plain)):
        encode_source(source, tmp_path / f"{name}.spk", of_model)
        sizes.append((tmp_path / f"{name}.spk").stat().st_size)
    assert sizes[0] <= sizes[1]
    assert (sizes[0] < sizes[1]) == bool(model.tables)
    labels = [softpack.open(tmp_path / f"{name}.spk") for name in ("tables", "plain")]
    cells = labels[0].cells()
    assert torch.equal(labels[0].read(*cells), labels[1].read(*cells))


# -- lies --------------------------------------------------------------------------------------------------


def lie(path, out, forge, change):
    """Write the file again with other tables; every hash holds."""
    made = forge(path)
    number = made.find(BlockType.MODEL, ModelPart.TABLES)
    payload = SpkFile(path).payload(number)
    made.change(number, change(payload), coding=0, raw_len=len(change(payload)))
    return made.write(out)


def with_table(name="codes.levels", keep=False, edit=lambda table: table):
    def change(payload):
        tables = load(payload)
        edited = edit(tables["codes.levels"].copy())
        return save({**(tables if keep else {}), name: np.ascontiguousarray(edited)})

    return change


def raised(table):
    table[2, 3] += 1
    return table


def emptied(table):
    table[2, 0] += table[2, 3]
    table[2, 3] = 0
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_table(edit=raised), "table of codes.levels: the frequencies of column 2 sum to 16777217"),
        (with_table(edit=emptied), "the frequencies of column 2 sum to 16777216 and the least is 0"),
        (with_table(edit=lambda t: t[:5]), r"tables are uint32 \[5, 16\]; expected uint32 \[6, 16\]"),
        (with_table(edit=lambda t: t[:, :8]), r"tables are uint32 \[6, 8\]; expected uint32 \[6, 16\]"),
        (with_table(edit=lambda t: t.astype("i4")), r"tables are int32 \[6, 16\]; expected uint32"),
        (with_table(edit=lambda t: t.reshape(-1)), r"tables are uint32 \[96\]; expected uint32 \[6, 16\]"),
        (with_table("codes.others", keep=True), "a table for codes.others, which are no codes of this file"),
        (with_table("minimum", keep=True), "a table for minimum, which are no codes"),
        (with_table("other.levels"), "a table for other.levels, which are no codes"),
        (lambda payload: save({}), "is entropy-coded, but the file has no tables for it"),
        (lambda payload: payload[:-1], "the tables are not valid safetensors"),
        (lambda payload: b"", "the tables are not valid safetensors"),
        (lambda payload: b"\xff" * 64, "the tables are not valid safetensors"),
    ],
)
def test_damaged_tables_are_refused(path, tmp_path, forge, change, message):
    forged = lie(path, tmp_path / "forged.spk", forge, change)
    with pytest.raises(CorruptError, match=message) as refused:
        softpack.open(forged).read([0], [0])
    assert "forged.spk" in str(refused.value)
    assert softpack.verify(forged).problems


def test_tables_of_other_codes_are_found_where_codes_end(path, tmp_path, forge):
    """Valid tables that are not those that the codes were written with."""
    forged = lie(path, tmp_path / "forged.spk", forge, with_table(edit=lambda t: t[::-1]))
    with pytest.raises(
        CorruptError, match="these are not the words that were written, or not of so many codes"
    ):
        softpack.open(forged).read([0], [0])


def test_tables_in_two_blocks_are_refused(path, tmp_path, forge):
    made = forge(path)
    number = made.find(BlockType.MODEL, ModelPart.TABLES)
    made.blocks.insert(number, made.blocks[number])
    with pytest.raises(CorruptError, match="a table stands twice"):
        softpack.open(made.write(tmp_path / "forged.spk")).read([0], [0])


def test_there_are_so_many_tables_at_most():
    many = {f"t{n}": np.zeros((1, 1), np.uint32) for n in range(MAX_TABLES + 1)}
    with pytest.raises(CorruptError, match="here: found 4097 tables, expected at most 4096"):
        read_tables(pack_tables(many), "here")


def test_tables_round_trip_sorted(tables):
    other = {"b": tables["codes.levels"], "a": tables["codes.levels"][:1]}
    again = read_tables(pack_tables(other), "here")
    assert again.keys() == other.keys()
    assert all(np.array_equal(again[name], other[name]) and again[name].dtype == np.uint32 for name in other)
    assert pack_tables(other) == pack_tables(dict(sorted(other.items())))


def test_random_rows_of_a_file_with_tables(path):
    labels = softpack.open(path)
    expected = QUANTIZE.decode(QUANTIZE.encode(peaked_rows()))
    picked = np.random.default_rng(0).permutation(ITEMS * VIEWS)[:97]
    item_B, view_B = np.divmod(picked, VIEWS)
    assert torch.equal(labels.read(item_B, view_B), expected[picked])
    assert random_rows(SPEC, 1).shape == labels.read([0], [0]).shape
