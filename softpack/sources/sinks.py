"""The four kinds of files, written a few rows at a time.

A sink is opened with the plan of all arrays, takes their rows in order in any portions, and holds none.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

import numpy as np

from softpack.sources.safetensors_file import DTYPES


@dataclass(frozen=True)
class ArrayPlan:
    """What one array will be.

    Args:
        shape: of the whole.
        dtype: a numpy name.
        lead: leading axes that count rows.
    """

    shape: tuple[int, ...]
    dtype: str
    lead: int

    @property
    def numbers(self) -> np.dtype:
        """Dtype of the stored bytes, which are little-endian everywhere."""
        numbers: np.dtype = np.dtype(self.dtype).newbyteorder("<")
        return numbers

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole."""
        return prod(self.shape) * self.numbers.itemsize

    def to_bytes(self, rows: np.ndarray) -> memoryview:
        """Return rows as they are stored."""
        flat = np.ascontiguousarray(rows, self.numbers).reshape(-1)
        return flat.view(np.uint8).data


Plans = dict[str, ArrayPlan]
Append = Callable[[dict[str, np.ndarray]], None]
Sink = Callable[[Path, Plans, "float | None"], AbstractContextManager[Append]]


def _write_npy_header(file: IO[bytes], plan: ArrayPlan) -> None:
    descr = np.lib.format.dtype_to_descr(plan.numbers)
    facts = {"descr": descr, "fortran_order": False, "shape": plan.shape}
    np.lib.format.write_array_header_1_0(file, facts)


@contextmanager
def npy_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write the first array alone."""
    name, plan = next(iter(plans.items()))
    with open(path, "wb") as file:
        _write_npy_header(file, plan)

        def append(arrays: dict[str, np.ndarray]) -> None:
            if name in arrays:
                file.write(plan.to_bytes(arrays[name]))

        yield append


@contextmanager
def npz_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write members that are stored, not deflated, so that readers reach any row.

    Members follow one another in a zip file. The first array goes straight into its own; the others, which
    are small beside it, wait in nameless files in the same folder.
    """
    first, *rest = plans
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path, "w"))
        spools = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in rest}
        with _member(archive, first) as member:
            files: dict[str, IO[bytes]] = {first: member, **spools}
            for name, plan in plans.items():
                _write_npy_header(files[name], plan)

            def append(arrays: dict[str, np.ndarray]) -> None:
                for name, rows in arrays.items():
                    files[name].write(plans[name].to_bytes(rows))

            yield append
        for name, spool in spools.items():
            spool.seek(0)
            with _member(archive, name) as member:
                copyfileobj(spool, member, 1 << 20)
        if temperature is not None:
            with _member(archive, "temperature") as member:
                np.lib.format.write_array(member, np.array(temperature), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # A ZipInfo of its own has a fixed date, so that the same rows make the same bytes.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


@contextmanager
def hdf5_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Let the library lay out contiguous datasets, then write each at its own offset.

    Past the layout no byte goes through the library, which on a full disk neither writes nor lets go.
    """
    import h5py

    try:
        with h5py.File(path, "w") as file:
            places = {name: _hdf5_dataset(file, name, plan) for name, plan in plans.items()}
            if temperature is not None:
                file.attrs["temperature"] = temperature
    except RuntimeError as error:
        raise OSError(str(error)) from error
    with open(path, "r+b", buffering=0) as raw:
        yield partial(_append_at, raw, plans, places)


def _hdf5_dataset(file: Any, name: str, plan: ArrayPlan) -> int:
    """Make a dataset, and return the offset of its numbers in the file."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same rows make the same bytes
    dtype = h5py.h5t.py_create(plan.numbers, logical=True)
    space = h5py.h5s.create_simple(plan.shape)
    offset: int = h5py.h5d.create(file.id, name.encode(), dtype, space, properties).get_offset()
    return offset


@contextmanager
def safetensors_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write each tensor at its own offset, widest dtypes first so that all are aligned, as the library does."""
    names = {dtype: name for name, (dtype, _) in DTYPES.items()}
    header: dict[str, object] = {}
    if temperature is not None:
        header["__metadata__"] = {"temperature": repr(float(temperature))}
    offsets, end = {}, 0
    for name in sorted(plans, key=lambda name: (-plans[name].numbers.itemsize, name)):
        plan = plans[name]
        offsets[name], end = end, end + plan.n_bytes
        facts = {"dtype": names[plan.dtype], "shape": list(plan.shape), "data_offsets": [offsets[name], end]}
        header[name] = facts
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        _write_all(file, memoryview(len(text).to_bytes(8, "little") + text))
        places = {name: 8 + len(text) + offset for name, offset in offsets.items()}
        yield partial(_append_at, file, plans, places)


def _append_at(file: io.RawIOBase, plans: Plans, places: dict[str, int], arrays: dict[str, np.ndarray]) -> None:
    """Write rows where each array goes on, and move these places on."""
    for name, rows in arrays.items():
        file.seek(places[name])
        places[name] += _write_all(file, plans[name].to_bytes(rows))


def _write_all(file: io.RawIOBase, data: memoryview) -> int:
    """Write all bytes; an unbuffered file may take fewer at a time."""
    n_bytes = len(data)
    while data:
        data = data[file.write(data) or 0 :]
    return n_bytes


SINKS: dict[str, Sink] = {
    ".npy": npy_sink,
    ".npz": npz_sink,
    ".h5": hdf5_sink,
    ".hdf5": hdf5_sink,
    ".safetensors": safetensors_sink,
}
