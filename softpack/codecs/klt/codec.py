"""`klt`: a linear transform, and coefficients that are rounded for the fewest bits at the least error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype, code_values, later
from softpack.codecs.checks import (
    check_integer,
    check_positive,
    check_tensors,
    temperatures_of,
    temperatures_text,
)
from softpack.codecs.klt import fit, pack
from softpack.codecs.klt.axes import analysis
from softpack.codecs.klt.levels import Levels
from softpack.codecs.klt.wide_search import best_codes
from softpack.codecs.principal import joined
from softpack.codecs.spaces import centred_logits, log_domain
from softpack.codecs.widths import Group, arrays_of, check_asked, groups_of
from softpack.errors import CodecError
from softpack.records import MAX_CLASSES, LabelSpec

MOST_ROUNDS = 100
ENCODER = ("threshold", "weight")  # tensors that only encoding needs


@dataclass(frozen=True)
class KLT(Codec):
    """Store rows as coefficients on principal axes, most of them zero, for an entropy coder.

    The Karhunen-Loeve transform of the rows, or of what they are apart from their context; then a scalar quantiser
    whose thresholds weigh errors against bits; then a search that lets the errors of many coefficients cancel
    where KL(teacher || decoded) would feel them. Logits have lost their mean, which no softmax sees.

    Args:
        spec: what the rows are.
        rank: axes; 0 = as many as pay.
        bits: of a label after an ideal entropy code; the fit comes as near as it can from below.
        step: between the levels of a coefficient, in logits; 0 = chosen for `bits`, which it else replaces.
        context: whether rows are coded given their item's prototype.
        temperatures: at which KL * T^2 counts for the search, such as "1,4,20".
        search: rounds of the search; 0 = squared error alone, as prototypes want it, and many times faster.
        axis_price: of a bit of the axes, in bits of the codes: 1 makes the whole file smallest.
        widths: bits and number of axes, such as "5x2,3x10"; the fit fills them in.
        weighted: let errors count by the mass that the average row gives to their class, for the axes and for the
            search; a vocabulary, where half of the squared error lies in tokens that never matter, wants it.
    """

    codec_id: ClassVar[str] = "klt"

    rank: int = 0
    bits: float = 64.0
    step: float = 0.0
    context: bool = False
    temperatures: str = "1,4,20"
    search: int = 3
    axis_price: float = 0.1
    widths: str = ""
    weighted: bool = later(False)

    def __post_init__(self) -> None:
        for name in ("context", "weighted"):
            if type(getattr(self, name)) is not bool:
                raise CodecError(f"klt: {name} is {getattr(self, name)!r}; expected true or false")
        check_integer(self.codec_id, "rank", self.rank, 0, MAX_CLASSES)
        check_integer(self.codec_id, "search", self.search, 0, MOST_ROUNDS)
        for name in ("bits", "axis_price", *(["step"] if self.step or self.widths else [])):
            check_positive(self.codec_id, name, getattr(self, name))
        object.__setattr__(self, "temperatures", temperatures_text(self.codec_id, self.temperatures))
        if self.widths and sum(group.n_axes for group in groups_of(self.widths)) != self.rank:
            raise CodecError(f"klt: widths is {self.widths!r}, but rank is {self.rank}; expected as many axes")

    @property
    def gives(self) -> LabelSpec:
        """Logits stay logits; log-probabilities and probabilities become normalised log-probabilities."""
        return log_domain(self.spec)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """For each width one array, the levels of the axes of that width."""
        return arrays_of(self._groups, self.bits)

    @property
    def minor(self) -> int:
        """The first version of the format that has it is 1.1; of what is `weighted`, 1.5."""
        return 5 if self.weighted else 1

    @property
    def takes_context(self) -> bool:
        """As set."""
        return self.context

    @property
    def can_encode(self) -> bool:
        """Whether the thresholds are here."""
        return "threshold" in self.tensors

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> KLT:
        """Return the codec whose labels take `target_bits` after an ideal entropy code.

        Its arrays are wider: `bits_per_label` counts them as they are without such a code.

        Raises:
            CodecError: `bits` is given, and is more.
        """
        codec = cls(spec, **{"bits": float(target_bits), **settings})
        check_asked(cls.codec_id, codec.bits, target_bits)
        return codec

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> KLT:
        """Return this codec with axes, step and levels for the sample.

        Raises:
            CodecError: there are no rows, they hold nan or inf, or their contexts are missing.
        """
        parts = [self._logits(rows_BC) for rows_BC in blocks if len(rows_BC)]
        if not parts:
            raise CodecError("klt: there are no rows to fit to; expected at least one")
        rows_BC = joined(parts)
        context_BC = self._context(None if contexts is None else torch.cat([*contexts]), len(rows_BC))
        steps_done = count(1)

        def report(seen: str) -> None:
            if progress:
                progress(next(steps_done), plan.n_reports, seen)

        plan = fit.Plan(
            rank=self.rank,
            bits=self.bits,
            step=self.step,
            axis_price=self.axis_price,
            temperatures=self._temperatures,
            rounds=self.search,
            weighted=self.weighted,
            n_rows=n_rows or len(rows_BC),
            seed=seed,
            report=report,
        )
        if context_BC is not None:
            self._refuse(context_BC, "the context of row")
        fitted = fit.fit(rows_BC, context_BC, plan)
        widths, tensors = pack.pack(fitted, keep_still=self.rank > 0)
        if fitted.weight_C is not None:
            tensors["weight"] = fitted.weight_C
        rank, step = len(tensors["first"]), fitted.levels.step
        return dataclasses.replace(self, rank=rank, step=step, widths=widths).with_tensors(tensors)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the levels of all coefficients.

        Raises:
            CodecError: the codec has no thresholds, the context is missing, or a row holds nan or inf.
        """
        if not self.can_encode:
            raise CodecError(
                "klt: this codec was not fitted, or has its decoder alone, as files do, and cannot encode; "
                "pass the model that `softpack fit` wrote, or fit the codec to the rows"
            )
        rows_BC = self._logits(rows_BC)
        base_BC = self._base(context_BC, len(rows_BC))
        axes_RC, levels = self._transform.axes_RC, self._levels
        coefficients_BR = (rows_BC - base_BC) @ self._analysis
        self._refuse(coefficients_BR, "the context of row")
        codes_RB = levels.nearest(coefficients_BR.T.contiguous())
        if self.search:
            codes_RB = best_codes(
                codes_RB, rows_BC, base_BC, axes_RC, levels, self._temperatures, self.search, self.weighted
            )
        return {
            group.name: codes_RB[group.axes].T.to(code_dtype(group.bits)).contiguous() for group in self._groups
        }

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return context + mean + coefficients @ axes; log-probabilities are normalised.

        Raises:
            CodecError: the codec was neither fitted nor loaded, or the context is missing.
        """
        return self._decoded(codes, None if context_BC is None else context_BC.clone())

    def decode_onto(self, context_BC: Tensor, codes: Codes, features_BX: Tensor | None = None) -> Tensor:
        """Return the same as `decode` in the memory of the context."""
        return self._decoded(codes, context_BC)

    def _decoded(self, codes: Codes, onto_BC: Tensor | None) -> Tensor:
        if not self.tensors:
            raise CodecError(
                "klt: this codec was neither fitted nor loaded, and cannot decode; call fit() first"
            )
        codes_BR = torch.cat([code_values(codes[group.name], group.bits) for group in self._groups], dim=1)
        transform = self._transform
        coefficients_BR = transform.values.take(codes_BR + transform.start_R)
        onto_BC = self._context(onto_BC, len(coefficients_BR))
        if onto_BC is None:
            logits_BC = torch.addmm(transform.mean_C, coefficients_BR, transform.axes_RC)
        else:
            logits_BC = onto_BC.add_(transform.mean_C).addmm_(coefficients_BR, transform.axes_RC)
        if self.gives.space == "logits":
            return logits_BC
        return torch.log_softmax(logits_BC / self.gives.temperature, dim=-1)

    def decode_sum(self, codes: Codes, weights_BP: Tensor) -> Tensor:
        """Return weighted sums of P rows each; coefficients are summed first, so that each row is made once."""
        if self.context or self.gives.space != "logits":
            return super().decode_sum(codes, weights_BP)
        codes_BPR = torch.cat([code_values(codes[group.name], group.bits) for group in self._groups], dim=2)
        transform = self._transform
        coefficients_BPR = transform.values.take(codes_BPR + transform.start_R)
        coefficients_BR = torch.bmm(weights_BP.unsqueeze(1), coefficients_BPR).squeeze(1)
        mean_BC = weights_BP.sum(1, keepdim=True) * transform.mean_C
        return torch.addmm(mean_BC, coefficients_BR, transform.axes_RC)

    def state(self) -> dict[str, Tensor]:
        """Return the mean and the axes as int8 with their scales, and the levels of each axis."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in ENCODER}

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the thresholds between levels and, where `weighted`, the weights of classes, float32."""
        return {name: tensor for name, tensor in self.tensors.items() if name in ENCODER}

    def load_state(self, tensors: Mapping[str, Tensor]) -> KLT:
        """Return this codec with the tensors of `state()`, or of `state()` and `encoder_state()`.

        Raises:
            CodecError: a tensor is missing, unknown, not finite, or not of the shape that the settings say.
        """
        if not self.widths:
            raise CodecError("klt: widths is empty in a stored model; expected those of its axes")
        n_levels = sum(group.n_axes << group.bits for group in self._groups)
        expected = {
            "axes": (torch.int8, (1 + self.rank, self.spec.classes)),
            "scale": (torch.float32, (1 + self.rank,)),
            "first": (torch.int32, (self.rank,)),
            "shift": (torch.int8, (n_levels,)),
            "threshold": (torch.float32, (n_levels - self.rank,)),
        }
        if self.weighted:
            expected["weight"] = (torch.float32, (self.spec.classes,))
        if not tensors.keys() & {*ENCODER}:
            expected = {name: layout for name, layout in expected.items() if name not in ENCODER}
        check_tensors(self.codec_id, tensors, expected)
        return self.with_tensors(tensors)

    # -- what settings and tensors mean --------------------------------------------------------------------

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return groups_of(self.widths)

    @cached_property
    def _temperatures(self) -> tuple[float, ...]:
        return temperatures_of(self.codec_id, self.temperatures)

    @cached_property
    def _transform(self) -> pack.Transform:
        return pack.unpack(self.tensors, self._groups, self.step)

    @cached_property
    def _levels(self) -> Levels:
        return pack.unpack_levels(self.tensors, self._groups, self.step)

    @cached_property
    def _analysis(self) -> Tensor:
        return analysis(self._transform.axes_RC, self.tensors.get("weight"))

    def _base(self, context_BC: Tensor | None, n_rows: int) -> Tensor:
        """Return what rows [B, C] are before their coefficients: context and mean."""
        context_BC, mean_C = self._context(context_BC, n_rows), self._transform.mean_C
        return mean_C.expand(n_rows, -1) if context_BC is None else context_BC + mean_C

    def _context(self, context_BC: Tensor | None, n_rows: int) -> Tensor | None:
        """Refuse a context that is missing, of another shape, or not asked for."""
        expected = (n_rows, self.spec.classes) if self.context else None
        found = None if context_BC is None else tuple(context_BC.shape)
        if found != expected:
            raise CodecError(
                f"klt: context={str(self.context).lower()}, and was given a context of {_shape(found)}; expected "
                f"{_shape(expected)}; give each row's prototype if and only if context is true"
            )
        return context_BC

    def _logits(self, rows_BC: Tensor) -> Tensor:
        """Return rows as logits whose mean is zero, and refuse nan and inf."""
        logits_BC = centred_logits(rows_BC, self.spec)
        self._refuse(logits_BC, "row")
        return logits_BC

    def _refuse(self, numbers_BX: Tensor, what: str) -> None:
        finite_B = torch.isfinite(numbers_BX.square().sum(dim=1))
        if not bool(finite_B.all()):
            raise CodecError(
                f"klt: {what} {int(finite_B.int().argmin())} of this batch holds nan, inf or numbers too large to be "
                f"squared; expected finite {self.spec.space}. Mend such rows; zeros may stand among probs"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str([*shape])
