"""What a codec is: rows of labels <-> small integers. Read this page and write one.

A codec has

* `codec_id`, a literal that names one encoding for ever: once released, its bytes never change their meaning;
  a new encoding is a new id.
* settings: the fields of a frozen dataclass, flat, of int, str, bool or float. They round-trip through JSON
  by `get_config()` and `make_codec(codec_id, spec, config)`.
* `spec`, what the rows are that it takes, and `gives`, what the rows are that it gives back.
* `fit(blocks)`, which returns the codec with what all rows share learnt from a sample of them. Codecs with
  nothing to learn inherit one that returns itself.
* `codes`, the integer arrays it makes of a row, each with its exact width. A label costs the sum of these.
* `encode(rows_BC, context_BC)` and `decode(codes, context_BC)`, on any device, vectorised over the rows.
  Where `takes_context`, the context is what both sides know of a row before its codes: its item's prototype, in
  logits whose mean is zero (`softpack.codecs.spaces.centred_logits`). Else it is None.
  Codecs that look at the context in more ways than to add to it say so by `features`, and `decode_onto` uses them.
* `n_stages`, where arrays refine one another: `first_stages(n)` is the codec that stops after n of them.
* where `is_sparse`, some classes of a row alone: `decode_sparse(codes)` gives them without the others, and
  `encode_sparse(rows)` takes such rows.
* `state()`, the named tensors that `decode` needs; `encoder_state()`, those that only `encode` needs besides;
  `load_state(tensors)` takes both, or the first alone, and then the codec can decode but not encode.

A codec knows no file. It imports this module, `softpack.codecs.spaces` and its like, torch and numpy, and no other
codec.
Other packages add codecs through the entry-point group `softpack.codecs` (name = codec_id, value = the
class); `softpack.testing.check_codec` runs one through everything that softpack expects.

Shapes: B rows of a batch, C classes.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from softpack.codecs.sparse import SparseRows
from softpack.errors import CodecError
from softpack.records import SPACES, LabelSpec

Codes = dict[str, Tensor]
Progress = Callable[[int, int, str], None]  # (steps done, steps in all, what is seen, such as "KL 0.061")
Stage = Callable[[str, str], AbstractContextManager[Progress]]  # (what is done, unit) -> a bar
C = TypeVar("C", bound="Codec")


@dataclass(frozen=True)
class CodeArray:
    """One array of integers that a codec makes of every row.

    Args:
        name: of the array, unique in the codec, `[a-z][a-z0-9_]*`.
        shape: of one row's entry; () is a single number.
        bits: exact width of one number, 1 to 32.
        levels: numbers are below this; 2**bits unless the codec uses fewer.
        stage: 1, or the number of the refinement that it belongs to.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    levels: int
    stage: int = 1

    @property
    def values_per_row(self) -> int:
        """Numbers in one row's entry."""
        return math.prod(self.shape)

    @property
    def bits_per_row(self) -> int:
        """Bits that one row's entry takes before any compression."""
        return self.values_per_row * self.bits


def code_dtype(bits: int) -> torch.dtype:
    """Return the dtype of codes of this width: uint8 to 8 bits, int16 to 16, int32 to 32.

    A code that uses all of its bits stands in int16 and int32 as its two's complement pattern;
    `code_values` gives the number back.
    """
    if not 1 <= bits <= 32:
        raise CodecError(f"a code has {bits} bits; expected 1 to 32")
    return torch.uint8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32


def code_values(codes: Tensor, bits: int) -> Tensor:
    """Return codes as int64 numbers from 0 to 2**bits - 1."""
    return codes.to(torch.int64) & ((1 << bits) - 1)


