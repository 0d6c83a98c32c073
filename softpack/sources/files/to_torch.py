"""A `.pt` as torch.save writes it, whose tensors are written a few rows at a time.

torch.save wants whole tensors in memory. Its file is a zip archive: a pickle says which tensors there are, and the
numbers of each are a member of their own, so that both are written here as they come.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from softpack.errors import DataError
from softpack.sources.files.plans import Append, ArrayPlan, Plans
from softpack.sources.files.zipping import append_to, side_by_side

STORAGES = {"float16": "Half", "float32": "Float", "int32": "Int", "bool": "Bool"}
ROOT = "archive"  # the folder that torch puts all members into
ALIGNMENT = 64  # of the numbers in the file, as torch aligns them
BEFORE_DATA = 30 + 20  # bytes of a local header, and of what says sizes above 4 GiB
PAD = b"FB"  # what torch calls the bytes that align


@contextmanager
def torch_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write a dictionary of tensors."""
    said: dict[str, Any] = {} if temperature is None else {"temperature": float(temperature)}
    with _saved(path, plans, said | _tensors(plans)) as append:
        yield append


@contextmanager
def ddranking_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write the one tensor [items, classes] that DD-Ranking takes as labels.pt, with one label an image.

    Raises:
        DataError: there are more labels of an image, or images without one.
    """
    name, plan = next(iter(plans.items()))
    if plan.lead == 1:
        raise DataError(
            "cannot hold views of which some are missing; DD-Ranking has one label of each image: take one view by "
            "--views 0:1, and --items that all have it"
        )
    if plan.shape[1] != 1:
        raise DataError(
            f"cannot hold {plan.shape[1]} views; DD-Ranking has one label of each image: take one view by --views 0:1"
        )
    alone = {name: replace(plan, shape=(plan.shape[0], plan.shape[2]), lead=1)}
    with _saved(path, alone, _tensors(alone)[name]) as append:
        yield append


class _Storage(NamedTuple):
    """Numbers that stand in a member of their own."""

    dtype: str
    key: str
    n: int


class _Tensor:
    """A tensor to be: pickled, it says what torch's own do."""

    def __init__(self, plan: ArrayPlan, key: str) -> None:
        self._shape, self._storage = plan.shape, _Storage(plan.dtype, key, prod(plan.shape))

    def __reduce__(self) -> tuple[Any, ...]:
        from torch._utils import _rebuild_tensor_v2

        strides = tuple(prod(self._shape[axis + 1 :]) for axis in range(len(self._shape)))
        return _rebuild_tensor_v2, (self._storage, 0, self._shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    """Names storages instead of pickling them."""

    def persistent_id(self, found: Any) -> tuple[Any, ...] | None:
        import torch

        if not isinstance(found, _Storage):
            return None
        return "storage", getattr(torch, f"{STORAGES[found.dtype]}Storage"), found.key, "cpu", found.n


def _tensors(plans: Plans) -> dict[str, _Tensor]:
    return {name: _Tensor(plan, str(number)) for number, (name, plan) in enumerate(plans.items())}


@contextmanager
def _saved(path: Path, plans: Plans, held: Any) -> Iterator[Append]:
    """Write an archive that holds something whose tensors are those of the plans, in order."""
    _Pickler(tree := BytesIO(), protocol=2).dump(held)
    keys = {name: str(number) for number, name in enumerate(plans)}
    with zipfile.ZipFile(path, "w") as archive:
        _write(archive, "data.pkl", tree.getvalue())
        _write(archive, "byteorder", b"little")
        with side_by_side(
            archive, path.parent, list(plans), lambda name: _aligned(archive, f"data/{keys[name]}")
        ) as files:
            yield partial(append_to, files, plans)
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(_aligned(archive, name), "w", force_zip64=True) as member:
        member.write(data)


def _aligned(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return what the next member is, with as many bytes before its data as align that."""
    info = zipfile.ZipInfo(f"{ROOT}/{name}")
    end = archive.start_dir + BEFORE_DATA + len(info.filename) + len(PAD) + 2
    n_pad = -end % ALIGNMENT
    info.extra = PAD + n_pad.to_bytes(2, "little") + bytes(n_pad)
    return info
