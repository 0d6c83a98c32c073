"""Losses and their gradients are those of plain formulas in float64, for labels of every kind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from softpack import losses
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.errors import DataError
from softpack.losses import blocks
from softpack.records import LabelSpec

B, C, K = 7, 12, 5
GENERATOR = torch.Generator().manual_seed(0)
STUDENT_BC = 3 * torch.randn(B, C, generator=GENERATOR, dtype=torch.float64)
LABEL_BC = 4 * torch.randn(B, C, generator=GENERATOR, dtype=torch.float64)
SPEC = LabelSpec(C, "log_probs")
LOG_P_BC = LABEL_BC.log_softmax(1)
IDS_BK = LABEL_BC.topk(K).indices
IDS_BK[2, 3:] = NO_CLASS
IDS_BK[5] = NO_CLASS  # a row of which nothing is known
HAS_BK = IDS_BK != NO_CLASS
KEPT_BC = torch.zeros(B, C + 1, dtype=torch.bool).scatter_(1, IDS_BK.masked_fill(~HAS_BK, C), True)[:, :C]
VALUES_BK = LOG_P_BC.gather(1, IDS_BK.clamp_min(0)).masked_fill(~HAS_BK, -torch.inf)
FILL_B = torch.linspace(-9, -3, B, dtype=torch.float64)
TEMPERATURES = (1.0, 0.5, 4.0)
LOSSES = {
    "kl": losses.kl,
    "soft_cross_entropy": losses.soft_cross_entropy,
    "reverse_kl": losses.reverse_kl,
    "js": losses.js,
    "js 0.1": partial(losses.js, beta=0.1),
}
FORWARD = ("kl", "soft_cross_entropy")


def others_at(T: float) -> Tensor:
    """Log-sums over the classes that were not kept, of LOG_P_BC."""
    return (LOG_P_BC / T).masked_fill(KEPT_BC, -torch.inf).logsumexp(1)


def plain(name: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """The formulas as they are written, over columns."""
    if name.startswith("js"):
        beta = float(name[3:] or 0.5)
        m = beta * log_p.exp() + (1 - beta) * log_q.exp()
        log_m = torch.where(m > 0, m, 1.0).log()
        terms = beta * masked(log_p, log_m) + (1 - beta) * masked(log_q, log_m)
    elif name == "reverse_kl":
        terms = masked(log_q, log_p)
    else:
        terms = masked(log_p, log_q) if name == "kl" else masked(log_p, log_q) - masked(log_p, torch.zeros(()))
    return terms.sum(1).mean()


def masked(log_a: Tensor, log_b: Tensor) -> Tensor:
    """a (log a - log b), and 0 where a is; nothing that is left out comes near autograd."""
    some = log_a > -torch.inf
    safe_a, safe_b = torch.where(some, log_a, 0.0), torch.where(some, log_b, 0.0)
    return torch.where(some, safe_a.exp() * (safe_a - safe_b), 0.0)


def coarse(student_BC: Tensor, T: float) -> Tensor:
    """Log-probabilities of the kept classes and of all others as one, for every row alone: [B, C + 1]."""
    z_BC = student_BC / T
    others_B1 = z_BC.masked_fill(KEPT_BC, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([z_BC.masked_fill(~KEPT_BC, -torch.inf), others_B1], 1).log_softmax(1)


def both(loss, student_BC: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    given_BC = student_BC.clone().requires_grad_()
    found = loss(given_BC)
    found.backward()
    return found.detach(), given_BC.grad


def check(name: str, label, T: float, expected, **settings) -> None:
    """Compare with a formula of the student's logits, in one block and in many."""
    wanted = both(lambda student_BC: T**2 * expected(student_BC), STUDENT_BC)
    found = both(lambda student_BC: LOSSES[name](student_BC, label, T, squared=True, **settings), STUDENT_BC)
    assert found[0].dtype == found[1].dtype == torch.float64
    torch.testing.assert_close(found, wanted)