def later(default: Any) -> Any:
    """Return the field of a setting that a released codec got later; files say it only where it is not the default.

    What was before is the default, so that old files mean what they meant and old readers refuse what is new.
    """
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Codec(ABC):
    """Base of all codecs. Subclasses are frozen dataclasses whose further fields are their settings.

    Args:
        spec: what the rows are that `encode` takes.
    """

    codec_id: ClassVar[str]
    spaces: ClassVar[tuple[str, ...]] = SPACES  # that its rows may be of

    spec: LabelSpec
    tensors: Mapping[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    # -- facts ---------------------------------------------------------------------------------------

    @property
    def gives(self) -> LabelSpec:
        """What the rows are that `decode` gives back."""
        return self.spec

    @property
    @abstractmethod
    def codes(self) -> tuple[CodeArray, ...]:
        """The integer arrays of one row, in the order in which they are stored."""

    @property
    def minor(self) -> int:
        """Least minor version of the format that knows the codec with these settings."""
        said = self.get_config()
        return int(
            any("later" in setting.metadata for setting in self.setting_fields() if setting.name in said)
        )

    @property
    def takes_context(self) -> bool:
        """Whether rows are coded given their item's prototype."""
        return False

    @property
    def learns(self) -> bool:
        """Whether `fit` learns anything with these settings."""
        return type(self).fit is not Codec.fit

    @property
    def wants_tables(self) -> bool:
        """Whether codes take far fewer bits under an entropy coder, which is then fitted to the first rows, too."""
        return False

    @property
    def needs_matrix(self) -> bool:
        """Whether rows are decoded by an output matrix that the file names by its hash, and that is not here yet."""
        return False

    def with_matrix(self: C, matrix: Any, where: str) -> C:
        """Return this codec with the output matrix that it needs.

        Raises:
            CodecError: the codec has no use for one, or it is another.
        """
        raise CodecError(f"{where}: codec {self.codec_id} has no use for an output matrix; leave matrix= out")

    def teacher_rows(self, rows_BC: Tensor) -> Tensor:
        """Return rows that `encode` takes as rows that decoded ones can be compared with."""
        return rows_BC

    @property
    def zstd_level(self) -> int | None:
        """Level at which zstd is to make codes small, where entropy-coded words would be too slow to read.

        None: its usual level, or words where they are shorter.
        """
        return None

    @property
    def is_sparse(self) -> bool:
        """Whether it keeps some classes of a row alone."""
        return False

    @property
    def n_stages(self) -> int:
        """How many stages the codes have, each of which refines those before it."""
        return max(array.stage for array in self.codes)

    def first_stages(self: C, n: int) -> C:
        """Return the codec that decodes the codes of the first `n` stages, without the tensors of the others.

        Raises:
            CodecError: there are not so many stages.
        """
        if n != self.n_stages:
            raise CodecError(f"codec {self.codec_id} has {self.n_stages} stages; {n} were asked for")
        return self

    def bits_per_label(self) -> int:
        """Return the bits of one row's codes, before zstd or entropy coding."""
        return sum(array.bits_per_row for array in self.codes)

    def get_config(self) -> dict[str, Any]:
        """Return the settings as a flat JSON object, without those `later` ones that have their default."""
        given = {setting.name: (setting, getattr(self, setting.name)) for setting in self.setting_fields()}
        return {
            name: value
            for name, (setting, value) in given.items()
            if not ("later" in setting.metadata and value == setting.default)
        }

    @classmethod
    def setting_fields(cls) -> list[dataclasses.Field[Any]]:
        """Return the fields that are settings."""
        return [setting for setting in dataclasses.fields(cls) if setting.init and setting.name != "spec"]

    @classmethod
    def at_bits(cls: type[C], spec: LabelSpec, target_bits: float, **settings: Any) -> C:
        """Return the codec whose labels come nearest to `target_bits` without costing more.

        `settings` are kept as they are; the others are chosen.

        Raises:
            CodecError: the codec has no choice of rate, or its cheapest label costs more.
        """
        codec = cls(spec, **settings)
        if codec.bits_per_label() > target_bits:
            raise CodecError(
                f"codec {cls.codec_id} costs {codec.bits_per_label()} bits a label here and has no cheaper "
                f"setting, but {target_bits:g} were asked for; take another codec"
            )
        return codec

    # -- work ----------------------------------------------------------------------------------------

    def fit(
        self: C,
        blocks: Iterable[Tensor],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
        contexts: Iterable[Tensor] | None = None,
    ) -> C:
        """Return this codec fitted to float32 rows; itself where there is nothing to learn.

        Args:
            blocks: tensors [B, C], a sample of the rows that fits into memory.
            seed: the same rows and the same seed give the same codec on the same machine.
            n_rows: rows that the file will hold in all, for codecs whose shared tensors should suit them;
                the rows of the sample where it is not known.
            progress: is told how far it is.
            contexts: of the rows, block by block, [B, C] each, where `takes_context`.

        Raises:
            CodecError: the settings do not suit the rows.
        """
        return self

    def fit_sparse(
        self: C,
        blocks: Iterable[SparseRows],
        seed: int = 0,
        n_rows: int | None = None,
        progress: Progress | None = None,
    ) -> C:
        """Return this codec fitted to rows of which only some classes are known; see `fit`.

        Raises:
            CodecError: it learns from whole rows.
        """
        if type(self).fit is Codec.fit:
            return self
        raise CodecError(
            f"codec {self.codec_id} learns from all classes of a row, and only some are known; take --codec topk"
        )

    @abstractmethod
    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the codes of float32 rows [B, C]: a tensor [B, *shape] of `code_dtype` for each array.

        Args:
            rows_BC: in the space of `spec`.
            context_BC: float32 logits of mean zero where `takes_context`, else None.
        """

    @abstractmethod
    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return float32 rows [B, C] in the space `gives`, on the device of the codes.

        Raises:
            CorruptError: codes are within their levels, but none that `encode` makes.
        """

    def decode_sparse(self, codes: Codes) -> SparseRows:
        """Return the classes that were kept, without making whole rows of them.

        Raises:
            CodecError: the codec keeps all classes.
        """
        raise CodecError(f"codec {self.codec_id} keeps all classes of a row; read whole rows")

    def encode_sparse(self, rows: SparseRows) -> Codes:
        """Return the codes of rows of which only some classes are known.

        Raises:
            CodecError: the codec needs whole rows, or these rows do not say all that it stores.
        """
        raise CodecError(
            f"codec {self.codec_id} needs all classes of a row, and only some are known; take --codec topk"
        )

    def features(self, context_BC: Tensor) -> Tensor | None:
        """Return all that decoding asks of context before it is added, [B, X]; None where that is nothing.

        It is linear: a sum of rows has the sum of their features, and readers make it of those of the prototypes.
        """
        return None

    def decode_onto(self, context_BC: Tensor, codes: Codes, features_BX: Tensor | None = None) -> Tensor:
        """Return what `decode` does, in the memory of the context where that saves a pass over the rows.

        Args:
            context_BC: of the rows; not to be used again.
            codes: of the rows.
            features_BX: of the context, where they are known; else they are computed.
        """
        return self.decode(codes, context_BC)

    def decode_sum(self, codes: Codes, weights_BP: Tensor) -> Tensor:
        """Return weighted sums of P rows each, float32 [B, C], of codes [B, P, ...]: prototypes are mixed so.

        Codecs that are linear may override it to sum before they decode. None takes context here.
        """
        flat = {name: values.flatten(0, 1) for name, values in codes.items()}
        rows_BPC = self.decode(flat).view(*weights_BP.shape, -1)
        return torch.einsum("bp,bpc->bc", weights_BP, rows_BPC)

    # -- what all rows share ---------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `decode` needs, as they are to be stored."""
        return {}

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the tensors that only `encode` needs, beside `state()`."""
        return {}

    def load_state(self: C, tensors: Mapping[str, Tensor]) -> C:
        """Return this codec with the stored tensors, checked for names, dtypes and shapes.

        Raises:
            CodecError: a tensor is missing, unknown, or not of the shape that the settings say.
        """
        if tensors:
            raise CodecError(f"codec {self.codec_id} has no state, but was given {', '.join(sorted(tensors))}")
        return self

    @property
    def can_encode(self) -> bool:
        """Whether all that `encode` needs is here; False for a codec read from a file without its encoder."""
        return True

    def to(self: C, device: torch.device | str) -> C:
        """Return this codec with its tensors on `device`."""
        return self.with_tensors({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def with_tensors(self: C, tensors: Mapping[str, Tensor]) -> C:
        """Return a copy of this codec that holds these tensors in `tensors`."""
        copy = dataclasses.replace(self)
        object.__setattr__(copy, "tensors", dict(tensors))
        return copy
