"""Which arrays a file holds, what they are, and whether they fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from softpack.checks import lonely_mix
from softpack.errors import DataError
from softpack.records import COLUMNS, HIDDEN, ROW_SPACES, SEQUENCE_COLUMNS, SPACES, LabelSpec
from softpack.sources.files.stored import Stored, StoredArray

INDEX = ("item", "view")
ROW_COLUMNS = (
    "crop_xywh", "flip", "mix_item", "mix_lam", "mix_box_xyxy", "patch_order", "cutout", "aug_seed", "token", "log_z",
)  # fmt: skip
ITEM_COLUMNS = ("target", "source_hw", *SEQUENCE_COLUMNS)
WANTED = frozenset((*ROW_SPACES, *INDEX, *ROW_COLUMNS, *ITEM_COLUMNS, "temperature"))
KINDS = {
    "crop_xywh": "iuf",
    "flip": "biu",
    "mix_lam": "iuf",
    "cutout": "iuf",
    "log_z": "iuf",
}  # all others are integers
KIND_WORDS = {"iuf": "integers or floats", "biu": "bool, or the integers 0 and 1", "iu": "integers"}


@dataclass(frozen=True)
class Layout:
    """What the arrays of a file are.

    Args:
        labels: name of the array of labels, which is also its space.
        shape: of that array.
        spec: what its rows are.
        row_arrays: names of the other arrays that have an entry for each row, `item` and `view` apart.
        item_arrays: names of those that have one for each item.
        indexed: True when `item` and `view` say what each row is.
    """

    labels: str
    shape: tuple[int, ...]
    spec: LabelSpec
    row_arrays: tuple[str, ...]
    item_arrays: tuple[str, ...]
    indexed: bool

    @property
    def lead(self) -> int:
        """Axes that count rows: 2 for [items, views, classes], 1 for [rows, classes]."""
        return len(self.shape) - 1

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return prod(self.shape[:-1])


def layout_of(stored: Stored, space: str | None, temperature: float | None) -> Layout:
    """Find the labels among the arrays of a file, and check names, shapes and dtypes.

    Raises:
        DataError: no labels or several, or arrays that do not fit them.
    """
    labels = _labels(stored, space)
    array = stored.arrays[labels]
    if array.dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise DataError(f"{labels} has dtype {array.dtype}; expected float16, bfloat16, float32 or float64")
    if len(array.shape) not in (2, 3) or not prod(array.shape[:-1]):
        raise DataError(
            f"{labels} has shape {array.shape}; expected [items, views, classes] or [rows, classes], "
            "with at least one row"
        )
    spec = LabelSpec(array.shape[-1], labels, _temperature(stored, temperature))
    row_arrays = tuple(name for name in ROW_COLUMNS if name in stored.arrays)
    for name in row_arrays:
        _check_array(name, stored.arrays[name], (*array.shape[:-1], *COLUMNS[name].shape))
    item_arrays = tuple(name for name in ITEM_COLUMNS if name in stored.arrays)
    indexed = _indexed(stored, labels)
    for name in item_arrays:
        # Where an index says which items there are, its highest is not known before it is read.
        n_items = (stored.arrays[name].shape or (0,))[0] if indexed else array.shape[0]
        _check_array(name, stored.arrays[name], (n_items, *COLUMNS[name].shape))
    if fault := lonely_mix(row_arrays):
        raise DataError(fault)
    return Layout(labels, array.shape, spec, row_arrays, item_arrays, indexed)


def _labels(stored: Stored, space: str | None) -> str:
    if space is not None and space not in ROW_SPACES:
        raise DataError(f"space is {space!r}; expected one of {', '.join(ROW_SPACES)}")
    if stored.unnamed and space:
        stored.arrays[space] = stored.arrays.pop("logits")
    found = [name for name in SPACES if name in stored.arrays]
    if space == HIDDEN or not found:  # states may lie beside the labels that were made of them
        found = [HIDDEN] if HIDDEN in stored.arrays else []
    if len(found) != 1:
        also = f"; it holds {', '.join([*stored.arrays, *stored.others][:12]) or 'nothing'}"
        raise DataError(
            f"has {' and '.join(found) or 'none'} of the arrays {', '.join(SPACES)}; expected exactly one: "
            f"rename the one to be packed{also}"
        )
    if space not in (None, found[0]):
        raise DataError(
            f"holds {found[0]}, but space {space} was asked for; expected the same; leave space out"
        )
    return found[0]


def _temperature(stored: Stored, given: float | None) -> float:
    """Return the temperature that the file says, or else the one given, or else 1."""
    said = stored.attributes.get("temperature")
    if "temperature" in stored.arrays:
        array = stored.arrays["temperature"]
        if prod(array.shape) != 1 or array.kind not in "fiu":
            raise DataError(f"temperature has shape {array.shape} of {array.dtype}; expected a single number")
        said = float(np.ravel(array.read(0, 1, len(array.shape)))[0])
    if said is not None and given is not None and not np.isclose(said, given, rtol=1e-6, atol=0):
        raise DataError(f"says temperature {said:g}, but {given:g} was given; expected the same; leave one out")
    return said if said is not None else 1.0 if given is None else given


def _check_array(name: str, array: StoredArray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise DataError(f"{name} has shape {array.shape}; expected {expected} to fit the labels")
    kinds = KINDS.get(name, "iu")
    if array.kind not in kinds:
        raise DataError(f"{name} has dtype {array.dtype}; expected {KIND_WORDS[kinds]}")


def _indexed(stored: Stored, labels: str) -> bool:
    shape = stored.arrays[labels].shape
    there = [name for name in INDEX if name in stored.arrays]
    if there and len(shape) == 3:
        raise DataError(
            f"{labels} has shape {shape}, where item and view go by place, but there is also "
            f"{' and '.join(there)}; expected labels of shape [rows, classes] beside item and view"
        )
    if len(there) == 1:
        raise DataError(f"has {there[0]} alone; expected both item and view, or neither")
    for name in there:
        _check_array(name, stored.arrays[name], shape[:1])
    return bool(there)
