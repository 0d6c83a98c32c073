"""Codecs given rows of which only some classes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softpack.codecs.klt.codec import KLT
from softpack.codecs.raw import Raw
from softpack.codecs.sparse import SparseRows, as_sparse_rows
from softpack.codecs.topk import TopK
from softpack.errors import CodecError, SoftpackError
from softpack.losses import kl
from softpack.records import LabelSpec, RowBlock, SparseLabels

SPEC = LabelSpec(10, "log_probs")
LABELS = SparseLabels(
    np.array([[3, 1, 2], [9, 0, -1]], np.int32),
    np.log(np.array([[0.2, 0.5, 0.1], [0.4, 0.1, 0]], np.float32).clip(1e-45)),
    np.log(np.array([0.2, 0.5], np.float32)),
)
LABELS.log_probs_BK[1, 2] = -np.inf


def test_what_is_left_is_the_tail():
    rows = as_sparse_rows(LABELS, SPEC)

    kept_BK, tail_B = rows.at(1.0)

    assert tail_B.exp().tolist() == pytest.approx([0.2, 0.5])
    assert kept_BK.exp()[1].tolist() == pytest.approx([0.4, 0.1, 0])
    assert rows.dense().exp()[0, [0, 4, 9]].tolist() == pytest.approx([0.2 / 7] * 3)


def test_without_a_tail_others_have_nothing():
    rows = as_sparse_rows(SparseLabels(LABELS.ids_BK[:1], LABELS.log_probs_BK[:1]), SPEC)

    assert rows.at(4.0)[1].tolist() == [-np.inf]
    assert rows.dense().exp()[0].tolist() == pytest.approx([0, 0.625, 0.125, 0.25, 0, 0, 0, 0, 0, 0])


def test_what_was_kept_can_be_taken_without_its_tail():
    alone = as_sparse_rows(LABELS, SPEC).without_tail()

    assert alone.log_probs_BK.exp().flatten().tolist() == pytest.approx([0.25, 0.625, 0.125, 0.8, 0.2, 0])
    assert alone.at(1.0)[1].tolist() == alone.at(2.0)[1].tolist() == [-np.inf] * 2
    student_BC = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    expected_B = (alone.dense().exp() * (alone.dense().clamp_min(-99) - student_BC.log_softmax(1))).sum(1)
    found = kl(student_BC, alone, temperature=1)
    assert float(found) == pytest.approx(float(expected_B.mean()), rel=1e-5)


def test_draws_have_no_tail_to_be_taken_away():
    drawn = SparseRows(SPEC, torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.5]]).log(), sampled=True)

    assert drawn.without_tail() is drawn


def test_topk_takes_the_largest_in_order():
    codec = TopK(SPEC, k=2, value="fp32")

    found = codec.decode_sparse(codec.encode_sparse(as_sparse_rows(LABELS, SPEC)))

    assert found.ids_BK.tolist() == [[1, 3], [9, 0]]
    assert found.log_probs_BK.exp().flatten().tolist() == pytest.approx([0.5, 0.2, 0.4, 0.1])


def test_topk_of_a_bucket_puts_what_was_not_kept_with_the_others():
    codec = TopK(SPEC, k=2, tail="bucket")

    found = codec.decode_sparse(codec.encode_sparse(as_sparse_rows(LABELS, SPEC)))

    assert found.at(1.0)[1].exp().tolist() == pytest.approx([0.3, 0.5], rel=1e-2)


def test_a_tail_at_another_temperature_is_not_made_up():
    with pytest.raises(SoftpackError, match="have together at T=2"):
        TopK(SPEC, k=2, tail="bucket", tail_temperature=2.0).encode_sparse(as_sparse_rows(LABELS, SPEC))


def test_codecs_of_whole_rows_refuse():
    rows = as_sparse_rows(LABELS, SPEC)

    with pytest.raises(CodecError, match="codec raw needs all classes of a row, and only some are known"):
        Raw(SPEC).encode_sparse(rows)
    with pytest.raises(CodecError, match="codec klt learns from all classes of a row"):
        KLT(SPEC).fit_sparse([rows])


def test_what_learns_nothing_fits_as_it_is():
    codec = TopK(SPEC, k=2)

    assert codec.fit_sparse([as_sparse_rows(LABELS, SPEC)]) is codec


def test_blocks_take_rows():
    block = RowBlock.of_sparse(LABELS, np.array([4, 5]), np.array([0, 1]), {"token": np.array([7, 8])})

    part = block.take(np.array([1]))

    assert (len(block), len(part), part.item_B.tolist()) == (2, 1, [5])
    assert part.sparse.ids_BK.tolist() == [[9, 0, -1]]
    assert part.sparse.tail_B.tolist() == [LABELS.tail_B[1]]
    assert torch.from_numpy(part.labels_BC).shape == (1, 0)


def test_rows_of_large_numbers_are_normalised_exactly():
    values_BK = torch.tensor([[3000.3, 3000.3], [-1e6, -1e6]])
    fill_B = torch.full((2,), -torch.inf)
    rows = SparseRows(LabelSpec(2, "log_probs"), torch.tensor([[0, 1], [1, 0]]), values_BK, fill_B)

    torch.testing.assert_close(rows.dense(), torch.full((2, 2), 0.5).log())
