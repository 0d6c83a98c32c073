"""Fidelity: how far decoded labels are from the teacher's, as KL divergence and top-1 agreement.

For each temperature T and each row, KL(teacher || decoded) * T**2 in nats, between softmax(teacher / T) and
softmax(decoded / T). Mean, 99th percentile and maximum go together: a mean alone hides broken rows.

Shapes: B rows of a batch, C classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.divergence import kl_of_rows, log_softmax_at
from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import as_sparse_rows
from softpack.container.correcting import full_precision
from softpack.container.reader import Labels
from softpack.errors import DataError
from softpack.records import HIDDEN, TEMPERATURES
from softpack.sources import Source, open_source
from softpack.sources.base import block_rows

VALUES_AT_ONCE = 1 << 18  # 2 MiB in float64; larger temporaries, mapped anew each time, are four times slower


@dataclass(frozen=True)
class Divergence:
    """KL(teacher || decoded) * T**2 over the rows at one temperature, in nats.

    Args:
        kl_mean: mean over rows; infinite if one row is.
        kl_p99: 99th percentile by nearest rank, so that it is the value of a row: the smallest one that at
            least 99% of the rows do not exceed.
        kl_max: of the worst row.
    """

    kl_mean: float
    kl_p99: float
    kl_max: float


@dataclass(frozen=True)
class Fidelity:
    """What a comparison of decoded labels with their source found.

    Args:
        rows: how many were compared.
        temperatures: the divergence at each temperature.
        top1_agreement: share of rows whose largest class is the same; ties go to the lowest class.
    """

    rows: int
    temperatures: dict[float, Divergence]
    top1_agreement: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object; an infinite one is null."""
        at_T = {f"{T:g}": _finite_or_none(divergence) for T, divergence in self.temperatures.items()}
        return {"rows": self.rows, "temperatures": at_T, "top1_agreement": self.top1_agreement}


class FidelityMeter:
    """Compare labels block by block; keeps 4 bytes a row a temperature.

    The figures do not depend on how the rows are cut into blocks.

    Args:
        temperatures: each positive and finite, without repeats.

    Raises:
        DataError: the temperatures are not that.
    """

    def __init__(self, temperatures: Sequence[float] = TEMPERATURES) -> None:
        self.temperatures = tuple(float(T) for T in temperatures)
        valid = all(0 < T < math.inf for T in self.temperatures)
        if not (self.temperatures and valid and len(set(self.temperatures)) == len(self.temperatures)):
            raise DataError(
                f"temperatures are {self.temperatures}; expected at least one, each positive and given once"
            )
        self._kl_B: dict[float, list[np.ndarray]] = {T: [] for T in self.temperatures}
        self._rows = 0
        self._agreeing = 0

    def update(self, teacher_logits_BC: Tensor, decoded_logits_BC: Tensor) -> None:
        """Add rows to the comparison.

        Both are float tensors [B, C] whose softmax(x / T) is the distribution at T: logits, or
        log-probabilities times the temperature that they were taken at. -inf stands for a class without
        mass. Computed in float64.

        Raises:
            DataError: the shapes differ, or a row has a NaN, a +inf or no mass at all.
        """
        if teacher_logits_BC.ndim != 2 or teacher_logits_BC.shape != decoded_logits_BC.shape:
            raise DataError(
                f"teacher rows have shape {list(teacher_logits_BC.shape)} and decoded rows "
                f"{list(decoded_logits_BC.shape)}; expected the same [rows, classes]"
            )
        n_rows = max(1, VALUES_AT_ONCE // teacher_logits_BC.shape[1])
        for start in range(0, len(teacher_logits_BC), n_rows):
            rows = slice(start, start + n_rows)
            self._add(teacher_logits_BC[rows], decoded_logits_BC[rows].to(teacher_logits_BC.device))

    def _add(self, teacher_BC: Tensor, decoded_BC: Tensor) -> None:
        for T in self.temperatures:
            log_p_BC = self._log_softmax(teacher_BC, T, "teacher")
            log_q_BC = self._log_softmax(decoded_BC, T, "decoded")
            self._kl_B[T].append((kl_of_rows(log_p_BC, log_q_BC) * T**2).float().cpu().numpy())
        self._agreeing += int((teacher_BC.argmax(1) == decoded_BC.argmax(1)).sum())
        self._rows += len(teacher_BC)

    def _log_softmax(self, logits_BC: Tensor, T: float, whose: str) -> Tensor:
        log_p_BC = log_softmax_at(logits_BC, T)
        broken_B = log_p_BC.isnan().any(1)
        if broken_B.any():
            row = self._rows + int(broken_B.int().argmax())
            raise DataError(
                f"{whose} row {row}, counted from the first that was compared, is no distribution: it has "
                f"a NaN or +inf, or -inf in every class; so have {int(broken_B.sum())} of the "
                f"{len(broken_B)} rows compared with it"
            )
        return log_p_BC

    def result(self) -> Fidelity:
        """Return the figures over all rows so far.

        Raises:
            DataError: there are no rows yet.
        """
        if not self._rows:
            raise DataError("fidelity of 0 rows was asked for; compare at least one row first")
        divergences = {T: _divergence(np.concatenate(kl_B)) for T, kl_B in self._kl_B.items()}
        return Fidelity(self._rows, divergences, self._agreeing / self._rows)


def fidelity(
    decoded: Labels | Tensor | np.ndarray | str | os.PathLike[str],
    source: Source | Tensor | np.ndarray | str | os.PathLike[str],
    temperatures: Sequence[float] = TEMPERATURES,
    counted: Callable[[int, int], None] | None = None,
) -> Fidelity:
    """Return how far decoded labels are from their source.

    Args:
        decoded: an open `.spk` file or its path, with `source` an open source or its path; or a float array
            [..., C], logits or what softmax(x / T) takes as such, with an array of the same shape.
        source: the teacher's.
        temperatures: to compare at.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: the two do not fit together, or see `FidelityMeter`.
    """
    if isinstance(decoded, (str, os.PathLike)):
        decoded = Labels(decoded)
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source)
    if isinstance(decoded, Labels) and isinstance(source, Source):
        return _of_file(decoded, source, temperatures, counted)
    if isinstance(decoded, Labels) or isinstance(source, Source):
        raise DataError(
            "an open file can be compared with a source (a path, or `open_source`), not with an array"
        )
    return _of_arrays(torch.as_tensor(decoded), torch.as_tensor(source), temperatures)


