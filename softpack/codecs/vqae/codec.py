"""`vqae`: a vector-quantised autoencoder of rows, trained for KL."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype, code_values, later
from softpack.codecs.checks import check_integer, check_tensors, temperatures_of, temperatures_text
from softpack.codecs.principal import joined
from softpack.codecs.spaces import centred_logits, log_domain
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
    "stages": (1, 64),
    "d_x": (0, 1 << 14),
    "search": (0, 1 << 10),
}
CONTEXT_FEATURES = 64  # of the context that the networks see, unless set


@dataclass(frozen=True)
class VQAE(Codec):
    """Code a row by `slots` indices into codebooks, between an encoder and a decoder network.

    It is trained on KL(teacher || decoded) * T^2. Decoded logits have mean zero in each row up to small errors:
    the constant of a row, which no softmax sees, is not kept.

    Args:
        slots: codes of a row in each stage.
        k: codewords of a slot; a code costs ceil(log2 k) bits.
        d_c: numbers in a codeword; 0 = chosen at fit to suit the rows.
        d_h: hidden units of encoder and decoder; 0 = chosen at fit to suit the rows.
        temperatures: that the codec is trained at, such as "1,4,20".
        steps: of training.
        batch: rows a step.
        lr: highest learning rate.
        stages: of residual quantisation; each adds `slots` codes that refine those before.
        context: code rows given their item's prototype.
        d_x: numbers that the networks see of the context; 0 = chosen at fit.
        search: codewords that encoding tries in each slot, to choose the one of least KL; 0 takes the nearest.
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
    stages: int = later(1)
    context: bool = later(False)
    d_x: int = later(0)
    search: int = later(0)

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            check_integer(self.codec_id, name, getattr(self, name), least, most)
        if type(self.lr) not in (int, float) or not 0 < self.lr <= 1:
            raise CodecError(f"vqae: lr is {self.lr!r}; expected a number above 0, up to 1")
        if type(self.context) is not bool:
            raise CodecError(f"vqae: context is {self.context!r}; expected true or false")
        if self.d_x and not self.context:
            raise CodecError(f"vqae: d_x is {self.d_x}, but there is no context; set context=true too")
        object.__setattr__(self, "temperatures", temperatures_text(self.codec_id, self.temperatures))

    @property
    def gives(self) -> LabelSpec:
        """Logits stay logits; log-probabilities and probabilities become normalised log-probabilities."""
        return log_domain(self.spec)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """For each stage one array, the index of the codeword in each slot."""
        bits = (self.k - 1).bit_length()
        return tuple(
            CodeArray(_array_name(stage), (self.slots,), bits, self.k, stage + 1)
            for stage in range(self.stages)
        )

    @property
    def takes_context(self) -> bool:
        """As set."""
        return self.context

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> VQAE:
        """Return the codec with the most bits a label up to `target_bits`: 64 gives 8 slots of 256 codewords.

        `slots`, `k`, `stages` and the other settings stay if given. Not every number is a product: 65 gives 64 too.

        Raises:
            CodecError: fewer than one bit is asked for, or fewer than the given slots, k and stages cost.
        """
        given = cls(spec, **settings)  # for its errors
        target = math.floor(min(max(target_bits, 0.0), 1e6))
        slots, k = slots_at(target, settings.pop("slots", None), settings.pop("k", None), given.stages)
        return cls(spec, slots=min(slots, LIMITS["slots"][1]), k=k, **settings)

    def first_stages(self, n: int) -> VQAE:
        """Return the codec that decodes the first `n` stages; it cannot encode."""
        if not 1 <= n <= self.stages:
            raise CodecError(f"vqae: the codes have {self.stages} stages; {n} were asked for")
        if n == self.stages:
            return self
        fewer = dataclasses.replace(self, stages=n)
        if not self.tensors:
            return fewer
        codebooks = self.tensors["codebooks"][:n]
        return fewer.load_state({**self.state(), "codebooks": codebooks[0] if n == 1 else codebooks})

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
            CodecError: there are no rows, they hold nan, inf or numbers too large for float16, or their context
                is missing.
        """
        parts = [self._centred(block) for block in blocks]
        if not sum(map(len, parts)):
            raise CodecError("vqae: there are no rows to fit; give at least one")
        residual_RC, context_RC = joined(parts), None
        if contexts is not None:
            context_RC = torch.cat([*contexts])
        self._check_context(residual_RC, context_RC)
        if context_RC is not None:
            residual_RC -= context_RC
            _check_finite(residual_RC)
        codec = self._with_widths(len(residual_RC), n_rows or len(residual_RC))
        plan = fit.Plan(
            sizes=codec._sizes,
            temperatures=temperatures_of(self.codec_id, self.temperatures),
            given_at=1.0 if self.context else self.gives.temperature,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            n_candidates=self.search,
            seed=seed,
        )
        return codec.load_state(fit.train(residual_RC, context_RC, plan, progress))

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the indices of the codewords nearest to the encoder's latents, or of those that a search found.

        Raises:
            CodecError: the codec has no encoder, a row holds nan or inf, or the context is missing.
        """
        if not self.can_encode:
            raise CodecError(
                "vqae: this codec has its decoder alone, as files do, and cannot encode; "
                "pass the model that `softpack fit` wrote, or fit the codec to the rows"
            )
        residual_BC = self._centred(rows_BC)
        self._check_context(residual_BC, context_BC)
        if context_BC is not None:
            residual_BC = residual_BC - context_BC
            _check_finite(residual_BC)
        temperatures = temperatures_of(self.codec_id, self.temperatures)
        index_BNS = fit.encode(self._logit_nets, residual_BC, context_BC, temperatures, self.search)
        return {
            array.name: index_BNS[:, stage].to(code_dtype(array.bits)) for stage, array in enumerate(self.codes)
        }

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return float32 rows [B, C] in the space `gives`. Codes must be below `k`, as containers check.

        Raises:
            CodecError: the codec was neither fitted nor loaded, or the context is missing.
        """
        return self._decoded(codes, None if context_BC is None else context_BC.clone(), None)

    def features(self, context_BC: Tensor) -> Tensor | None:
        """Return the `d_x` numbers that the networks see of the context."""
        return nets.features(self._nets, context_BC) if self.context else None

    def decode_onto(self, context_BC: Tensor, codes: Codes, features_BX: Tensor | None = None) -> Tensor:
        """Return the same as `decode` in the memory of the context."""
        return self._decoded(codes, context_BC, features_BX)

    @torch.no_grad()
    def _decoded(self, codes: Codes, onto_BC: Tensor | None, features_BX: Tensor | None) -> Tensor:
        if not self.tensors:
            raise CodecError(
                "vqae: this codec was neither fitted nor loaded, and cannot decode; call fit() first"
            )
        index_BNS = torch.stack([code_values(codes[a.name], a.bits) for a in self.codes], 1)
        words_BL = nets.staged_codewords(self._nets["codebooks"], index_BNS.clamp_(max=self.k - 1))
        self._check_context(words_BL, onto_BC)
        if features_BX is None:
            features_BX = nets.features(self._nets, onto_BC)
        units_BY = nets.units(self._nets, words_BL, features_BX)
        last_YC = self._nets["last_layer"]
        decoded_BC = units_BY @ last_YC if onto_BC is None else onto_BC.addmm_(units_BY, last_YC)
        if self.gives.space == "logits":
            return decoded_BC
        if self.context:
            decoded_BC /= self.gives.temperature
        return torch.log_softmax(decoded_BC, 1)

    def state(self) -> dict[str, Tensor]:
        """Return decoder and codebooks, float16."""
        return {name: self.tensors[name] for name in nets.decoder_layout(self._sizes) if name in self.tensors}

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the encoder and the codebooks that it looks into, float16."""
        return {name: self.tensors[name] for name in nets.encoder_layout(self._sizes) if name in self.tensors}

    def load_state(self, tensors: Mapping[str, Tensor]) -> VQAE:
        """Return this codec with the tensors of `state()`, or of `state()` and `encoder_state()`."""
        if not (self.d_c and self.d_h and (self.d_x or not self.context)):
            raise CodecError(
                f"vqae: d_c={self.d_c}, d_h={self.d_h} and d_x={self.d_x} of a stored model; expected all above 0"
            )
        layout = nets.decoder_layout(self._sizes)
        if any(name.startswith("encoder_") for name in tensors):
            layout |= nets.encoder_layout(self._sizes)
        check_tensors(self.codec_id, tensors, layout)
        return self.with_tensors(tensors)

    @property
    def can_encode(self) -> bool:
        """Whether the encoder is here."""
        return "encoder_weight" in self.tensors

    @cached_property
    def _nets(self) -> dict[str, Tensor]:
        return nets.working(self.tensors)

    @cached_property
    def _logit_nets(self) -> dict[str, Tensor]:
        """The networks with a decoder that gives logits, whatever `gives` is."""
        at = 1.0 if self.context else self.gives.temperature
        return {**self._nets, "last_layer": self._nets["last_layer"] * at}

    @property
    def _sizes(self) -> nets.Sizes:
        return nets.Sizes(self.spec.classes, self.stages, self.slots, self.k, self.d_c, self.d_h, self.d_x)

    def _with_widths(self, n_sampled: int, n_rows: int) -> VQAE:
        rank = max(1, min(n_sampled, self.spec.classes) - 1)
        slots = self.slots * self.stages
        d_c, d_h = widths_at(n_rows, self.spec.classes, rank, slots, self.k, self.d_c, self.d_h)
        d_x = (self.d_x or min(CONTEXT_FEATURES, self.spec.classes)) if self.context else 0
        return dataclasses.replace(self, d_c=d_c, d_h=d_h, d_x=d_x)

    def _centred(self, rows_BC: Tensor) -> Tensor:
        """Return rows as logits whose mean is zero, and refuse nan and inf."""
        logits_BC = centred_logits(rows_BC, self.spec)
        finite_B = torch.isfinite(
            logits_BC[:, 0]
        )  # nan or inf anywhere in a row made its mean, and so all of it
        if not finite_B.all():
            row = int((~finite_B).nonzero()[0, 0])
            raise CodecError(
                f"vqae: row {row} of this batch holds nan or inf; expected finite {self.spec.space}. "
                "Take codec raw for such rows, or give probs, where zeros may stand"
            )
        return logits_BC

    def _check_context(self, rows_BX: Tensor, context_BC: Tensor | None) -> None:
        if not self.context:
            if context_BC is not None:
                raise CodecError("vqae: was given context, but is set to take none (context=false)")
            return
        expected = (len(rows_BX), self.spec.classes)
        if context_BC is None or tuple(context_BC.shape) != expected:
            found = "none" if context_BC is None else str(list(context_BC.shape))
            raise CodecError(
                f"vqae: codes rows given their item's prototype, and was given {found}; expected context of "
                f"{list(expected)}"
            )


def _check_finite(residual_BC: Tensor) -> None:
    """Refuse nan and inf in a context, whose rows have been found finite."""
    bad_B = ~torch.isfinite(residual_BC.sum(1))
    if bad_B.any():
        row = int(bad_B.nonzero()[0, 0])
        raise CodecError(
            f"vqae: the context of row {row} of this batch holds nan or inf; expected finite logits, the prototype of "
            "the row's item"
        )


def _array_name(stage: int) -> str:
    return "index" if stage == 0 else f"index_{stage + 1}"
