"""`.h5`: datasets of the root group, read by hyperslabs.

An HDF5 file can point at other files: by external and soft links, external storage and virtual datasets.
A label file has no need of that, and a stranger's file could read any file of the user's; all are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.stored import Stored, StoredArray

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
MAX_CHUNK_BYTES = 256 << 20
MAX_RATIO = 1040  # of gzip, the best of the filters
CACHE_BYTES = 64 << 20  # holds a band of chunks, so that rows next to each other unpack each chunk once


@dataclass(frozen=True)
class Hdf5Array(StoredArray):
    """One dataset."""

    dataset: Any

    def read(self, start: int, stop: int, lead: int) -> np.ndarray:
        """Return rows `start` to `stop` with the first `lead` axes taken as one."""
        rows = np.empty((stop - start, *self.shape[lead:]), self.dtype)
        done = 0
        for slab in slabs(start, stop, self.shape[:lead]):
            part = self.dataset[slab].reshape(-1, *self.shape[lead:])
            rows[done : done + len(part)] = part
            done += len(part)
        return rows


def slabs(start: int, stop: int, lead_shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the hyperslabs, at most three, that hold rows `start` to `stop` of one or two leading axes."""
    if len(lead_shape) == 1:
        return [(slice(start, stop),)]
    n_views = lead_shape[1]
    (first, first_view), (last, last_view) = divmod(start, n_views), divmod(stop, n_views)
    if first == last:
        return [(slice(first, first + 1), slice(first_view, last_view))]
    found: list[tuple[slice, ...]] = []
    if first_view:
        found.append((slice(first, first + 1), slice(first_view, n_views)))
        first += 1
    if first < last:
        found.append((slice(first, last), slice(0, n_views)))
    if last_view:
        found.append((slice(last, last + 1), slice(0, last_view)))
    return found


@contextmanager
def open_hdf5(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open an `.h5`."""
    import h5py

    with h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES, rdcc_nslots=10_007) as file:
        names = list(file)
        arrays: dict[str, StoredArray] = {name: _dataset(file, name, path) for name in names if name in wanted}
        yield Stored(arrays, tuple(name for name in names if name not in wanted), _attributes(file, path))


def _dataset(file: Any, name: str, path: Path) -> Hdf5Array:
    import h5py

    where = f"{path}: {name}"
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{where} is a {type(link).__name__} to another place; expected a dataset in the file itself, "
            "because links can point at other files; write the array into this file"
        )
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{where} is a {type(dataset).__name__}; expected a dataset of the root group")
    if dataset.external or dataset.is_virtual:
        raise DataError(
            f"{where} keeps its numbers in other files; expected them in the file itself; "
            "write the array into it"
        )
    if dataset.dtype.kind not in "fiub":
        raise DataError(f"{where} has dtype {dataset.dtype}; expected floats, integers or bool")
    _check_filters(dataset, where)
    _check_storage(dataset, where, path.stat().st_size)
    return Hdf5Array(tuple(dataset.shape or ()), dataset.dtype.newbyteorder("=").name, dataset)


def _check_filters(dataset: Any, where: str) -> None:
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        number = properties.get_filter(index)[0]
        if number not in FILTERS:
            raise DataError(
                f"{where} is packed with HDF5 filter {number}; expected only {', '.join(FILTERS.values())}; "
                "write it again with one of these or none"
            )


def _check_storage(dataset: Any, where: str, file_bytes: int) -> None:
    """Refuse a dataset that declares more numbers than its bytes can hold, before memory is taken for it."""
    if dataset.shape is None:
        raise DataError(f"{where} is empty; expected an array")
    declared = prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), file_bytes)
    ratio = MAX_RATIO if dataset.id.get_create_plist().get_nfilters() else 1
    if declared > stored * ratio:
        raise DataError(
            f"{where} declares {declared} bytes; expected at most {stored * ratio} of the {stored} that are "
            "stored; parts of it were never written or the file is cut off: make it again"
        )
    if dataset.chunks is None:
        return
    chunk_bytes = prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise DataError(f"{where} has chunks of {chunk_bytes} bytes; expected at most {MAX_CHUNK_BYTES}")
    n_chunks = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() != n_chunks:
        raise DataError(
            f"{where} has {dataset.id.get_num_chunks()} of {n_chunks} chunks; expected all; parts of it were "
            "never written: make the file again"
        )


def _attributes(file: Any, path: Path) -> dict[str, float]:
    if "temperature" not in file.attrs:
        return {}
    stored = file.attrs.get_id("temperature")
    if stored.shape not in ((), (1,)) or stored.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: attribute temperature has shape {stored.shape} of {stored.dtype}; expected a number"
        )
    return {"temperature": float(np.ravel(file.attrs["temperature"])[0])}
