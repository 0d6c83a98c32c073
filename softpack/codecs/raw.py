"""`raw`: every number as it is, in fp32, fp16 or bf16. The yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes
from softpack.errors import CodecError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Raw(Codec):
    """Store rows at the precision of `dtype`; rows of that dtype come back bit for bit.

    Args:
        dtype: "fp32", "fp16" or "bf16".
    """

    codec_id: ClassVar[str] = "raw"

    dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CodecError(f"raw: dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")

    @property
    def codes(self) -> tuple[CodeArray, ...]:
        """One array, the bit patterns of the numbers."""
        bits = 32 if self.dtype == "fp32" else 16
        return (CodeArray("values", (self.spec.classes,), bits, 1 << bits),)

    def encode(self, rows_BC: Tensor, context_BC: Tensor | None = None) -> Codes:
        """Return the bit patterns of the rows."""
        values_BC = rows_BC.to(DTYPES[self.dtype])
        if self.dtype != "fp32" and (torch.isinf(values_BC) & ~torch.isinf(rows_BC)).any():
            raise CodecError(f"raw: a value is too large for {self.dtype}; set dtype=fp32")
        return {"values": values_BC.view(torch.int32 if self.dtype == "fp32" else torch.int16)}

    def decode(self, codes: Codes, context_BC: Tensor | None = None) -> Tensor:
        """Return the rows as float32."""
        return codes["values"].view(DTYPES[self.dtype]).float()
