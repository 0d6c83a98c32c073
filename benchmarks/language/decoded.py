"""What an arm says of a sequence: whole rows, or the tokens that it kept.

Shapes in names: V positions, C tokens of the vocabulary, K kept ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import zstandard
from torch import Tensor

import softpack
from language.arms import RS_KD_BYTES, Arm
from language.distillkit import roundtrip
from language.room import Room
from softpack.codecs.sparse import SparseRows
from softpack.records import LabelSpec

LEAST_LEFT = 1e-4  # mass that DistillKit's curves leave for the tokens that were not kept
Rows = Tensor | SparseRows
Reader = Callable[
    [int, Tensor], Rows
]  # (number of a sequence, the teacher's logits [V, C]) -> what the arm says


def reader(arm: Arm, room: Room, part: str) -> tuple[Reader, LabelSpec]:
    """Return what reads an arm's labels of a part, and what whole rows of it are."""
    logits = LabelSpec(room.output.shape[0])
    if arm.codec == "dense":
        return lambda n, logits_VC: logits_VC, logits
    if arm.codec == "distillkit":
        return lambda n, logits_VC: with_some_left(roundtrip(logits_VC, **arm.settings)), logits
    labels = room.open(arm, part)
    views = np.arange(labels.shape[1])
    read = labels.read_sparse if labels.codec.is_sparse else labels.read
    if arm.codec == "polyk":
        return lambda n, logits_VC: with_some_left(read(np.full_like(views, n), views)), labels.spec
    return lambda n, logits_VC: read(np.full_like(views, n), views), labels.spec


def with_some_left(rows: SparseRows) -> SparseRows:
    """Return rows of DistillKit's curves, whose kept tokens may have more than all mass, with some for the others."""
    n_others = rows.spec.classes - rows.ids_BK.shape[1]
    left_B = (1 - rows.log_probs_BK.exp().sum(1)).clamp_min(LEAST_LEFT)
    return replace(rows, fill_B=(left_B / n_others).log())


def bytes_a_token(arm: Arm, room: Room, part: str) -> tuple[float, float]:
    """Return the bytes of a token, and the megabytes that all tokens share."""
    if not arm.has_file:
        return arm.n_bytes, 0.0
    path = room.path(arm, part)
    if arm.layout == "file":
        account = softpack.ledger(path)
        return account.marginal_bits_per_label / 8, account.bits_of("model") / 8e6 + (
            account.matrix_bytes or 0
        ) / 1e6
    if arm.layout == "fixed":
        return arm.n_bytes, 0.0
    count = {"megatron": _megatron, "rs-kd": _rs_kd}[arm.layout]
    return count(path), 0.0


def _kept(path: Path) -> Iterator[SparseRows]:
    labels = softpack.open(path)
    for rows in np.array_split(np.arange(labels.n_rows), max(1, labels.n_rows // 2048)):
        yield labels.read_sparse(*labels.cells(rows))


def _rs_kd(path: Path) -> float:
    """Return 17 bits of an id and 7 of a count for each class that was drawn (arXiv:2503.16870)."""
    return RS_KD_BYTES * float(torch.cat([rows.is_class_BK.sum(1) for rows in _kept(path)]).double().mean())


def _megatron(path: Path) -> float:
    """Return fp16 values, the low 16 bits of ids and a byte for what is above, after zstd at level 3.

    It has room for 17 bits of an id, Gemma's have 18: here that byte holds two.
    """
    n_bytes = n_rows = 0
    for rows in _kept(path):
        ids_BK = rows.ids_BK.numpy()
        payload = rows.log_probs_BK.half().numpy().tobytes() + (ids_BK & 0xFFFF).astype(np.uint16).tobytes()
        payload += (ids_BK >> 16).astype(np.uint8).tobytes()
        n_bytes += len(zstandard.ZstdCompressor(level=3).compress(payload))
        n_rows += len(rows)
    return n_bytes / n_rows
