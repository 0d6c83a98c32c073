"""`lowrank`: every row by its coordinates along the axes in which rows vary most."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype, code_values
from softpack.codecs.checks import check_integer, check_tensors
from softpack.codecs.principal import principal_axes, total
from softpack.codecs.spaces import log_domain, to_log_domain
from softpack.errors import CodecError
from softpack.records import MAX_CLASSES, LabelSpec

MOST_BITS = 16
LEAST_SPREAD = 1e-3  # of the widest axis's: what is below is fp16's rounding of the mean and the axes
RANGES = tuple(0.9**i for i in range(24))  # shares of the coordinates' extremes that the levels may span


@dataclass(frozen=True)
class LowRank(Codec):
    """Store rows as `rank` coordinates on principal axes, each on 2**bits evenly spaced levels.

    Principal component analysis of the rows without their own means, which no softmax sees: decoded logits have
    mean 0 in each row. Probabilities are stored by their logarithms.

    Args:
        spec: what the rows are.
        rank: axes; `fit` lowers it where the sample has fewer rows, or rows have fewer degrees of freedom.
        bits: of one coordinate, 1 to 16.
    """

    codec_id: ClassVar[str] = "lowrank"

    rank: int = 64
    bits: int = 8

    def __post_init__(self) -> None:
        check_integer(self.codec_id, "rank", self.rank, 1, MAX_CLASSES)
        check_integer(self.codec_id, "bits", self.bits, 1, MOST_BITS)

    @property
    def gives(self) -> LabelSpec:
        """Logits for logits, log-probabilities for the rest."""
        return log_domain(self.spec)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """One array, the level of every coordinate."""
        return (CodeArray("levels", (self.rank,), self.bits, 1 << self.bits),)

    @property
    def can_encode(self) -> bool:
        """Whether the codec has been fitted or loaded."""
        return bool(self.tensors)

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> LowRank:
        """Return the codec of the largest `rank`, at its `bits`, that costs at most `target_bits` a label.

        Raises:
            CodecError: a single coordinate costs more.
        """
        if "rank" not in settings:
            bits = cls(spec, **settings, rank=1).bits
            rank = int(min(spec.classes - 1, target_bits // bits))
            if rank < 1:
                raise CodecError(
                    f"lowrank: {target_bits:g} bits a label were asked for, but the least is {bits} "
                    f"(rank=1, bits={bits}); ask for more, or set bits lower"
                )
            settings["rank"] = rank
        return super().at_bits(spec, target_bits, **settings)

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> LowRank:
        """Return this codec with axes and levels for the sample, its rank lowered to what the sample bears.

        Raises:
            CodecError: there are no rows, or they hold inf, nan or numbers too large for an fp16 mean.
        """
        centred = [self._centre(rows_BC) for rows_BC in blocks if len(rows_BC)]
        n_sample = sum(len(rows_BC) for rows_BC in centred)
        if n_sample == 0:
            raise CodecError("lowrank: there are no rows to fit to; expected at least one")
        mean_C = (total([rows_BC.sum(dim=0) for rows_BC in centred]) / n_sample).half()
        if not bool(torch.isfinite(mean_C).all()):
            raise CodecError(
                "lowrank: rows hold inf or nan, or their mean is too large for fp16 (65504); "
                "mend such rows, or scale them"
            )
        for rows_BC in centred:
            rows_BC -= mean_C.float()
        rank = min(self.rank, n_sample, self.spec.classes - 1)
        basis_RC = principal_axes(centred, rank, seed).half()
        if progress:
            progress(1, 2, f"{rank} axes")
        coordinates_BR = torch.cat([rows_BC @ basis_RC.float().T for rows_BC in centred])
        rank = _numerical_rank(coordinates_BR)
        basis_RC, coordinates_BR = basis_RC[:rank].contiguous(), coordinates_BR[:, :rank]
        offset_R, step_R = _place_levels(coordinates_BR, self.bits)
        if progress:
            progress(2, 2, f"{rank} axes of {self.bits} bits")
        fitted = dataclasses.replace(self, rank=rank)
        return fitted.with_tensors({"mean": mean_C, "basis": basis_RC, "offset": offset_R, "step": step_R})

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the level of every coordinate.

        Raises:
            CodecError: the codec has not been fitted, or a row holds inf or nan.
        """
        if not self.tensors:
            raise CodecError("lowrank: the codec has no axes yet; call fit(blocks) or load_state(tensors)")
        rows_BC = self._centre(rows_BC) - self.tensors["mean"].float()
        coordinates_BR = rows_BC @ self.tensors["basis"].float().T
        if not bool(torch.isfinite(coordinates_BR).all()):
            raise CodecError("lowrank: a row holds inf, nan or numbers near the end of float32; mend such rows")
        levels_BR = _nearest_levels(coordinates_BR, self.tensors["offset"], self.tensors["step"], self.bits)
        # int32 first: a float beyond the range of int16 has no defined int16.
        return {"levels": levels_BR.to(torch.int32).to(code_dtype(self.bits))}

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return mean + (offset + level * step) @ basis; log-probabilities are normalised."""
        levels_BR = code_values(codes["levels"], self.bits).float()
        coordinates_BR = self.tensors["offset"] + levels_BR * self.tensors["step"]
        rows_BC = torch.addmm(self.tensors["mean"].float(), coordinates_BR, self.tensors["basis"].float())
        return rows_BC if self.gives.space == "logits" else torch.log_softmax(rows_BC, dim=-1)

    def state(self) -> dict[str, Tensor]:
        """Return mean [C] and basis [rank, C] in fp16, offset [rank] and step [rank] in fp32."""
        return dict(self.tensors)

    def load_state(self, tensors: Mapping[str, Tensor]) -> LowRank:
        """Return this codec with the tensors of `state()`.

        Raises:
            CodecError: a tensor is missing, unknown, not finite, or not of the shape that the settings say.
        """
        expected = {
            "mean": (torch.float16, (self.spec.classes,)),
            "basis": (torch.float16, (self.rank, self.spec.classes)),
            "offset": (torch.float32, (self.rank,)),
            "step": (torch.float32, (self.rank,)),
        }
        check_tensors(self.codec_id, tensors, expected)
        return self.with_tensors(tensors)

    def _centre(self, rows_BC: Tensor) -> Tensor:
        rows_BC = to_log_domain(rows_BC, self.spec)
        return rows_BC - rows_BC.mean(dim=-1, keepdim=True)


def _numerical_rank(coordinates_BR: Tensor) -> int:
    """Return how many axes carry more than rounding, at least 1."""
    spread_R = coordinates_BR.amax(dim=0) - coordinates_BR.amin(dim=0)
    return max(1, int((spread_R > LEAST_SPREAD * spread_R.max()).sum()))


def _place_levels(coordinates_BR: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the lowest level and the step of each axis [R], of the ranges tried of least squared error."""
    low_R, high_R = coordinates_BR.aminmax(dim=0)
    best_offset_R = best_step_R = torch.zeros_like(low_R)
    least_R = torch.full_like(low_R, torch.inf)
    for share in RANGES:
        offset_R = low_R * share
        step_R = (high_R - low_R) * (share / ((1 << bits) - 1))
        levels_BR = _nearest_levels(coordinates_BR, offset_R, step_R, bits)
        error_R = (levels_BR * step_R + offset_R - coordinates_BR).square_().sum(dim=0)
        better_R = error_R < least_R
        least_R = torch.where(better_R, error_R, least_R)
        best_offset_R = torch.where(better_R, offset_R, best_offset_R)
        best_step_R = torch.where(better_R, step_R, best_step_R)
    return best_offset_R, best_step_R


def _nearest_levels(coordinates_BR: Tensor, offset_R: Tensor, step_R: Tensor, bits: int) -> Tensor:
    # An axis along which nothing varies has no step: level 0 is all it needs.
    per_step_R = torch.where(step_R > 0, 1 / step_R, 0)
    return ((coordinates_BR - offset_R) * per_step_R).round_().clamp_(0, (1 << bits) - 1)
