from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.rate.choose import Wanted, choose
from softpack.sources import open_source
from softpack.sources.encoding import encode_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.tf_example import arrays_of, example_of
from softpack.sources.peers.to_maxtext import write_maxtext
from tests.sources import teachers

GIVEN = Given(classes=teachers.CLASSES)


def varint(number):
    number &= (1 << 64) - 1
    data = []
    while True:
        data.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(data)


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def by_hand(arrays, is_packed=True):
    """Return an example as TensorFlow writes it, number by number."""
    entries = []
    for name, values in arrays.items():
        if values.dtype.kind == "f":
            data = b"".join(struct.pack("<f", value) for value in values)
            of = (
                field(1, data)
                if is_packed
                else b"".join(b"\x0d" + data[i : i + 4] for i in range(0, len(data), 4))
            )
            feature = field(2, of)
        else:
            parts = [varint(int(value)) for value in values]
            feature = field(
                3, field(1, b"".join(parts)) if is_packed else b"".join(b"\x08" + part for part in parts)
            )
        entries.append(field(1, field(1, name.encode()) + field(2, feature)))
    return field(1, b"".join(entries))


ARRAYS = {
    "inputs": np.array([1, 300, 262_143, 0, -1, 2**62], np.int64),
    "top_k_logits": np.array([0.5, -1.25, 1e30], np.float32),
    "empty": np.array([], np.int64),
}


@pytest.fixture
def protobuf():
    """It, or nothing is tested."""
    return pytest.importorskip("google.protobuf")


@pytest.mark.parametrize("is_packed", [True, False])
def test_examples_are_read(is_packed, protobuf):
    found = arrays_of(by_hand(ARRAYS, is_packed))

    assert found.keys() - {"empty"} == ARRAYS.keys() - {"empty"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, ARRAYS[name])


def test_examples_are_written(protobuf):
    found = arrays_of(example_of(ARRAYS))

    for name in ("inputs", "top_k_logits"):
        np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_what_is_damaged_is_refused(protobuf):
    whole = by_hand(ARRAYS)
    with pytest.raises(DataError, match=r"is no tf.Example, or is damaged"):
        arrays_of(whole[:-1])
    with pytest.raises(DataError, match=r"is no tf.Example, or is damaged"):
        arrays_of(b"\xff" * 20)


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    (tmp_path / "a.array_record").write_bytes(b"x")

    with pytest.raises(DataError, match=r"takes array_record, .*pip install 'softpack\[language\]'"):
        open_source(tmp_path / "a.array_record", given=GIVEN)


# -- sets, where array_record is installed ----------------------------------------------------------------


@pytest.fixture
def module(protobuf):
    pytest.importorskip("array_record.python.array_record_module")
    from array_record.python import array_record_module

    return array_record_module


@pytest.fixture
def said():
    return teachers.say((7, 7, 7), k=6)


@pytest.fixture
def path(tmp_path, said, module):
    folder = tmp_path / "set"
    folder.mkdir()
    for number, (ids, values, tokens) in enumerate(zip(said.ids, said.log_probs, said.tokens, strict=True)):
        writer = module.ArrayRecordWriter(
            str(folder / f"teacher_top_k_part_{number:05d}_host_000.array_record"), "group_size:1"
        )
        arrays = {
            "inputs": tokens[:6], "top_k_logits": values.reshape(-1) + 11.5, "top_k_indices": ids.reshape(-1),
            "sequence_hash": np.array([-5]), "targets": tokens[1:], "targets_segmentation": np.ones(6, np.int64),
        }  # fmt: skip
        writer.write(by_hand(arrays))
        writer.close()
    return folder


def test_every_row_is_what_was_written(path, said):
    source = open_source(path, given=GIVEN)

    block = next(iter(source.blocks(1000)))

    assert (source.items, source.views, source.n_rows, source.kept) == (3, 6, 18, 6)
    np.testing.assert_array_equal(block.sparse.ids_BK, np.concatenate(said.ids))
    shares = np.exp(np.concatenate(said.log_probs))
    np.testing.assert_allclose(
        np.exp(block.sparse.log_probs_BK), shares / shares.sum(axis=1, keepdims=True), rtol=1e-4
    )
    expected = np.concatenate([tokens[1:] for tokens in said.tokens])
    np.testing.assert_array_equal(block.replay["token"], expected)
    assert "logits of some tokens alone" in source.remarks[0]


def test_the_vocabulary_is_asked_for(path):
    with pytest.raises(DataError, match=r"how many tokens the vocabulary has \(--classes C\)"):
        open_source(path)


def test_a_record_of_another_length_is_named_and_left_out(path, module):
    file = next(iter(sorted(path.iterdir())))
    record = by_hand({name: np.ones(4, "f" if "logits" in name else int) for name in
                      ("inputs", "top_k_logits", "top_k_indices")})  # fmt: skip
    reader = module.ArrayRecordReader(str(file))
    first = reader.read([0])[0]
    writer = module.ArrayRecordWriter(str(file), "group_size:1")
    writer.write(first)
    writer.write(record)
    writer.close()

    with pytest.raises(DataError, match="record 1: has 4 tokens of k=1; expected 6 of 6"):
        list(open_source(path, given=GIVEN).blocks(1000))

    source = open_source(path, given=Given(classes=teachers.CLASSES, skip_bad=True))
    assert sum(map(len, source.blocks(1000))) == 18


def test_there_and_back(tmp_path, module):
    said = teachers.say((5, 5), k=6)
    teachers.write_distillkit(tmp_path / "set", said, files=1)
    source = open_source(tmp_path / "set")
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))

    write_maxtext(tmp_path / "a.spk", tmp_path / "out", Asked())

    again = open_source(tmp_path / "out", given=GIVEN)
    block = next(iter(again.blocks(1000)))
    np.testing.assert_array_equal(block.sparse.ids_BK, np.concatenate(said.ids))
    np.testing.assert_array_equal(block.replay["token"], np.concatenate([one[1:] for one in said.tokens]))
