"""`polyk`: the k most likely classes, the first exactly and the others by a curve over their ranks."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, code_dtype, code_values
from softpack.codecs.checks import check_choice, check_integer
from softpack.codecs.floats import FLOATS, float_bits, from_float_codes, overflows, to_float_codes
from softpack.codecs.polyk.curve import SOLVED_IN, curve, fit_curve, terms_of
from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import SparseRows
from softpack.errors import CodecError, CorruptError
from softpack.records import LabelSpec

TAILS = ("zero", "uniform")
MOST_K = 1 << 16
CHUNK_VALUES = 1 << 20  # numbers of rows whose likeliest classes are sought at once
EXACT_K = 16


@dataclass(frozen=True)
class PolyK(Codec):
    """Store the k most likely classes, the log-probabilities of the first as they are, those of the others as a curve.

    DistillKit's "distribution quantization" (Arcee, 2025), as a baseline: what decodes is what theirs decodes, with
    curves that may rise from one rank to the next and add up to more than 1. Its recommended configuration, 344 bytes a
    row of 262,144 classes, is the default. Its budget pick, 127 bytes: k=50, exact_k=1, terms=0,1,sqrt.

    Args:
        spec: what the rows are.
        k: classes kept of each row, 1 to `spec.classes`, at most 65536.
        exact_k: of these, how many are kept exactly, 0 to k.
        exact_value: how their log-probabilities are stored, "fp16", "fp32" or "bf16".
        terms: of the curve, powers of the rank, "sqrt" and "exp", with commas between.
        term_value: how their coefficients are stored.
        solved_in: "fp64" fits as well as can be. "fp32" is the precision that DistillKit fits in: too little for powers
            above 2, so that what comes out depends on the library of linear algebra and its threads. Both decode alike.
        tail: what the other classes get. "zero": none. "uniform": equal shares of what is left, DistillKit's
            symmetric_uniform.
    """

    codec_id: ClassVar[str] = "polyk"

    k: int = 128
    exact_k: int = EXACT_K
    exact_value: str = "bf16"
    terms: str = "0,1,2,3,4,sqrt"
    term_value: str = "fp32"
    solved_in: str = "fp64"
    tail: str = "zero"

    def __post_init__(self) -> None:
        check_integer(self.codec_id, "k", self.k, 1, min(self.spec.classes, MOST_K))
        check_integer(self.codec_id, "exact_k", self.exact_k, 0, self.k)
        check_choice(self.codec_id, "exact_value", self.exact_value, FLOATS)
        check_choice(self.codec_id, "term_value", self.term_value, FLOATS)
        check_choice(self.codec_id, "solved_in", self.solved_in, SOLVED_IN)
        check_choice(self.codec_id, "tail", self.tail, TAILS)
        terms_of(self.codec_id, self.terms, self._n_curve)  # for its error

    @property
    def gives(self) -> LabelSpec:
        """Log-probabilities at the rows' own temperature, 1 for logits."""
        return LabelSpec(self.spec.classes, "log_probs", self.spec.temperature)

    @property
    def minor(self) -> int:
        """The first version of the format that has it is 1.5."""
        return 5

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """The ids, most likely first; the bit patterns of the exact log-probabilities, and of the coefficients."""
        shapes = {"exact": (self.exact_k, self.exact_value), "terms": (len(self._terms), self.term_value)}
        shapes = {name: found for name, found in shapes.items() if self._sizes[name]}
        return (
            CodeArray("ids", (self.k,), self._id_bits, self.spec.classes),
            *(
                CodeArray(name, (n,), float_bits(kind), 1 << float_bits(kind))
                for name, (n, kind) in shapes.items()
            ),
        )

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> PolyK:
        """Return the codec of the largest `k` that costs at most `target_bits` a label.

        Raises:
            CodecError: a single class costs more.
        """
        if "k" not in settings:
            exact_k = settings.get("exact_k", EXACT_K)
            made = cls(spec, **{**settings, "k": 1, "exact_k": 0})
            curve_bits = len(made._terms) * float_bits(made.term_value)

            def cost(k: int) -> int:
                exact_bits: int = min(k, exact_k) * float_bits(made.exact_value)
                return k * made._id_bits + exact_bits + (curve_bits if k > exact_k else 0)

            least = max(1, settings.get("exact_k", 1))
            found = bisect_right(range(least, min(spec.classes, MOST_K) + 1), target_bits, key=cost)
            if found == 0:
                raise CodecError(
                    f"polyk: {target_bits:g} bits a label were asked for, but the least is {cost(least)} (k={least}); "
                    "ask for more, or take vqae"
                )
            settings["k"] = least + found - 1
            settings["exact_k"] = min(settings["k"], exact_k)
        return super().at_bits(spec, target_bits, **settings)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return ids, exact log-probabilities and coefficients.

        Raises:
            CodecError: a row holds nan or +inf, or has fewer than k classes with a probability.
        """
        ids, values = [rows_BC.new_empty((0, self.k), dtype=torch.int64)], [rows_BC.new_empty((0, self.k))]
        step = max(1, CHUNK_VALUES // self.spec.classes)
        for start in range(0, len(rows_BC), step):
            some_BC = rows_BC[start : start + step].float()
            logits_BC = to_logits(some_BC, self.spec) / self.spec.temperature
            found = torch.log_softmax(logits_BC, dim=1).topk(self.k, dim=1)
            ids.append(found.indices)
            values.append(found.values)
        return self._codes(torch.cat(ids), torch.cat(values))

    @property
    def is_sparse(self) -> bool:
        """It is."""
        return True

    def encode_sparse(self, rows: SparseRows) -> Codes:
        """Return the codes of the k likeliest of the classes that are known.

        Raises:
            CodecError: fewer are known of a row, they were drawn, or are at another temperature.
        """
        n_known = rows.ids_BK.shape[1]
        if rows.sampled or rows.spec != self.gives or n_known < self.k:
            raise CodecError(
                f"polyk: found {'drawn' if rows.sampled else 'chosen'} classes of {rows.spec}, {n_known} a row; "
                f"expected the {self.k} likeliest or more of {self.gives}; encode whole rows, or take a smaller k"
            )
        found = rows.log_probs_BK.masked_fill(~rows.is_class_BK, -torch.inf).topk(self.k, dim=1)
        return self._codes(rows.ids_BK.gather(1, found.indices), found.values)

    def decode_sparse(self, codes: Codes) -> SparseRows:
        """Return the k classes as they are stored, which may have more than 1 together, and what each other one gets.

        Raises:
            CorruptError: the codes are none that `encode` makes.
        """
        ids_Bk = code_values(codes["ids"], self._id_bits)
        parts = [from_float_codes(codes["exact"], self.exact_value)] if self._sizes["exact"] else []
        if self._sizes["terms"]:
            coefficients_BT = from_float_codes(codes["terms"], self.term_value)
            parts.append(curve(coefficients_BT, self._terms, self._n_curve))
        values_Bk = torch.cat(parts, dim=1)
        is_twice_B = (ids_Bk.sort(dim=1).values.diff(dim=1) == 0).any(dim=1)
        is_bad_B = is_twice_B | ~torch.isfinite(values_Bk).all(dim=1)
        if bool(is_bad_B.any()):
            row = int(is_bad_B.int().argmax())
            raise CorruptError(
                f"polyk: row {row} of the batch {'names a class twice' if is_twice_B[row] else 'holds inf or nan'}; "
                f"expected {self.k} different classes with finite numbers; the file was not written by this codec"
            )
        return SparseRows(self.gives, ids_Bk, values_Bk, fill_B=self._fill(values_Bk))

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return normalised log-probabilities; -inf for what has no probability."""
        return self.decode_sparse(codes).dense()

    @property
    def _id_bits(self) -> int:
        return (self.spec.classes - 1).bit_length()

    @property
    def _n_curve(self) -> int:
        return self.k - self.exact_k

    @property
    def _terms(self) -> tuple[str, ...]:
        return tuple(self.terms.split(","))

    @property
    def _sizes(self) -> dict[str, int]:
        """Ranks that each array of numbers is for."""
        return {"exact": self.exact_k, "terms": self._n_curve}

    def _codes(self, ids_Bk: Tensor, values_Bk: Tensor) -> Codes:
        if not bool(torch.isfinite(values_Bk).all()):
            raise CodecError(
                f"polyk: a row of {self.spec.space} holds nan or +inf, or fewer than {self.k} classes with a "
                "probability; expected finite numbers, as curves are; set k lower, or take topk with tail=zero"
            )
        codes = {"ids": ids_Bk.to(code_dtype(self._id_bits))}
        if self._sizes["exact"]:
            exact_Bk = values_Bk[:, : self.exact_k]
            if overflows(exact_Bk, self.exact_value):
                raise CodecError(
                    f"polyk: a log-probability is too large for {self.exact_value}, as of a class that is masked; set "
                    "k lower, or exact_value=fp32"
                )
            codes["exact"] = to_float_codes(exact_Bk, self.exact_value)
        if self._sizes["terms"]:
            coefficients_BT = fit_curve(values_Bk[:, self.exact_k :], self._terms, self.solved_in)
            codes["terms"] = to_float_codes(coefficients_BT, self.term_value)
            stored_BT = from_float_codes(codes["terms"], self.term_value)
            if not bool(torch.isfinite(curve(stored_BT, self._terms, self._n_curve)).all()):
                raise CodecError(
                    f"polyk: a curve is too large for {self.term_value}, as through a class that is masked; set k "
                    "lower, term_value=fp32, or fewer terms"
                )
        return codes

    def _fill(self, values_Bk: Tensor) -> Tensor:
        """Return [B]: what every class gets that was not kept; none where those that were have 1 or more."""
        left_B = 1 - values_Bk.exp().sum(dim=1)
        if self.tail == "zero" or self.k == self.spec.classes:
            return torch.full_like(left_B, -torch.inf)
        return (left_B.clamp_min(0) / (self.spec.classes - self.k)).log()