@pytest.fixture(params=[1 << 20, 2 * C], ids=["one block", "two rows a block"], autouse=True)
def numbers(request, monkeypatch):
    monkeypatch.setattr(blocks, "CPU_NUMBERS", request.param)


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_of_whole_rows(name, T):
    for label_BC, spec in (
        (LABEL_BC, None),
        (LOG_P_BC, SPEC),
        ((LABEL_BC / 2).softmax(1), LabelSpec(C, "probs", 2.0)),
    ):
        check(
            name,
            label_BC,
            T,
            lambda student_BC: plain(name, (student_BC / T).log_softmax(1), (LABEL_BC / T).log_softmax(1)),
            spec=spec,
        )


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "reverse_kl"])
def test_of_whole_rows_in_which_classes_have_no_mass(name):
    label_BC = LABEL_BC.masked_fill(~KEPT_BC, -torch.inf)
    label_BC[5] = LABEL_BC[5]
    check(
        name,
        label_BC,
        4.0,
        lambda student_BC: plain(name, (student_BC / 4).log_softmax(1), (label_BC / 4).log_softmax(1)),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_classes_that_neither_gives_mass_to_count_for_nothing(name):
    masked_BC = torch.arange(C).expand(B, C) >= 9
    given_BC = STUDENT_BC.masked_fill(masked_BC, -torch.inf)
    label_BC = LABEL_BC.masked_fill(masked_BC, -torch.inf)
    found = both(lambda student_BC: LOSSES[name](student_BC, label_BC, 2.0), given_BC)
    fewer = both(lambda student_BC: LOSSES[name](student_BC, LABEL_BC[:, :9].clone(), 2.0), STUDENT_BC[:, :9])
    torch.testing.assert_close(found[0], fewer[0])
    torch.testing.assert_close(found[1][:, :9], fewer[1])
    assert (found[1][:, 9:] == 0).all()


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_of_equal_shares_for_the_classes_that_were_not_kept(name, T):
    label = SparseRows(SPEC, IDS_BK, VALUES_BK, fill_B=FILL_B)
    rows_BC = torch.where(KEPT_BC, LOG_P_BC, FILL_B[:, None])
    check(
        name,
        label,
        T,
        lambda student_BC: plain(name, (student_BC / T).log_softmax(1), (rows_BC / T).log_softmax(1)),
    )


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_of_a_tail_as_one_class(name, T):
    label = SparseRows(SPEC, IDS_BK, VALUES_BK, tails={t: others_at(t) for t in TEMPERATURES})
    label_BM = torch.cat([(LOG_P_BC / T).masked_fill(~KEPT_BC, -torch.inf), others_at(T)[:, None]], 1)
    check(name, label, T, lambda student_BC: plain(name, coarse(student_BC, T), label_BM.log_softmax(1)))


@pytest.mark.parametrize("name", FORWARD)
def test_others_in_which_the_student_has_no_mass_get_no_gradient(name):
    label = SparseRows(SPEC, IDS_BK[:2], VALUES_BK[:2].log_softmax(1), sampled=True)
    given_BC = STUDENT_BC[:2].masked_fill(~KEPT_BC[:2], -torch.inf)
    found, gradient_BC = both(lambda student_BC: LOSSES[name](student_BC, label), given_BC)
    whole_BC = LOG_P_BC[:2].masked_fill(~KEPT_BC[:2], -torch.inf)
    expected = both(lambda student_BC: LOSSES[name](student_BC, whole_BC), given_BC)
    torch.testing.assert_close((found, gradient_BC), expected)


@pytest.mark.parametrize("name", FORWARD)
def test_of_draws(name):
    known = HAS_BK.any(1)
    label = SparseRows(SPEC, IDS_BK, VALUES_BK.log_softmax(1), sampled=True)
    shares_BC = LOG_P_BC.masked_fill(~KEPT_BC, -torch.inf).log_softmax(1)
    check(
        name,
        label,
        1.0,
        lambda student_BC: plain(name, student_BC.log_softmax(1)[known], shares_BC[known]),
        mask_B=known,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_where_all_classes_were_kept_a_tail_changes_nothing(name):
    ids_BC = LABEL_BC.argsort(1, descending=True)
    nothing_B = torch.full((B,), -torch.inf, dtype=torch.float64)
    for label in (
        SparseRows(SPEC, ids_BC, LOG_P_BC.gather(1, ids_BC), tails={2.0: nothing_B}),
        SparseRows(SPEC, ids_BC, LOG_P_BC.gather(1, ids_BC), fill_B=nothing_B),
    ):
        check(
            name,
            label,
            2.0,
            lambda student_BC: plain(name, (student_BC / 2).log_softmax(1), (LABEL_BC / 2).log_softmax(1)),
        )


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "soft_cross_entropy"])
def test_a_tail_as_one_class_bounds_the_loss_over_all_classes_from_below(name):
    label = SparseRows(SPEC, IDS_BK, VALUES_BK, tails={1.0: others_at(1.0)})
    for row in range(B):
        one = (STUDENT_BC[row : row + 1], label.take(slice(row, row + 1)))
        assert -1e-12 <= LOSSES[name](*one) <= LOSSES[name](one[0], LABEL_BC[row : row + 1])


