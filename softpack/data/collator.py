"""Batches of sequences with the soft labels of their positions, padded or packed, for any trainer.

Shapes in names: B rows of a batch, L tokens of a row, N labelled positions, V tokens of the vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.sparse import SparseRows
from softpack.container.reader import Labels
from softpack.container.reader import open as open_labels
from softpack.container.resident import ResidentLabels
from softpack.data.source import LabelSource
from softpack.errors import DataError
from softpack.records import IGNORED
from softpack.sequences import as_tokens


@dataclass(frozen=True)
class TokenLabels:
    """Which positions of a batch have a soft label, and which label that is.

    Args:
        row_N: int64, of the batch.
        position_N: int64, in the row: what the student says there is about the next token, as the label is.
        item_N: int64, of the labels.
        view_N: int64, of the labels.
        label: the labels, in the same order, where they have been read.
    """

    row_N: Tensor
    position_N: Tensor
    item_N: Tensor
    view_N: Tensor
    label: SparseRows | Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_N)

    def to(self, device: torch.device | str) -> TokenLabels:
        """Return the same on `device`."""
        label = None if self.label is None else self.label.to(device)
        row_N, position_N, item_N, view_N = (
            numbers_N.to(device) for numbers_N in (self.row_N, self.position_N, self.item_N, self.view_N)
        )
        return TokenLabels(row_N, position_N, item_N, view_N, label)

    def student(self, logits_BLV: Tensor) -> Tensor:
        """Return what the student says where there are labels, [N, V], in the order of the labels.

        Raises:
            DataError: its vocabulary is not that of the labels.
        """
        if self.label is not None:
            classes = self.label.spec.classes if isinstance(self.label, SparseRows) else self.label.shape[1]
            check_vocabulary(logits_BLV.shape[-1], classes)
        return logits_BLV[self.row_N, self.position_N]

    def read(self, labels: LabelSource, device: torch.device | str | None = None) -> SparseRows | Tensor:
        """Return the labels on `device`: those that have been read, or else from the file, decoded there.

        Args:
            labels: of the file.
            device: that of the positions by default.
        """
        device = self.row_N.device if device is None else device
        if self.label is not None:
            return self.label.to(device)
        return read_rows(labels, self.item_N.cpu().numpy(), self.view_N.cpu().numpy(), device)


class LabelCollator:
    """Makes a batch of examples with their soft labels: `DataLoader(..., collate_fn=LabelCollator("labels.spk"))`.

    An example is a dictionary of `item`, the number of its sequence in the file, and `input_ids`, its tokens: all of
    them or the first, without padding. They are held against the file, so that no label gets to another token. Where
    an example has `labels` (`IGNORED` for tokens that do not count), or `completion_mask` (0 for these), only tokens
    that count are labelled.

    A batch is a dictionary of

    * `input_ids`, int64 [B, L];
    * padded: `attention_mask` [B, L]. Packed: `position_ids` [B, L] that begin anew with every sequence, and
      `use_cache=False`: by these, and where there is no mask, models of transformers keep sequences apart;
    * `labels`, int64 [B, L]: each token that counts, in its own place as transformers has it, else `IGNORED`. The
      first token of a sequence never counts, nor does padding;
    * `soft_labels`: `TokenLabels`, of the position before each token that counts.

    It works in the processes of a DataLoader, each of which opens the file.

    Args:
        labels: path of an .spk file with the tokens of sequences, or labels that `softpack.open` gave.
        packed: tokens of a row into which several sequences go; None for a row each, padded to the longest.
        pad_token_id: behind the last token of a row.
        item: name of the examples' field.
        decode: read the labels with the batch. None does so for codecs that keep some classes of a row; whole rows are
            better read where the student is, by `batch["soft_labels"].read(labels, device)`.

    Raises:
        DataError: the file has no sequences. Later: examples are not those that were labelled.
    """

    def __init__(
        self,
        labels: str | os.PathLike[str] | LabelSource,
        *,
        packed: int | None = None,
        pad_token_id: int = 0,
        item: str = "item",
        decode: bool | None = None,
    ) -> None:
        self.labels = open_labels(labels) if isinstance(labels, (str, os.PathLike)) else labels
        self.packed, self.pad_token_id, self.item = packed, pad_token_id, item
        if packed is not None and packed < 2:
            raise DataError(f"packed is {packed}; expected the tokens of a row, 2 or more")
        if "length" not in self.labels.item_columns:
            raise DataError(
                f"{_name(self.labels)}: holds no tokens of sequences, to which batches could be held"
            )
        self.decode = is_sparse(self.labels) if decode is None else decode

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of some examples.

        Raises:
            DataError: an example is not the sequence of its item, or too long for a row.
        """
        items = [self._item(example) for example in examples]
        tokens = [
            as_tokens(example["input_ids"], f"item {item}")
            for item, example in zip(items, examples, strict=True)
        ]
        self.labels.check_tokens(items, tokens, whole=False)
        rows, starts = self._places([len(tokens_L) for tokens_L in tokens])
        n_tokens = max(
            (start + len(tokens_L) for start, tokens_L in zip(starts, tokens, strict=True)), default=0
        )
        shape = (max(rows, default=-1) + 1, n_tokens)
        ids_BL, hard_BL = np.full(shape, self.pad_token_id, np.int64), np.full(shape, IGNORED, np.int64)
        place_BL, is_token_BL = np.zeros(shape, np.int64), np.zeros(shape, bool)
        found = []
        for row, start, item, tokens_L, example in zip(rows, starts, items, tokens, examples, strict=True):
            part = slice(start, start + len(tokens_L))
            ids_BL[row, part], is_token_BL[row, part] = tokens_L, True
            place_BL[row, part] = np.arange(len(tokens_L))
            view_N = np.flatnonzero(_counts(example, len(tokens_L), item)[1:])
            hard_BL[row, start + view_N + 1] = tokens_L[view_N + 1]
            found.append(
                np.stack([np.full_like(view_N, row), start + view_N, np.full_like(view_N, item), view_N])
            )
        row_N, position_N, item_N, view_N = np.concatenate([np.empty((4, 0), np.int64), *found], axis=1)
        soft = TokenLabels(*map(torch.from_numpy, (row_N, position_N, item_N, view_N)))
        if self.decode:
            soft = replace(soft, label=read_rows(self.labels, item_N, view_N, "cpu"))
        if self.packed is None:
            beside: dict[str, Any] = {"attention_mask": torch.from_numpy(is_token_BL.astype(np.int64))}
        else:
            padding_BL = np.cumsum(~is_token_BL, axis=1) - 1  # which is a sequence of its own
            position_BL = np.where(is_token_BL, place_BL, padding_BL)
            beside = {"position_ids": torch.from_numpy(position_BL), "use_cache": False}
        ids, hard = torch.from_numpy(ids_BL), torch.from_numpy(hard_BL)
        return {"input_ids": ids, **beside, "labels": hard, "soft_labels": soft}

    def _item(self, example: Mapping[str, Any]) -> int:
        missing = [name for name in (self.item, "input_ids") if name not in example]
        if missing:
            raise DataError(
                f"an example has the fields {', '.join(map(str, example))}, and no {' and no '.join(missing)}; give "
                "the number of its sequence and its tokens. Trainers drop fields that the model does not take, unless "
                "remove_unused_columns=False"
            )
        return int(example[self.item])

    def _places(self, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return in which row each sequence goes, and where it begins there."""
        if self.packed is None:
            return list(range(len(lengths))), [0] * len(lengths)
        rows: list[int] = []
        starts: list[int] = []
        filled: list[int] = []
        for length in lengths:
            if length > self.packed:
                raise DataError(
                    f"a sequence has {length} tokens, and rows {self.packed}; give longer rows, packed="
                )
            row = next((row for row, n in enumerate(filled) if n + length <= self.packed), len(filled))
            if row == len(filled):
                filled.append(0)
            rows.append(row)
            starts.append(filled[row])
            filled[row] += length
        return rows, starts


def read_rows(
    labels: LabelSource, item_N: np.ndarray, view_N: np.ndarray, device: torch.device | str
) -> SparseRows | Tensor:
    """Return labels on `device`: the classes that were kept where the codec keeps some, else whole rows."""
    if is_sparse(labels):
        of_file = labels.labels if isinstance(labels, ResidentLabels) else labels
        return of_file.read_sparse(item_N, view_N, device)
    return labels.read(item_N, view_N, device)


def is_sparse(labels: LabelSource) -> bool:
    """Return whether labels are read as the classes that were kept."""
    of_file: Labels = labels.labels if isinstance(labels, ResidentLabels) else labels
    return of_file.codec.is_sparse and of_file.promise is None


def check_vocabulary(student: int, classes: int) -> None:
    """Check that a student gives as many logits as labels have classes.

    Raises:
        DataError: it does not.
    """
    if student != classes:
        raise DataError(
            f"the student gives {student} logits, and the labels are of {classes} tokens; a student of another "
            "vocabulary cannot be held to them. Where it has more for padding, resize_token_embeddings takes them off"
        )


def _counts(example: Mapping[str, Any], length: int, item: int) -> np.ndarray:
    """Return which tokens of an example count, bool [L]."""
    counts_L = np.ones(length, bool)
    for name, ignored in (("labels", IGNORED), ("completion_mask", 0)):
        if example.get(name) is not None:
            values_L = np.asarray(example[name])
            if values_L.shape != (length,):
                raise DataError(
                    f"item {item}: {name} has the shape {values_L.shape}; expected one for each of {length} tokens"
                )
            counts_L &= values_L != ignored
    return counts_L


def _name(labels: LabelSource) -> str:
    return (labels.labels if isinstance(labels, ResidentLabels) else labels).file.name
