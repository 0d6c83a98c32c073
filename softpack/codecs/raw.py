"""`raw`: every number as it is, in fp32, fp16 or bf16. The yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes
from softpack.codecs.checks import check_choice
from softpack.codecs.floats import FLOATS, float_bits, from_float_codes, overflows, to_float_codes
from softpack.errors import CodecError
from softpack.records import LabelSpec


@dataclass(frozen=True)
class Raw(Codec):
    """Store rows at the precision of `dtype`; rows of that dtype come back bit for bit.

    Args:
        spec: what the rows are.
        dtype: "fp32", "fp16" or "bf16".
    """

    codec_id: ClassVar[str] = "raw"

    dtype: str = "fp16"

    def __post_init__(self) -> None:
        check_choice(self.codec_id, "dtype", self.dtype, FLOATS)

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """One array, the bit patterns of the numbers."""
        bits = float_bits(self.dtype)
        return (CodeArray("values", (self.spec.classes,), bits, 1 << bits),)

    @classmethod
    def at_bits(cls, spec: LabelSpec, target_bits: float, **settings: Any) -> Raw:
        """Return fp32 where that fits, else fp16; `dtype` as given where it is.

        Raises:
            CodecError: 16 bits a class are more than `target_bits`.
        """
        if "dtype" not in settings and 32 * spec.classes <= target_bits:
            settings["dtype"] = "fp32"
        return super().at_bits(spec, target_bits, **settings)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the bit patterns of the rows.

        Raises:
            CodecError: a number is too large for `dtype`.
        """
        if overflows(rows_BC, self.dtype):
            largest = float(rows_BC[rows_BC.isfinite()].abs().max())
            raise CodecError(f"raw: a value of size {largest:g} is too large for {self.dtype}; set dtype=fp32")
        return {"values": to_float_codes(rows_BC, self.dtype)}

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return the rows as float32."""
        return from_float_codes(codes["values"], self.dtype)
