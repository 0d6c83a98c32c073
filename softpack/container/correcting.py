"""Add corrections to decoded rows, as a reader does: `formats/spk.md`, section 9.

Shapes in names: B rows, K of them with corrections, C classes, E corrections.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpack.container.corrections import Corrections
from softpack.errors import CorruptError
from softpack.records import LabelSpec


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context in which `torch.autocast` changes nothing."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def decoding(device: torch.device | str, where: str) -> Iterator[None]:
    """Decode in full precision, and name the file whose codes are none that its codec makes.

    Raises:
        CorruptError: they are not; the message begins with `where`.
    """
    try:
        with full_precision(torch.device(device)):
            yield
    except CorruptError as error:
        raise CorruptError(f"{where}: {error}") from None


def moved(rows_BC: Tensor, shift_BC: Tensor, gives: LabelSpec) -> Tensor:
    """Return rows in the space of `gives` whose logits are moved by float32 numbers [B, C]."""
    if gives.space == "logits":
        return rows_BC + shift_BC
    logs_BC = rows_BC if gives.space == "log_probs" else rows_BC.log()
    logs_BC = logs_BC + shift_BC / gives.temperature
    return logs_BC.log_softmax(1) if gives.space == "log_probs" else logs_BC.softmax(1)


def correct(
    rows_BC: Tensor, row_E: Tensor, class_E: Tensor, value_E: Tensor, gives: LabelSpec, step: float
) -> Tensor:
    """Return decoded rows with their corrections, in float32; rows that have none stay as they are.

    Args:
        rows_BC: float32, in the space of `gives`; changed in place.
        row_E: int64, rising, which of the rows each correction is of.
        class_E: integers, rising within a row.
        value_E: integers, in steps.
        gives: what the rows are.
        step: in logits.
    """
    if not len(row_E):
        return rows_BC
    with full_precision(rows_BC.device):
        shift_E, class_E = value_E.float() * step, class_E.long()
        if gives.space == "logits":
            rows_BC[row_E, class_E] += shift_E
            return rows_BC
        row_K, place_E = torch.unique_consecutive(row_E, return_inverse=True)
        shift_KC = rows_BC.new_zeros(len(row_K), rows_BC.shape[1])
        shift_KC[place_E, class_E] = shift_E
        rows_BC[row_K] = moved(rows_BC[row_K], shift_KC, gives)
        return rows_BC


def correct_by_list(rows_BC: Tensor, corrections: Corrections, gives: LabelSpec, step: float) -> Tensor:
    """Return decoded rows with their corrections; see `correct`."""
    if not len(corrections):
        return rows_BC
    arrays = (corrections.row_E, corrections.class_E, corrections.value_E)
    row_E, class_E, value_E = (torch.from_numpy(array).to(rows_BC.device) for array in arrays)
    return correct(rows_BC, row_E, class_E, value_E, gives, step)


@dataclass(frozen=True)
class ResidentCorrections:
    """The corrections of a whole file on a device, to be taken by row number.

    Args:
        row_K: int64, the rows that have some, rising.
        start_K1: int64, where those of each begin, and where the last ones end.
        class_E: int32.
        value_E: int32.
    """

    row_K: Tensor
    start_K1: Tensor
    class_E: Tensor
    value_E: Tensor

    @classmethod
    def of(cls, corrections: Corrections, device: torch.device) -> ResidentCorrections | None:
        """Return them on a device; None where there are none."""
        if not len(corrections):
            return None
        row_K, start_K = np.unique(corrections.row_E, return_index=True)
        arrays = (
            row_K,
            np.append(start_K, len(corrections)),
            corrections.class_E.astype(np.int32),
            corrections.value_E,
        )
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    @property
    def n_bytes(self) -> int:
        """Bytes that they take in memory."""
        return sum(int(tensor.nbytes) for tensor in (self.row_K, self.start_K1, self.class_E, self.value_E))

    def take(self, row_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return row (0, 1, 2, ... as asked for), class and value of the corrections of some rows, [E] each."""
        place_B = torch.searchsorted(self.row_K, row_B).clamp_max(len(self.row_K) - 1)
        count_B = (self.start_K1[place_B + 1] - self.start_K1[place_B]) * (self.row_K[place_B] == row_B)
        row_E = torch.repeat_interleave(count_B)
        before_B = count_B.cumsum(0) - count_B
        at_E = torch.arange(len(row_E), device=row_B.device) + (self.start_K1[place_B] - before_B)[row_E]
        return row_E, self.class_E[at_E], self.value_E[at_E]
