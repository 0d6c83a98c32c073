"""`topk`: the k most likely classes with their log-probabilities, and a guess at the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, code_dtype, code_values
from softpack.codecs.checks import check_choice, check_integer, check_positive
from softpack.codecs.floats import FLOATS, float_bits, from_float_codes, to_float_codes
from softpack.codecs.spaces import PROB_FLOOR, to_logits
from softpack.codecs.sparse import SparseRows
from softpack.errors import CodecError
from softpack.records import LabelSpec

TAILS = ("uniform", "zero", "min", "bucket")
DEFAULT_K = 20


@dataclass(frozen=True)
class TopK(Codec):
    """Store ids and log-probabilities of the k most likely classes, at the rows' own temperature.

    Settings that others have published:

    * FKD marginal smoothing MS-k (Shen and Xing 2022), TinyViT (Wu et al. 2022) and DataCompDR's `smooth`:
      tail=uniform.
    * FKD marginal re-norm, and LPQLD MR-k, which takes its softmax over the k logits alone: tail=zero.
    * one ghost class for the tail, as caches of language models have it: tail=bucket.

    Args:
        spec: what the rows are.
        k: classes kept of each row, 1 to `spec.classes`.
        value: how a log-probability is stored, "fp16", "fp32" or "bf16".
        tail: what the other classes get. "uniform": equal shares of the probability that the kept ones leave.
            "zero": none. "min": the least that was kept. "bucket": equal shares of one stored number.
        tail_temperature: for tail=bucket, the temperature at which the tail's probability is exact.
    """

    codec_id: ClassVar[str] = "topk"

    k: int = DEFAULT_K
    value: str = "fp16"
    tail: str = "uniform"
    tail_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_integer(self.codec_id, "k", self.k, 1, self.spec.classes)
        check_choice(self.codec_id, "value", self.value, FLOATS)
        check_choice(self.codec_id, "tail", self.tail, TAILS)
        check_positive(self.codec_id, "tail_temperature", self.tail_temperature)
        if self.tail != "bucket" and self.tail_temperature != 1.0:
            raise CodecError(f"topk: tail_temperature is for tail=bucket; found tail={self.tail}, leave it out")

    @property
    def gives(self) -> LabelSpec:
        """Log-probabilities at the rows' own temperature, 1 for logits."""
        return LabelSpec(self.spec.classes, "log_probs", self.spec.temperature)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """The ids, most likely first, the bit patterns of their log-probabilities, and the bucket's if any."""
        arrays = (
            CodeArray("ids", (self.k,), self._id_bits, self.spec.classes),
            CodeArray("values", (self.k,), float_bits(self.value), 1 << float_bits(self.value)),
        )
        return (*arrays, CodeArray("tail", (), 16, 1 << 16)) if self._has_bucket else arrays

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> TopK:
        """Return the codec of the largest `k` that costs at most `target_bits` a label.

        Raises:
            CodecError: a single class costs more.
        """
        if "k" not in settings:
            least = cls(spec, **settings, k=1)
            tail_bits = 16 if least._has_bucket else 0
            most = cls(spec, **settings, k=spec.classes)
            if least.bits_per_label() > target_bits:
                raise CodecError(
                    f"topk: {target_bits:g} bits a label were asked for, but the least is "
                    f"{least.bits_per_label()} (k=1); ask for more, or take vqae"
                )
            each = least._id_bits + float_bits(least.value)
            k = int(min(spec.classes - 1, (target_bits - tail_bits) // each))
            settings["k"] = spec.classes if most.bits_per_label() <= target_bits else k
        return super().at_bits(spec, target_bits, **settings)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return ids and log-probabilities in descending order, equal ones by ascending id.

        Raises:
            CodecError: a row holds nan or +inf, or is -inf (or 0, of probabilities) everywhere.
        """
        if self.spec.space == "logits" and self.tail != "zero" and bool((rows_BC == -torch.inf).any()):
            raise CodecError(
                f"topk: logits are -inf for the classes that were not kept, and tail={self.tail} would give these a "
                "probability; set tail=zero"
            )
        ids_Bk = _largest(rows_BC, self.k)
        logits_BC = to_logits(rows_BC.float(), self.spec) / self.spec.temperature
        log_probs_BC = torch.log_softmax(logits_BC, dim=-1)
        values_Bk = log_probs_BC.gather(1, ids_Bk)
        if bool(values_Bk.isnan().any()):
            raise CodecError(
                f"topk: a row of {self.spec.space} holds nan, +inf or no probability at all; "
                "expected a distribution; leave such rows out"
            )
        codes = {
            "ids": ids_Bk.to(code_dtype(self._id_bits)),
            "values": to_float_codes(values_Bk, self.value),
        }
        if self._has_bucket:
            codes["tail"] = to_float_codes(self._bucket(log_probs_BC, ids_Bk), "fp16")
        return codes

    def encode_sparse(self, rows: SparseRows) -> Codes:
        """Return the codes of rows of which only some classes are known, as `encode` does of whole ones.

        Raises:
            CodecError: a row has fewer than k classes.
        """
        n_least = int(rows.is_class_BK.sum(dim=1).min()) if len(rows) else self.k
        if n_least < self.k:
            raise CodecError(f"topk: k is {self.k}, and a row has {n_least} classes; set k={n_least} or less")
        kept_BK = rows.log_probs_BK.masked_fill(~rows.is_class_BK, -torch.inf)
        values_BK, order_BK = kept_BK.sort(dim=1, descending=True, stable=True)
        values_Bk, ids_Bk = values_BK[:, : self.k], rows.ids_BK.gather(1, order_BK)[:, : self.k]
        codes = {
            "ids": ids_Bk.to(code_dtype(self._id_bits)),
            "values": to_float_codes(values_Bk, self.value),
        }
        if self._has_bucket:
            kept_BK, tail_B = rows.at(self.tail_temperature)
            tail_BX = torch.cat([kept_BK.gather(1, order_BK)[:, self.k :], tail_B[:, None]], dim=1)
            mean_B = tail_BX.logsumexp(dim=1) - math.log(self._n_tail)
            codes["tail"] = to_float_codes(mean_B / self._tail_scale, "fp16")
        return codes

    @property
    def is_sparse(self) -> bool:
        """It is."""
        return True

    def decode_sparse(self, codes: Codes) -> SparseRows:
        """Return the k classes as they are stored, and what each other class gets."""
        values_Bk = from_float_codes(codes["values"], self.value)
        ids_Bk = code_values(codes["ids"], self._id_bits)
        return SparseRows(self.gives, ids_Bk, values_Bk, fill_B=self._fill(values_Bk, codes)[:, 0])

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return normalised log-probabilities; -inf for what has no probability."""
        values_Bk = from_float_codes(codes["values"], self.value)
        rows_BC = self._fill(values_Bk, codes).repeat(1, self.spec.classes)
        rows_BC.scatter_(1, code_values(codes["ids"], self._id_bits), values_Bk)
        return torch.log_softmax(rows_BC, dim=-1)

    @property
    def _id_bits(self) -> int:
        return (self.spec.classes - 1).bit_length()

    @property
    def _n_tail(self) -> int:
        return self.spec.classes - self.k

    @property
    def _has_bucket(self) -> bool:
        return self.tail == "bucket" and self._n_tail > 0

    @property
    def _tail_scale(self) -> float:
        # Log-probabilities at T0 are seen at T as softmax(row * T0 / T).
        return self.spec.temperature / self.tail_temperature

    def _bucket(self, log_probs_BC: Tensor, ids_Bk: Tensor) -> Tensor:
        """Return [B]: what each class of the tail gets so that their sum is exact at `tail_temperature`."""
        tail_BC = (log_probs_BC * self._tail_scale).scatter_(1, ids_Bk, -torch.inf)
        mean_B = tail_BC.logsumexp(dim=-1) - torch.log(torch.tensor(float(self._n_tail)))
        return mean_B / self._tail_scale

    def _fill(self, values_Bk: Tensor, codes: Codes) -> Tensor:
        """Return [B, 1]: what every class gets that was not kept."""
        if self._n_tail == 0 or self.tail == "zero":
            return torch.full_like(values_Bk[:, :1], -torch.inf)
        if self.tail == "min":
            return values_Bk[:, -1:]
        if self.tail == "bucket":
            return from_float_codes(codes["tail"], "fp16").unsqueeze(-1)
        left_B1 = (1 - values_Bk.exp().sum(dim=-1, keepdim=True)) / self._n_tail
        return left_B1.clamp_min(PROB_FLOOR).log()


def _largest(rows_BC: Tensor, k: int) -> Tensor:
    """Return the ids [B, k] of the largest numbers, in descending order, equal ones by ascending id.

    `torch.topk` alone takes any of equal numbers, and fp16 rows hold many. So number and id become one integer.
    """
    bits_BC = (rows_BC.float() + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes -0.0 equal to 0.0
    ordered_BC = torch.where(bits_BC < 0, bits_BC ^ 0x7FFFFFFF, bits_BC)  # float order is now integer order
    last = rows_BC.shape[1] - 1
    backwards_C = torch.arange(last, -1, -1, device=rows_BC.device)
    keys_BC = (ordered_BC << 32) | backwards_C
    return last - (keys_BC.topk(k, dim=1).values & 0xFFFFFFFF)
