"""Caches of what a language model says, laid out as the programs of others write them; slowly, and by themselves."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard

CLASSES = 1000


@dataclass(frozen=True)
class Said:
    """What a teacher says of some sequences.

    Args:
        ids: of each sequence, int64 [rows, k], most likely first.
        log_probs: of each sequence, float32 [rows, k].
        tokens: of each sequence, int64 [rows + 1].
    """

    ids: list[np.ndarray]
    log_probs: list[np.ndarray]
    tokens: list[np.ndarray]


def say(lengths: tuple[int, ...] = (5, 1, 9), k: int = 12, classes: int = CLASSES, seed: int = 0) -> Said:
    """Draw what a teacher says, with some probability left for others."""
    rng = np.random.default_rng(seed)
    ids, log_probs, tokens = [], [], []
    for length in lengths:
        of_rows = [rng.permutation(classes)[:k] for _ in range(length - 1)]
        ids.append(np.array(of_rows, np.int64).reshape(-1, k))
        shares = np.sort(rng.dirichlet(np.full(k + 1, 0.3), length - 1)[:, 1:] + 1e-6, axis=1)[:, ::-1] * 0.97
        log_probs.append(np.log(shares).astype(np.float32))
        tokens.append(rng.integers(classes, size=length))
    return Said(ids, log_probs, tokens)


def packed(numbers: list[int], bits: int) -> list[int]:
    """Return numbers as bytes, the highest bit first."""
    text = "".join(f"{int(number):0{bits}b}" for number in numbers)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def exact_config(k: int, dtype: str = "float32", classes: int = CLASSES) -> dict[str, Any]:
    """Return a configuration of DistillKit that rounds nothing but to `dtype`."""
    return {
        "d": classes, "k": k, "exact_k": k, "exact_dtype": dtype, "polynomial_terms": None, "residual_bins": [],
        "delta_encoding": False, "error_diffusion": False, "normalize_t": False, "term_dtype": "float32",
    }  # fmt: skip


def write_parquet(path: Path, columns: dict[str, list[Any]], types: dict[str, pa.DataType], **how: Any) -> None:
    """Write lists as columns of lists."""
    table = pa.table({name: pa.array(values, type=types[name]) for name, values in columns.items()})
    pq.write_table(table, path, **how)


NUMBERS = pa.list_(pa.uint64())
BYTES = pa.list_(pa.list_(pa.uint8()))


def write_distillkit(
    path: Path, said: Said, config: dict[str, Any] | None = None, files: int = 2, rows: list[Any] | None = None
) -> None:
    """Write a set of the present layout.

    Args:
        path: of the folder.
        said: by the teacher.
        config: of the set, whose log-probabilities are float32; `rows` says others.
        files: that sequences are shared among.
        rows: bytes of the log-probabilities of each sequence.
    """
    k = said.ids[0].shape[1]
    config = exact_config(k) if config is None else config
    path.mkdir()
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items())
    (path / "compression_config.yaml").write_text(text)
    bits = (config["d"] - 1).bit_length()
    rows = rows or [[list(struct.pack(f"<{k}f", *row)) for row in values] for values in said.log_probs]
    ids = [[packed(row, bits) for row in of.tolist()] for of in said.ids]
    tokens = [one.tolist() for one in said.tokens]
    for file in range(files):
        part = slice(file * len(ids) // files, (file + 1) * len(ids) // files)
        write_parquet(
            path / f"data_{file}.parquet",
            {"input_ids": tokens[part], "compressed_logprobs": rows[part], "bytepacked_indices": ids[part]},
            {"input_ids": NUMBERS, "compressed_logprobs": BYTES, "bytepacked_indices": BYTES},
        )


def write_legacy(path: Path, said: Said, exact_k: int, coefficients: list[np.ndarray], degree: int) -> None:
    """Write a legacy set of DistillKit: exact values, and of the others the coefficients of each row."""
    k = said.ids[0].shape[1]
    config = {"vocab_size": CLASSES, "k": k, "exact_k": exact_k, "polynomial_degree": degree}
    path.mkdir()
    (path / "run.yaml").write_text(json.dumps({"teacher": {"legacy_logit_compression": config}}))
    bits, in_word = 10, 6
    words = []
    for of in said.ids:
        words.append(
            [
                [
                    sum(int(t) << (bits * place) for place, t in enumerate(row[at : at + in_word]))
                    for at in range(0, k, in_word)
                ]
                for row in of.tolist()
            ]
        )
    write_parquet(
        path / "data_0.parquet",
        {
            "input_ids": [one.tolist() for one in said.tokens],
            "packed_indices": words,
            "exact_values": [values[:, :exact_k].tolist() for values in said.log_probs],
            "coeffs": [of.tolist() for of in coefficients],
        },
        {
            "input_ids": NUMBERS,
            "packed_indices": pa.list_(pa.list_(pa.uint64())),
            "exact_values": pa.list_(pa.list_(pa.float32())),
            "coeffs": pa.list_(pa.list_(pa.float32())),
        },
    )


def payload(values: list[torch.Tensor], ids: list[torch.Tensor]) -> bytes:
    """Return an iteration of Megatron-LM: tensors [positions, sequences, k] of each microbatch."""
    buffer = io.BytesIO()
    low = [(one & 0xFFFF).to(torch.uint16) for one in ids]
    torch.save(
        {"values": values, "indices_low": low, "bit_17": [(one >> 16).to(torch.bool) for one in ids]}, buffer
    )
    return zstandard.ZstdCompressor(level=3).compress(buffer.getvalue())


def write_tar(path: Path, meta: dict[str, Any], members: dict[int, bytes]) -> None:
    """Write a tar of iterations, what it says of the run first."""
    with tarfile.open(path, "w") as tar:
        named = {"_meta.json": json.dumps(meta).encode()}
        named |= {f"{iteration}.pt.zst": data for iteration, data in members.items()}
        for name, data in named.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@dataclass(frozen=True)
class Ranks:
    """How Megatron-LM was run: iterations from `first` on, of microbatches of so many sequences on each rank."""

    iterations: int = 2
    microbatches: int = 2
    sequences: int = 2
    positions: int = 8
    dp: int = 2
    cp: int = 1
    first: int = 3
    k: int = 5
    all_kept: bool = False


def write_megatron(
    path: Path, ranks: Ranks, classes: int = 100_000, seed: int = 0
) -> dict[tuple[int, int], Any]:
    """Write a set of Megatron-LM, fp16, some rows of which keep fewer; return (ids, values) by (item, view)."""
    rng, rows = np.random.default_rng(seed), {}
    path.mkdir()
    tars: dict[tuple[int, int], dict[int, bytes]] = {}
    item_of = 0
    for iteration in range(ranks.first, ranks.first + ranks.iterations):
        lists: dict[tuple[int, int], tuple[list[Any], list[Any]]] = {}
        for _ in range(ranks.microbatches):
            for dp in range(ranks.dp):
                shape = (ranks.positions, ranks.sequences, ranks.k)
                values = np.sort(np.log(rng.dirichlet(np.ones(ranks.k + 1), shape[:2])[..., 1:]), -1)[..., ::-1]
                values = values.astype(np.float16)
                ids = rng.permuted(np.broadcast_to(np.arange(classes), (1, classes)), axis=1)[
                    0, : np.prod(shape)
                ]
                ids = ids.reshape(shape)
                n_kept = rng.integers(ranks.k if ranks.all_kept else 1, ranks.k + 1, shape[:2])
                is_none = np.arange(ranks.k) >= n_kept[..., None]
                for position in range(ranks.positions):
                    for sequence in range(ranks.sequences):
                        n = n_kept[position, sequence]
                        rows[item_of + sequence, position] = (
                            ids[position, sequence, :n], values[position, sequence, :n].astype(np.float32)
                        )  # fmt: skip
                item_of += ranks.sequences
                values, ids = np.where(is_none, np.float16(-1000), values), np.where(is_none, -1, ids)
                size = ranks.positions // (2 * ranks.cp)
                for cp in range(ranks.cp):
                    chunks = (cp, 2 * ranks.cp - 1 - cp)
                    of = np.concatenate([np.arange(c * size, (c + 1) * size) for c in chunks])
                    of = np.arange(ranks.positions) if ranks.cp == 1 else of
                    into = lists.setdefault((cp, dp), ([], []))
                    into[0].append(torch.from_numpy(values[of].copy()))
                    into[1].append(torch.from_numpy(ids[of].copy()))
        for rank, (values, ids) in lists.items():
            tars.setdefault(rank, {})[iteration] = payload(values, ids)
    meta = {
        "hash": "0f",
        "identifiers": {"seed": 1, "sequence_length": ranks.positions},
        "saver": {"k": ranks.k},
    }
    for (cp, dp), members in tars.items():
        write_tar(path / f"cp{cp}_dp{dp}__{max(members)}.tar", meta, members)
    return rows
