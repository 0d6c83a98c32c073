"""Rows as WebDataset reads them: shards of samples, one for each item, with its labels in `KEY.logits.npy`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.sources.files.plans import Append, Plans

FILES = r"labels-\d{6}\.tar"  # that such a folder may hold
SHARD_ITEMS = 10_000
SHARD_BYTES = 1 << 30  # after which a shard takes no more items


@contextmanager
def webdataset_sink(path: Path, plans: Plans, temperature: float | None) -> Iterator[Append]:
    """Write the rows of an item when the next item comes, as a sample of arrays [views, ...].

    What an item has one of, and its number, are in the sample's JSON, its class in `KEY.cls`.
    """
    items = _Items(_Shards(path), plans, {} if temperature is None else {"temperature": float(temperature)})
    try:
        yield items.append
        items.flush()
    finally:
        items.shards.close()


class _Items:
    """Collects the rows of an item.

    Args:
        shards: where samples go.
        plans: of the arrays.
        said: in the JSON of every sample.
    """

    def __init__(self, shards: _Shards, plans: Plans, said: dict[str, float]) -> None:
        self.shards, self._plans, self._said = shards, plans, said
        self._of_items: dict[str, np.ndarray] = {}
        self._item, self._parts = -1, list[dict[str, np.ndarray]]()

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Take in rows by item; or, before them, what items have."""
        if "item" not in arrays:
            self._of_items = arrays
            return
        item_B = arrays["item"]
        edges = [*np.flatnonzero(np.diff(item_B, prepend=-1)).tolist(), len(item_B)]
        for start, stop in pairwise(edges):
            item = int(item_B[start])
            if item < self._item:
                raise DataError(
                    f"rows of item {item} come after those of item {self._item}; expected them by item"
                )
            if item > self._item:
                self.flush()
            self._item = item
            self._parts.append({name: values[start:stop].copy() for name, values in arrays.items()})

    def flush(self) -> None:
        """Write the item whose rows are held."""
        if not self._parts:
            return
        arrays = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        del arrays["item"]
        of_item = {name: values[self._item].tolist() for name, values in self._of_items.items()}
        target = of_item.pop("target", None)
        said = {"item": self._item, **of_item, **self._said}
        members = {
            f"{name}.npy": _npy(values.astype(self._plans[name].numbers)) for name, values in arrays.items()
        }
        if target is not None:
            members["cls"] = str(target).encode()
        members["json"] = json.dumps(said, separators=(",", ":")).encode()
        self.shards.write(f"{self._item:09d}", members)
        self._parts = []


def _npy(values: np.ndarray) -> bytes:
    np.lib.format.write_array(file := io.BytesIO(), values, (1, 0), allow_pickle=False)
    return file.getvalue()


class _Shards:
    """The shards, which are written one after another.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: tarfile.TarFile | None = None
        self._n_shards = self._n_items = 0  # items of the shard that is open

    def write(self, key: str, members: dict[str, bytes]) -> None:
        """Write a sample; the same members make the same bytes, as nobody's name and no time is in them."""
        if self._archive is None:
            path = self._path / f"labels-{self._n_shards:06d}.tar"
            self._archive = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # of many samples
            self._n_shards, self._n_items = self._n_shards + 1, 0
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            self._archive.addfile(info, io.BytesIO(data))
        self._n_items += 1
        if self._n_items == SHARD_ITEMS or self._archive.offset >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Mark the end of the shard that is open."""
        if self._archive is not None:
            self._archive.close()
        self._archive = None
