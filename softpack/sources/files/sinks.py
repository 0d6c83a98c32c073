"""The kinds of output, written a few rows at a time.

A sink is opened with the plan of all arrays, takes their rows in order in any portions, and holds few of them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from softpack.sources.files.plans import Append, ArrayPlan, Opened, Plans, write_all
from softpack.sources.files.safetensors_file import DTYPES
from softpack.sources.files.to_datasets import FILES as DATASETS_FILES
from softpack.sources.files.to_datasets import datasets_sink
from softpack.sources.files.to_parquet import parquet_sink
from softpack.sources.files.to_torch import ddranking_sink, torch_sink
from softpack.sources.files.to_webdataset import FILES as WEBDATASET_FILES
from softpack.sources.files.to_webdataset import webdataset_sink
from softpack.sources.files.zipping import append_to, side_by_side


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
    """Write members that are stored, not deflated, so that readers reach any row."""
    with zipfile.ZipFile(path, "w") as archive:
        with side_by_side(archive, path.parent, list(plans), _npz_member) as files:
            for name, plan in plans.items():
                _write_npy_header(files[name], plan)
            yield partial(append_to, files, plans)
        if temperature is not None:
            with archive.open(_npz_member("temperature"), "w") as member:
                np.lib.format.write_array(member, np.array(temperature), allow_pickle=False)


def _npz_member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")  # of its own it has a fixed date: the same rows make the same bytes


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
        write_all(file, memoryview(len(text).to_bytes(8, "little") + text))
        places = {name: 8 + len(text) + offset for name, offset in offsets.items()}
        yield partial(_append_at, file, plans, places)


def _append_at(file: io.RawIOBase, plans: Plans, places: dict[str, int], arrays: dict[str, np.ndarray]) -> None:
    """Write rows where each array goes on, and move these places on."""
    for name, rows in arrays.items():
        file.seek(places[name])
        places[name] += write_all(file, plans[name].to_bytes(rows))


@dataclass(frozen=True)
class Sink:
    """A kind of output.

    Args:
        open: begins one.
        has_columns: False where there is a place for nothing but the labels.
        has_grid: False where rows stand beside their item and view, even where every item has every view.
        files: of a folder, the names that it may hold; None of a file.
    """

    open: Opened
    has_columns: bool = True
    has_grid: bool = True
    files: str | None = None


# The suffix of a file, or what --to takes where no suffix says it -> what writes it.
SINKS = {
    ".npy": Sink(npy_sink, has_columns=False),
    ".npz": Sink(npz_sink),
    ".h5": Sink(hdf5_sink),
    ".hdf5": Sink(hdf5_sink),
    ".safetensors": Sink(safetensors_sink),
    ".pt": Sink(torch_sink),
    ".pth": Sink(torch_sink),
    ".parquet": Sink(parquet_sink, has_grid=False),
}
NAMED = {
    "datasets": Sink(datasets_sink, has_grid=False, files=DATASETS_FILES),
    "webdataset": Sink(webdataset_sink, has_grid=False, files=WEBDATASET_FILES),
    "ddranking": Sink(ddranking_sink, has_columns=False),
}
