"""`head`: the teacher's last hidden states, decoded by the teacher's own output matrix."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, later
from softpack.codecs.checks import (
    check_choice,
    check_integer,
    check_positive,
    check_tensors,
    temperatures_of,
    temperatures_text,
)
from softpack.codecs.head import fit
from softpack.codecs.head.matrix import DTYPES, NAMES, find_matrix, matrix_hash
from softpack.codecs.head.search import NEVER, Space, search
from softpack.codecs.head.tokens import Tokens
from softpack.codecs.head.transform import Transform, to_codes, to_levels
from softpack.codecs.widths import Group, arrays_of, check_asked, groups_of, widths_of
from softpack.errors import CodecError
from softpack.records import HIDDEN, MAX_CLASSES, LabelSpec

MOST_ROUNDS = 100
INSIDE = "inside"
ENCODER = ("analysis", "cost", "likely", "tail")
HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Head(Codec):
    """Store last hidden states of a language model as coefficients that cost and matter least.

    A teacher's logits are a linear map of its last hidden state (after the final norm): they have its rank, and what
    they say beyond the likeliest tokens costs little when it is coded as what it is. The transform is of the states
    as KL feels them on average (Fisher information); then every row is searched for the coefficients that KL feels
    least in that very row (`softpack.codecs.head.search`).

    Args:
        spec: rows of "hidden".
        vocabulary: tokens V of the output matrix [V, H].
        matrix: "inside" the file, or the SHA-256 (64 hexadecimal digits) of the tensor that readers must give.
        matrix_dtype: of the tensor, "bf16", "fp16" or "fp32".
        rank: axes; 0 = as many as say something.
        bits: of a label after an ideal entropy code; the fit comes as near as it can from below.
        step: between the levels of a coefficient; 0 = chosen for `bits`, which it else replaces. A coefficient has at
            most 12 bits: the fit makes a step larger that is too fine for that.
        search: rounds of the search; 0 = nearest levels alone, many times faster and several times worse.
        widths: bits and number of axes, such as "5x2,3x10"; the fit fills them in.
        temperatures: at which KL * T^2 counts, such as "1,2"; by what students are trained at.
    """

    codec_id: ClassVar[str] = "head"
    spaces: ClassVar[tuple[str, ...]] = (HIDDEN,)

    vocabulary: int = 0
    matrix: str = INSIDE
    matrix_dtype: str = "bf16"
    rank: int = 0
    bits: float = 512.0
    step: float = 0.0
    search: int = 3
    widths: str = ""
    temperatures: str = later("1")

    def __post_init__(self) -> None:
        if self.spec.space != HIDDEN:
            raise CodecError(
                f"head: rows are {self.spec.space}; expected the hidden states of a language model, from which its "
                "output matrix makes them; take --codec klt for logits from elsewhere"
            )
        check_integer(self.codec_id, "vocabulary", self.vocabulary, 2, MAX_CLASSES)
        check_choice(self.codec_id, "matrix_dtype", self.matrix_dtype, DTYPES)
        check_integer(self.codec_id, "rank", self.rank, 0, self.spec.classes)
        check_integer(self.codec_id, "search", self.search, 0, MOST_ROUNDS)
        object.__setattr__(self, "temperatures", temperatures_text(self.codec_id, self.temperatures))
        for name in ("bits", *(["step"] if self.step or self.widths else [])):
            check_positive(self.codec_id, name, getattr(self, name))
            object.__setattr__(
                self, name, float(getattr(self, name))
            )  # a whole step makes coefficients, no integers
        if self.matrix != INSIDE and not (isinstance(self.matrix, str) and HASH.fullmatch(self.matrix)):
            raise CodecError(
                f"head: matrix is {self.matrix!r}; expected {INSIDE!r}, or the 64 lowercase hexadecimal digits of a "
                "SHA-256"
            )
        if self.widths and sum(group.n_axes for group in self._groups) != self.rank:
            raise CodecError(f"head: widths is {self.widths!r}, but rank is {self.rank}; expected as many axes")

    @property
    def gives(self) -> LabelSpec:
        """Logits of the vocabulary."""
        return LabelSpec(self.vocabulary, "logits")

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """For each width one array, the levels of the axes of that width."""
        return arrays_of(self._groups, self.bits)

    @property
    def minor(self) -> int:
        """The first version of the format that has it is 1.5."""
        return 5

    @property
    def wants_tables(self) -> bool:
        """They do: most coefficients are 0."""
        return True

    @property
    def can_encode(self) -> bool:
        """Whether what only the encoder needs is here, and the matrix."""
        return {*ENCODER, "matrix"} <= self.tensors.keys()

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> Head:
        """Return the codec whose labels take `target_bits` after an ideal entropy code.

        Raises:
            CodecError: `bits` is given, and is more.
        """
        codec = cls(spec, **{"bits": float(target_bits), **settings})
        check_asked(cls.codec_id, codec.bits, target_bits)
        return codec

    # -- the output matrix -----------------------------------------------------------------------------------

    @property
    def needs_matrix(self) -> bool:
        """Whether the matrix is named by its hash and not here yet."""
        return self.matrix != INSIDE and "matrix" not in self.tensors

    def with_matrix(self, matrix: Any, where: str = "head") -> Head:
        """Return this codec with the output matrix.

        Args:
            matrix: a tensor [V, H]; where the file names it by its hash, also a safetensors file that has it, or a
                folder of such.
            where: for messages.

        Raises:
            CodecError: it is not the matrix that the settings say.
        """
        shape = (self.vocabulary, self.spec.classes)
        if self.matrix != INSIDE:
            matrix = find_matrix(matrix, self.matrix_dtype, shape, self.matrix, where)
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != shape:
            found = list(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise CodecError(f"{where}: the output matrix is {found}; expected a tensor {list(shape)}")
        stored = matrix.detach().to(DTYPES[self.matrix_dtype]).contiguous()
        if not bool(torch.isfinite(stored).all()):
            raise CodecError(f"{where}: the output matrix holds inf or nan; expected finite numbers")
        device = self.tensors["mean"].device if "mean" in self.tensors else stored.device
        return self.with_tensors({**self.tensors, "matrix": stored.to(device)})

    @classmethod
    def of_matrix(cls, matrix_VH: Tensor, *, named: bool = False, **settings: Any) -> Head:
        """Return an unfitted codec for a teacher's output matrix.

        Args:
            matrix_VH: in the dtype in which it is stored.
            named: leave it out of the file, which names it by its hash.
            settings: of the codec.
        """
        if not isinstance(matrix_VH, Tensor) or matrix_VH.ndim != 2:
            found = list(matrix_VH.shape) if isinstance(matrix_VH, Tensor) else type(matrix_VH).__name__
            raise CodecError(f"head: the output matrix is {found}; expected a tensor [tokens, hidden numbers]")
        vocabulary, width = matrix_VH.shape
        dtype = NAMES.get(matrix_VH.dtype)
        if dtype is None:
            raise CodecError(
                f"head: the output matrix is {matrix_VH.dtype}; expected {', '.join(map(str, NAMES))}; dequantize it"
            )
        settings.setdefault("matrix_dtype", dtype)
        if named and settings["matrix_dtype"] != dtype:
            raise CodecError(f"head: a matrix that is named stays {dtype}, as it is in its checkpoint")
        name = matrix_hash(matrix_VH) if named else INSIDE
        codec = cls(LabelSpec(width, HIDDEN), vocabulary=vocabulary, matrix=name, **settings)
        return codec.with_matrix(matrix_VH)

    def teacher_rows(self, rows_BC: Tensor) -> Tensor:
        """Return the teacher's logits [B, V] of its hidden states [B, H]."""
        return rows_BC.float() @ self._matrix.T

    @cached_property
    def _matrix(self) -> Tensor:
        if self.needs_matrix:
            raise CodecError(
                f"head: the labels are decoded by an output matrix {self.matrix_dtype} "
                f"{[self.vocabulary, self.spec.classes]} that is not in the file, of SHA-256 {self.matrix[:16]}...; "
                "give the teacher's checkpoint: softpack.open(path, matrix='model.safetensors'), or "
                "--matrix model.safetensors"
            )
        if "matrix" not in self.tensors:
            raise CodecError(
                "head: the codec has no output matrix yet; make it by Head.of_matrix, or give with_matrix one"
            )
        return self.tensors["matrix"].float()

    # -- work --------------------------------------------------------------------------------------------------

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> Head:
        """Return this codec with axes, step and levels for the sample.

        Raises:
            CodecError: there are no rows, they hold nan or inf, or the output matrix is missing.
        """
        parts = [rows_BH for rows_BH in blocks if len(rows_BH)]
        if not parts:
            raise CodecError("head: there are no rows to fit to; expected at least one")
        hidden_BH = torch.cat(parts).float()
        self._check_finite(hidden_BH)
        steps_done = count(1)

        def report(seen: str) -> None:
            if progress:
                progress(next(steps_done), fit.REPORTS, seen)

        plan = fit.Plan(self.rank, self.bits, self.step, self.search, self._temperatures, report)
        matrix_VH = self._matrix.to(hidden_BH.device)
        with torch.no_grad():
            fitted = fit.fit(hidden_BH, matrix_VH, plan)
        codec = dataclasses.replace(
            self, rank=len(fitted.bits_R), step=fitted.transform.step, widths=widths_of(fitted.bits_R)
        )
        tensors = {
            "matrix": self.tensors["matrix"].to(hidden_BH.device),
            **fitted.transform.tensors,
            "analysis": fitted.analysis_HR,
            "cost": fitted.cost_RL[codec._inside(fitted.cost_RL.device)],
            "likely": fitted.metric.likely_V.to(torch.int32),
            "tail": fitted.metric.tail_TH.reshape(self._tail_shape),
        }
        return codec.with_tensors(tensors)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the levels of all coefficients of hidden states [B, H].

        Raises:
            CodecError: the codec cannot encode, or a row holds nan or inf.
        """
        if not self.can_encode:
            raise CodecError(
                "head: this codec was not fitted, or has its decoder alone, as files do, or lacks the output matrix, "
                "and cannot encode; pass the model that `softpack fit` wrote, or fit the codec to the rows"
            )
        hidden_BH = rows_BC.float()
        self._check_finite(hidden_BH)
        transform, count_R = self._transform, self._counts
        wanted_RB = ((hidden_BH - transform.mean_H) @ self.tensors["analysis"]).T.contiguous()
        levels_RB = fit.nearest(wanted_RB, transform.first_R.long(), count_R, transform.step)
        if self.search:
            space = self._space
            levels_RB = search(levels_RB, wanted_RB, space.tokens.said_of(hidden_BH), space, self.search)
        return to_codes(levels_RB, self._groups)

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return logits [B, V]: (mean + coefficients @ axes) @ matrix'.

        Raises:
            CodecError: the codec was neither fitted nor loaded, or the output matrix is not there.
        """
        return self.hidden(codes) @ self._matrix.T

    def hidden(self, codes: Codes) -> Tensor:
        """Return hidden states [B, H] as they decode, without the output matrix."""
        if "axes" not in self.tensors:
            raise CodecError(
                "head: this codec was neither fitted nor loaded, and cannot decode; call fit() first"
            )
        return self._transform.hidden(to_levels(codes, self._groups), self._synthesis)

    def state(self) -> dict[str, Tensor]:
        """Return mean and axes, and the output matrix where it is inside."""
        outside = () if self.matrix == INSIDE else ("matrix",)
        return {name: tensor for name, tensor in self.tensors.items() if name not in (*ENCODER, *outside)}

    def encoder_state(self) -> dict[str, Tensor]:
        """Return what the search needs: how coefficients are found, what levels cost, which tokens are likely."""
        return {name: tensor for name, tensor in self.tensors.items() if name in ENCODER}

    def load_state(self, tensors: Mapping[str, Tensor]) -> Head:
        """Return this codec with the tensors of `state()`, or of `state()` and `encoder_state()`.

        Raises:
            CodecError: a tensor is missing, unknown, not finite, or not of the shape that the settings say.
        """
        if not self.widths:
            raise CodecError("head: widths is empty in a stored model; expected those of its axes")
        width, n_levels = self.spec.classes, sum(group.n_axes << group.bits for group in self._groups)
        n_likely = min(fit.LIKELY, self.vocabulary)
        expected = {
            "mean": (torch.float32, (width,)),
            "axes": (torch.int16, (self.rank, width)),
            "scale": (torch.float32, (self.rank,)),
            "first": (torch.int32, (self.rank,)),
        }
        if self.matrix == INSIDE:
            expected["matrix"] = (DTYPES[self.matrix_dtype], (self.vocabulary, width))
        if tensors.keys() & {*ENCODER}:
            expected |= {
                "analysis": (torch.float32, (width, self.rank)),
                "cost": (torch.float32, (n_levels,)),
                "likely": (torch.int32, (n_likely,)),
                "tail": (torch.float32, self._tail_shape),
            }
        check_tensors(self.codec_id, tensors, expected)
        likely = tensors.get("likely")
        if likely is not None and not 0 <= int(likely.min()) <= int(likely.max()) < self.vocabulary:
            raise CodecError(f"head: likely names tokens outside the vocabulary of {self.vocabulary}")
        return self.with_tensors(tensors)

    # -- what settings and tensors mean ----------------------------------------------------------------------

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return groups_of(self.widths, self.codec_id)

    @property
    def _temperatures(self) -> tuple[float, ...]:
        return temperatures_of(self.codec_id, self.temperatures)

    @property
    def _tail_shape(self) -> tuple[int, ...]:
        n_temperatures = len(self._temperatures)
        return (n_temperatures, self.spec.classes) if n_temperatures > 1 else (self.spec.classes,)

    @cached_property
    def _transform(self) -> Transform:
        return Transform.of(self.tensors, self.step)

    @cached_property
    def _synthesis(self) -> Tensor:
        return self._transform.synthesis

    @cached_property
    def _counts(self) -> Tensor:
        count_R = torch.tensor([1 << group.bits for group in self._groups])
        return count_R.repeat_interleave(torch.tensor([group.n_axes for group in self._groups])).to(
            self.tensors["scale"].device
        )

    def _inside(self, device: torch.device) -> Tensor:
        """Return which entries of [R, L] are levels."""
        levels_L = torch.arange(1 << max(group.bits for group in self._groups))
        counts = [torch.full((group.n_axes,), 1 << group.bits) for group in self._groups]
        return (levels_L < torch.cat(counts)[:, None]).to(device)

    @cached_property
    def _space(self) -> Space:
        tensors, transform = self.tensors, self._transform
        inside_RL = self._inside(tensors["cost"].device)
        cost_RL = torch.full(inside_RL.shape, NEVER, device=inside_RL.device)
        cost_RL[inside_RL] = tensors["cost"]
        tokens = Tokens(
            self._matrix, tensors["likely"].long(), self._synthesis, tensors["tail"].view(-1, self.spec.classes),
            self._temperatures,
        )  # fmt: skip
        price = fit.PRICE * transform.step**2
        return Space(tokens, transform.mean_H, transform.first_R.long(), transform.step, cost_RL, price)

    def _check_finite(self, hidden_BH: Tensor) -> None:
        finite_B = torch.isfinite(hidden_BH).all(dim=1)
        if not bool(finite_B.all()):
            first = int((~finite_B).nonzero()[0, 0])
            raise CodecError(
                f"head: hidden state {first} of {len(hidden_BH)} holds inf or nan; leave such rows out"
            )
