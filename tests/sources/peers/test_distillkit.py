from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import softpack
from softpack.cli import main
from softpack.codecs.sparse import as_sparse_rows
from softpack.errors import CodecError, DataError
from softpack.rate.choose import Wanted, choose
from softpack.rate.curve import measure
from softpack.sources import open_source
from softpack.sources.encoding import encode_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.bits import pack, unpack
from softpack.sources.peers.distillkit_config import config_of
from softpack.sources.peers.distillkit_rows import bytes_of, log_probs_of
from softpack.sources.peers.given import Given
from softpack.sources.peers.to_distillkit import recommended, write_distillkit
from softpack.sources.pruning import first_views
from tests.sources import teachers


def rows_of(source):
    """Return all rows, and how much of each is left for others."""
    blocks = list(source.blocks(source.block_rows))
    ids = np.concatenate([block.sparse.ids_BK for block in blocks])
    values = np.concatenate([block.sparse.log_probs_BK for block in blocks])
    return ids, values, np.concatenate([block.replay["token"] for block in blocks])


@pytest.fixture
def said():
    return teachers.say()


@pytest.fixture
def path(tmp_path, said):
    teachers.write_distillkit(tmp_path / "set", said)
    return tmp_path / "set"


def test_every_row_is_what_was_written(path, said):
    source = open_source(path)

    ids, values, tokens = rows_of(source)

    assert (source.items, source.views, source.n_rows, source.kept) == (3, 8, 12, 12)
    assert source.spec.classes == teachers.CLASSES
    assert source.spec.space == "log_probs"
    np.testing.assert_array_equal(ids, np.concatenate(said.ids))
    np.testing.assert_array_equal(values, np.concatenate(said.log_probs))
    np.testing.assert_array_equal(tokens, np.concatenate([one[1:] for one in said.tokens]))
    np.testing.assert_array_equal(source.item_columns["length"], [5, 1, 9])
    np.testing.assert_array_equal(source.item_columns["first_token"], [one[0] for one in said.tokens])


