"""What there is one of for each item, where it is stored beside each row."""

from __future__ import annotations

from math import prod

import numpy as np

from softpack.errors import DataError
from softpack.sequences import NO_TOKEN, token_hash
from softpack.sources.files.arrays import INDEX_BLOCK, MAX_ITEM_BYTES, highest
from softpack.sources.files.stored import StoredArray

UNKNOWN = {  # of an item without a row; a sequence without one comes back as one without tokens
    "target": -1, "source_hw": 1, "length": 0, "first_token": NO_TOKEN, "token_hash": token_hash(np.empty(0, np.int32)),
}  # fmt: skip


def one_of_each_item(name: str, item: StoredArray, values: StoredArray) -> np.ndarray:
    """Return the values of items, int64 [items, ...], of rows that must agree.

    Args:
        name: of the column.
        item: [rows], of each row.
        values: [rows, ...], the column.

    Raises:
        DataError: rows of an item disagree, or there are too many items.
    """
    for what, array in (("item", item), (name, values)):
        if array.kind not in "iu":
            raise DataError(f"{what} has dtype {array.dtype}; expected integers")
    shape = (highest(item, "item") + 1, *values.shape[1:])
    if 8 * prod(shape) > MAX_ITEM_BYTES:
        raise DataError(f"{name} is of {shape[0]} items; expected less than {MAX_ITEM_BYTES >> 30} GiB of it")
    found = np.full(shape, UNKNOWN[name], np.int64)
    is_known = np.zeros(len(found), np.bool_)
    for start in range(0, item.shape[0], INDEX_BLOCK):
        stop = min(start + INDEX_BLOCK, item.shape[0])
        item_B, values_B = item.read(start, stop, 1).astype(np.int64), values.read(start, stop, 1)
        new_B = np.flatnonzero(~is_known[item_B])[
            ::-1
        ]  # so that the first row of an item is the last to say it
        found[item_B[new_B]] = values_B[new_B]
        is_known[item_B] = True
        agree_B = (found[item_B] == values_B).reshape(len(item_B), -1).all(1)
        if not agree_B.all():
            row = int(np.argmin(agree_B))
            raise DataError(
                f"{name} of row {start + row} is {values_B[row].tolist()}, and {found[item_B[row]].tolist()} in "
                f"another row of item {item_B[row]}; expected one for each item"
            )
    return found
