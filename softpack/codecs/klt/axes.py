"""The axes that rows are turned to, rounded to what they are worth in a file of so many rows.

A file's rows are the product of their coefficients and the axes, and both are rounded. An error in an axis is seen in
all n rows, as often as their coefficients are large: a bit does as much good there as in the codes where the axis
is rounded to steps of step / (spread * sqrt(n)). `price` is 1 / n, or less for axes that are better than that.

Shapes: R axes, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_ENTRY = 127  # of a class in an axis, in int8
CLASSES_AT_ONCE = 1 << 16  # in float64
COARSEST = 2.0  # step of an axis of which little is left, in root mean squares of its entries


def axis_step(spread_R: Tensor, step: float, price: float) -> Tensor:
    """Return the step [R] that the entries of axes are worth.

    Args:
        spread_R: root mean square of the coefficients.
        step: of the coefficients.
        price: of a bit of the axes, in bits of one row's codes.
    """
    step_R: Tensor = price**0.5 * step / spread_R.clamp_min(1e-30)
    return step_R


def axis_bits(step_R: Tensor, n_classes: int) -> Tensor:
    """Return about how many bits an entry [R] of an axis takes, rounded to these steps."""
    bits_R: Tensor = (1 + 4 * n_classes**-0.5 / step_R).log2()  # of a normal distribution, by and large
    return bits_R


def round_axes(axes_RC: Tensor, step_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return axes as int8 [R, C], and the float32 [R] that each is to be multiplied with.

    Args:
        axes_RC: float32.
        step_R: of their entries, but for what int8 can hold; as fine as can be where None.
    """
    scale_R = axes_RC.abs().amax(dim=1).clamp_min(1e-30) / MOST_ENTRY
    if step_R is not None:
        coarsest_R = COARSEST * axes_RC.square().mean(dim=1).sqrt()
        scale_R = torch.maximum(torch.minimum(step_R, coarsest_R), scale_R)
    return (axes_RC / scale_R[:, None]).round_().to(torch.int8), scale_R


def analysis(axes_RC: Tensor, weight_C: Tensor | None = None) -> Tensor:
    """Return the [C, R] that turns rows into their coefficients of least squared error.

    It is the transpose of the axes but for what rounding has done to them. Where classes have weights it is the
    weighted error that is least, and the constant of a row is not seen.
    """
    parts = [slice(start, start + CLASSES_AT_ONCE) for start in range(0, axes_RC.shape[1], CLASSES_AT_ONCE)]
    weighed = axes_RC if weight_C is None else axes_RC * weight_C
    gram_RR = (weighed @ axes_RC.T).double()
    inverse_RR = torch.linalg.pinv(gram_RR, hermitian=True)
    found_CR = torch.cat([(weighed[:, part].double().T @ inverse_RR).float() for part in parts])
    if weight_C is not None:
        found_CR -= torch.outer(weight_C / weight_C.sum(), found_CR.sum(dim=0))
    return found_CR
