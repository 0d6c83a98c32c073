"""What stands in memory, which rows count, and in which dtype all is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from softpack import losses
from softpack.codecs.sparse import SparseRows
from softpack.errors import DataError
from softpack.losses import blocks
from softpack.records import LabelSpec

GENERATOR = torch.Generator().manual_seed(0)
STUDENT_BC = 3 * torch.randn(50, 12, generator=GENERATOR)
LABEL_BC = 4 * torch.randn(50, 12, generator=GENERATOR)
MASK_B = torch.rand(50, generator=GENERATOR) < 0.6
LOSSES = [losses.kl, losses.soft_cross_entropy, losses.reverse_kl, losses.js]


def sparse(label_BC: Tensor, k: int, kind: str) -> SparseRows:
    values_BK, ids_BK = label_BC.log_softmax(1).topk(k)
    spec = LabelSpec(label_BC.shape[1], "log_probs")
    if kind == "drawn":
        return SparseRows(spec, ids_BK, values_BK.log_softmax(1), sampled=True)
    left_B = torch.log1p(-values_BK.exp().sum(1))
    if kind == "tail":
        return SparseRows(spec, ids_BK, values_BK, tails={1.0: left_B})
    return SparseRows(spec, ids_BK, values_BK, fill_B=left_B - torch.tensor(spec.classes - k).log())


def labels(kind: str) -> Tensor | SparseRows:
    return LABEL_BC if kind == "whole" else sparse(LABEL_BC, 4, kind)


KINDS = ["whole", "fill", "tail", "drawn"]
PAIRS = [(loss, kind) for loss in LOSSES for kind in KINDS if kind != "drawn" or loss in LOSSES[:2]]


def gradient(loss: Callable[[Tensor], Tensor], student_BC: Tensor) -> tuple[Tensor, Tensor]:
    given_BC = student_BC.clone().requires_grad_()
    found = loss(given_BC)
    found.backward()
    return found.detach(), given_BC.grad


# -- memory ------------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch held at once of what it took meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        work()
    events = measured.profiler.kineto_results.events()
    taken = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, n_bytes in taken:
        held += n_bytes
        most = max(most, held)
    return most


VOCABULARY = [*PAIRS, (losses.logits_mse, "whole")]


@pytest.mark.parametrize(
    ("loss", "kind"), VOCABULARY, ids=[f"{loss.__name__}-{kind}" for loss, kind in VOCABULARY]
)
def test_no_second_copy_of_a_vocabulary_of_logits_stands_in_memory(loss, kind):
    n_rows, n_classes = 64, 262_144
    student_BC = torch.zeros(n_rows, n_classes, dtype=torch.bfloat16).requires_grad_()
    label_BC = torch.zeros(n_rows, n_classes, dtype=torch.bfloat16)
    label_BC[:, :64] = 12
    if kind == "whole":
        label = label_BC
    else:
        label = sparse(torch.cat([label_BC[:, :64].float(), torch.zeros(n_rows, 1000)], 1), 64, kind)
        label = SparseRows(
            LabelSpec(n_classes, "log_probs"),
            label.ids_BK,
            label.log_probs_BK,
            label.fill_B,
            label.tails,
            label.sampled,
        )
    most = peak_bytes(lambda: loss(student_BC, label).backward())
    gradient_bytes = 2 * n_rows * n_classes
    assert student_BC.grad.dtype == torch.bfloat16
    assert gradient_bytes <= most < gradient_bytes + 4 * n_rows * n_classes / 2, "half of a copy at fp32"


# -- rows that count ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [1 << 20, 5 * 12])
@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_rows_that_do_not_count_are_as_if_they_were_not_there(loss, kind, numbers, monkeypatch):
    monkeypatch.setattr(blocks, "CPU_NUMBERS", numbers)
    given_BC, label = STUDENT_BC.clone(), labels(kind)
    given_BC[~MASK_B] = torch.nan  # they are not looked at
    fewer = label[MASK_B] if kind == "whole" else label.take(MASK_B.nonzero()[:, 0])
    expected = gradient(lambda student_BC: loss(student_BC, fewer), STUDENT_BC[MASK_B])
    found = gradient(lambda student_BC: loss(student_BC, label, mask_B=MASK_B), given_BC)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][MASK_B], expected[1])
    assert (found[1][~MASK_B] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_where_no_row_counts_the_loss_is_0_and_so_is_its_gradient(loss):
    for rows in (slice(0, 50), slice(0, 0)):
        found, gradient_BC = gradient(
            lambda student_BC, rows=rows: loss(
                student_BC, LABEL_BC[rows], mask_B=torch.zeros_like(MASK_B[rows])
            ),
            STUDENT_BC[rows],
        )
        assert found == 0
        assert (gradient_BC == 0).all()


def test_tails_of_rows_that_do_not_count_need_no_mass():
    label = sparse(LABEL_BC, 4, "tail")
    label.tails[1.0][~MASK_B] = -torch.inf
    assert losses.js(STUDENT_BC, label, mask_B=MASK_B).isfinite()


# -- dtypes and what autograd may do -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_half_precision_and_autocast_change_nothing(loss, kind, dtype):
    half_BC, label = STUDENT_BC.to(dtype), labels(kind)
    expected = gradient(lambda student_BC: loss(student_BC, label), half_BC.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(lambda student_BC: loss(student_BC, label), half_BC)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1].to(dtype))


def test_a_scaled_loss_loses_nothing_of_small_gradients():
    scale = 2.0**16  # as GradScaler does; unscaled they would be 0 in float16
    student_BC = (STUDENT_BC[:1] - 20 * torch.eye(12)[0]).half()
    found = gradient(lambda given_BC: scale * losses.kl(given_BC, LABEL_BC[:1]), student_BC)[1]
    expected = gradient(lambda given_BC: losses.kl(given_BC, LABEL_BC[:1]), student_BC.float())[1]
    torch.testing.assert_close(found.float() / scale, expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_gradients_cannot_be_differentiated_again(loss, kind):
    given_BC = STUDENT_BC.clone().requires_grad_()
    with pytest.raises(DataError, match="cannot be differentiated again; leave out create_graph=True, or take"):
        torch.autograd.grad(loss(given_BC, labels(kind)), given_BC, create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_overwritten_before_the_gradient_are_noticed(kind):
    label = LABEL_BC.clone() if kind == "whole" else labels(kind)
    loss = losses.kl(STUDENT_BC.clone().requires_grad_(), label)
    (label if kind == "whole" else label.ids_BK).zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_labels_carry_no_gradient():
    label_BC = LABEL_BC.clone().requires_grad_()
    given_BC = STUDENT_BC.clone().requires_grad_()
    losses.kl(given_BC, label_BC).backward()
    assert label_BC.grad is None
    assert not losses.kl(STUDENT_BC, label_BC).requires_grad


def test_weights_of_losses_reach_the_gradient():
    once, thrice = (
        gradient(lambda given_BC, n=n: n * losses.js(given_BC, LABEL_BC), STUDENT_BC)[1] for n in (1, 3)
    )
    torch.testing.assert_close(thrice, 3 * once)


def test_squared_errors_in_blocks_are_those_at_once(monkeypatch):
    expected = gradient(partial(losses.logits_mse, label_BC=LABEL_BC), STUDENT_BC)
    monkeypatch.setattr(blocks, "CPU_NUMBERS", 1)  # a row at a time
    torch.testing.assert_close(gradient(partial(losses.logits_mse, label_BC=LABEL_BC), STUDENT_BC), expected)
    plain = gradient(
        lambda given_BC: ((given_BC - LABEL_BC) - (given_BC - LABEL_BC).mean(1, True)).square().mean(),
        STUDENT_BC,
    )
    torch.testing.assert_close(expected, plain)
