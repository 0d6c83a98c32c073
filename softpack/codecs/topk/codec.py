"""`topk`: the k most likely classes with their log-probabilities, and a guess at the rest, or its exact mass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype, code_values, later
from softpack.codecs.checks import check_tensors, temperatures_of, temperatures_text
from softpack.codecs.floats import float_bits, from_float_codes, to_float_codes
from softpack.codecs.spaces import PROB_FLOOR, to_logits
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.codecs.topk.fit import Sizes, fit_orders
from softpack.codecs.topk.kept import knows_tail, largest, largest_known, pad, sums, tail_odds
from softpack.codecs.topk.numbers import DEFAULT_STEP, as_int32, from_odds, from_steps, to_odds, to_steps
from softpack.codecs.topk.orders import Orders
from softpack.codecs.topk.settings import check_fitted, check_settings
from softpack.errors import CodecError, CorruptError
from softpack.records import LabelSpec

DEFAULT_K = 20
MINOR = 5  # of the format, which brought all that is `later`


@dataclass(frozen=True)
class TopK(Codec):
    """Store ids and log-probabilities of the k most likely classes, at the rows' own temperature.

    Settings that others have published:

    * FKD marginal smoothing MS-k (Shen and Xing 2022), TinyViT (Wu et al. 2022) and DataCompDR's `smooth`:
      tail=uniform.
    * FKD marginal re-norm, and LPQLD MR-k, which takes its softmax over the k logits alone: tail=zero.
    * one ghost class for the tail, as caches of language models have it: tail=bucket.

    For language models take ids=set, value=steps and tail=mass: under half of the bytes, and exact tails.

    Args:
        spec: what the rows are.
        k: classes kept of each row, 1 to `spec.classes`.
        value: how a log-probability is stored, "fp16", "fp32" or "bf16", or as whole "steps" above the row's least.
        tail: what the other classes get. "uniform": equal shares of the probability that the kept ones leave.
            "zero": none. "min": the least that was kept. "bucket": equal shares of one stored number.
            "mass": equal shares of their exact mass, which is stored at each of `tail_temperatures`.
        tail_temperature: for tail=bucket, the temperature at which the tail's probability is exact.
        ids: "ranked": most likely first, each in full. "set": as a set, in one of several orders of the classes that
            are learnt, where gaps are small, for zstd to make smaller.
        step: for value=steps, in nats; 0 = 0.25.
        tail_temperatures: for tail=mass, such as "1,2,4": the rows' own and then others; "" = their own alone.
        orders: for ids=set, sorts of rows with an order of their own; 0 = chosen at fit, as the next two are.
        listed: classes that come first in each order.
        common: classes that come next, in all orders; then the others by id.
    """

    codec_id: ClassVar[str] = "topk"

    k: int = DEFAULT_K
    value: str = "fp16"
    tail: str = "uniform"
    tail_temperature: float = 1.0
    ids: str = later("ranked")
    step: float = later(0.0)
    tail_temperatures: str = later("")
    orders: int = later(0)
    listed: int = later(0)
    common: int = later(0)

    def __post_init__(self) -> None:
        # Files say these always, so that readers of earlier versions know that there is something new.
        if self.value == "steps" and self.step == 0:
            object.__setattr__(self, "step", DEFAULT_STEP)
        if self.tail == "mass" and self.tail_temperatures == "":
            object.__setattr__(self, "tail_temperatures", str(self.gives.temperature))
        if self.tail == "mass":
            text = temperatures_text(self.codec_id, self.tail_temperatures)
            object.__setattr__(self, "tail_temperatures", text)
        check_settings(self)

    @property
    def minor(self) -> int:
        """1.5 brought sets, steps and masses."""
        return MINOR if super().minor else 0

    @property
    def learns(self) -> bool:
        """Orders of classes, for sets."""
        return self.ids == "set"

    @property
    def zstd_level(self) -> int | None:
        """High for sets: 30 microseconds a row of 64 to write, a tenth fewer bytes, and faster to read than words."""
        return 16 if self.learns else None

    @property
    def gives(self) -> LabelSpec:
        """Log-probabilities at the rows' own temperature, 1 for logits."""
        return LabelSpec(self.spec.classes, "log_probs", self.spec.temperature)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """The ids, most likely first or as gaps; their log-probabilities; and what is known of the tail, if any."""
        value_bits = 8 if self.value == "steps" else float_bits(self.value)
        values = CodeArray("values", (self.k,), value_bits, 1 << value_bits)
        if self.tail in ("bucket", "mass") and self._n_tail:
            shape = () if self.tail == "bucket" else (len(self.masses_at),)
            return (*self._id_arrays, values, CodeArray("tail", shape, 16, 1 << 16))
        return (*self._id_arrays, values)

    @cached_property
    def masses_at(self) -> tuple[float, ...]:
        """The temperatures at which the tail's mass is stored: the rows' own first; none where `tail` is no mass."""
        return temperatures_of(self.codec_id, self.tail_temperatures) if self.tail == "mass" else ()

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> TopK:
        """Return the codec of the largest `k` that costs at most `target_bits` a label, before any compression.

        Raises:
            CodecError: a single class costs more.
        """
        if "k" not in settings:
            least = cls(spec, **settings, k=1)
            most = cls(spec, **settings, k=spec.classes)
            if least.bits_per_label() > target_bits:
                raise CodecError(
                    f"topk: {target_bits:g} bits a label were asked for, but the least is "
                    f"{least.bits_per_label()} (k=1); ask for more, or take vqae"
                )
            each = sum(array.bits for array in least.codes if array.shape == (1,) and array.name != "tail")
            k = int(min(spec.classes - 1, (target_bits - least.bits_per_label()) // each + 1))
            settings["k"] = spec.classes if most.bits_per_label() <= target_bits else k
        return super().at_bits(spec, target_bits, **settings)

    # -- work ----------------------------------------------------------------------------------------

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> TopK:
        """Return this codec with orders of the classes, learnt from the sets that these rows keep; blocks may be many.

        Raises:
            CodecError: there are no rows.
        """
        if not self.learns:
            return self
        return self._fitted([largest(block, self.k) for block in blocks], seed, n_rows, progress)

    def fit_sparse(
        self,
        blocks: Iterable[SparseRows],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
    ) -> TopK:
        """Return this codec fitted to rows of which some classes are known; see `fit`."""
        if not self.learns:
            return self
        parts = []
        for rows in blocks:
            ids_Bk = rows.ids_BK.gather(1, largest_known(rows, self.k))
            parts.append(pad(ids_Bk, torch.arange(self.k, device=ids_Bk.device)))
        return self._fitted(parts, seed, n_rows, progress)

    def _fitted(self, ids: list[Tensor], seed: int, n_rows: int | None, progress: Progress | None) -> TopK:
        if not sum(map(len, ids)):
            raise CodecError("topk: there are no rows to learn orders of classes from; give at least one")
        ids_Nk, sizes = torch.cat(ids), Sizes(self.orders, self.listed, self.common)
        n_rows = n_rows or len(ids_Nk)
        orders, sizes = fit_orders(ids_Nk, self.spec.classes, sizes, n_rows, seed, progress)
        return dataclasses.replace(self, **dataclasses.asdict(sizes)).load_state(orders.tensors(sizes.common))

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the codes of the k largest, equal ones by ascending id.

        Raises:
            CodecError: a row holds nan or +inf, or is -inf (or 0, of probabilities) everywhere; or the codec was not
                fitted, where it learns.
        """
        shares_out = self.tail in ("uniform", "min", "bucket")
        if self.spec.space == "logits" and shares_out and bool((rows_BC == -torch.inf).any()):
            raise CodecError(
                f"topk: logits are -inf for the classes that were not kept, and tail={self.tail} would give these a "
                "probability; set tail=zero"
            )
        ids_Bk = largest(rows_BC, self.k)
        logits_BC = to_logits(rows_BC.float(), self.spec) / self.spec.temperature
        log_probs_BC = torch.log_softmax(logits_BC, dim=-1)
        values_Bk = log_probs_BC.gather(1, ids_Bk)
        if bool(values_Bk.isnan().any()):
            raise CodecError(
                f"topk: a row of {self.spec.space} holds nan, +inf or no probability at all; "
                "expected a distribution; leave such rows out"
            )
        codes = self._codes_of(ids_Bk, values_Bk)
        if self.tail == "bucket" and self._n_tail:
            codes["tail"] = to_float_codes(self._bucket(log_probs_BC, ids_Bk), "fp16")
        if self.masses_at and self._n_tail:
            tail_BC = log_probs_BC.scatter_(1, ids_Bk, -torch.inf)
            pairs = zip(sums(tail_BC, self._scales), sums(values_Bk, self._scales), strict=True)
            odds = [tail_B - kept_B for tail_B, kept_B in pairs]
            codes["tail"] = to_odds(torch.stack(odds, dim=1))
        return codes

    def encode_sparse(self, rows: SparseRows) -> Codes:
        """Return the codes of the k likeliest of the classes that are known; the others of them go to the tail.

        Where a row has fewer than k, classes of probability zero fill it up; of tail=mass they come back as no class.

        Raises:
            CodecError: there are fewer than k places, a row has no class, the rows are of other classes or another
                temperature, are draws, or do not say what the tail needs.
        """
        if (rows.spec.classes, rows.spec.temperature) != (self.spec.classes, self.gives.temperature):
            raise CodecError(
                f"topk: rows are of {rows.spec.classes} classes at T={rows.spec.temperature:g}; the codec takes "
                f"{self.spec.classes} at T={self.gives.temperature:g}"
            )
        chosen_Bk = largest_known(rows, self.k)
        T0 = self.gives.temperature
        log_probs_BK = rows.at(T0)[0] if knows_tail(rows, T0) else rows.log_probs_BK
        values_Bk = log_probs_BK.gather(1, chosen_Bk)
        ids_Bk = rows.ids_BK.gather(1, chosen_Bk)
        values_Bk = values_Bk.masked_fill(ids_Bk == NO_CLASS, -torch.inf)
        if not bool(values_Bk[:, 0].isfinite().all()):
            raise CodecError("topk: a row has no class with a probability; leave such rows out")
        first_k = self._orders.base_C[: self.k] if self.learns else torch.arange(self.k, device=ids_Bk.device)
        codes = self._codes_of(pad(ids_Bk, first_k), values_Bk)
        if self.tail == "bucket" and self._n_tail:
            scale = self._tail_scale
            tail_B = self._odds(rows, chosen_Bk, self.tail_temperature) + (values_Bk * scale).logsumexp(dim=1)
            codes["tail"] = to_float_codes((tail_B - math.log(self._n_tail)) / scale, "fp16")
        if self.masses_at and self._n_tail:
            odds = [self._odds(rows, chosen_Bk, T) for T in self.masses_at]
            codes["tail"] = to_odds(torch.stack(odds, dim=1))
        return codes

    @property
    def is_sparse(self) -> bool:
        """It is."""
        return True

    def decode_sparse(self, codes: Codes) -> SparseRows:
        """Return the k classes as they are stored, and what each other class gets, or all of them together.

        Raises:
            CorruptError: a row has no class with a probability, or holds nan; of settings that 1.5 brought.
        """
        ids_Bk, values_Bk = self._ids(codes), self._values(codes)
        if self.tail != "mass":
            fill_B = self._fill(values_Bk, codes)[:, 0]
            if self.value == "steps":  # which are known but for a constant
                tail_B = fill_B + math.log(max(1, self._n_tail))
                total_B = torch.logaddexp(values_Bk.logsumexp(dim=1), tail_B)
                values_Bk, fill_B = values_Bk - total_B[:, None], fill_B - total_B
            return SparseRows(self.gives, ids_Bk, values_Bk, fill_B=fill_B)
        if bool(values_Bk.amin() == -torch.inf) if values_Bk.numel() else False:
            ids_Bk = ids_Bk.masked_fill(values_Bk == -torch.inf, NO_CLASS)
        return SparseRows(self.gives, ids_Bk, *self._with_masses(values_Bk, codes))

    def _with_masses(self, weights_Bk: Tensor, codes: Codes) -> tuple[Tensor, None, dict[float, Tensor]]:
        """Return normalised log-probabilities, no fill, and the tails at all temperatures."""
        odds = self._log_odds(codes, weights_Bk)
        if self.value != "steps":  # which lie below the likeliest as they are
            weights_Bk = weights_Bk - weights_Bk.amax(dim=1, keepdim=True)
        kept = [
            (weights_Bk * scale if scale != 1 else weights_Bk).exp().sum(dim=1).log() for scale in self._scales
        ]
        total_B = kept[0] + softplus(odds[0])
        tails = {
            T: odds_B + kept_B - total_B * scale
            for T, scale, odds_B, kept_B in zip(self.masses_at, self._scales, odds, kept, strict=True)
        }
        return weights_Bk.sub_(total_B[:, None]), None, tails

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return normalised log-probabilities; -inf for what has no probability."""
        if self.tail == "mass":
            return self.decode_sparse(codes).dense()
        values_Bk = self._values(codes)
        rows_BC = self._fill(values_Bk, codes).repeat(1, self.spec.classes)
        rows_BC.scatter_(1, self._ids(codes), values_Bk)
        return torch.log_softmax(rows_BC, dim=-1)

    # -- what all rows share -------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return the orders, where there are any."""
        return dict(self.tensors)

    def load_state(self, tensors: Mapping[str, Tensor]) -> TopK:
        """Return this codec with the orders of a file.

        Raises:
            CodecError: a tensor is missing, unknown, of another shape than the settings say, or holds no classes.
        """
        if self.learns:
            check_fitted(self)
        shapes = {"common": (self.common,), "lists": (self.orders, self.listed)} if self.learns else {}
        check_tensors(self.codec_id, tensors, {name: (torch.int32, shape) for name, shape in shapes.items()})
        codec = self.with_tensors(tensors)
        if self.learns:
            _ = codec._orders  # for its error
        return codec

    @cached_property
    def _orders(self) -> Orders:
        if not self.tensors:
            raise CodecError("topk: ids=set has orders of classes to learn first; fit the codec to some rows")
        return Orders.stored(self.tensors, self.spec.classes)

    # -- ids and values ------------------------------------------------------------------------------

    @property
    def _id_arrays(self) -> tuple[CodeArray, ...]:
        if not self.learns:
            return (CodeArray("ids", (self.k,), self._id_bits, self.spec.classes),)
        orders, places = max(1, self.orders), self.spec.classes + self.listed
        order = CodeArray("order", (), max(1, (orders - 1).bit_length()), orders)
        return order, CodeArray("gaps", (self.k,), (places - 1).bit_length(), places)

    def _codes_of(self, ids_Bk: Tensor, values_Bk: Tensor) -> Codes:
        values_Bk = (
            to_steps(values_Bk, self.step) if self.value == "steps" else to_float_codes(values_Bk, self.value)
        )
        if not self.learns:
            return {"ids": ids_Bk.to(code_dtype(self._id_bits)), "values": values_Bk}
        order_B, gaps_Bk, which_Bk = self._orders.gaps(ids_Bk)
        order, gaps = self._id_arrays
        return {
            "order": order_B.to(code_dtype(order.bits)),
            "gaps": gaps_Bk.to(code_dtype(gaps.bits)),
            "values": values_Bk.gather(1, which_Bk),
        }

    def _ids(self, codes: Codes) -> Tensor:
        if not self.learns:
            return code_values(codes["ids"], self._id_bits)
        order, gaps = (as_int32(codes[array.name], array.bits) for array in self._id_arrays)
        return self._orders.ids(order, gaps)

    def _values(self, codes: Codes) -> Tensor:
        """Return log-probabilities; of steps how far they lie above the likeliest of their row."""
        if self.value == "steps":
            values_Bk, most_B = from_steps(codes["values"], self.step)
            self._check_largest(most_B)
            return values_Bk
        values_Bk = from_float_codes(codes["values"], self.value)
        if self.minor:  # readers of 1.0 never looked
            self._check_largest(values_Bk.amax(dim=1))
        return values_Bk

    def _check_largest(self, largest_B: Tensor) -> None:
        is_bad_B = ~torch.isfinite(largest_B)
        if bool(is_bad_B.any()):
            row = int(is_bad_B.int().argmax())
            raise CorruptError(
                f"topk: row {row} of the batch has {float(largest_B[row])} as its largest value; expected a "
                "class with a probability, and numbers; the file was not written by this codec"
            )

    @property
    def _id_bits(self) -> int:
        return (self.spec.classes - 1).bit_length()

    # -- the tail ------------------------------------------------------------------------------------

    @property
    def _n_tail(self) -> int:
        return self.spec.classes - self.k

    @property
    def _scales(self) -> list[float]:
        return [self.spec.temperature / T for T in self.masses_at]

    @property
    def _tail_scale(self) -> float:
        # Log-probabilities at T0 are seen at T as softmax(row * T0 / T).
        return self.spec.temperature / self.tail_temperature

    def _bucket(self, log_probs_BC: Tensor, ids_Bk: Tensor) -> Tensor:
        """Return [B]: what each class of the tail gets so that their sum is exact at `tail_temperature`."""
        tail_BC = (log_probs_BC * self._tail_scale).scatter_(1, ids_Bk, -torch.inf)
        mean_B = tail_BC.logsumexp(dim=-1) - torch.log(torch.tensor(float(self._n_tail)))
        return mean_B / self._tail_scale

    def _odds(self, rows: SparseRows, chosen_Bk: Tensor, temperature: float) -> Tensor:
        if not knows_tail(rows, temperature):
            there = ", ".join(f"{T:g}" for T in rows.tails) or "no temperature"
            raise CodecError(
                f"topk: tail={self.tail} stores what the classes that are not kept have together at T={temperature:g}; "
                f"these rows say it for {there}; ask for other temperatures, or encode whole rows"
            )
        return tail_odds(rows, chosen_Bk, temperature)

    def _log_odds(self, codes: Codes, values_Bk: Tensor) -> list[Tensor]:
        if not self._n_tail:
            return [torch.full_like(values_Bk[:, 0], -torch.inf)] * len(self.masses_at)
        return [*from_odds(code_values(codes["tail"], 16)).t()]

    def _fill(self, values_Bk: Tensor, codes: Codes) -> Tensor:
        """Return [B, 1]: what every class gets that was not kept."""
        if self._n_tail == 0 or self.tail == "zero":
            return torch.full_like(values_Bk[:, :1], -torch.inf)
        if self.tail == "min":
            return values_Bk.amin(dim=1, keepdim=True)
        if self.tail == "bucket":
            fill_B1 = from_float_codes(codes["tail"], "fp16").unsqueeze(-1)
            if self.minor and bool((fill_B1.isnan() | (fill_B1 == torch.inf)).any()):
                raise CorruptError("topk: a tail is NaN or infinite; the file was not written by this codec")
            return fill_B1
        left_B1 = (1 - values_Bk.exp().sum(dim=-1, keepdim=True)) / self._n_tail
        return left_B1.clamp_min(PROB_FLOOR).log()
