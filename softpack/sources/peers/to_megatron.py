"""Labels as Megatron-LM's trainer reads them: tars of iterations of one rank, which others share; see `megatron`.

A student takes its microbatches in the order of the data, so sequences have to be in the order in which it is trained
on them, and batches as large as its own. Of which run they are it checks by a hash, which the caller gives.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard

from softpack.errors import DataError
from softpack.sources.encoding import Counted
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import need
from softpack.sources.peers.megatron import MAX_META_BYTES, META, MOST_CLASSES, NONE_VALUE, TAR
from softpack.sources.peers.to_folder import label_folder
from softpack.sources.peers.to_sequences import Sequence, Sequences

FILES = r"cp\d+_dp\d+__\d+\.tar|open\.tar"
TAR_BYTES = 256 << 20  # after which the next one begins
DTYPES = {"float16": torch.float16, "float32": torch.float32}
NAMES = {"float16": "fp16", "float32": "fp32"}


def write_megatron(
    path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None
) -> None:
    """Write the labels of an `.spk` file as a set of Megatron-LM, which appears whole or not at all.

    Args:
        path: of the `.spk` file, whose sequences are of one length.
        out: of the folder.
        asked: how many tokens are kept of a row, sequences of a batch and of a microbatch, and the student's run.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: the file does not fit the layout, or what it must say is not given.
        ExistsError: `out` is there, and `force` is not given.
    """
    sequences = Sequences.of(path, asked.k, False, counted, asked.matrix)
    labels, lengths = sequences.labels, sequences.n_rows_N
    if labels.spec.classes > MOST_CLASSES:
        raise DataError(f"{path}: has {labels.spec.classes} tokens; Megatron's ids tell {MOST_CLASSES} apart")
    sequences.check_one_length("Megatron")
    need(
        out,
        {
            "of which run the student is (--meta JSON: its identifiers seed, sequence_length, train_samples and blend, "
            "or a tar of the teacher's run)": asked.meta is None,
            "how many sequences a microbatch has (--micro-batch N, as the student's)": asked.micro_batch
            is None,
        },
    )
    assert asked.meta is not None and asked.micro_batch is not None  # noqa: PT018
    batch, micro = asked.batch, asked.micro_batch
    if batch % micro or len(lengths) % batch:
        raise DataError(
            f"{path}: has {len(lengths)} sequences, to be in batches of {batch} (--batch-size) and microbatches of "
            f"{micro} (--micro-batch); expected whole ones"
        )
    dtype = asked.dtype or "float16"
    meta = _meta(asked.meta, sequences.k, NAMES[dtype], int(lengths[0]))
    with label_folder(path, out, force, FILES) as folder:
        _write(folder, sequences, batch, micro, DTYPES[dtype], meta)


def _write(folder: Path, sequences: Sequences, batch: int, micro: int, dtype: torch.dtype, meta: bytes) -> None:
    tar, waiting, n_done, partial = None, list[Sequence](), 0, folder / "open.tar"
    for sequence in sequences:
        waiting.append(sequence)
        if len(waiting) < batch:
            continue
        if tar is None:
            tar = tarfile.open(partial, "w")  # noqa: SIM115  # it is closed where the next one begins
            _add(tar, META, meta)
        _add(tar, f"{n_done}.pt.zst", _payload(waiting, micro, dtype))
        waiting, n_done = [], n_done + 1
        if partial.stat().st_size > TAR_BYTES:
            _close(tar, partial, n_done - 1)
            tar = None
    if tar is not None:
        _close(tar, partial, n_done - 1)


def _close(tar: tarfile.TarFile, partial: Path, last: int) -> None:
    """Close a tar, and name it after its last iteration."""
    tar.close()
    partial.rename(partial.with_name(f"cp0_dp0__{last}.tar"))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _payload(sequences: list[Sequence], micro: int, dtype: torch.dtype) -> bytes:
    """Return an iteration, as it is stored."""
    parts: dict[str, list[torch.Tensor]] = {"values": [], "indices_low": [], "bit_17": []}
    for start in range(0, len(sequences), micro):
        of = sequences[start : start + micro]
        ids_SBk = torch.from_numpy(np.stack([s.ids_Rk for s in of], axis=1))
        values_SBk = torch.from_numpy(np.stack([s.log_probs_Rk for s in of], axis=1))
        values_SBk = values_SBk.masked_fill(ids_SBk < 0, NONE_VALUE)
        parts["values"].append(values_SBk.to(dtype))
        parts["indices_low"].append((ids_SBk & 0xFFFF).to(torch.uint16))
        parts["bit_17"].append(ids_SBk >> 16 != 0)
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    packed: bytes = zstandard.ZstdCompressor(level=3).compress(buffer.getvalue())
    return packed


def _meta(path: Path, k: int, dtype: str, length: int) -> bytes:
    """Return what the first member of each tar says.

    Raises:
        DataError: the run is not said, or has sequences of another length.
    """
    said = _said(path)
    identifiers = said.get("identifiers", said)
    if not isinstance(identifiers, dict) or not ("hash" in said or "seed" in identifiers):
        raise DataError(
            f"{path}: says no run; expected seed, sequence_length, train_samples and blend, or a hash of them"
        )
    if identifiers.get("sequence_length", length) != length:
        raise DataError(
            f"{path}: says sequences of {identifiers['sequence_length']}, and labels are of {length} positions"
        )
    text = json.dumps(identifiers, separators=(",", ":"))
    hashed = said.get("hash") or hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    saver = {"k": k, "p": None, "min_k": 1, "save_dtype": dtype}
    whole = {"hash": hashed, "identifiers": identifiers, "saver": saver}
    return json.dumps(whole, separators=(",", ":")).encode()


def _said(path: Path) -> dict[str, Any]:
    try:
        if TAR.fullmatch(path.name):
            with tarfile.open(path, "r:") as tar:
                file = tar.extractfile(META)
                data = b"" if file is None else file.read(MAX_META_BYTES)
        else:
            data = path.read_bytes()[:MAX_META_BYTES]
        said = json.loads(data)
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON or as a tar of Megatron: {error}") from None
    if not isinstance(said, dict):
        raise DataError(f"{path}: holds no object; expected what a run says of itself")
    return said
