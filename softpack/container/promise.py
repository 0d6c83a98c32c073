"""Promise that no row is further from its teacher than so much, and find the corrections that this takes.

A correction adds a whole number of steps to the logit of one class of a row. With r the teacher's logits less the
decoded ones, up to a constant that no softmax sees, and q proportional to p exp(-r / T),

    KL(p || q) T^2  <=  T^2 sum_c p_c phi(r_c / T),     phi(x) = exp(-x) - 1 + x  >=  0,

because log(x) <= x - 1. The terms say which classes are worth a correction: the largest are corrected first, and no
more of them than the row needs. Hoeffding's lemma bounds the same KL by (max r - min r)^2 / 8. So once every class is
within half a step, a row is within step^2 / 8 at every temperature, and with step = 2 sqrt(max_kl) within half of
what was promised: corrections always suffice, as far as float32 holds the logits. Among multiples of sqrt(max_kl),
2 takes the least bits: finer steps have longer values, coarser ones leave more to other classes.

Rows are held to 1% less than the promise, since they decode in another order of sums elsewhere. An error e of the
decoded logits changes the standard deviation of r, which is about sqrt(2 KL), by (max e - min e) / 2 at most: 1% of
the KL leaves room for max e - min e = 0.014 sqrt(max_kl), 0.0077 for a promise of 0.3. Float32 needs a hundredth of
that. Decoding in bfloat16 may need more; then the promise holds but for bfloat16's own error.

Shapes in names: T temperatures, B rows, K of them too far from their teacher, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.divergence import kl_of_rows, log_softmax_at
from softpack.codecs.spaces import to_logits
from softpack.container.correcting import full_precision, moved
from softpack.container.corrections import Corrections
from softpack.errors import CodecError, DataError
from softpack.format.header import CorrectionSpec
from softpack.format.layout import MAX_TEMPERATURES
from softpack.records import TEMPERATURES, LabelSpec

STEP = 2.0  # in sqrt(max_kl)
MARGIN = 0.01  # of max_kl
NEGLIGIBLE = 0.05  # of max_kl: what classes to which the teacher gives no probability may cost together
MAX_VALUE = (1 << 31) - 1
MEASURED_VALUES = 1 << 18  # 2 MiB in float64; larger temporaries, mapped anew each time, are four times slower
SEARCHED_VALUES = 1 << 20

Where = Callable[[int], str]  # which row one is, for messages


def promise(max_kl: float, temperatures: Sequence[float] = TEMPERATURES) -> CorrectionSpec:
    """Return the promise that no row's KL * T**2 is above `max_kl` at these temperatures, and the step it takes.

    Raises:
        CodecError: a number is not positive, or temperatures are none, too many or given twice.
    """
    if (
        isinstance(max_kl, bool)
        or not isinstance(max_kl, (int, float, np.floating))
        or not 0 < max_kl < math.inf
    ):
        raise CodecError(f"max_kl is {max_kl!r}; expected a positive number of nats, such as 0.3")
    given = tuple(float(T) for T in temperatures)
    if not 1 <= len(set(given)) == len(given) <= MAX_TEMPERATURES or not all(0 < T < math.inf for T in given):
        raise CodecError(
            f"max_kl holds at the temperatures {given}; expected 1 to {MAX_TEMPERATURES} positive numbers, each "
            "given once"
        )
    return CorrectionSpec(float(max_kl), float(f"{STEP * math.sqrt(max_kl):.3g}"), given)


def find_corrections(
    teacher_BC: Tensor,
    decoded_BC: Tensor,
    spec: LabelSpec,
    gives: LabelSpec,
    promised: CorrectionSpec,
    where: Where = "row {}".format,
) -> Corrections:
    """Return the corrections that hold rows to a promise, of rows counted 0, 1, 2, ...

    Args:
        teacher_BC: float32 rows in the space of `spec`.
        decoded_BC: float32, what a reader decodes of them, in the space of `gives`.
        spec: what the teacher's rows are.
        gives: what decoded rows are.
        promised: the greatest KL, the temperatures and the step.
        where: says which row one is, for messages.

    Raises:
        DataError: a row cannot be corrected.
    """
    with torch.no_grad(), full_precision(teacher_BC.device):
        far_K = _far(teacher_BC, decoded_BC, spec, gives, promised)
        parts = []
        for rows in _slices(len(far_K), SEARCHED_VALUES // spec.classes):
            row_K = far_K[rows]
            far = _FarRows.of(to_logits(teacher_BC[row_K], spec), decoded_BC[row_K], gives, promised)
            far.check(partial(_of_row, where, row_K))
            value_KC = far.fewest()
            place_E, class_E = value_KC.nonzero(as_tuple=True)
            found = (row_K[place_E], class_E, value_KC[place_E, class_E].to(torch.int32))
            parts.append(Corrections(*(tensor.cpu().numpy() for tensor in found)))
    return Corrections.join(parts)


def _far(
    teacher_BC: Tensor, decoded_BC: Tensor, spec: LabelSpec, gives: LabelSpec, promised: CorrectionSpec
) -> Tensor:
    """Return which rows are further from their teacher than was promised, int64 [K]; nan is, too."""
    kl_B = teacher_BC.new_zeros(len(teacher_BC), dtype=torch.float64)
    for rows in _slices(len(teacher_BC), MEASURED_VALUES // spec.classes):
        log_p_TBC = _log_softmaxes(to_logits(teacher_BC[rows], spec), promised)
        kl_B[rows] = _divergences(log_p_TBC, to_logits(decoded_BC[rows], gives), promised).amax(0)
    return (~(kl_B <= _limit(promised))).nonzero()[:, 0]


@dataclass(frozen=True)
class _FarRows:
    """Rows that are too far from their teacher, and the corrections that they may get.

    Args:
        log_p_TKC: of the teacher, float64 at each temperature.
        decoded_KC: float32, in the space of `gives`.
        gives: what decoded rows are.
        promised: what they are to be held to.
        value_KC: float64 whole numbers, the correction of each class; 0 where it needs none.
        rank_KC: int64, 0 for the class that is worth a correction most.
        is_gone_KC: bool, classes of the teacher to which decoded rows give no probability.
    """

    log_p_TKC: list[Tensor]
    decoded_KC: Tensor
    gives: LabelSpec
    promised: CorrectionSpec
    value_KC: Tensor
    rank_KC: Tensor
    is_gone_KC: Tensor

    @classmethod
    def of(cls, teacher_KC: Tensor, decoded_KC: Tensor, gives: LabelSpec, promised: CorrectionSpec) -> _FarRows:
        """Rank the classes of rows; teacher's as logits."""
        log_p_TKC, logits_KC = _log_softmaxes(teacher_KC, promised), to_logits(decoded_KC, gives).double()
        is_gone_KC = (logits_KC == -torch.inf) & (teacher_KC > -torch.inf)
        target_KC, away_KC = _away(teacher_KC, logits_KC, promised)
        value_KC = (away_KC / promised.step).round().clamp(-MAX_VALUE, MAX_VALUE).nan_to_num()
        worth_KC = _worth(target_KC, away_KC, _divergences(log_p_TKC, logits_KC, promised), promised)
        worth_KC = torch.where(value_KC == 0, -1.0, worth_KC)
        rank_KC = worth_KC.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return cls(log_p_TKC, decoded_KC, gives, promised, value_KC, rank_KC, is_gone_KC)

    def fewest(self) -> Tensor:
        """Return the values [K, C] of as few corrections as hold each row to the promise, by bisection."""
        high_K = self._most()
        low_K = torch.zeros_like(high_K)
        while bool((high_K - low_K > 1).any()):
            middle_K = (low_K + high_K) // 2
            is_enough_K = self._kl_with(middle_K) <= _limit(self.promised)
            low_K, high_K = (
                torch.where(is_enough_K, low_K, middle_K),
                torch.where(is_enough_K, middle_K, high_K),
            )
        return self._first(high_K)

    def check(self, where: Callable[[int], str]) -> None:
        """Check that corrections of all classes hold every row to the promise.

        Raises:
            DataError: they do not.
        """
        kl_K = self._kl_with(self._most())
        is_far_K = ~(kl_K <= _limit(self.promised))
        if not bool(is_far_K.any()):
            return
        first = int(is_far_K.int().argmax())
        if bool(self.is_gone_KC[first].any()):
            raise DataError(
                f"{where(first)} decodes to a probability of zero for a class to which its teacher gives one, which "
                "no correction mends; take a codec that keeps all classes, such as topk with tail=uniform"
            )
        raise DataError(
            f"{where(first)} cannot be brought to a KL of {self.promised.max_kl:g}: with all classes corrected it is "
            f"at {float(kl_K[first]):.3g}, as float32 holds its numbers no closer; ask for a larger max_kl"
        )

    def _most(self) -> Tensor:
        return (self.value_KC != 0).sum(1)

    def _first(self, n_K: Tensor) -> Tensor:
        """Return the values of the first corrections of each row alone, [K, C]."""
        return torch.where(self.rank_KC < n_K[:, None], self.value_KC, 0.0)

    def _kl_with(self, n_K: Tensor) -> Tensor:
        """Return the largest KL * T**2 of each row [K] with its first corrections."""
        shift_KC = self._first(n_K).float() * self.promised.step
        logits_KC = to_logits(moved(self.decoded_KC, shift_KC, self.gives), self.gives)
        return _divergences(self.log_p_TKC, logits_KC, self.promised).amax(0)


