"""Which sequences the teacher sees together.

Shapes in names: N sequences.
"""

from __future__ import annotations

import numpy as np

WINDOW = 64  # batches of sequences that follow one another, among which those of like length go together


def plan_batches(lengths_N: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Return the items of each batch: of at most `batch_tokens` tokens, padding included.

    A longer sequence is a batch by itself. It depends on the lengths alone, so that a run that goes on asks in the same
    batches. Neighbours stay near to each other, so that the rows of a tile come together. Sequences of one token have
    no row and are in no batch.
    """
    items_N = np.flatnonzero(lengths_N >= 2)
    ends_N = np.cumsum(lengths_N[items_N])
    stops = np.arange(WINDOW * batch_tokens, int(ends_N[-1]) if len(ends_N) else 0, WINDOW * batch_tokens)
    batches = []
    for window in np.split(items_N, np.searchsorted(ends_N, stops)):
        window = window[np.argsort(-lengths_N[window], kind="stable")]
        start = 0
        while start < len(window):
            n = max(1, batch_tokens // int(lengths_N[window[start]]))  # the first is the longest
            batches.append(np.sort(window[start : start + n]))
            start += n
    return batches