def _of_file(
    labels: Labels, source: Source, temperatures: Sequence[float], counted: Callable[[int, int], None] | None
) -> Fidelity:
    is_hidden, takes = source.spec.space == HIDDEN, labels.codec.spec
    if is_hidden and takes != source.spec:
        raise DataError(
            f"{source.path} holds hidden states of {source.spec.classes} numbers, and {labels.file.name} was not made "
            f"of such, but of {takes.space} of {takes.classes}; expected the source that the file was made from"
        )
    if not is_hidden and labels.spec.classes != source.spec.classes:
        raise DataError(
            f"{labels.file.name} has rows of {labels.spec.classes} classes and {source.path} of "
            f"{source.spec.classes}; expected the source that the file was made from"
        )
    meter = FidelityMeter(temperatures)
    done = 0
    for block in source.blocks(block_rows(labels.spec.classes)):
        if block.sparse is None:
            rows_BC = torch.from_numpy(block.labels_BC).float()
        else:  # classes that the source does not know share what is left
            rows_BC = as_sparse_rows(block.sparse, source.spec).dense()
        with full_precision(rows_BC.device):
            teacher = labels.codec.teacher_rows(rows_BC) if is_hidden else to_logits(rows_BC, source.spec)
        meter.update(teacher, to_logits(labels.read(block.item_B, block.view_B), labels.spec))
        done += len(block)
        if counted is not None:
            counted(done, source.n_rows)
    return meter.result()


def _of_arrays(decoded: Tensor, source: Tensor, temperatures: Sequence[float]) -> Fidelity:
    if decoded.shape != source.shape or not source.ndim or not source.numel():
        raise DataError(
            f"decoded labels have shape {list(decoded.shape)} and their source {list(source.shape)}; "
            "expected the same shape, with at least one row"
        )
    meter = FidelityMeter(temperatures)
    classes = source.shape[-1]
    meter.update(source.reshape(-1, classes), decoded.reshape(-1, classes))
    return meter.result()


def _divergence(kl_B: np.ndarray) -> Divergence:
    rank = -(-99 * len(kl_B) // 100) - 1  # in integers: .99 is no float
    p99 = np.partition(kl_B, rank)[rank]
    return Divergence(float(kl_B.mean(dtype=np.float64)), float(p99), float(kl_B.max()))


def _finite_or_none(divergence: Divergence) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in vars(divergence).items()}
