"""Whether rows of labels are what they are said to be. No torch.

Every row that goes into a file passes here, wherever it comes from.
"""

from __future__ import annotations

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock

SUM_TOLERANCE = 1e-2


def check_labels(block: RowBlock, spec: LabelSpec, where: str) -> None:
    """Check the labels of some rows.

    Args:
        block: the rows.
        spec: what they are said to be.
        where: for messages: the file, or what the caller calls the rows.

    Raises:
        DataError: rows of another width, not finite, or not distributions where the spec says so.
    """
    labels = block.labels_BC
    if labels.ndim != 2 or labels.shape[1] != spec.classes:
        raise DataError(f"{where}: rows have the shape {labels.shape[1:]}, expected ({spec.classes},)")
    if not len(labels):
        return
    largest, smallest = labels.max(axis=1), labels.min(axis=1)  # NaN and inf show in these
    bad = ~np.isfinite(largest)
    if spec.space != "log_probs":  # -inf is the logarithm of a zero
        bad |= ~np.isfinite(smallest)
    else:
        bad |= np.isnan(smallest)
    _refuse(
        bad, block, where, "a number that is NaN or infinite", "finite numbers; leave the row out or mend it"
    )
    if spec.space == "probs":
        _refuse(smallest < 0, block, where, "a negative probability", "numbers from 0 to 1; are they logits?")
    if spec.space != "logits":
        values = labels.astype(np.float32)
        sums = (np.exp(values) if spec.space == "log_probs" else values).sum(axis=1)
        off = np.abs(sums - 1) > SUM_TOLERANCE
        if off.any():
            total = f"{spec.space} whose probabilities sum to {sums[off][0]:.4g}"
            _refuse(
                off,
                block,
                where,
                total,
                f"1 within {SUM_TOLERANCE}; are they logits, or of part of the classes?",
            )


def check_cells(block: RowBlock, items: int | None, views: int | None, where: str) -> None:
    """Check the items, the views and the mix partners of some rows.

    Raises:
        DataError: one lies outside the file.
    """
    for name, values, total in (("item", block.item_B, items), ("view", block.view_B, views)):
        if len(values) != len(block):
            raise DataError(f"{where}: {len(block)} rows, but {len(values)} numbers in {name!r}")
        most = (1 << 31) - 1 if total is None else total - 1
        bad = (values < 0) | (values > most)
        _refuse(bad, block, where, f"a {name} outside the file", f"{name}s from 0 to {most}")
    partners = block.replay.get("mix_item")
    if partners is not None:
        most = (1 << 31) - 1 if items is None else items - 1
        bad = (partners < -1) | (partners > most)
        _refuse(bad, block, where, "a mix_item outside the file", f"-1 (not mixed) to {most}")


def _refuse(bad: np.ndarray, block: RowBlock, where: str, found: str, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{where}: item {block.item_B[row]}, view {block.view_B[row]}: found {found} "
            f"({int(bad.sum())} of these {len(block)} rows); expected {expected}"
        )
