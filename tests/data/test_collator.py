"""Batches of sequences with their soft labels: the right label at the right position, never anywhere else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import softpack
from softpack.codecs.sparse import SparseRows
from softpack.data.collator import IGNORED, LabelCollator
from softpack.errors import DataError

V = 24
TOKENS = [[5, 1, 2], [7], [3, 3, 0, 9, 11, 4], [8, 8], [1, 2, 3, 4]]


def logits_of(item: int, view: int) -> np.ndarray:
    """Logits that say which row they are: the greatest is of class item, the next of class 10 + view."""
    row = np.full(V, -9, np.float32)
    row[item], row[10 + view] = 9, 5
    return row


@pytest.fixture(params=["raw", "topk"])
def path(request, tmp_path):
    how = {"k": 4, "tail": "bucket"} if request.param == "topk" else {"dtype": "fp32"}
    with softpack.create(tmp_path / "a.spk", request.param, classes=V, sequences=TOKENS, **how) as w:
        for item, tokens in enumerate(TOKENS):
            if len(tokens) > 1:
                rows = np.stack([logits_of(item, view) for view in range(len(tokens) - 1)])
                w.append(rows, item=item, view=np.arange(len(rows)))
    return tmp_path / "a.spk"


def examples(items=(2, 0, 1, 4, 3)):
    return [{"item": item, "input_ids": TOKENS[item]} for item in items]


def dense(label) -> torch.Tensor:
    return label.dense() if isinstance(label, SparseRows) else label


def assert_aligned(batch, labels):
    """Every label is of the tokens before it in its own row and sequence, and every token that counts has one."""
    soft, ids, hard = batch["soft_labels"], batch["input_ids"], batch["labels"]
    counted = torch.zeros_like(hard, dtype=torch.bool)
    rows = dense(soft.read(labels))
    for n, (row, position, item, view) in enumerate(
        zip(
            *(numbers.tolist() for numbers in (soft.row_N, soft.position_N, soft.item_N, soft.view_N)),
            strict=True,
        )
    ):
        begin = position - view
        assert ids[row, begin : position + 2].tolist() == TOKENS[item][: view + 2]
        assert hard[row, position + 1] == TOKENS[item][view + 1]
        assert rows[n].argmax() == item
        assert rows[n].topk(2).indices.tolist() == [item, 10 + view]
        counted[row, position + 1] = True
    assert torch.equal(counted, hard != IGNORED)


def test_padded_batches(path):
    labels = softpack.open(path)
    batch = LabelCollator(path, pad_token_id=23)(examples())

    assert batch.keys() == {"input_ids", "attention_mask", "labels", "soft_labels"}
    assert batch["input_ids"].tolist()[1] == [5, 1, 2, 23, 23, 23]
    assert batch["attention_mask"].sum(1).tolist() == [6, 3, 1, 4, 2]
    assert batch["labels"].tolist()[1] == [IGNORED, 1, 2, IGNORED, IGNORED, IGNORED]
    assert batch["labels"].tolist()[2] == [IGNORED] * 6
    assert len(batch["soft_labels"]) == 5 + 2 + 0 + 3 + 1
    assert_aligned(batch, labels)


@pytest.mark.parametrize(("packed", "shape"), [(16, (1, 16)), (9, (2, 9)), (6, (3, 6))])
def test_packed_batches_never_cross_a_boundary(path, packed, shape):
    batch = LabelCollator(path, packed=packed)(examples())

    assert batch.keys() == {"input_ids", "position_ids", "use_cache", "labels", "soft_labels"}
    assert batch["input_ids"].shape == shape
    assert len(batch["soft_labels"]) == 11
    assert_aligned(batch, softpack.open(path))
    for row in batch["position_ids"].tolist():
        assert row[0] == 0
        assert all(b in (a + 1, 0) for a, b in pairwise(row))


def test_the_positions_of_packed_rows_begin_anew(path):
    batch = LabelCollator(path, packed=9)(examples())

    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 0, 1, 2, 3, 0, 1, 0, 1]]
    assert batch["use_cache"] is False


def test_labels_are_read_at_once_where_that_is_little(path):
    labels = softpack.open(path)
    found = LabelCollator(labels)(examples())["soft_labels"].label

    assert isinstance(found, SparseRows) if labels.codec.is_sparse else found is None
    for decode in (True, False):
        batch = LabelCollator(labels, decode=decode)(examples())
        assert (batch["soft_labels"].label is None) == (not decode)
        assert_aligned(batch, labels)
        assert_aligned(batch, labels.load())


def test_what_the_student_says_comes_in_the_order_of_the_labels(path):
    soft = LabelCollator(path)(examples())["soft_labels"]
    logits = torch.arange(5 * 6 * V).reshape(5, 6, V).float()

    assert torch.equal(soft.student(logits)[0], logits[0, 0])
    assert torch.equal(soft.student(logits)[5:7], logits[1, :2])
    assert torch.equal(soft.to("cpu").student(logits), soft.student(logits))


def test_a_student_of_another_vocabulary_is_refused(path):
    soft = LabelCollator(path, decode=True)(examples())["soft_labels"]

    with pytest.raises(
        DataError, match=f"the student gives {V + 8} logits, and the labels are of {V} tokens; a student of"
    ):
        soft.student(torch.zeros(5, 6, V + 8))


def test_tokens_that_were_cut_off_have_no_labels(path):
    batch = LabelCollator(path)([{"item": 2, "input_ids": TOKENS[2][:3]}])

    assert batch["soft_labels"].view_N.tolist() == [0, 1]
    assert_aligned(batch, softpack.open(path))


@pytest.mark.parametrize("packed", [None, 16])
@pytest.mark.parametrize(
    "beside", [{"labels": [IGNORED, IGNORED, IGNORED, 9, 11, IGNORED]}, {"completion_mask": [0, 0, 0, 1, 1, 0]}]
)
def test_tokens_that_do_not_count_have_no_labels(path, packed, beside):
    batch = LabelCollator(path, packed=packed)([{"item": 2, "input_ids": TOKENS[2], **beside}, *examples([0])])
    soft = batch["soft_labels"]

    assert soft.view_N[soft.item_N == 2].tolist() == [2, 3]
    assert soft.view_N[soft.item_N == 0].tolist() == [0, 1]
    assert_aligned(batch, softpack.open(path))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (
            {"item": 2, "input_ids": [3, 3, 1]},
            "sequence 2 differs at position 2: found token 1, the labels are of 0",
        ),
        (
            {"item": 0, "input_ids": [5, 1, 2, 2]},
            "sequence 0 differs at position 3: found 4 tokens, the labels are of 3",
        ),
        ({"item": 9, "input_ids": [5]}, "there is no item 9"),
        ({"input_ids": [5]}, "has the fields input_ids, and no item; .*unless remove_unused_columns=False"),
        ({"item": 0}, "has the fields item, and no input_ids"),
        (
            {"item": 0, "input_ids": TOKENS[0], "labels": [1]},
            r"item 0: labels has the shape \(1,\); expected one for each of 3",
        ),
    ],
)
def test_examples_that_were_not_labelled_are_refused(path, example, said):
    with pytest.raises(DataError, match=said):
        LabelCollator(path)([*examples([4]), example])


def test_rows_that_are_too_short_are_refused(path):
    with pytest.raises(DataError, match="a sequence has 6 tokens, and rows 5; give longer rows"):
        LabelCollator(path, packed=5)(examples())
    with pytest.raises(DataError, match="packed is 1; expected the tokens of a row"):
        LabelCollator(path, packed=1)


def test_files_without_sequences_are_refused(tmp_path):
    with softpack.create(tmp_path / "b.spk", "raw", classes=3) as w:
        w.append(np.zeros((1, 3), np.float32), item=0, view=0)
    with pytest.raises(DataError, match=r"b.spk: holds no tokens of sequences, to which batches could be held"):
        LabelCollator(tmp_path / "b.spk")


@pytest.mark.parametrize("workers", [0, 2])
def test_it_works_in_workers(path, workers):
    collator = LabelCollator(path, packed=9)
    loader = DataLoader(examples() * 4, batch_size=5, collate_fn=collator, num_workers=workers)
    batches = list(loader)

    assert len(batches) == 4
    for batch in batches:
        assert_aligned(batch, collator.labels)


def test_a_batch_of_sequences_without_rows(path):
    batch = LabelCollator(path, decode=True)(examples([1]))

    assert len(batch["soft_labels"]) == 0
    assert len(batch["soft_labels"].label) == 0
    assert (batch["labels"] == IGNORED).all()
