"""What the header says of language models: what labels come from, and which tokens are kept exactly."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from softpack.format.layout import MAX_FORCED
from softpack.format.strict import check_fields, integer_of, list_of

FINGERPRINTS = ("teacher", "tokenizer", "data")  # see `softpack.fingerprints`
SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprints_of(value: Any) -> dict[str, str]:
    """Return the fingerprints of a header, checked.

    Raises:
        ValueError: there are none, or they are spelled otherwise.
    """
    check_fields(value, "fingerprints", "", " ".join(FINGERPRINTS))
    for name, digest in value.items():
        if not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise ValueError(f"fingerprints.{name}: found {digest!r}; expected 64 lowercase hexadecimal digits")
    if not value:
        raise ValueError(f"fingerprints: found none; expected one or more of {', '.join(FINGERPRINTS)}")
    return dict(value)


def forced_of(value: Any, classes: int) -> tuple[int, ...]:
    """Return the classes whose log-probabilities are kept exactly, checked.

    Raises:
        ValueError: there are none, too many, one of them twice, or one that rows do not have.
    """
    forced = tuple(integer_of(token, "forced", 0, classes - 1) for token in list_of(value, "forced"))
    if not 1 <= len(set(forced)) == len(forced) <= MAX_FORCED:
        raise ValueError(f"forced: found {len(forced)} classes; expected 1 to {MAX_FORCED}, each given once")
    return forced


def forced_shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of the array of kept log-probabilities.

    Raises:
        ValueError: it is not that of a short list.
    """
    shape = list_of(value, "log_prob.shape")
    if len(shape) != 1:
        raise ValueError(f"log_prob.shape: found {shape}; expected one number")
    return (integer_of(shape[0], "log_prob.shape", 1, MAX_FORCED),)


def check_language(
    streams: Collection[str], columns: Collection[str], forced: tuple[int, ...], forced_shape: tuple[int, ...]
) -> None:
    """Check that what a header says of language models goes together.

    Args:
        streams: their names.
        columns: names of the stored replay columns.
        forced: the classes that are kept exactly.
        forced_shape: of the array of their log-probabilities; () where there is none.

    Raises:
        ValueError: it does not.
    """
    if forced_shape != ((len(forced),) if forced else ()):
        raise ValueError(f"log_prob has the shape {list(forced_shape)}; expected a number for each of `forced`")
    if "sequence" in streams and "token" not in columns:
        raise ValueError("the stream sequence is of the tokens of rows, and there is no column token")
