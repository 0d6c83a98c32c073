"""`sample`: classes that are drawn from a row's distribution, with how often each was drawn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes, Progress, code_dtype
from softpack.codecs.checks import check_integer, check_positive, check_tensors
from softpack.codecs.sample.drawing import draw, weights
from softpack.codecs.sample.gaps import from_gaps, n_bytes, to_gaps
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.errors import CodecError, CorruptError
from softpack.records import MAX_CLASSES, LabelSpec

MOST_DRAWS = 4096
MOST_SEED = (1 << 53) - 1  # of integers in a header
WHOLE = 1e-3  # of a draw: what float32 may make of a whole number of them


@dataclass(frozen=True)
class Sample(Codec):
    """Store classes that are drawn with replacement from a row's distribution, and how often each was drawn.

    The share of the draws that a class got is an unbiased estimate of its probability, for all classes at once, and
    so is the gradient of a cross-entropy against it: Sparse Logit Sampling (RS-KD, arXiv:2503.16870). Classes that
    were not drawn have no probability. Labels speak of the temperature alone at which they were drawn.

    A row is drawn by a hash of what it says: the same distribution always draws the same classes, whatever batch it
    stands in, and its draws do not average out over the places where it comes again.

    Args:
        spec: what the rows are.
        draws: of each row, 1 to 4096. Of a language model's rows 50 draw some 19 classes, 26 some 12.
        sampled_at: temperature of the distribution.
        draw_seed: another one draws others; 0 to 2**53 - 1.
        common: classes that the fit ranks by their mean probability; all others rank behind them by their ids. Likely
            classes then take few bits. 0 = none, and nothing is fitted.
    """

    codec_id: ClassVar[str] = "sample"

    draws: int = 50
    sampled_at: float = 1.0
    draw_seed: int = 0
    common: int = 8192

    def __post_init__(self) -> None:
        check_integer(self.codec_id, "draws", self.draws, 1, MOST_DRAWS)
        check_positive(self.codec_id, "sampled_at", self.sampled_at)
        object.__setattr__(self, "sampled_at", float(self.sampled_at))  # 2 and 2.0 are the same bytes
        check_integer(self.codec_id, "draw_seed", self.draw_seed, 0, MOST_SEED)
        check_integer(self.codec_id, "common", self.common, 0, MAX_CLASSES)

    @property
    def gives(self) -> LabelSpec:
        """Log-probabilities at the temperature that was drawn at."""
        return LabelSpec(self.spec.classes, "log_probs", self.sampled_at)

    @property
    def minor(self) -> int:
        """The first version of the format that has it is 1.5."""
        return 5

    @property
    def wants_tables(self) -> bool:
        """They do: most lengths are of few bits."""
        return True

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """The draws by their ranks, sorted: how long each gap is in bits, and its other bits."""
        longest = self.spec.classes.bit_length()
        return (
            CodeArray("lengths", (self.draws,), longest.bit_length(), longest + 1),
            CodeArray("rest", (n_bytes(self.draws, self.spec.classes),), 8, 256),
        )

    @property
    def can_encode(self) -> bool:
        """Whether the ranks are known."""
        return self.common == 0 or bool(self.tensors)

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> Sample:
        """Return the codec of the most draws that cost at most `target_bits` a label before entropy coding.

        Raises:
            CodecError: a single draw costs more.
        """
        if "draws" not in settings:
            fits = bisect_right(
                range(1, MOST_DRAWS + 1),
                target_bits,
                key=lambda draws: cls(spec, **settings, draws=draws).bits_per_label(),
            )
            if fits == 0:
                least = cls(spec, **settings, draws=1).bits_per_label()
                raise CodecError(
                    f"sample: {target_bits:g} bits a label were asked for, but the least is {least} (draws=1); ask for "
                    "more, or take topk"
                )
            settings["draws"] = fits
        return super().at_bits(spec, target_bits, **settings)

    def fit(
        self,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> Sample:
        """Return this codec with the ranks of the `common` classes that are likeliest in the sample.

        Raises:
            CodecError: there are no rows, or one holds no distribution.
        """
        if self.common == 0:
            return self
        n, mean_C = 0, torch.zeros(self.spec.classes, dtype=torch.float64)
        for weights_BC in (some for block in blocks for some in weights(block, self.spec, self.sampled_at)):
            mean_C = mean_C.to(weights_BC.device)
            mean_C += (weights_BC / weights_BC.sum(dim=1, keepdim=True)).sum(dim=0, dtype=torch.float64)
            n += len(weights_BC)
        if n == 0:
            raise CodecError("sample: there are no rows to fit to; expected at least one, or set common=0")
        order_R = mean_C.sort(descending=True, stable=True).indices[: self.common]
        return self._with_order(order_R.to(torch.int32))

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the codes of classes that are drawn; rows that are draws themselves are drawn from again.

        Raises:
            CodecError: the codec has not been fitted, or a row holds nan or +inf, or no probability at all.
        """
        return self._codes(draw(rows_BC, self.spec, self.sampled_at, self.draws, self.draw_seed))

    @property
    def is_sparse(self) -> bool:
        """It is."""
        return True

    def encode_sparse(self, rows: SparseRows) -> Codes:
        """Return the codes of draws that were made already, as many a row and at the same temperature.

        Raises:
            CodecError: they were not drawn, or otherwise.
        """
        if not rows.sampled or rows.spec != self.gives:
            raise CodecError(
                f"sample: found {'draws' if rows.sampled else 'classes that were not drawn'} of {rows.spec}; expected "
                f"draws of {self.gives}; encode whole rows, or take topk for classes that were chosen"
            )
        share_BK = rows.log_probs_BK.double().exp().masked_fill(~rows.is_class_BK, 0) * self.draws
        counts_BK = share_BK.round().long()
        is_whole = bool(((share_BK - counts_BK).abs() <= WHOLE).all())
        if not is_whole or bool((counts_BK.sum(dim=1) != self.draws).any()):
            raise CodecError(
                f"sample: the probabilities of a row are not shares of {self.draws} draws; set draws to the number "
                "that the labels were drawn with"
            )
        column_K = torch.arange(rows.ids_BK.shape[1], device=rows.ids_BK.device).expand_as(counts_BK)
        column_BD = column_K.reshape(-1).repeat_interleave(counts_BK.reshape(-1)).view(-1, self.draws)
        return self._codes(rows.ids_BK.gather(1, column_BD))

    def decode_sparse(self, codes: Codes) -> SparseRows:
        """Return the classes that were drawn, each once, and the shares of the draws that they got.

        K is `draws`, or C where there are fewer classes; most rows have fewer classes and are padded.

        Raises:
            CorruptError: the codes are none that `encode` makes.
        """
        lengths_BD, bytes_BN = codes["lengths"], codes["rest"]
        ranks_BD = from_gaps(lengths_BD, bytes_BN)
        bad_B = (lengths_BD[:, 0] == 0) | (ranks_BD[:, -1] >= self.spec.classes)
        if bool(bad_B.any()):
            row = int(bad_B.int().argmax())
            raise CorruptError(
                f"sample: the codes of row {row} of the batch begin with a gap of {int(lengths_BD[row, 0])} bits and "
                f"end at the class of rank {int(ranks_BD[row, -1])}; expected a first gap of 1 bit or more, and ranks "
                f"below {self.spec.classes}; the file was not written by this codec"
            )
        classes_BD = self.tensors["classes"][ranks_BD].long() if self.tensors else ranks_BD
        place_BD = (lengths_BD > 0).cumsum(dim=1) - 1  # draws of the same class have the same
        shape = (len(ranks_BD), min(self.draws, self.spec.classes))
        ids_BK = torch.full(shape, NO_CLASS, dtype=torch.int64, device=ranks_BD.device)
        counts_BK = torch.zeros_like(ids_BK).scatter_add_(1, place_BD, torch.ones_like(place_BD))
        shares = torch.arange(self.draws + 1, dtype=torch.float64, device=ids_BK.device) / self.draws
        log_probs_BK = shares.log().float()[counts_BK]
        return SparseRows(self.gives, ids_BK.scatter_(1, place_BD, classes_BD), log_probs_BK, sampled=True)

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return the logarithms of the shares of the draws; -inf for classes that were not drawn."""
        return self.decode_sparse(codes).dense()

    def state(self) -> dict[str, Tensor]:
        """Return the classes by their ranks, int32 [common], or [C] where there are fewer; nothing for common=0."""
        return {"order": self.tensors["order"]} if self.tensors else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> Sample:
        """Return this codec with the tensor of `state()`.

        Raises:
            CodecError: it is missing, of another shape, or names a class twice or one that there is not.
        """
        n = min(self.common, self.spec.classes)
        check_tensors(self.codec_id, tensors, {"order": (torch.int32, (n,))} if n else {})
        if not n:
            return self
        order_R = tensors["order"]
        least, most = int(order_R.min()), int(order_R.max())
        if least < 0 or most >= self.spec.classes or not bool(order_R.sort().values.diff().all()):
            raise CodecError(
                f"sample: the tensor order holds classes from {least} to {most}; expected {n} different ones from 0 to "
                f"{self.spec.classes - 1}"
            )
        return self._with_order(order_R)

    def _with_order(self, order_R: Tensor) -> Sample:
        """Return this codec with the classes of all ranks, and the ranks of all classes, beside the first ones."""
        is_common_C = torch.zeros(self.spec.classes, dtype=torch.bool, device=order_R.device)
        is_common_C[order_R.long()] = True
        classes_C = torch.cat([order_R, (~is_common_C).nonzero()[:, 0].to(torch.int32)])
        ranks_C = torch.empty_like(classes_C)
        ranks_C[classes_C.long()] = torch.arange(self.spec.classes, dtype=torch.int32, device=order_R.device)
        return self.with_tensors({"order": order_R.clone(), "classes": classes_C, "ranks": ranks_C})

    def _codes(self, classes_BD: Tensor) -> Codes:
        if not self.can_encode:
            raise CodecError(
                "sample: the codec has no ranks yet; call fit(blocks) or load_state(tensors), or set common=0"
            )
        ranks_BD = self.tensors["ranks"][classes_BD].long() if self.tensors else classes_BD
        lengths, rest = self.codes
        lengths_BD, bytes_BN = to_gaps(ranks_BD.sort(dim=1).values, rest.shape[0])
        return {"lengths": lengths_BD.to(code_dtype(lengths.bits)), "rest": bytes_BN}