def test_rows_are_of_their_items_and_views(path):
    block = next(iter(open_source(path).blocks(100)))

    np.testing.assert_array_equal(block.item_B, [0] * 4 + [2] * 8)
    np.testing.assert_array_equal(block.view_B, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize("n_rows", [1, 3, 100])
def test_blocks_of_any_size_are_the_same_rows(path, said, n_rows):
    ids = np.concatenate([block.sparse.ids_BK for block in open_source(path).blocks(n_rows)])

    np.testing.assert_array_equal(ids, np.concatenate(said.ids))


def test_some_rows_are_read_alone(path, said):
    blocks = open_source(path).read_rows(iter([np.array([1, 5]), np.array([11])]))

    ids = np.concatenate([block.sparse.ids_BK for block in blocks])

    np.testing.assert_array_equal(ids, np.concatenate(said.ids)[[1, 5, 11]])


@pytest.mark.parametrize("bits", range(1, 33))
def test_ids_of_any_width(bits):
    numbers = np.random.default_rng(bits).integers(1 << bits, size=(3, 13))
    expected = np.array([teachers.packed(row, bits) for row in numbers.tolist()], np.uint8)

    np.testing.assert_array_equal(pack(numbers, bits), expected)
    np.testing.assert_array_equal(unpack(expected, 13, bits), numbers)


def test_the_polynomial_the_bins_and_differences():
    config = {
        "d": 50, "k": 6, "exact_k": 2, "exact_dtype": "float16", "polynomial_terms": [0, 1, "sqrt"],
        "term_dtype": "float32", "delta_encoding": True,
        "residual_bins": [{"scale_dtype": "float32", "element_bits": 3, "num_elements": 2},
                          {"scale_dtype": "float16", "element_bits": 1, "num_elements": 1}],
    }  # fmt: skip
    row = struct.pack("<2e3f", -1.0, -0.5, -0.25, 0.125, -0.5) + struct.pack("<f", 0.125)
    row += bytes(teachers.packed([0, 7], 3)) + struct.pack("<e", 0.5) + bytes(teachers.packed([0], 1))
    line = [-0.25 + 0.125 * t - 0.5 * t**0.5 for t in range(4)]
    residual = [-4 * 0.125, 3 * 0.125, -0.5, 0]
    expected = np.cumsum([-1.0, -0.5, *(a + b for a, b in zip(line, residual, strict=True))])

    found = log_probs_of(np.frombuffer(row, np.uint8)[None], config_of(config))

    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_bfloat16_is_rounded_to_the_nearest():
    values = torch.randn(4, 8).neg().sort(dim=1, descending=True).values
    config = config_of(teachers.exact_config(8, "bfloat16"))

    found = log_probs_of(bytes_of(values.numpy(), config), config)

    np.testing.assert_array_equal(found, values.bfloat16().float().numpy())


def test_a_polynomial_that_rises_is_held_below_what_came_before(tmp_path):
    said = teachers.say((3,), k=3)
    config = teachers.exact_config(3) | {"exact_k": 1, "polynomial_terms": [0, 1]}
    rows = [[list(struct.pack("<3f", np.log(0.6), 2.5, -4.0))] * 2]
    teachers.write_distillkit(tmp_path / "set", said, config, files=1, rows=rows)
    source = open_source(tmp_path / "set")

    _, values, _ = rows_of(source)

    shares = np.exp(values[0])
    assert shares[0] == pytest.approx(0.6)
    assert shares.sum() == pytest.approx(1)
    assert shares[1] > shares[2]
    assert "2 of 2 rows that were read had more probability than 1" in source.remarks[0]


def test_a_legacy_set(tmp_path):
    said = teachers.say((4, 3), k=8)
    coefficients = [np.tile(np.array([-9.0, 1.5], np.float32), (len(of), 1)) for of in said.ids]
    teachers.write_legacy(tmp_path / "set", said, 5, coefficients, 1)
    given = Given(config=tmp_path / "set" / "run.yaml", label_type="log_probs")

    ids, values, tokens = rows_of(open_source(tmp_path / "set", kind="distillkit", given=given))

    np.testing.assert_array_equal(ids, np.concatenate(said.ids))
    np.testing.assert_array_equal(values[:, :5], np.concatenate(said.log_probs)[:, :5])
    # 1.5 / rank - 9, and never above the one before.
    line = np.minimum(-9 + 1.5 / np.arange(1, 4), np.concatenate(said.log_probs)[:, 4:5])
    np.testing.assert_allclose(values[:, 5:], np.minimum.accumulate(line, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(tokens, np.concatenate([one[1:] for one in said.tokens]))


def test_legacy_logits_get_all_the_probability(tmp_path):
    said = teachers.say((4,), k=8)
    teachers.write_legacy(tmp_path / "set", said, 8, [np.zeros((3, 0))], 1)
    given = Given(config=tmp_path / "set" / "run.yaml", label_type="logits")
    source = open_source(tmp_path / "set", kind="distillkit", given=given)

    _, values, _ = rows_of(source)

    np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, rtol=1e-5)
    assert "logits of some tokens alone" in source.remarks[0]


def test_a_packed_set_loses_the_label_whose_token_nobody_says(tmp_path):
    said = teachers.say((7, 2, 4), k=4)
    teachers.write_distillkit(tmp_path / "set", said, files=1)
    file = tmp_path / "set" / "data_0.parquet"
    table = pq.read_table(file)
    table = table.set_column(0, "input_ids", pa.array([tokens[:-1].tolist() for tokens in said.tokens]))
    pq.write_table(table.append_column("attention_mask", pa.array([[1, 1, 1, 2, 2, 2], [1], [1] * 3])), file)
    source = open_source(tmp_path / "set")

    ids, _, tokens = rows_of(source)

    np.testing.assert_array_equal(ids, np.concatenate([of[:-1] for of in said.ids]))
    np.testing.assert_array_equal(tokens, np.concatenate([one[1:-1] for one in said.tokens]))
    np.testing.assert_array_equal(source.item_columns["length"], [6, 1, 3])
    assert "the set was packed" in source.remarks[0]


def test_a_topk_file_of_it_holds_the_very_same(path, said, tmp_path):
    source = open_source(path)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))
    labels = softpack.open(tmp_path / "a.spk")

    rows = labels.read_sparse(*labels.cells())

    np.testing.assert_array_equal(rows.ids_BK, np.concatenate(said.ids))
    np.testing.assert_allclose(rows.log_probs_BK, np.concatenate(said.log_probs), rtol=1e-6)
    np.testing.assert_array_equal(
        labels.replay(*labels.cells())["token"], np.concatenate([one[1:] for one in said.tokens])
    )


@pytest.mark.parametrize("tail", ["uniform", "zero", "min", "bucket"])
def test_rows_are_coded_as_whole_ones_would_be(tmp_path, tail):
    teachers.write_distillkit(tmp_path / "set", teachers.say((9,)), files=1)
    source = open_source(tmp_path / "set")
    settings = {"k": 5, "tail": tail}
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted("topk", settings)))
    with softpack.create(
        tmp_path / "b.spk", "topk", classes=teachers.CLASSES, space="log_probs", **settings
    ) as writer:
        for block in source.blocks(100):
            rows = as_sparse_rows(block.sparse, source.spec).dense()
            writer.append(rows, item=block.item_B, view=block.view_B)

    found, expected = (softpack.open(tmp_path / name) for name in ("a.spk", "b.spk"))

    cells = found.cells()
    torch.testing.assert_close(found.read(*cells), expected.read(*cells), atol=5e-3, rtol=0)