def test_the_gradient_of_draws_is_right_in_the_mean(monkeypatch):
    monkeypatch.setattr(blocks, "CPU_NUMBERS", 1 << 20)
    n_draws, n_rows = 8, 20_000
    p_C = (LABEL_BC[0] / 4).softmax(0)
    drawn_RD = torch.multinomial(p_C, n_draws * n_rows, True, generator=GENERATOR).view(n_rows, n_draws)
    counts_RC = torch.zeros(n_rows, C, dtype=torch.float64)
    counts_RC.scatter_add_(1, drawn_RD, torch.ones_like(drawn_RD, dtype=torch.float64))
    ids_RC = torch.arange(C).expand(n_rows, C).masked_fill(counts_RC == 0, NO_CLASS)
    label = SparseRows(SPEC, ids_RC, (counts_RC / n_draws).log(), sampled=True)
    student_RC = STUDENT_BC[:1].expand(n_rows, C)
    whole = losses.soft_cross_entropy(STUDENT_BC[:1], p_C[None], spec=LabelSpec(C, "probs"))
    expected_C = STUDENT_BC[0].softmax(0) - p_C
    for loss in (losses.kl, losses.soft_cross_entropy):
        found, gradient_RC = both(lambda given_RC, loss=loss: loss(given_RC, label), student_RC)
        torch.testing.assert_close(gradient_RC.sum(0), expected_C, rtol=0, atol=5e-3)
        if loss is losses.soft_cross_entropy:
            torch.testing.assert_close(found, whole, rtol=5e-3, atol=0)


def test_jensen_shannon_is_symmetric_bounded_and_near_its_ends_the_two_divergences():
    torch.testing.assert_close(losses.js(STUDENT_BC, LABEL_BC), losses.js(LABEL_BC, STUDENT_BC))
    one_BC, other_BC = 200 * torch.eye(C)[:6], 200 * torch.eye(C)[6:]
    torch.testing.assert_close(losses.js(one_BC, other_BC), torch.tensor(2.0).log())
    for beta, end in ((1e-6, losses.kl), (1 - 1e-6, losses.reverse_kl)):
        near = losses.js(STUDENT_BC, LABEL_BC, beta=beta) / 1e-6
        torch.testing.assert_close(near, end(STUDENT_BC, LABEL_BC), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_a_number_is_not_hidden(name):
    given_BC = STUDENT_BC.clone()
    given_BC[3, 4] = torch.nan
    found, gradient_BC = both(lambda student_BC: LOSSES[name](student_BC, LABEL_BC), given_BC)
    assert found.isnan()
    assert gradient_BC[3].isnan().all()
    assert gradient_BC[:3].isfinite().all()
    assert LOSSES[name](LABEL_BC, given_BC).isnan()


def test_a_student_without_mass_where_labels_have_some_is_infinitely_far():
    given_BC = STUDENT_BC.clone()
    given_BC[3, 4] = -torch.inf
    assert losses.kl(given_BC, LABEL_BC) == losses.soft_cross_entropy(given_BC, LABEL_BC) == torch.inf
    assert losses.reverse_kl(given_BC, LABEL_BC).isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_rows_has_no_loss(name):
    student_BC = torch.empty(0, C, requires_grad=True)
    loss = LOSSES[name](student_BC, torch.empty(0, C), 2, squared=True)
    loss.backward()
    assert (loss.item(), student_BC.grad.shape) == (0, (0, C))


def test_squares_of_a_batch_without_rows_are_none():
    nothing_BC, nothing_B = torch.empty(0, C), torch.empty(0, dtype=torch.long)
    assert float(losses.logits_mse(nothing_BC, nothing_BC, hard=0.1, target_B=nothing_B)) == 0


def test_hard_labels_that_are_ignored_do_not_count():
    student_BC, label_BC = torch.randn(3, C), torch.randn(3, C)
    target_B = torch.tensor([-100, 2, 0])
    found = losses.logits_mse(student_BC, label_BC, hard=0.5, target_B=target_B)
    hard = torch.nn.functional.cross_entropy(student_BC, target_B)
    torch.testing.assert_close(found, losses.logits_mse(student_BC, label_BC) + 0.5 * hard)


def test_a_row_of_which_nothing_is_left_without_its_tail_is_refused():
    rows = SparseRows(
        LabelSpec(C, "log_probs"), torch.tensor([[1, 2], [NO_CLASS, NO_CLASS]]),
        torch.tensor([[0.5, 0.3], [0, 0]]).log(), tails={1.0: torch.tensor([0.2, 1.0]).log()},
    )  # fmt: skip
    with pytest.raises(DataError, match="row 1 of the batch has no known class"):
        rows.without_tail()
