"""The layouts of others that softpack reads and writes, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softpack.errors import DataError
from softpack.sources.base import Source
from softpack.sources.files.hf_datasets import SPLITS, STATE, open_datasets
from softpack.sources.files.parquet import open_parquet
from softpack.sources.files.shards import are_shards
from softpack.sources.files.webdataset import open_webdataset
from softpack.sources.peers import distillkit, lpqld, maxtext, megatron, mldr, sre2l, tinyvit, vllm
from softpack.sources.peers.distillkit import open_distillkit
from softpack.sources.peers.fkd import open_fkd
from softpack.sources.peers.given import Given
from softpack.sources.peers.hald import open_hald
from softpack.sources.peers.lpqld import open_lpqld
from softpack.sources.peers.maxtext import open_maxtext
from softpack.sources.peers.megatron import open_megatron
from softpack.sources.peers.mldr import open_mldr
from softpack.sources.peers.sre2l import open_sre2l
from softpack.sources.peers.tinyvit import open_tinyvit
from softpack.sources.peers.vllm import open_vllm


@dataclass(frozen=True)
class Peer:
    """A layout.

    Args:
        open: opens a folder of it.
        looks_like: whether the names in a folder are those of the layout.
        writes: whether labels are decoded to it.
        about: what writes it.
        files: suffixes of single files that may be of it, for which `--from` names it.
    """

    open: Callable[[Path, Given], Source]
    looks_like: Callable[[set[str]], bool]
    writes: bool
    about: str
    files: tuple[str, ...] = ()


def _arrays(opener: Callable[[Path, str | None, float | None], Source]) -> Callable[[Path, Given], Source]:
    """Return an opener of arrays as one of layouts."""
    return lambda path, given: opener(path, given.space, given.temperature)


def _are_tars(names: set[str]) -> bool:
    """Return whether files that end in .tar may be tars; those of SRe2L's kin and of ml-dr are pickles."""
    return (
        are_shards(names, ".tar")
        and not any(re.search(r"^(batch|epoch)_\d+\.tar$|\.pth\.tar$", n) for n in names)
        and not megatron.looks_like(names)
    )


PEERS = {
    "sre2l": Peer(
        open_sre2l, lambda names: "epoch_0" in names and sre2l.INDEX not in names, True, "SRe2L, CDA and CV-DD"
    ),
    # By its names alone it is sre2l.
    "gvbsm": Peer(open_sre2l, lambda names: False, True, "G-VBSM: sre2l, whose files say their items"),
    "edc": Peer(open_sre2l, lambda names: False, True, "EDC: gvbsm, and how strips of images were shuffled"),
    "lpld": Peer(
        open_sre2l, lambda names: {"epoch_0", sre2l.INDEX} <= names, True, "LPLD: sre2l with an index"
    ),
    "lpqld": Peer(open_lpqld, lambda names: lpqld.INDEX in names, True, "LPQLD: the k largest logits"),
    "hald": Peer(open_hald, lambda names: "epoch_0.tar" in names, False, "HALD: a file for each epoch"),
    "fkd": Peer(
        open_fkd,
        lambda names: "train" in names and not {"epoch_0", SPLITS} & names,
        True,
        "FKD: a file for each image",
    ),
    "tinyvit": Peer(
        open_tinyvit, tinyvit.looks_like, True, "TinyViT: the k largest probabilities and a seed of each view"
    ),
    "mldr": Peer(
        open_mldr, mldr.looks_like, False, "ml-dr: the k largest probabilities, a file for each image"
    ),
    # Of language models: some tokens of each row alone.
    "distillkit": Peer(
        open_distillkit,
        distillkit.looks_like,
        True,
        "DistillKit: top-k in parquet, present and legacy",
        (".parquet",),
    ),
    "megatron": Peer(
        open_megatron, megatron.looks_like, True, "Megatron-LM: cached top-k log-probabilities in tars"
    ),
    "maxtext": Peer(
        open_maxtext, maxtext.looks_like, True, "MaxText: top-k logits in ArrayRecord", (maxtext.SUFFIX,)
    ),
    "vllm": Peer(
        open_vllm,
        vllm.looks_like,
        True,
        "vLLM: prompt log-probabilities, JSON lines or arrays",
        (".jsonl", ".npz"),
    ),
    # Written by sinks, as arrays are.
    "parquet": Peer(
        _arrays(open_parquet),
        lambda names: are_shards(names, ".parquet") and not distillkit.looks_like(names),
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
        _are_tars,
        False,
        "tar shards with KEY.logits.npy",
    ),
}


STORES_NONE = ("rded", "dwa", "delt")  # whose teachers label while students train


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
