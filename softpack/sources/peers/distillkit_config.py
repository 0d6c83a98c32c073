"""How DistillKit stores a row, as its configuration says it: two layouts, the present one and the legacy one.

The present one, under `logprob_compressor` or alone in `compression_config.yaml`:

    d                 tokens of the vocabulary
    k                 tokens of a row, most likely first
    exact_k           the first of them have their log-probabilities as numbers of exact_dtype
    polynomial_terms  of the others' rank t = 0, 1, ...: powers, "sqrt" or "exp"; coefficients in term_dtype
    residual_bins     [{scale_dtype, element_bits, num_elements}], of what the polynomial leaves
    delta_encoding    numbers are differences from the one before
    normalize_t       ranks go from 0 to 1

The legacy one, `legacy_logit_compression`: vocab_size, k, exact_k, polynomial_degree, invert_polynomial,
with_sqrt_term, term_dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.extras import imported
from softpack.records import MAX_CLASSES
from softpack.sources.peers.bits import MOST_BITS, packed_bytes

CONFIG = "compression_config.yaml"
PRESENT, LEGACY = "logprob_compressor", "legacy_logit_compression"
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
MAX_CONFIG_BYTES = 1 << 20
MAX_TERMS = 64


@dataclass(frozen=True)
class Bin:
    """Numbers that share a scale: what the polynomial leaves of some ranks."""

    scale_dtype: str
    bits: int
    n: int


@dataclass(frozen=True)
class Config:
    """A configuration.

    Args:
        classes: tokens of the vocabulary.
        k: tokens of a row.
        exact_k: of which are stored as numbers.
        exact_dtype: of these.
        terms: of the polynomial: powers of the rank, "sqrt" or "exp".
        term_dtype: of its coefficients.
        bins: of what the polynomial leaves.
        delta: numbers are differences.
        unit_ranks: ranks go from 0 to 1, and not from 0 or 1 in steps of 1.
        is_legacy: ids stand in words of 64 bits, exact values as float32, and ranks count from 1.
    """

    classes: int
    k: int
    exact_k: int
    exact_dtype: str = "float32"
    terms: tuple[int | str, ...] = ()
    term_dtype: str = "float32"
    bins: tuple[Bin, ...] = ()
    delta: bool = True
    unit_ranks: bool = False
    is_legacy: bool = False

    @property
    def id_bits(self) -> int:
        """Bits of an id."""
        return max(1, (self.classes - 1).bit_length())

    @property
    def row_bytes(self) -> int:
        """Bytes of the log-probabilities of a row in the present layout."""
        n_bytes = self.exact_k * BYTES[self.exact_dtype] + len(self.terms) * BYTES[self.term_dtype]
        return n_bytes + sum(BYTES[b.scale_dtype] + packed_bytes(b.n, b.bits) for b in self.bins)

    @property
    def id_bytes(self) -> int:
        """Bytes of the ids of a row in the present layout."""
        return packed_bytes(self.k, self.id_bits)

    @cached_property
    def terms_XN(self) -> np.ndarray:  # it carries its shape
        """The terms of the polynomial at each rank, float64 [terms, k - exact_k], as rounded to their dtype."""
        n = self.k - self.exact_k
        ranks_N = np.linspace(0, 1, n) if self.unit_ranks else np.arange(n) + float(self.is_legacy)
        functions = {"sqrt": np.sqrt, "exp": np.exp}
        with np.errstate(over="ignore"):
            rows = [functions[t](ranks_N) if isinstance(t, str) else ranks_N**t for t in self.terms]
            if self.term_dtype in ("float16", "float32"):
                rows = [row.astype(self.term_dtype).astype(np.float64) for row in rows]
        return np.array(rows).reshape(-1, n)

    @cached_property
    def fit_NX(self) -> np.ndarray:  # it carries its shape
        """What log-probabilities at each rank are multiplied with for the coefficients of least squares."""
        fit_NX: np.ndarray = np.linalg.pinv(self.terms_XN)
        return fit_NX


def read_config(path: Path) -> Config:
    """Read the configuration of a set, or of a run that trains on one.

    Raises:
        DataError: it is none.
    """
    yaml = imported("yaml", f"{path}: takes pyyaml", "language")
    if not path.is_file():
        raise DataError(
            f"{path}: is not there; expected DistillKit's configuration of the labels, such as {CONFIG}"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise DataError(f"{path}: has {path.stat().st_size} bytes; expected a configuration of a few lines")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is no YAML: {str(error)[:200]}") from None
    try:
        return config_of(said)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def config_of(said: Any) -> Config:
    """Return the configuration that a dictionary says, alone or as a part of a run's.

    Raises:
        DataError: it says none.
    """
    if isinstance(said, dict) and isinstance(said.get("teacher"), dict):
        said = said["teacher"]
    if not isinstance(said, dict):
        raise DataError(f"holds a {type(said).__name__}; expected {PRESENT} or {LEGACY}")
    if isinstance(said.get(LEGACY), dict):
        return _legacy(said[LEGACY])
    said = said[PRESENT] if isinstance(said.get(PRESENT), dict) else said
    if "d" not in said and "vocab_size" in said:
        return _legacy(said)
    k, exact_k = _number(said, "k", 1, MAX_CLASSES), _number(said, "exact_k", 0, MAX_CLASSES)
    bins = said.get("residual_bins") or []
    if not isinstance(bins, list) or not all(isinstance(one, dict) for one in bins):
        raise DataError(f"has residual_bins {str(bins)[:80]}; expected a list of them")
    found = Config(
        classes=_number(said, "d", 2, MAX_CLASSES),
        k=k,
        exact_k=exact_k,
        exact_dtype=_dtype(said, "exact_dtype"),
        terms=_terms(said.get("polynomial_terms") or []),
        term_dtype=_dtype(said, "term_dtype"),
        bins=tuple(
            Bin(
                _dtype(one, "scale_dtype"),
                _number(one, "element_bits", 1, MOST_BITS),
                _number(one, "num_elements", 1, MAX_CLASSES),
            )
            for one in bins
        ),
        delta=_flag(said, "delta_encoding", True),
        unit_ranks=_flag(said, "normalize_t", False),
    )
    return _checked(found)


def _legacy(said: dict[str, Any]) -> Config:
    degree = _number(said, "polynomial_degree", 0, MAX_TERMS)
    sign = -1 if _flag(said, "invert_polynomial", True) else 1
    roots = ("sqrt",) if _flag(said, "with_sqrt_term", False) else ()
    found = Config(
        classes=_number(said, "vocab_size", 2, MAX_CLASSES),
        k=_number(said, "k", 1, MAX_CLASSES),
        exact_k=_number(said, "exact_k", 0, MAX_CLASSES),
        terms=(*(sign * power for power in range(degree + 1)), *roots),
        term_dtype=_dtype(said, "term_dtype"),
        delta=False,
        is_legacy=True,
    )
    return _checked(found)


def _checked(config: Config) -> Config:
    if not config.exact_k <= config.k <= config.classes:
        raise DataError(
            f"says exact_k {config.exact_k}, k {config.k} and {config.classes} tokens; expected none above the next"
        )
    n_binned = sum(one.n for one in config.bins)
    if n_binned > config.k - config.exact_k:
        raise DataError(f"has residual_bins of {n_binned} numbers; expected k - exact_k at most")
    return config


def _number(said: dict[str, Any], name: str, least: int, most: int) -> int:
    value = said.get(name)
    if type(value) is not int or not least <= value <= most:
        raise DataError(f"says {name} {value!r}; expected a whole number from {least} to {most}")
    return value


def _flag(said: dict[str, Any], name: str, default: bool) -> bool:
    value = said.get(name, default)
    if not isinstance(value, bool):
        raise DataError(f"says {name} {value!r}; expected true or false")
    return value


def _dtype(said: dict[str, Any], name: str) -> str:
    value = said.get(name, "float32")
    if value not in BYTES:
        raise DataError(f"says {name} {value!r}; expected one of {', '.join(BYTES)}")
    return str(value)


def _terms(said: Any) -> tuple[int | str, ...]:
    are_terms = isinstance(said, list) and len(said) <= MAX_TERMS
    if not are_terms or not all((type(t) is int and abs(t) <= MAX_TERMS) or t in ("sqrt", "exp") for t in said):
        raise DataError(f"says polynomial_terms {str(said)[:80]}; expected powers, sqrt or exp")
    return tuple(said)
