"""Classes whose log-probabilities at T=1 are kept exactly, whatever the codec makes of the rows.

Shapes in names: B rows, C classes, F classes that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from softpack.codecs.spaces import to_logits
from softpack.errors import DataError
from softpack.format.layout import MAX_FORCED
from softpack.records import LabelSpec, RowBlock

ROWS_VALUES = 1 << 24  # numbers in rows that are looked at at once


def check_forced(forced: Sequence[Any], classes: int, where: str) -> tuple[int, ...]:
    """Return classes to keep, checked.

    Raises:
        DataError: one of them is none of the rows', or is there twice, or there are too many.
    """
    is_whole = all(isinstance(token, (int, np.integer)) and 0 <= token < classes for token in forced)
    if not is_whole or len(set(forced)) != len(forced) or len(forced) > MAX_FORCED:
        raise DataError(
            f"{where}: forced is {str(list(forced))[:80]}; expected at most {MAX_FORCED} ids from 0 to {classes - 1}, "
            "each given once"
        )
    return tuple(int(token) for token in forced)


def forced_rows(block: RowBlock, forced: tuple[int, ...], spec: LabelSpec, where: str) -> RowBlock:
    """Return rows with the log-probabilities of the classes that are kept, from the rows where they do not come so.

    Raises:
        DataError: they come in another shape, or the rows do not say them.
    """
    if block.forced_BF is not None or not forced:
        found = None if block.forced_BF is None else block.forced_BF.shape
        if found != ((len(block), len(forced)) if forced else None):
            raise DataError(
                f"{where}: found forced log-probabilities of shape {found}; expected {(len(block), len(forced))}, as "
                f"the file keeps {len(forced)} classes exactly"
            )
        return block
    if spec.space not in ("logits", "log_probs", "probs"):
        raise DataError(
            f"{where}: rows are of the space {spec.space}, which does not say the log-probabilities of the "
            f"{len(forced)} forced classes; give forced=, float32 [{len(block)}, {len(forced)}]"
        )
    step = max(1, ROWS_VALUES // spec.classes)
    forced_BF = np.empty((len(block), len(forced)), np.float32)
    for start in range(0, len(block), step):
        rows_BC = torch.from_numpy(block.labels_BC[start : start + step]).float()
        logits_BC = to_logits(rows_BC, spec)
        found_BF = logits_BC[:, list(forced)] - logits_BC.logsumexp(1, keepdim=True)
        forced_BF[start : start + step] = found_BF.numpy()
    return replace(block, forced_BF=forced_BF)
