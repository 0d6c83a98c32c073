"""Rows of which only some classes are known one by one: what sparse codecs keep, and losses take as it is.

A dense row over 262,144 tokens is a mebibyte; the 64 that were kept are 512 bytes.

Shapes: B rows, K classes known of each, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from softpack.errors import DataError
from softpack.records import LabelSpec, SparseLabels

NO_CLASS = -1  # in place of an id, where a row has fewer than K


@dataclass(frozen=True)
class SparseRows:
    """Some classes of every row with their log-probabilities, and what is known of all the others.

    Of the others at most one of `fill_B` and `tails` is known; where neither is, nothing is.

    Args:
        spec: log_probs of C classes at a temperature T0.
        ids_BK: int64, no class twice in a row, `NO_CLASS` where a row has fewer than K.
        log_probs_BK: float32, at T0; -inf where there is no class.
        fill_B: float32, the log-probability that each other class has; -inf for none at all.
        tails: by temperature T, float32 [B]: ln of the sum of p ** (T0 / T) over all other classes, p being their
            probabilities at T0. So the weight of the tail as a whole beside `exp(log_probs_BK * T0 / T)`.
        sampled: the classes were drawn, and `log_probs_BK` are the shares of the draws: unbiased estimates of the
            probabilities of all classes at T0, of those that were not drawn too, which got 0.
    """

    spec: LabelSpec
    ids_BK: Tensor
    log_probs_BK: Tensor
    fill_B: Tensor | None = None
    tails: Mapping[float, Tensor] = field(default_factory=dict)
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.ids_BK)

    @property
    def is_class_BK(self) -> Tensor:
        """Where there is a class: bool [B, K]."""
        return self.ids_BK != NO_CLASS

    def to(self, device: torch.device | str) -> SparseRows:
        """Return the same rows on `device`."""
        return replace(
            self,
            ids_BK=self.ids_BK.to(device),
            log_probs_BK=self.log_probs_BK.to(device),
            fill_B=None if self.fill_B is None else self.fill_B.to(device),
            tails={T: tail_B.to(device) for T, tail_B in self.tails.items()},
        )

    def take(self, rows: slice | Tensor) -> SparseRows:
        """Return some of the rows."""
        return replace(
            self,
            ids_BK=self.ids_BK[rows],
            log_probs_BK=self.log_probs_BK[rows],
            fill_B=None if self.fill_B is None else self.fill_B[rows],
            tails={T: tail_B[rows] for T, tail_B in self.tails.items()},
        )

    def without_tail(self) -> SparseRows:
        """Return the known classes alone, made to sum to one: the others have no probability, as tail=zero gives.

        It is what caches of top-k labels mostly train with.

        Raises:
            DataError: a row has no known class, so that nothing would be left of it.
        """
        if self.sampled:  # they have been that always
            return self
        known_BK = self.log_probs_BK.masked_fill(~self.is_class_BK, -torch.inf).log_softmax(dim=1)
        is_nothing_B = known_BK.isnan().all(dim=1)
        if bool(is_nothing_B.any()):
            raise DataError(
                f"row {int(is_nothing_B.int().argmax())} of the batch has no known class, and nothing is left of it "
                "without its tail; leave such rows out"
            )
        none_B = torch.full_like(known_BK[:, 0], -torch.inf)
        return replace(self, log_probs_BK=known_BK, fill_B=none_B, tails={})

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Return the rows at another temperature: normalised log-probabilities [B, K], and that of the tail [B].

        Raises:
            DataError: it is not known how much the other classes have together at that temperature.
        """
        scale = self.spec.temperature / temperature
        kept_BK = (self.log_probs_BK * scale).masked_fill(~self.is_class_BK, -torch.inf)
        tail_B = self._tail(temperature)
        all_BL = torch.cat([kept_BK, tail_B[:, None]], dim=1)
        top_B1 = all_BL.amax(dim=1, keepdim=True)
        all_BL = all_BL - top_B1.masked_fill(top_B1 == -torch.inf, 0.0)  # first, where numbers are large
        all_BL = all_BL - all_BL.logsumexp(dim=1, keepdim=True)
        return all_BL[:, :-1], all_BL[:, -1]

    def _tail(self, temperature: float) -> Tensor:
        if self.sampled:
            if temperature != self.spec.temperature:
                raise DataError(
                    f"the labels are draws at T={self.spec.temperature:g}, which say nothing of T={temperature:g}; "
                    f"train at T={self.spec.temperature:g}, or sample at {temperature:g}"
                )
            return torch.full_like(self.log_probs_BK[:, 0], -torch.inf)
        if self.fill_B is not None:
            n_others_B = self.spec.classes - self.is_class_BK.sum(dim=1)
            tail_B: Tensor = self.fill_B * (self.spec.temperature / temperature) + n_others_B.log()
            return tail_B.masked_fill(n_others_B == 0, -torch.inf)
        for known, tail_B in self.tails.items():
            if math.isclose(known, temperature, rel_tol=1e-6):
                return tail_B
        there = ", ".join(f"{T:g}" for T in self.tails) or "no temperature"
        raise DataError(
            f"the labels do not say how much the classes that were not kept have together at T={temperature:g}; they "
            f"say it for {there}; train at one of these, or encode with tail_temperatures={temperature:g}"
        )

    def dense(self) -> Tensor:
        """Return normalised log-probabilities [B, C] at T0, equal ones for all other classes.

        Raises:
            DataError: it is not known how much the others have.
        """
        kept_BK, tail_B = self.at(self.spec.temperature)
        n_others_B = self.spec.classes - self.is_class_BK.sum(dim=1)
        fill_B = (tail_B - n_others_B.log()).masked_fill(n_others_B == 0, -torch.inf)
        rows_BC = fill_B[:, None].repeat(1, self.spec.classes)
        # Places without a class write what their row's first class has once more, or class 0 in a row without any.
        first_B1 = self.is_class_BK.int().argmax(dim=1, keepdim=True)
        ids_BK = torch.where(self.is_class_BK, self.ids_BK, self.ids_BK.gather(1, first_B1))
        again_B1 = torch.where(
            self.is_class_BK.any(1, keepdim=True), kept_BK.gather(1, first_B1), fill_B[:, None]
        )
        kept_BK = torch.where(self.is_class_BK, kept_BK, again_B1)
        return rows_BC.scatter_(1, ids_BK.clamp_min(0), kept_BK)


def as_sparse_rows(labels: SparseLabels, spec: LabelSpec, device: torch.device | str = "cpu") -> SparseRows:
    """Return rows that a source gave, of which some classes are known, as codecs take them.

    Args:
        labels: their classes.
        spec: log_probs, of the source.
        device: where they are to be.
    """
    ids_BK = torch.from_numpy(labels.ids_BK).to(device, torch.int64)
    log_probs_BK = torch.from_numpy(labels.log_probs_BK).to(device)
    if labels.tail_B is None:
        return SparseRows(spec, ids_BK, log_probs_BK, fill_B=torch.full_like(log_probs_BK[:, 0], -torch.inf))
    tail_B = torch.from_numpy(labels.tail_B).to(device)
    return SparseRows(spec, ids_BK, log_probs_BK, tails={spec.temperature: tail_B})
