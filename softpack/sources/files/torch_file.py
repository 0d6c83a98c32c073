"""`.pt` and `.pth`: a tensor, or tensors by name, as torch.save writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.stored import ByteArray, FileBytes, HeldArray, Stored, StoredArray
from softpack.sources.pickles.pool import PicklePool
from softpack.sources.pickles.unpickler import Located

AS_BYTES = {"bool": "u1", "bfloat16": "<u2"}


@contextmanager
def open_torch(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open a `.pt`: which tensors it holds is unpickled as data alone, and their numbers are read in place."""
    with PicklePool(1) as pool:
        held = pool.read(path, locate=True)
    with open(path, "rb", buffering=0) as file:
        data = partial(FileBytes, file)
        if not isinstance(held, dict):
            if not isinstance(held, (Located, np.ndarray)):
                raise DataError(f"holds a {type(held).__name__}; expected a tensor, or a dictionary of tensors")
            yield Stored({"logits": _array(held, data)}, unnamed=True)
            return
        arrays = {
            name: _array(values, data)
            for name, values in held.items()
            if name in wanted and isinstance(values, (Located, np.ndarray))
        }
        attributes = {"temperature": float(held["temperature"])} if _is_number(held.get("temperature")) else {}
        others = tuple(str(name) for name in held if name not in arrays.keys() | attributes.keys())
        yield Stored(arrays, others, attributes)


@contextmanager
def open_one_tensor(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open a `.pt` of DD-Ranking: one tensor [items, classes], with one label an image."""
    with open_torch(path, wanted) as stored:
        shape = stored.arrays["logits"].shape if stored.unnamed else ()
        if len(shape) != 2:
            found = f"a tensor of shape {list(shape)}" if stored.unnamed else "tensors by name"
            raise DataError(
                f"holds {found}; expected the one tensor [images, classes] of DD-Ranking; say --from pt"
            )
        yield stored


def _array(values: Located | np.ndarray, data: Callable[[int, int, int | None], FileBytes]) -> StoredArray:
    if isinstance(values, np.ndarray):
        return HeldArray(values.shape, values.dtype.name, values)
    numbers = np.dtype(AS_BYTES.get(values.dtype, values.dtype)).newbyteorder("<")
    return ByteArray(values.shape, values.dtype, numbers, data(*values.member), values.offset)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
