"""All codes of a file in memory as packed integers, decoded a batch at a time where the student is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.bits import field_widths
from softpack.codecs.abc import code_dtype
from softpack.codecs.sparse import SparseRows
from softpack.container.context import Weights
from softpack.container.correcting import ResidentCorrections, correct, decoding
from softpack.container.corrections import Corrections
from softpack.container.mixing import Mixing
from softpack.container.reader import Indices, Labels
from softpack.records import LabelSpec

LOAD_ROWS = 1 << 16
OF_THE_FILE = (
    "shape", "n_rows", "columns", "item_columns", "promise", "fingerprint", "tile_items", "has", "view_counts",
    "nth_view", "cells", "replay", "item_column", "recipe", "images", "fingerprints", "check_fingerprints", "tokens",
    "check_tokens", "forced_tokens", "forced",
)  # fmt: skip


@dataclass(frozen=True)
class PackedPlane:
    """The same few bits of every number of an array, packed row by row.

    Args:
        shift: of these bits in the number.
        bits: 8, 4, 2 or 1.
        bytes_RP: uint8 [rows, bytes a row].
    """

    shift: int
    bits: int
    bytes_RP: Tensor


class ResidentLabels:
    """Labels whose codes are in memory; see `Labels` for what its methods give.

    A row takes its codes' exact bits, rounded up to bytes. Worker processes share the memory.

    Args:
        labels: the open file.
        device: where the codes are kept, and where `read` decodes unless told otherwise.
    """

    def __init__(self, labels: Labels, device: torch.device | str = "cpu") -> None:
        self.labels = labels
        self.device = torch.device(device)
        self.spec: LabelSpec = labels.spec
        self.arrays = labels.codec.codes
        self.weights = Weights()  # of all rows, where their context depends on them
        self.partner_row_R: Tensor | None = None  # int32, where it depends on where the partners look too
        self._corrections = self._load_corrections()
        self.planes = self._load()

    def __repr__(self) -> str:
        return f"<{self.n_bytes:,} bytes of codes on {self.device}: {self.labels!r}>"

    def __len__(self) -> int:
        return len(self.labels)

    def __getattr__(self, name: str) -> Any:
        # Facts and replay columns are those of the file.
        if name in OF_THE_FILE:
            return getattr(self.labels, name)
        raise AttributeError(name)

    @property
    def n_bytes(self) -> int:
        """Bytes that the codes take in memory, with the corrections."""
        corrections = self._corrections.n_bytes if self._corrections is not None else 0
        planes = (plane for planes in self.planes.values() for plane in planes)
        return corrections + sum(int(plane.bytes_RP.nbytes) for plane in planes)

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        item, view = where
        return self.read([item], [view])[0]

    def read(self, items: Indices, views: Indices, device: torch.device | str | None = None) -> Tensor:
        """Return the labels of these (item, view): float32 [B, C] on `device`, as `Labels.read` does."""
        device = self.device if device is None else torch.device(device)
        rows_B = torch.from_numpy(self.labels.row_numbers(items, views)).to(self.device)
        codes = {name: codes.to(device) for name, codes in self.codes_of_rows(rows_B).items()}
        codec, prototypes = self.labels.codec_on(device), self.labels.prototypes_on(device)
        with decoding(device, self.labels.file.name):
            if prototypes is None:
                rows_BC = codec.decode(codes)
            else:
                items_B = torch.tensor(np.atleast_1d(np.asarray(items)).astype(np.int64), device=device)
                weights = self._weights_of(rows_B).to(device)
                rows_BC = prototypes.decoded(codec, codes, items_B, weights)
        if self._corrections is None or self.labels.promise is None:
            return rows_BC
        row_E, class_E, value_E = (found.to(device) for found in self._corrections.take(rows_B))
        return correct(rows_BC, row_E, class_E, value_E, self.spec, self.labels.promise.step)

    def read_sparse(
        self, items: Indices, views: Indices, device: torch.device | str | None = None
    ) -> SparseRows:
        """Return the classes that were kept of these (item, view), as `Labels.read_sparse` does."""
        device = self.device if device is None else torch.device(device)
        return self.labels.sparse_rows(self.read_codes(items, views), device)

    def read_codes(self, items: Indices, views: Indices) -> dict[str, Tensor]:
        """Return the codes of these (item, view) on the device of the codes."""
        rows = self.labels.row_numbers(items, views)
        return self.codes_of_rows(torch.from_numpy(rows).to(self.device))

    def _weights_of(self, rows_B: Tensor) -> Weights:
        """Return what prototypes weigh in rows; in a partner's row its own prototypes weigh what the partner's do."""
        weights, all_RP = self.weights.rows(rows_B), self.weights.own_BP
        if self.partner_row_R is None or all_RP is None:
            return weights
        return replace(weights, partner_BP=all_RP.index_select(0, self.partner_row_R.index_select(0, rows_B)))

    def codes_of_rows(self, rows_B: Tensor) -> dict[str, Tensor]:
        """Return the codes of rows, numbered in the order of items and then views."""
        codes = {}
        for array in self.arrays:
            packed = [(plane, plane.bytes_RP.index_select(0, rows_B)) for plane in self.planes[array.name]]
            values = _unpack(packed, array.values_per_row, code_dtype(array.bits))
            codes[array.name] = values.reshape(len(rows_B), *array.shape)
        return codes

    def _load_corrections(self) -> ResidentCorrections | None:
        parts = []
        for start in range(0, self.n_rows if self.labels.promise is not None else 0, LOAD_ROWS):
            rows = np.arange(start, min(start + LOAD_ROWS, self.n_rows))
            parts.append(self.labels.corrections(*self.labels.cells(rows)).numbered(rows))
        return ResidentCorrections.of(Corrections.join(parts), self.device)

    def _load(self) -> dict[str, list[PackedPlane]]:
        planes = {array.name: self._empty_planes(array.values_per_row, array.bits) for array in self.arrays}
        mixed: list[Mixing] = []
        for start in range(0, self.n_rows, LOAD_ROWS):
            items, views = self.labels.cells(np.arange(start, min(start + LOAD_ROWS, self.n_rows)))
            for name, codes in self.labels.read_codes(items, views).items():
                for plane in planes[name]:
                    plane.bytes_RP[start : start + len(items)] = _pack(codes.reshape(len(items), -1), plane)
            if self.labels.prototypes is not None:
                mixed.append(self.labels.weighing.mixing(items, views))
        self.weights = Weights.joined([Weights.of(mixing, self.device) for mixing in mixed])
        if self.weights.own_BP is not None and self.weights.partner_B is not None:
            self.partner_row_R = self._partner_rows(self.weights.partner_B.cpu().numpy())
        return {
            name: [PackedPlane(p.shift, p.bits, p.bytes_RP.to(self.device)) for p in of_array]
            for name, of_array in planes.items()
        }

    def _partner_rows(self, partner_R: np.ndarray) -> Tensor:
        """Return the numbers of the partners' rows, int32 [rows]; of rows without a partner their own."""
        rows_R = np.arange(self.n_rows)
        mixed = np.flatnonzero(partner_R >= 0)
        _, views = self.labels.cells(mixed)
        rows_R[mixed] = self.labels.row_numbers(partner_R[mixed], views)
        return torch.from_numpy(rows_R.astype(np.int32)).to(self.device)

    def _empty_planes(self, values_per_row: int, bits: int) -> list[PackedPlane]:
        return [
            PackedPlane(
                shift, width, torch.empty((self.n_rows, -(-values_per_row * width // 8)), dtype=torch.uint8)
            )
            for shift, width in field_widths(bits)
        ]


def _pack(codes_RS: Tensor, plane: PackedPlane) -> Tensor:
    fields_RS = ((codes_RS >> plane.shift) & ((1 << plane.bits) - 1)).to(torch.uint8)
    per_byte = 8 // plane.bits
    if per_byte == 1:
        return fields_RS
    padded = torch.nn.functional.pad(fields_RS, (0, -fields_RS.shape[1] % per_byte))
    columns = padded.reshape(len(codes_RS), -1, per_byte)
    shifts = torch.arange(per_byte, dtype=torch.uint8) * plane.bits
    return (columns << shifts).sum(dim=-1, dtype=torch.uint8)


def _unpack(packed: list[tuple[PackedPlane, Tensor]], n_values: int, dtype: torch.dtype) -> Tensor:
    values = None
    for plane, bytes_BP in packed:
        if plane.bits == 8:
            fields = bytes_BP
        else:
            shifts = torch.arange(0, 8, plane.bits, dtype=torch.uint8, device=bytes_BP.device)
            fields = (bytes_BP.unsqueeze(-1) >> shifts) & ((1 << plane.bits) - 1)
            fields = fields.flatten(1)[:, :n_values]
        fields = fields.to(dtype) << plane.shift if plane.shift else fields.to(dtype)
        values = fields if values is None else values | fields
    if values is None:
        raise ValueError("an array has no bits")
    return values