def test_there_and_back(path, said, tmp_path):
    source = open_source(path)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))

    write_distillkit(tmp_path / "a.spk", tmp_path / "back", Asked())
    again = open_source(tmp_path / "back")

    ids, values, tokens = rows_of(again)
    np.testing.assert_array_equal(ids, np.concatenate(said.ids))
    expected = torch.from_numpy(np.concatenate(said.log_probs)).bfloat16().float()
    np.testing.assert_allclose(values, expected, atol=0.02)
    np.testing.assert_array_equal(tokens, np.concatenate([one[1:] for one in said.tokens]))
    np.testing.assert_array_equal(again.item_columns["token_hash"], source.item_columns["token_hash"])


def test_the_settings_that_distillkit_recommends_fit_a_curve():
    values = -np.log(np.arange(1, 129, dtype=np.float32))[None] - 1.7
    config = recommended(262_144, 128)

    found = log_probs_of(bytes_of(values, config), config)

    assert config.row_bytes + config.id_bytes == 344
    np.testing.assert_allclose(found, values, atol=0.02)


@pytest.mark.parametrize(("codec", "settings"), [("raw", {}), ("klt", {}), ("quantize", {})])
def test_codecs_of_whole_rows_refuse(path, codec, settings):
    with pytest.raises(CodecError, match=f"holds about 12 of the 1000 classes.*codec {codec} needs all.*topk"):
        choose(open_source(path), Wanted(codec, settings))


def test_targets_that_are_tried_on_whole_rows_are_refused(path):
    from softpack.rate.target import Target

    with pytest.raises(CodecError, match="try codecs on whole rows; give --target-bits, or --set k=K"):
        choose(open_source(path), Wanted(target=Target(kl=0.1)))


def test_a_promise_of_whole_rows_is_refused(path, tmp_path):
    source = open_source(path)

    with pytest.raises(CodecError, match=r"max_kl .* corrects whole rows"):
        encode_source(source, tmp_path / "a.spk", choose(source, Wanted()), max_kl=0.1)


def test_without_a_configuration_it_is_asked_for(path):
    (path / "compression_config.yaml").unlink()

    with pytest.raises(DataError, match=r"how their bytes are to be read.*\(--config YAML"):
        open_source(path, kind="distillkit")


def test_legacy_values_are_asked_for(tmp_path):
    said = teachers.say((4,), k=8)
    teachers.write_legacy(tmp_path / "set", said, 8, [np.zeros((3, 0))], 1)

    with pytest.raises(DataError, match=r"what the legacy values are \(--label-type log_probs"):
        open_source(tmp_path / "set", kind="distillkit", given=Given(config=tmp_path / "set" / "run.yaml"))


def test_another_configuration_is_refused(path, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(teachers.exact_config(11)))

    source = open_source(path, given=Given(config=other))

    with pytest.raises(
        DataError, match="numbers in bytepacked_indices of sequence 0, label 0; expected 14, by the conf"
    ):
        list(source.blocks(100))


def test_a_smaller_vocabulary_is_refused(path, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(teachers.exact_config(12, classes=600)))

    with pytest.raises(DataError, match=r"token .* expected 0 to 599"):
        open_source(path, given=Given(config=other))


def test_bad_bytes_are_named_and_left_out(tmp_path, said):
    rows = [[list(struct.pack("<12f", *row)) for row in values] for values in said.log_probs]
    rows[2][3] = list(struct.pack("<12f", *[float("nan")] * 12))
    teachers.write_distillkit(tmp_path / "set", said, rows=rows)

    with pytest.raises(
        DataError, match=r"data_1.parquet: sequences 0 to 1: a log-probability of row 7 \(item 2, view 3\)"
    ):
        list(open_source(tmp_path / "set").blocks(100))

    source = open_source(tmp_path / "set", given=Given(skip_bad=True))
    assert sum(map(len, source.blocks(100))) == 4
    assert "8 rows, of items 2 to 2" in next(iter(source.skipped.values()))


