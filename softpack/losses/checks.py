"""What losses refuse, and what they say then."""

from __future__ import annotations

import torch
from torch import Tensor

from softpack.codecs.sparse import SparseRows
from softpack.errors import DataError
from softpack.records import LabelSpec


def check_pair(student_BC: Tensor, label: Tensor | SparseRows, spec: LabelSpec | None) -> None:
    """Refuse a student and labels of different rows, classes or devices, and a spec that is not that of the labels."""
    if isinstance(label, SparseRows):
        shape, device = [len(label), label.spec.classes], label.ids_BK.device
    else:
        shape, device = list(label.shape), label.device
    if student_BC.ndim != 2 or list(student_BC.shape) != shape:
        more = "; flatten positions into rows: student_BTC.flatten(0, 1)" if student_BC.ndim > 2 else ""
        raise DataError(
            f"the student gives {list(student_BC.shape)} and the labels are {shape}; expected the same [rows, classes] "
            f"of both{more}"
        )
    if device != student_BC.device:
        raise DataError(
            f"the student is on {student_BC.device} and the labels are on {device}; expected one device; take "
            f'label.to("{student_BC.device}")'
        )
    if isinstance(label, SparseRows) and spec not in (None, label.spec):
        raise DataError(
            f"spec is {spec}, but the sparse labels are {label.spec}; leave spec out: sparse labels have their own"
        )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0."""
    if not temperature > 0:
        raise DataError(f"the temperature is {temperature}; expected a number above 0")


def check_mask(mask_B: Tensor | None, student_BC: Tensor) -> None:
    """Refuse a mask that does not say of each row whether it counts."""
    if mask_B is None or (mask_B.dtype == torch.bool and mask_B.shape == student_BC.shape[:1]):
        return
    raise DataError(
        f"mask_B is {mask_B.dtype} {list(mask_B.shape)}; expected torch.bool [{len(student_BC)}], True for rows that "
        "count, such as target_B != -100"
    )


def check_tail(name: str, label: Tensor | SparseRows, temperature: float, mask_B: Tensor | None) -> None:
    """Refuse sparse labels that give nothing to the classes that were not kept, for a loss that needs it."""
    if not isinstance(label, SparseRows):
        return
    if label.sampled:
        raise DataError(
            f"{name}: the labels were drawn, and say nothing of the classes that were not; take kl or "
            "soft_cross_entropy, which are right in the mean over draws, or labels of topk with a tail"
        )
    has_others_B = label.is_class_BK.sum(1) < label.spec.classes
    bare_B = has_others_B & (label.at(temperature)[1] == -torch.inf)
    n_bare = int((bare_B if mask_B is None else bare_B & mask_B.to(bare_B.device)).sum())
    if n_bare:
        raise DataError(
            f"{name}: {n_bare} of {len(label)} rows give no probability to the classes that were not kept, as "
            "tail=zero and without_tail() do; take kl or soft_cross_entropy, or encode with a tail that has some, such "
            "as tail=mass"
        )


def check_finite(name: str, rows_B: Tensor) -> None:
    """Refuse losses of rows that are infinite because labels give no mass to what the student does."""
    n_infinite = int((rows_B == torch.inf).sum())
    if n_infinite:
        raise DataError(
            f"{name}: {n_infinite} of {len(rows_B)} rows give no probability (-inf) to a class in which the student "
            "has some, an infinite loss; take kl or js, or set the student's logits of these classes to -inf"
        )
