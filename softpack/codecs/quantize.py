"""`quantize`: every number of a row on one of 2**bits evenly spaced levels, placed for that row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes
from softpack.codecs.checks import check_integer
from softpack.codecs.floats import from_float_codes, to_float_codes
from softpack.codecs.spaces import log_domain, to_log_domain
from softpack.errors import CodecError
from softpack.records import TEMPERATURES, LabelSpec

ROW_BITS = 32  # fp16 minimum, fp16 step
MOST_BITS = 8

# Where the lowest level may stand, between the row's minimum (1) and its mean (0), and a little above. Classes
# far below the mean hardly move a softmax, so that at few bits it pays to clip them and space the rest closer.
# The more bits, the less there is to gain; from 6 bits on it is nothing.
LOW_ENDS = tuple(tenths / 10 for tenths in range(10, -3, -1))
ENDS_TO_TRY = {1: 13, 2: 13, 3: 6, 4: 5, 5: 4}


@dataclass(frozen=True)
class Quantize(Codec):
    """Store rows on 2**bits evenly spaced levels; probabilities by their logarithms.

    The highest level stands at the row's maximum and the lowest at its minimum. At 1 to 5 bits the lowest is
    raised where that lowers the row's KL, summed over T = 1, 4 and 20 and each times T squared.

    Args:
        spec: what the rows are.
        bits: of one level, 1 to 8.
    """

    codec_id: ClassVar[str] = "quantize"

    bits: int = 4

    def __post_init__(self) -> None:
        check_integer(self.codec_id, "bits", self.bits, 1, MOST_BITS)

    @property
    def gives(self) -> LabelSpec:
        """Logits for logits, log-probabilities for the rest."""
        return log_domain(self.spec)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """The level of every class, and the fp16 bit patterns of the lowest level and of their distance."""
        return (
            CodeArray("levels", (self.spec.classes,), self.bits, 1 << self.bits),
            CodeArray("minimum", (), 16, 1 << 16),
            CodeArray("step", (), 16, 1 << 16),
        )

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> Quantize:
        """Return the codec of most `bits` that costs at most `target_bits` a label.

        Raises:
            CodecError: 1 bit a class, and 32, are more than `target_bits`.
        """
        if "bits" not in settings:
            bits = int(min(MOST_BITS, (target_bits - ROW_BITS) // spec.classes))
            if bits < 1:
                raise CodecError(
                    f"quantize: {target_bits:g} bits a label were asked for, but {spec.classes} classes cost "
                    f"at least {spec.classes + ROW_BITS} (bits=1); ask for more, or take topk, lowrank or vqae"
                )
            settings["bits"] = bits
        return super().at_bits(spec, target_bits, **settings)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return levels, minimum and step; the levels are nearest under the minimum and step as stored.

        Raises:
            CodecError: a row holds inf or nan, or its minimum or step is too large for fp16.
        """
        rows_BC = to_log_domain(rows_BC, self.spec)
        low_B1, step_B1 = self._place_levels(rows_BC)
        return {
            "levels": self._nearest_levels(rows_BC, low_B1, step_B1).to(torch.uint8),
            "minimum": to_float_codes(low_B1.squeeze(-1), "fp16"),
            "step": to_float_codes(step_B1.squeeze(-1), "fp16"),
        }

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return minimum + level * step; log-probabilities are normalised."""
        low_B = from_float_codes(codes["minimum"], "fp16")
        step_B = from_float_codes(codes["step"], "fp16")
        rows_BC = low_B.unsqueeze(-1) + codes["levels"].float() * step_B.unsqueeze(-1)
        return rows_BC if self.gives.space == "logits" else torch.log_softmax(rows_BC, dim=-1)

    def _place_levels(self, rows_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest level and the step of each row [B, 1], rounded to fp16."""
        minimum_B1, maximum_B1 = rows_BC.aminmax(dim=-1, keepdim=True)
        best = self._round_levels(minimum_B1, maximum_B1)
        if self.bits not in ENDS_TO_TRY:
            return best
        mean_B1 = rows_BC.mean(dim=-1, keepdim=True)
        judge = _Judge(rows_BC, self.spec.temperature)
        least_B1 = judge.loss(self._snap(rows_BC, *best))
        for share in LOW_ENDS[1 : ENDS_TO_TRY[self.bits]]:
            # An end above the mean may lie above the maximum too, where a row is nearly flat.
            low_B1 = torch.minimum(mean_B1 + (minimum_B1 - mean_B1) * share, maximum_B1)
            placed = self._round_levels(low_B1, maximum_B1)
            loss_B1 = judge.loss(self._snap(rows_BC, *placed))
            better_B1 = loss_B1 < least_B1
            least_B1 = torch.where(better_B1, loss_B1, least_B1)
            best = (torch.where(better_B1, placed[0], best[0]), torch.where(better_B1, placed[1], best[1]))
        return best

    def _round_levels(self, low_B1: Tensor, high_B1: Tensor) -> tuple[Tensor, Tensor]:
        low_B1 = low_B1.half().float()
        step_B1 = ((high_B1 - low_B1) / ((1 << self.bits) - 1)).clamp_min(0).half().float()
        if not bool((torch.isfinite(low_B1) & torch.isfinite(step_B1)).all()):
            raise CodecError(
                "quantize: a row holds inf or nan, or numbers too large for an fp16 minimum and step (65504); "
                "mend such rows, or subtract from logits their row's maximum, which no softmax sees"
            )
        return low_B1, step_B1

    def _nearest_levels(self, rows_BC: Tensor, low_B1: Tensor, step_B1: Tensor) -> Tensor:
        # A row of equal numbers has no step: level 0 is all it needs.
        per_step_B1 = torch.where(step_B1 > 0, 1 / step_B1, 0)
        return ((rows_BC - low_B1) * per_step_B1).round_().clamp_(0, (1 << self.bits) - 1)

    def _snap(self, rows_BC: Tensor, low_B1: Tensor, step_B1: Tensor) -> Tensor:
        return low_B1 + self._nearest_levels(rows_BC, low_B1, step_B1) * step_B1


class _Judge:
    """Tells how far rows are from the true ones: their KL summed over temperatures, but for a constant."""

    def __init__(self, rows_BC: Tensor, temperature: float) -> None:
        # Rows of log-probabilities at T0 are seen at T as softmax(row * T0 / T).
        self.terms = [
            (t * t, temperature / t, torch.softmax(rows_BC * (temperature / t), dim=-1)) for t in TEMPERATURES
        ]

    def loss(self, rows_BC: Tensor) -> Tensor:
        """Return [B, 1]."""
        loss_B1 = torch.zeros_like(rows_BC[:, :1])
        for weight, scale, teacher_BC in self.terms:
            scaled_BC = rows_BC * scale
            log_norm_B1 = scaled_BC.logsumexp(dim=-1, keepdim=True)
            loss_B1 += weight * (log_norm_B1 - (teacher_BC * scaled_BC).sum(dim=-1, keepdim=True))
        return loss_B1
