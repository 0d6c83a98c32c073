"""Divergences between a student and soft labels, at any temperature and for labels of any kind."""

from __future__ import annotations

from torch import Tensor

from softpack.codecs.sparse import SparseRows
from softpack.errors import DataError
from softpack.losses.blocks import mean_of, row_losses
from softpack.losses.checks import check_finite, check_mask, check_pair, check_tail, check_temperature
from softpack.losses.compared import compared
from softpack.losses.formulas import CrossEntropy, Formula, ForwardKL, JensenShannon, ReverseKL
from softpack.records import LabelSpec


def kl(
    student_BC: Tensor,
    label: Tensor | SparseRows,
    temperature: float = 1.0,
    *,
    squared: bool = True,
    spec: LabelSpec | None = None,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Return KL(label || student) at a temperature (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531).

    SRe2L, CDA and RDED train by it at T = 20, without the factor T^2.

    Where of the classes that were not kept only the sum is known (`SparseRows.tails`), they are one class, for the
    student too. That bounds each divergence over all classes from below, and is the same where all were kept.

    Of labels that were drawn (RS-KD, arXiv:2503.16870) the gradient is that of the whole label in the mean over draws;
    the value is not, because draws have less entropy than what they were drawn from.

    Args:
        student_BC: logits of the student, of any float dtype.
        label: soft labels, [B, C] or sparse.
        temperature: T, by which the logits of both are divided.
        squared: times T^2, so that gradients keep their size whatever T is.
        spec: of labels [B, C]; logits by default. Sparse labels have their own.
        mask_B: bool, the rows that count, by default all: padding and positions that are to be ignored do not. The loss
            is the mean over those that do, and 0 with a gradient of 0 where none does.

    Raises:
        DataError: shapes differ, the temperature is not above 0, or sparse labels do not say how much the classes that
            were not kept have at it.
    """
    rows_B = _rows(ForwardKL(), student_BC, label, temperature, spec, mask_B)
    return _mean(rows_B, temperature, squared, mask_B)


def soft_cross_entropy(
    student_BC: Tensor,
    label: Tensor | SparseRows,
    temperature: float = 1.0,
    *,
    squared: bool = False,
    spec: LabelSpec | None = None,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of the student under the labels: `kl` and the labels' own entropy, as FKD trains.

    Of labels that were drawn the value, too, is that of the whole label in the mean over draws. The arguments and
    errors are those of `kl`.
    """
    rows_B = _rows(CrossEntropy(), student_BC, label, temperature, spec, mask_B)
    return _mean(rows_B, temperature, squared, mask_B)


def reverse_kl(
    student_BC: Tensor,
    label: Tensor | SparseRows,
    temperature: float = 1.0,
    *,
    squared: bool = True,
    spec: LabelSpec | None = None,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Return KL(student || label) at a temperature, which MiniLLM (arXiv:2306.08543) minimises; here, on stored labels.

    The arguments are those of `kl`.

    Raises:
        DataError: as `kl` does; or the labels give no mass to a class in which the student has some, an infinite loss:
            the classes that were not kept under `tail=zero`, or those that were not drawn.
    """
    rows_B = _rows(ReverseKL(), student_BC, label, temperature, spec, mask_B, needs_tail="reverse_kl")
    check_finite("reverse_kl", rows_B)
    return _mean(rows_B, temperature, squared, mask_B)


def js(
    student_BC: Tensor,
    label: Tensor | SparseRows,
    temperature: float = 1.0,
    *,
    beta: float = 0.5,
    squared: bool = True,
    spec: LabelSpec | None = None,
    mask_B: Tensor | None = None,
) -> Tensor:
    """Return beta KL(label || m) + (1 - beta) KL(student || m), where m = beta label + (1 - beta) student.

    It is the Jensen-Shannon divergence at beta = 0.5, and else its generalisation as GKD (arXiv:2306.13649) has it:
    divided by beta it nears the forward KL as beta nears 0, divided by 1 - beta the reverse KL as beta nears 1.

    It is finite for all rows [B, C]. Of sparse labels, the classes that were not kept must have mass: that they were
    left out is not the teacher's word. How they are compared where only their sum is known: see `kl`.

    The arguments are those of `kl`, and beta: the weight of the labels in the mixture, above 0 and below 1.

    Raises:
        DataError: as `kl` does; beta is out of range; or sparse labels were drawn, or give no mass to the classes that
            were not kept.
    """
    if not 0 < beta < 1:
        raise DataError(f"js: beta is {beta}; expected above 0 and below 1; at the ends are kl and reverse_kl")
    rows_B = _rows(JensenShannon(beta), student_BC, label, temperature, spec, mask_B, needs_tail="js")
    return _mean(rows_B, temperature, squared, mask_B)


def _rows(
    formula: Formula,
    student_BC: Tensor,
    label: Tensor | SparseRows,
    temperature: float,
    spec: LabelSpec | None,
    mask_B: Tensor | None,
    needs_tail: str = "",
) -> Tensor:
    """Return the loss of each row [B]; `needs_tail` is the name of a loss that needs the classes that were not kept."""
    check_pair(student_BC, label, spec)
    check_temperature(temperature)
    check_mask(mask_B, student_BC)
    if needs_tail:
        check_tail(needs_tail, label, temperature, mask_B)
    own = label.spec if isinstance(label, SparseRows) else spec or LabelSpec(label.shape[1])
    return row_losses(student_BC, compared(formula, label, temperature, own), mask_B)


def _mean(rows_B: Tensor, temperature: float, squared: bool, mask_B: Tensor | None) -> Tensor:
    return mean_of(rows_B, mask_B) * (temperature**2 if squared else 1.0)
