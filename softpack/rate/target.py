"""What a user asks for: bits a label, a divergence, or a size of the whole file. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from softpack.errors import CodecError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmg]i?b|b|)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """Exactly one of three.

    Args:
        bits: marginal bits a label, at most: all of the file but its model and its replay columns.
        kl: mean KL(teacher || decoded) * T**2 in nats at the first temperature, at most.
        n_bytes: of the whole file, at most.
    """

    bits: float | None = None
    kl: float | None = None
    n_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("bits", "kl", "n_bytes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise CodecError(
                f"found the targets {', '.join(given) or 'none'}; expected one of bits, kl, n_bytes"
            )
        if not 0 < getattr(self, given[0]) < math.inf:
            raise CodecError(f"the target {given[0]} is {getattr(self, given[0])}; expected a number above 0")


def parse_size(text: str) -> int:
    """Return the bytes that a text such as 400KB, 64MB, 1.5GiB or 4096 says.

    Raises:
        CodecError: it is no size.
    """
    match = SIZE.fullmatch(text.strip())
    n_bytes = int(float(match[1]) * UNITS[match[2].lower()]) if match else 0
    if n_bytes < 1:
        raise CodecError(f"{text!r} is no size; expected one such as 400KB, 64MB or 1.5GiB")
    return n_bytes
