"""Asking a language model again for some rows of a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from capturing_helpers import Capped, Model, V, asked, make_sequences
from torch import nn

import softpack
from softpack.errors import DataError


def captured(tmp_path, codec="raw", model=None, **settings):
    model, sequences = model or Model(), make_sequences(40)
    softpack.capture(model, sequences, tmp_path / "a.spk", codec, **settings)
    return model, sequences


@pytest.mark.parametrize("build", [Model, Capped])
def test_rows_as_they_were_said_differ_by_nothing(tmp_path, build):
    model, sequences = captured(tmp_path, dtype="fp32", model=build())
    found = softpack.check_capture(tmp_path / "a.spk", model, rows=10_000)
    assert found.labels.rows == found.control.rows == sum(max(len(tokens) - 1, 0) for tokens in sequences)
    for result in (found.labels, found.control):
        assert result.top1_agreement == 1
        assert all(of.kl_max < 1e-6 for of in result.temperatures.values())


def test_what_coding_cost_is_seen(tmp_path):
    model, _ = captured(tmp_path, "quantize", bits=3)
    labels, seen = softpack.open(tmp_path / "a.spk"), []
    found = softpack.check_capture(
        labels, model, rows=10_000, temperatures=(2,), progress=lambda *told: seen.append(told)
    )
    items, views = labels.cells()
    teacher = torch.cat(
        [asked(model, labels.tokens(item)) for item in range(40) if len(labels.tokens(item)) > 1]
    )
    expected = softpack.fidelity(labels.read(items, views), teacher, (2,))
    assert found.labels.temperatures[2].kl_mean == pytest.approx(expected.temperatures[2].kl_mean, rel=1e-4)
    assert found.labels.temperatures[2].kl_mean > 1e-3
    assert found.control.temperatures[2].kl_mean < 1e-6
    assert seen[-1] == (len(items), len(items), "")


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_so_many_rows_are_asked_for(tmp_path, rows):
    model, _ = captured(tmp_path)
    first = softpack.check_capture(tmp_path / "a.spk", model, rows=rows)
    assert first.labels.rows == rows
    assert softpack.check_capture(tmp_path / "a.spk", model, rows=rows) == first
    assert softpack.check_capture(tmp_path / "a.spk", model, rows=rows, seed=1) != first


def test_a_file_that_names_its_matrix_is_opened_with_the_models_own(tmp_path):
    model, _ = captured(tmp_path, "head", bits=200, matrix_inside=False)
    found = softpack.check_capture(tmp_path / "a.spk", model, rows=200, temperatures=(1,))
    assert 0 < found.labels.temperatures[1].kl_mean < 0.1


def test_rows_are_asked_for_a_few_at_a_time(tmp_path, monkeypatch):
    model, _ = captured(tmp_path, "quantize", bits=3)
    whole = softpack.check_capture(tmp_path / "a.spk", model, rows=60)
    monkeypatch.setattr("softpack.capturing.asking.SLICE_VALUES", 3 * V)
    sliced = softpack.check_capture(tmp_path / "a.spk", model, rows=60)
    assert sliced.labels.temperatures[1].kl_mean == pytest.approx(
        whole.labels.temperatures[1].kl_mean, rel=1e-5
    )
    assert sliced.labels.rows == 60


def test_another_teacher_is_refused(tmp_path):
    captured(tmp_path)
    with pytest.raises(
        DataError, match=r"a\.spk: its labels come from another teacher: .*; give the checkpoint"
    ):
        softpack.check_capture(tmp_path / "a.spk", Model(seed=1))
    with pytest.raises(DataError, match="expected a causal language model"):
        softpack.check_capture(tmp_path / "a.spk", "teacher")


def test_a_teacher_without_a_fingerprint_of_other_classes_is_refused(tmp_path):
    softpack.capture(lambda input_ids, attention_mask: nn.functional.one_hot(input_ids, V).float(), make_sequences(),
                     tmp_path / "a.spk", "raw")  # fmt: skip
    with pytest.raises(
        DataError, match=rf"gives 41 classes, and .*a\.spk has labels of {V}; give the teacher that"
    ):
        softpack.check_capture(
            tmp_path / "a.spk", lambda input_ids, attention_mask: torch.zeros(*input_ids.shape, 41)
        )


def test_files_without_tokens_and_no_rows_are_refused(tmp_path):
    with softpack.create(tmp_path / "no_tokens.spk", "raw", classes=V) as writer:
        writer.append(np.zeros((3, V), np.float32), item=0, view=np.arange(3))
    with pytest.raises(DataError, match=r"no_tokens\.spk: holds no tokens of sequences, by which"):
        softpack.check_capture(tmp_path / "no_tokens.spk", Model())
    captured(tmp_path)
    with pytest.raises(DataError, match="rows is 0; expected a whole number from 1"):
        softpack.check_capture(tmp_path / "a.spk", Model(), rows=0)
