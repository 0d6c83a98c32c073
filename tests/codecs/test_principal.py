from __future__ import annotations

import torch

from softpack.codecs import principal
from softpack.codecs.principal import principal_axes


def centred(rows_BC):
    return rows_BC - rows_BC.mean(-1, keepdim=True)


def test_many_classes_give_the_same_axes_without_a_square_matrix(monkeypatch, logits_BC):
    rows_BC = centred(logits_BC)
    rows_BC = rows_BC - rows_BC.mean(dim=0)
    exact_RC = principal_axes([rows_BC], rank=10, seed=0)

    # The axes are at most 26 wide, so that only matrices over the classes go the other way.
    monkeypatch.setattr(principal, "MOST_CLASSES_EXACT", 30)
    monkeypatch.setattr(principal, "MOST_ROWS_EXACT", 0)
    found_RC = principal_axes(list(rows_BC.split(9)), rank=10, seed=0)

    torch.testing.assert_close(found_RC @ found_RC.T, torch.eye(10), rtol=0, atol=1e-4)
    kept = float((rows_BC @ found_RC.T).square().sum() / (rows_BC @ exact_RC.T).square().sum())
    assert kept > 0.999


def test_axes_are_orthonormal_and_in_falling_order(logits_BC):
    rows_BC = centred(logits_BC)

    axes_RC = principal_axes([rows_BC[:40], rows_BC[40:]], rank=6, seed=0)

    torch.testing.assert_close(axes_RC @ axes_RC.T, torch.eye(6), rtol=0, atol=1e-5)
    lengths = (rows_BC @ axes_RC.T).square().sum(dim=0).tolist()
    assert lengths == sorted(lengths, reverse=True)


def test_few_rows_of_many_classes_give_the_same_axes_by_their_products(monkeypatch, logits_BC):
    rows_BC = centred(logits_BC)
    rows_BC = rows_BC - rows_BC.mean(dim=0)
    exact_RC = principal_axes([rows_BC], rank=10, seed=0)

    monkeypatch.setattr(principal, "MOST_CLASSES_EXACT", 0)
    monkeypatch.setattr(principal, "CLASSES_AT_ONCE", 7)
    found_RC = principal_axes(list(rows_BC.split(9)), rank=10, seed=0)

    torch.testing.assert_close((found_RC @ exact_RC.T).abs(), torch.eye(10), rtol=0, atol=1e-3)


def test_axes_along_which_few_rows_do_not_vary_are_zero(monkeypatch):
    rows_BC = torch.outer(torch.linspace(-1, 1, 8), torch.arange(20.0) - 9.5)
    monkeypatch.setattr(principal, "MOST_CLASSES_EXACT", 0)

    axes_RC = principal_axes([rows_BC], rank=3, seed=0)

    torch.testing.assert_close(axes_RC.norm(dim=1), torch.tensor([1.0, 0.0, 0.0]))


def test_parts_are_joined_in_order_and_let_go():
    parts = [torch.full((n, 2), float(n)) for n in (1, 3, 2)]

    rows_BC = principal.joined(parts)

    assert rows_BC[:, 0].tolist() == [1, 3, 3, 3, 2, 2]
    assert parts == []
