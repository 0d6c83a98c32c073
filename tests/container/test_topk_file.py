"""Files of `topk` with sets, steps and masses: written, read whole and sparse, appended to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.topk import TopK
from softpack.records import LabelSpec
from softpack.sources.encoding import fit_model
from softpack.sources.opening import open_source

LANGUAGE = {"ids": "set", "value": "steps", "tail": "mass", "tail_temperatures": "1,2"}
N, V, C = 6, 40, 300


@pytest.fixture(name="rows_BC")
def rows():
    return (np.random.default_rng(0).standard_normal((N * V, C)) * 3).astype(np.float32)


@pytest.fixture
def path(tmp_path, rows_BC):
    item, view = (index.ravel() for index in np.indices((N, V)))
    order = np.random.default_rng(1).permutation(N * V)
    with softpack.create(
        tmp_path / "x.spk", "topk", classes=C, k=12, **LANGUAGE, tile=(2, 16), appendable=True
    ) as w:
        w.append(rows_BC[order], item=item[order], view=view[order])
    return tmp_path / "x.spk"


def test_a_file_says_what_its_codec_learnt(path):
    labels = softpack.open(path)
    config = labels.file.header.config

    assert (config["ids"], config["value"], config["tail"]) == ("set", "steps", "mass")
    assert min(config["orders"], config["listed"], config["common"]) >= 1
    assert labels.file.minor == 5
    assert 8 * path.stat().st_size == softpack.ledger(path).total_bits


@pytest.mark.parametrize("ids", ["ranked", "set"])
def test_rows_are_read_as_the_codec_decodes_them(ids, tmp_path, rows_BC):
    codec = TopK(LabelSpec(C), k=12, **{**LANGUAGE, "ids": ids}).fit([torch.from_numpy(rows_BC)])
    item, view = (index.ravel() for index in np.indices((N, V)))
    with softpack.create(tmp_path / "x.spk", codec, tile=(2, 16)) as w:
        w.append(rows_BC, item=item, view=view)
    labels = softpack.open(tmp_path / "x.spk")
    expected = codec.decode_sparse(codec.encode(torch.from_numpy(rows_BC)))
    some = np.random.default_rng(2).permutation(N * V)[:50]

    for chosen in (np.arange(N * V), np.arange(16), some):  # all, one tile, here and there
        found = labels.read_sparse(item[chosen], view[chosen])
        assert torch.equal(found.ids_BK, expected.ids_BK[chosen])
        assert torch.equal(found.log_probs_BK, expected.log_probs_BK[chosen])
        torch.testing.assert_close(found.at(2.0)[1], expected.at(2.0)[1][chosen], rtol=0, atol=1e-5)
        torch.testing.assert_close(labels.read(item[chosen], view[chosen]), expected.dense()[chosen])


def test_codes_that_are_read_are_the_callers_own(path):
    labels = softpack.open(path)
    once = labels.stored_codes(np.zeros(16, int), np.arange(16))
    kept = {name: values.copy() for name, values in once.items()}
    for values in once.values():
        values.fill(0)

    again = labels.stored_codes(np.zeros(16, int), np.arange(16))

    assert all(np.array_equal(again[name], values) for name, values in kept.items())


def test_no_words_are_written_that_would_be_slow_to_read(tmp_path, rows_BC, monkeypatch):
    np.savez(tmp_path / "rows.npz", logits=rows_BC.reshape(N, V, C))
    source = open_source(tmp_path / "rows.npz")
    monkeypatch.setattr("softpack.sources.encoding.tables_of_sample", lambda *_: {"codes.values": "a table"})

    ranked, as_set = (fit_model(source, "topk", {"k": 12, "ids": ids}) for ids in ("ranked", "set"))

    assert ranked.tables == {"codes.values": "a table"}
    assert not as_set.tables


def test_the_file_itself_is_enough_to_append(path, rows_BC):
    before = softpack.open(path).read([0], [0])
    with softpack.append(path) as w:
        w.append(rows_BC[:3], item=[N, N, N], view=[0, 1, 2])

    labels = softpack.open(path)
    assert torch.equal(labels.read([0], [0]), before)
    torch.testing.assert_close(labels.read([N], [2]), labels.read([0], [2]))


def test_ranked_rows_without_anything_to_learn_are_written_as_they_come(tmp_path, rows_BC):
    with softpack.create(tmp_path / "x.spk", "topk", classes=C, k=12) as w:
        w.append(rows_BC[:1], item=0, view=0)
    assert softpack.open(tmp_path / "x.spk").file.minor == 0


def test_resident_codes_give_the_same_sparse_rows(path):
    labels = softpack.open(path)
    item, view = np.array([1, 0, 1]), np.array([2, 0, 2])

    expected, found = labels.read_sparse(item, view), labels.load().read_sparse(item, view)

    assert torch.equal(found.ids_BK, expected.ids_BK)
    assert torch.equal(found.log_probs_BK, expected.log_probs_BK)
    assert all(torch.equal(found.tails[T], tail_B) for T, tail_B in expected.tails.items())