def test_a_file_that_is_cut_off_is_named(path):
    file = path / "data_1.parquet"
    file.write_bytes(file.read_bytes()[:-10])

    with pytest.raises(DataError, match=r"data_1.parquet: ends in"):
        open_source(path)

    source = open_source(path, given=Given(skip_bad=True))
    assert source.items == 1
    assert list(source.skipped) == [str(file)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 0}, "says k 0; expected a whole number from 1"),
        ({"exact_k": 13}, "says exact_k 13, k 12"),
        ({"exact_dtype": "int8"}, "says exact_dtype 'int8'; expected one of float16"),
        ({"polynomial_terms": ["cube"]}, "expected powers, sqrt or exp"),
        ({"delta_encoding": 1}, "says delta_encoding 1; expected true or false"),
        (
            {"residual_bins": [{"scale_dtype": "float16", "element_bits": 4, "num_elements": 99}]},
            "residual_bins of 99",
        ),
        ({"d": None}, "says d None"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changed, message):
    with pytest.raises(DataError, match=message):
        config_of(teachers.exact_config(12) | changed)


def test_a_file_without_tokens_cannot_go_back(path, tmp_path):
    source = open_source(path)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted()), replay=False)

    with pytest.raises(DataError, match="does not say which tokens its rows are about"):
        write_distillkit(tmp_path / "a.spk", tmp_path / "back", Asked())
    assert not (tmp_path / "back").exists()


def test_more_tokens_than_are_kept_cannot_be_written(path, tmp_path):
    source = open_source(path)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted()))

    with pytest.raises(DataError, match="keeps 12 tokens of a row; --k 20 asks for more"):
        write_distillkit(tmp_path / "a.spk", tmp_path / "back", Asked(k=20))


def test_curves_of_rates_are_refused(path, tmp_path):
    with pytest.raises(CodecError, match="rates are measured on whole rows"):
        measure(open_source(path), tmp_path / "rd")


def test_a_file_is_compared_with_what_it_was_made_from(path, tmp_path):
    source = open_source(path)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))
    encode_source(source, tmp_path / "b.spk", choose(source, Wanted(settings={"k": 3})))

    whole, part = (softpack.fidelity(tmp_path / f"{name}.spk", source) for name in "ab")

    assert whole.temperatures[1.0].kl_max < 1e-5
    assert part.temperatures[1.0].kl_mean > 0.01
    assert part.top1_agreement == 1


@pytest.mark.parametrize("views", [1, 3])
def test_the_first_views_alone(path, said, views):
    ids = np.concatenate([block.sparse.ids_BK for block in first_views(open_source(path), views).blocks(5)])

    np.testing.assert_array_equal(ids, np.concatenate([of[:views] for of in said.ids]))


def test_by_the_command_line(path, tmp_path):
    run = CliRunner()

    made = run.invoke(main, ["encode", str(path), "-o", str(tmp_path / "a.spk"), "--json"])
    back = run.invoke(
        main, ["decode", str(tmp_path / "a.spk"), "-o", str(tmp_path / "x.jsonl"), "--to", "vllm", "--k", "2"]
    )

    assert made.exit_code == back.exit_code == 0
    facts = json.loads(made.stdout)
    assert (facts["codec"], facts["rows"], facts["classes"], facts["remarks"]) == ("topk", 12, 1000, [])
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 3


def test_a_sample_is_of_rows_that_are_there(path, said):
    blocks = list(open_source(path).sample(7, 0))

    assert sum(map(len, blocks)) == 7
    for block in blocks:
        for item, view, ids in zip(block.item_B, block.view_B, block.sparse.ids_BK, strict=True):
            np.testing.assert_array_equal(ids, said.ids[item][view])


def test_a_sample_is_of_what_is_soon_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("softpack.sources.peers.distillkit.PART_ROWS", 4)
    monkeypatch.setattr("softpack.sources.peers.sequences.SAMPLE_PARTS", 2)
    teachers.write_distillkit(tmp_path / "set", teachers.say((5,) * 40))
    source = open_source(tmp_path / "set")

    items = np.concatenate([block.item_B for block in source.sample(8, 3)])

    # Of two files with twenty sequences each, a part each: the first two of both.
    assert len(items) == 8
    assert set(items.tolist()) <= {0, 1, 20, 21}


def test_a_file_that_is_missing_is_named_and_left_out(tmp_path):
    teachers.write_distillkit(tmp_path / "set", teachers.say((5,) * 6), files=3)
    (tmp_path / "set" / "data_1.parquet").unlink()

    with pytest.raises(DataError, match=r"1 files are missing: data_1\.parquet"):
        open_source(tmp_path / "set")

    source = open_source(tmp_path / "set", given=Given(skip_bad=True))
    assert source.items == 4
    assert "data_1.parquet: is missing" in next(iter(source.skipped.values()))


def test_what_is_not_installed_is_said(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(
        DataError, match=r"takes pyyaml, which cannot be imported .*pip install 'softpack\[language\]'"
    ):
        open_source(path)
