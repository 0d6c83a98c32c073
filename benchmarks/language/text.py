"""Sequences of tokens in three parts that share no document: for training, for choices, and for the test.

Shapes in names: N sequences, L tokens of a sequence, of which the first is that of the beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from language.documents import SOURCES, Source

MOST_CHARACTERS = 8000  # of a document that are tokenized
MOST_SEQUENCES = 4  # of a document, from its beginning


@dataclass(frozen=True)
class Sizes:
    """Sequences of each part, and their length.

    Args:
        train: sequences to train with.
        validation: for choices.
        test: for figures.
        length: tokens of each, with that of the beginning.
    """

    train: int = 600
    validation: int = 96
    test: int = 160
    length: int = 256


FULL, QUICK = Sizes(), Sizes(16, 4, 4, 64)
PARTS = ("test", "validation", "train")  # in the order in which they take documents


def sequences(
    cache: Path, tokens_of: Callable[[Sequence[str]], list[list[int]]], begin: int, sizes: Sizes,
    sources: Sequence[Source] = SOURCES,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the tokens int32 [N, L] of each part, and the number of each one's source, int32 [N], as `PART_source`.

    Args:
        cache: folder of packages.
        tokens_of: texts -> tokens, without that of the beginning.
        begin: the token of the beginning, which each sequence starts with.
        sizes: of the parts.
        sources: of text.
    """
    found: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    origin: dict[str, list[int]] = {part: [] for part in PARTS}
    for number, source in enumerate(sources):
        # Documents stand in the order of their hashes: chance, but the same everywhere.
        texts = sorted(source.read(cache), key=lambda text: hashlib.sha256(text.encode()).digest())
        pieces = [
            _cut(tokens, begin, sizes.length) for tokens in tokens_of([t[:MOST_CHARACTERS] for t in texts])
        ]
        for part in PARTS:
            wanted = _share(getattr(sizes, part), number, sources)
            taken: list[np.ndarray] = []
            while pieces and len(taken) < wanted:
                taken += pieces.pop(0)
            found[part] += taken[:wanted]  # the rest of a document is in no part
            origin[part] += [number] * len(taken[:wanted])
    tables = {part: np.stack(rows).astype(np.int32) for part, rows in found.items()}
    return tables | {f"{part}_source": np.array(rows, np.int32) for part, rows in origin.items()}


def _cut(tokens: list[int], begin: int, length: int) -> list[np.ndarray]:
    starts = range(0, len(tokens) - length + 2, length - 1)
    return [np.array([begin, *tokens[at : at + length - 1]]) for at in starts][:MOST_SEQUENCES]


def _share(n: int, number: int, sources: Sequence[Source]) -> int:
    """Return how many of n a source has; the shares of all add up to n."""
    ends = np.rint(np.cumsum([source.share for source in sources]) / sum(s.share for s in sources) * n)
    return int(ends[number] - (ends[number - 1] if number else 0))
