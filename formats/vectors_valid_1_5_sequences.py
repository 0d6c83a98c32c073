"""The valid vectors of version 1.5: sequences of tokens, fingerprints, classes that are kept exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from vectors_valid import CLASSES, logits

import softpack
from softpack.sequences import Sequences

TOKENS = [[3, 1, 2], [], [0], [5, 5, 1, 0, 4, 11, 2, 2], [11, 10]]  # of each sequence
PRINTS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("teacher", "tokenizer", "data")}


def language(path: Path, codec: str = "raw", forced: tuple[int, ...] = (), **how: Any) -> None:
    """Write the rows of sequences of several lengths, one of them empty and one of a single token."""
    sequences = Sequences.of(TOKENS)
    item = np.repeat(np.arange(len(TOKENS)), np.maximum(sequences.lengths_N - 1, 0))
    view = np.concatenate([np.arange(max(len(tokens) - 1, 0)) for tokens in TOKENS])
    rows = logits(len(item), seed=51)
    log_z = np.log(np.exp(rows.astype(np.float64)).sum(1))
    settings = {name: how.pop(name) for name in ("k", "tail") if name in how}
    with softpack.create(
        path, codec, classes=CLASSES, sequences=sequences, forced=forced, **how, **settings
    ) as w:
        w.append(rows, item=item, view=view, log_z=log_z)


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "sequences": ("tokens of sequences, and what their logits sum to", language),
    "sequences_tiles": ("the same in tiles of 2 items and 3 views", lambda path: language(path, tile=(2, 3))),
    "forced": ("log-probabilities that are kept exactly beside few others", lambda path: language(
        path, "topk", (7, 0, 11), k=2, tail="zero")),
    "fingerprints": ("what labels come from", lambda path: language(path, fingerprints=PRINTS)),
    "fingerprint_of_data": ("the same of the data alone", lambda path: language(
        path, fingerprints={"data": PRINTS["data"]})),
}  # fmt: skip
