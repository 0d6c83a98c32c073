"""The layouts of others that softpack reads and writes, by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softpack.errors import DataError
from softpack.sources.base import Source
from softpack.sources.fkd import open_fkd
from softpack.sources.given import Given
from softpack.sources.hf_datasets import SPLITS, STATE, open_datasets
from softpack.sources.parquet import open_parquet
from softpack.sources.shards import are_shards
from softpack.sources.sre2l import INDEX, open_sre2l
from softpack.sources.webdataset import open_webdataset


@dataclass(frozen=True)
class Peer:
    """A layout.

    Args:
        open: opens a folder of it.
        looks_like: whether the names in a folder are those of the layout.
        writes: whether labels are decoded to it.
        about: what writes it.
    """

    open: Callable[[Path, Given], Source]
    looks_like: Callable[[set[str]], bool]
    writes: bool
    about: str


def _arrays(opener: Callable[[Path, str | None, float | None], Source]) -> Callable[[Path, Given], Source]:
    """Return an opener of arrays as one of layouts."""
    return lambda path, given: opener(path, given.space, given.temperature)


PEERS = {
    "sre2l": Peer(
        open_sre2l, lambda names: "epoch_0" in names and INDEX not in names, True, "SRe2L, CDA and CV-DD"
    ),
    # By its names alone it is sre2l.
    "gvbsm": Peer(open_sre2l, lambda names: False, False, "G-VBSM: sre2l, whose files say their items"),
    "lpld": Peer(open_sre2l, lambda names: {"epoch_0", INDEX} <= names, True, "LPLD"),
    "fkd": Peer(
        open_fkd,
        lambda names: "train" in names and not {"epoch_0", SPLITS} & names,
        False,
        "FKD: a file for each image",
    ),
    # Written by sinks, as arrays are.
    "parquet": Peer(
        _arrays(open_parquet),
        lambda names: are_shards(names, ".parquet"),
        False,
        "columns by name; a folder of shards too",
    ),
    "datasets": Peer(
        _arrays(open_datasets),
        lambda names: bool({STATE, SPLITS} & names),
        False,
        "Hugging Face's Dataset.save_to_disk",
    ),
    "webdataset": Peer(
        _arrays(open_webdataset),
        lambda names: are_shards(names, ".tar"),
        False,
        "tar shards with KEY.logits.npy",
    ),
}


def recognized(path: Path) -> str:
    """Return the name of the layout that a folder has.

    Raises:
        DataError: none that is known, or several.
    """
    names = {entry.name for entry in os.scandir(path)}
    alike = [name for name, peer in PEERS.items() if peer.looks_like(names)]
    if len(alike) == 1:
        return alike[0]
    what = (
        f"may be {' or '.join(alike)}"
        if alike
        else "expected a file, or the layout of a label set that is known"
    )
    raise DataError(
        f"{path}: is a folder; {what}; name it with --from {', '.join(PEERS)}, or name a file in it"
    )
