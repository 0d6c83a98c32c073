"""`vqae`: a vector-quantised autoencoder of rows, trained for KL."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype, code_values
from softpack.codecs.checks import check_integer, check_tensors
from softpack.codecs.spaces import log_domain, to_log_domain, to_logits
from softpack.codecs.vqae import fit, nets
from softpack.codecs.vqae.rate import slots_at, widths_at
from softpack.errors import CodecError
from softpack.records import LabelSpec

LIMITS = {  # setting: (least, most)
    "slots": (1, 4096),
    "k": (2, 1 << 16),
    "d_c": (0, 1024),
    "d_h": (0, 1 << 14),
    "steps": (0, 1 << 24),
    "batch": (1, 1 << 20),
}
MAX_TEMPERATURES = 16


@dataclass(frozen=True)
class VQAE(Codec):
    """Code a row by `slots` indices into codebooks, between an encoder and a decoder network.

    It is trained on KL(teacher || decoded) * T^2. Decoded logits have mean zero in each row up to small errors:
    the constant of a row, which no softmax sees, is not kept.

    Args:
        slots: codes of a row.
        k: codewords of a slot; a code costs ceil(log2 k) bits.
        d_c: numbers in a codeword; 0 = chosen at fit to suit the rows.
        d_h: hidden units of encoder and decoder; 0 = chosen at fit to suit the rows.
        temperatures: that the codec is trained at, such as "1,4,20".
        steps: of training.
        batch: rows a step.
        lr: highest learning rate.
    """

    codec_id: ClassVar[str] = "vqae"

    slots: int = 8
    k: int = 256
    d_c: int = 0
    d_h: int = 0
    temperatures: str = "1,4,20"
    steps: int = 1600
    batch: int = 256
    lr: float = 5e-3

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            check_integer(self.codec_id, name, getattr(self, name), least, most)
        if type(self.lr) not in (int, float) or not 0 < self.lr <= 1:
            raise CodecError(f"vqae: lr is {self.lr!r}; expected a number above 0, up to 1")
        _temperatures(self.temperatures)

    @property
    def gives(self) -> LabelSpec:
        """Logits stay logits; log-probabilities and probabilities become normalised log-probabilities."""
        return log_domain(self.spec)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """One array, the index of the codeword in each slot."""
        return (CodeArray("index", (self.slots,), (self.k - 1).bit_length(), self.k),)

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> VQAE:
        """Return the codec with the most bits a label up to `target_bits`: 64 gives 8 slots of 256 codewords.

        `slots`, `k` and the other settings stay if given. Not every number is a product: 65 gives 64 too.

        Raises:
            CodecError: fewer than one bit is asked for, or fewer than the given slots and k cost.
        """
        cls(spec, **settings)  # for its errors
        target = math.floor(min(max(target_bits, 0.0), 1e6))
        slots, k = slots_at(target, settings.pop("slots", None), settings.pop("k", None))
        return cls(spec, slots=min(slots, LIMITS["slots"][1]), k=k, **settings)

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> VQAE:
        """Return this codec trained on rows in the space of `spec`, with the widths it chose.

        Raises:
            CodecError: there are no rows, or they hold nan, inf or numbers too large for float16.
        """
        parts = [self._centred(block) for block in blocks]
        if not sum(map(len, parts)):
            raise CodecError("vqae: there are no rows to fit; give at least one")
        rows_RC = torch.cat(parts)
        del parts
        codec = self._with_widths(len(rows_RC), n_rows or len(rows_RC))
        plan = fit.Plan(
            slots=codec.slots,
            k=codec.k,
            d_c=codec.d_c,
            d_h=codec.d_h,
            temperatures=_temperatures(self.temperatures),
            given_at=self.gives.temperature,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=seed,
        )
        return codec.load_state(fit.train(rows_RC, plan, progress))

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the indices of the codewords nearest to the encoder's latents.

        Raises:
            CodecError: the codec has no encoder, or a row holds nan or inf.
        """
        if not self.can_encode:
            raise CodecError(
                "vqae: this codec has its decoder alone, as files do, and cannot encode; "
                "pass the model that `softpack fit` wrote, or fit the codec to the rows"
            )
        index_BS = fit.encode(self._nets, self._centred(rows_BC), self.slots)
        return {"index": index_BS.to(code_dtype(self.codes[0].bits))}

    @torch.no_grad()
    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return float32 rows [B, C] in the space `gives`. Codes must be below `k`, as containers check.

        Raises:
            CodecError: the codec was neither fitted nor loaded.
        """
        if not self.tensors:
            raise CodecError(
                "vqae: this codec was neither fitted nor loaded, and cannot decode; call fit() first"
            )
        index_BS = code_values(codes["index"], self.codes[0].bits).clamp_(max=self.k - 1)
        decoded_BC = nets.decoded(self._nets, nets.codewords(self._nets["codebooks"], index_BS))
        return decoded_BC if self.gives.space == "logits" else torch.log_softmax(decoded_BC, 1)

    def state(self) -> dict[str, Tensor]:
        """Return decoder and codebooks, float16."""
        return {name: self.tensors[name] for name in self._layout(nets.decoder_layout) if name in self.tensors}

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the encoder and the codebooks that it looks into, float16."""
        return {name: self.tensors[name] for name in self._layout(nets.encoder_layout) if name in self.tensors}

    def load_state(self, tensors: Mapping[str, Tensor]) -> VQAE:
        """Return this codec with the tensors of `state()`, or of `state()` and `encoder_state()`."""
        if not (self.d_c and self.d_h):
            raise CodecError(
                f"vqae: d_c={self.d_c} and d_h={self.d_h} of a stored model; expected both above 0"
            )
        layout = self._layout(nets.decoder_layout)
        if any(name.startswith("encoder_") for name in tensors):
            layout |= self._layout(nets.encoder_layout)
        check_tensors(self.codec_id, tensors, layout)
        return self.with_tensors(tensors)

    @property
    def can_encode(self) -> bool:
        """Whether the encoder is here."""
        return "encoder_weight" in self.tensors

    @cached_property
    def _nets(self) -> dict[str, Tensor]:
        return nets.working(self.tensors)

    def _layout(self, layout_of: Callable[[int, int, int, int, int], nets.Layout]) -> nets.Layout:
        return layout_of(self.spec.classes, self.slots, self.k, self.d_c, self.d_h)

    def _with_widths(self, n_sampled: int, n_rows: int) -> VQAE:
        rank = max(1, min(n_sampled, self.spec.classes) - 1)
        d_c, d_h = widths_at(n_rows, self.spec.classes, rank, self.slots, self.k, self.d_c, self.d_h)
        return dataclasses.replace(self, d_c=d_c, d_h=d_h)

    def _centred(self, rows_BC: Tensor) -> Tensor:
        """Return rows as logits whose mean is zero, and refuse nan and inf."""
        logits_BC = to_logits(to_log_domain(rows_BC, self.spec), self.gives)
        means_B1 = logits_BC.mean(1, keepdim=True)
        if not torch.isfinite(means_B1).all():
            row = int((~torch.isfinite(means_B1)).nonzero()[0, 0])
            raise CodecError(
                f"vqae: row {row} of this batch holds nan or inf; expected finite {self.spec.space}. "
                "Take codec raw for such rows, or give probs, where zeros may stand"
            )
        return logits_BC - means_B1


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        values = ()
    if not 0 < len(values) <= MAX_TEMPERATURES or not all(1e-3 <= value <= 1e4 for value in values):
        raise CodecError(
            f"vqae: temperatures is {text!r}; expected 1 to {MAX_TEMPERATURES} numbers from 0.001 to 10000 "
            'with commas between, such as "1,4,20"'
        )
    return values