def _away(teacher_KC: Tensor, logits_KC: Tensor, promised: CorrectionSpec) -> tuple[Tensor, Tensor]:
    """Return the logits that rows should have, and how far above the decoded ones they are, float64 [K, C] each.

    The constant that no softmax sees is such that as many classes are too high as too low: most need no correction
    then. A class without probability is as low as does no harm, or lower if it is so already.
    """
    hottest, classes = max(promised.temperatures), teacher_KC.shape[1]
    teacher_KC, is_none_KC = teacher_KC.double(), teacher_KC == -torch.inf
    share = min(1.0, NEGLIGIBLE * promised.max_kl / (classes * hottest**2))
    lowest_K1 = teacher_KC.amax(1, keepdim=True) + hottest * math.log(share)
    target_KC = torch.where(is_none_KC, torch.minimum(lowest_K1, logits_KC), teacher_KC)
    away_KC = torch.where(target_KC == logits_KC, 0.0, target_KC - logits_KC)
    away_KC = away_KC - torch.where(is_none_KC, torch.nan, away_KC).nanmedian(1, keepdim=True).values
    return target_KC, torch.where(is_none_KC, away_KC.clamp_max(0.0), away_KC)


def _worth(target_KC: Tensor, away_KC: Tensor, kl_TK: Tensor, promised: CorrectionSpec) -> Tensor:
    """Return the terms of the bound on the KL, at those temperatures where it is too large, [K, C]."""
    worth_KC = torch.zeros_like(away_KC)
    for T, kl_K in zip(promised.temperatures, kl_TK, strict=True):
        excess_K1 = ((kl_K - _limit(promised)).clamp_min(0.0) / kl_K).unsqueeze(1)
        log_p_KC, x_KC = log_softmax_at(target_KC, T), away_KC / T
        worth_KC += excess_K1 * T**2 * ((log_p_KC - x_KC).exp() + log_p_KC.exp() * (x_KC - 1))
    return worth_KC.nan_to_num(nan=0.0)


def _log_softmaxes(logits_BC: Tensor, promised: CorrectionSpec) -> list[Tensor]:
    return [log_softmax_at(logits_BC, T) for T in promised.temperatures]


def _divergences(log_p_TBC: list[Tensor], logits_BC: Tensor, promised: CorrectionSpec) -> Tensor:
    """Return KL * T**2 of rows from the teacher's log-probabilities, [T, B]."""
    at = zip(promised.temperatures, log_p_TBC, strict=True)
    return torch.stack([kl_of_rows(log_p_BC, log_softmax_at(logits_BC, T)) * T**2 for T, log_p_BC in at])


def _of_row(where: Where, row_K: Tensor, number: int) -> str:
    return where(int(row_K[number]))


def _limit(promised: CorrectionSpec) -> float:
    return promised.max_kl * (1 - MARGIN)


def _slices(n_rows: int, most: int) -> Iterator[slice]:
    step = max(1, most)
    return (slice(start, start + step) for start in range(0, n_rows, step))
