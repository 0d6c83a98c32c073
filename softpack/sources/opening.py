"""From a path to the source that it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from softpack.errors import DataError
from softpack.sources.base import Source
from softpack.sources.files.arrays import open_arrays
from softpack.sources.files.hdf5 import open_hdf5
from softpack.sources.files.npy import open_npy
from softpack.sources.files.npz import open_npz
from softpack.sources.files.parquet import open_parquet
from softpack.sources.files.safetensors_file import open_safetensors
from softpack.sources.files.shards import is_pattern
from softpack.sources.files.sinks import NAMED, SINKS
from softpack.sources.files.stored import UNPICKLED
from softpack.sources.files.torch_file import open_one_tensor, open_torch
from softpack.sources.files.webdataset import open_webdataset
from softpack.sources.peers.given import Given
from softpack.sources.peers.registry import PEERS, STORES_NONE, recognized
from softpack.sources.spk import open_spk
from softpack.sources.writing import kind_of

# A file's suffix -> what opens it, given its path and the space and temperature that the caller asked for.
SOURCES: dict[str, Callable[[Path, str | None, float | None], Source]] = {
    ".npy": partial(open_arrays, open_npy),
    ".npz": partial(open_arrays, open_npz),
    ".h5": partial(open_arrays, open_hdf5),
    ".hdf5": partial(open_arrays, open_hdf5),
    ".safetensors": partial(open_arrays, open_safetensors),
    ".pt": partial(open_arrays, open_torch),
    ".pth": partial(open_arrays, open_torch),
    ".parquet": open_parquet,
    ".tar": open_webdataset,
    ".spk": open_spk,
}
# What opens a file that only --from says the kind of.
ONLY_NAMED: dict[str, Callable[[Path, str | None, float | None], Source]] = {
    "ddranking": partial(open_arrays, open_one_tensor),
    "webdataset": open_webdataset,
}


@dataclass(frozen=True)
class Format:
    """What softpack reads or writes.

    Args:
        name: that `--from` and `--to` take.
        reads: whether it is a source.
        writes: whether labels are decoded to it.
        about: what it is.
    """

    name: str
    reads: bool
    writes: bool
    about: str


FORMATS = (
    Format("npy", True, True, "one array of labels"),
    Format("npz", True, True, "arrays by name, as np.savez writes them"),
    Format("h5", True, True, "datasets by name in an HDF5 file"),
    Format("safetensors", True, True, "tensors by name"),
    Format("pt", True, True, "a tensor, or tensors by name, as torch.save writes them"),
    Format("spk", True, True, "softpack's own"),
    Format("ddranking", True, True, "DD-Ranking's labels.pt: one tensor, a label for each image"),
    *(
        Format(name, True, peer.writes or name in NAMED or f".{name}" in SINKS, peer.about)
        for name, peer in PEERS.items()
    ),
)

PICKLES = (".bin", ".ckpt", ".pkl", ".pickle")


def open_source(
    path: str | os.PathLike[str],
    *,
    space: str | None = None,
    temperature: float | None = None,
    kind: str | None = None,
    given: Given | None = None,
) -> Source:
    """Open a file of labels by its suffix, or a folder of them by its layout.

    Only headers and what there is one of for each item are read; rows are read and checked block by block.

    Args:
        path: of a file with one of the suffixes in `SOURCES`, of a folder with one of the layouts in `PEERS`, or
            several shards by a pattern such as `shard-{000000..000012}.tar`.
        space: what the array of a `.npy` is, "logits" unless given; other files say it, and must say the same.
        temperature: of log_probs and probs, 1 unless the file or the caller says it; both must agree.
        kind: "npz" and so on, for a file whose name does not say it; or a layout.
        given: what the caller says of a layout whose files do not.

    Raises:
        DataError: it is no source of labels.
    """
    path = Path(path)
    understood = f"expected a file that ends in {', '.join(SOURCES)}"
    several = is_pattern(path)
    if not (path.exists() or several):
        remedy = "name the folder that holds them" if "*" in path.name else "check the path"
        raise DataError(f"{path}: is not there; {understood}; {remedy}")
    if path.is_dir():
        return _opened_folder(path, space, temperature, kind, given or Given())
    alone = [name for name, peer in PEERS.items() if path.suffix in peer.files and path.suffix not in SOURCES]
    named = kind or (alone[0] if alone else "")
    if named in PEERS and path.suffix in PEERS[named].files:
        return _opened_folder(path, space, temperature, named, given or Given())
    if not (path.is_file() or several):
        raise DataError(f"{path}: is no ordinary file; {understood}; copy the labels into one")
    opener = SOURCES.get(kind_of(path, kind)) or ONLY_NAMED.get(kind or "")
    if opener is None:
        if kind:
            expected = ", ".join([*SOURCES, *ONLY_NAMED])
            raise DataError(f"{path}: {kind!r} is no kind of source; expected one of {expected}")
        if path.suffix.lower() in PICKLES:
            raise DataError(f"{path}: ends in {path.suffix}, as pickles do; {understood}; {UNPICKLED}")
        ending = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise DataError(f"{path}: {ending}; {understood}; save the labels as one of these, or rename the file")
    return opener(path, space, temperature)


def _opened_folder(
    path: Path, space: str | None, temperature: float | None, kind: str | None, given: Given
) -> Source:
    name = kind or recognized(path)
    if name in STORES_NONE:
        raise DataError(
            f"{path}: {name} stores no labels, its teacher is asked while a student trains; `softpack relabel IMAGES` "
            "makes them (--patches shuffles strips as RDED does)"
        )
    if name not in PEERS:
        raise DataError(f"{path}: is a folder, and {name!r} no layout of one; expected {', '.join(PEERS)}")
    source = PEERS[name].open(path, replace(given, temperature=temperature, space=space))
    spec = source.spec
    if space not in (None, spec.space) or temperature not in (None, spec.temperature):
        raise DataError(
            f"{path}: a set of {name} holds {spec.space} at temperature {spec.temperature:g}; leave --space and "
            "--source-temperature out"
        )
    return source
