"""Rows -> codes -> tiles -> blocks: the writing half of a file whose codec is fitted and whose columns are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from softpack.codecs.abc import CodeArray, Codec
from softpack.container.blockfile import BlockFile
from softpack.container.file import SpkFile
from softpack.container.model import pack_tensors
from softpack.container.pending import Grid, Pending, Presence, TilePart
from softpack.container.tiles import PRESENCE, array_dtype, encode_tile, read_presence
from softpack.errors import CodecError, DataError
from softpack.format import layout
from softpack.format.blocks import Block
from softpack.format.header import ArraySpec, Header, StreamSpec, column_array
from softpack.format.layout import BlockType, ModelPart
from softpack.records import COLUMNS, RowBlock

PENDING_BYTES = 32 << 20  # of codes and columns that wait for their tiles
COMMIT_BYTES = 64 << 20  # written between two commits, or an eighth of the file where that is more
TILE_BITS = 8 << 20  # of codes and columns in a tile, about
MAX_TILE_ROWS = 8192
MAX_SIDE_VIEWS = 64
ENCODE_ROWS = 4096


def make_streams(
    codec: Codec, columns: tuple[str, ...], item_columns: tuple[str, ...]
) -> tuple[StreamSpec, ...]:
    """Return the streams of a file: codes, then replay columns, then what items have.

    Raises:
        CodecError: codes and columns share a name.
    """
    twice = {array.name for array in codec.codes} & set(columns)
    if twice:
        raise CodecError(f"codec {codec.codec_id} names its codes {', '.join(twice)}, as columns are named")
    streams = [StreamSpec("codes", "row", "codes", tuple(_code_spec(array) for array in codec.codes))]
    if columns:
        streams.append(
            StreamSpec("replay", "row", "replay", tuple(column_array(COLUMNS[name]) for name in columns))
        )
    if "source_hw" in item_columns:
        streams.append(StreamSpec("source", "item", "replay", (column_array(COLUMNS["source_hw"]),)))
    if "target" in item_columns:
        streams.append(StreamSpec("target", "item", "item", (column_array(COLUMNS["target"]),)))
    return tuple(streams)


def choose_tile(streams: tuple[StreamSpec, ...], items: int | None, views: int | None) -> tuple[int, int]:
    """Return the items and views of a tile: about a mebibyte, square-ish, without a small rest at the edge."""
    arrays = [array for stream in streams if stream.per == "row" for array in stream.arrays]
    bits = sum(array.values_per_row * min(array.bits, 16 if array.kind == "int" else 32) for array in arrays)
    rows = max(1, min(TILE_BITS // bits, MAX_TILE_ROWS, most_rows(streams)))
    side_views = _even_share(views or MAX_SIDE_VIEWS, min(rows, MAX_SIDE_VIEWS))
    side_items = max(1, rows // side_views)
    return (side_items if items is None else _even_share(max(items, 1), side_items)), side_views


def most_rows(streams: tuple[StreamSpec, ...]) -> int:
    """Return how many rows a tile may have, by the limits of readers."""
    widest = max(stream.values_per_row for stream in streams if stream.per == "row")
    return min(layout.MAX_TILE_CELLS, layout.MAX_TILE_VALUES // widest)


def check_tile(tile: tuple[int, int], streams: tuple[StreamSpec, ...], where: str) -> None:
    """Check a tile that the caller chose.

    Raises:
        DataError: it has no rows, or more than readers take.
    """
    if min(tile) < 1 or tile[0] * tile[1] > most_rows(streams):
        raise DataError(
            f"{where}: tile is {tile[0]} items x {tile[1]} views; expected 1 to {most_rows(streams)} rows"
        )


class TileWriter:
    """Codes rows and writes them, tile by tile, in bounded memory.

    Args:
        out: where the blocks go; begun, with header and model in it.
        codec: fitted.
        header: of the file.
        items: of the file where known beforehand.
        views: the same of views.
        device: where rows are encoded.
    """

    def __init__(
        self,
        out: BlockFile,
        codec: Codec,
        header: Header,
        items: int | None,
        views: int | None,
        device: torch.device,
    ) -> None:
        self._out = out
        self._codec = codec.to(device)
        self._header = header
        self._device = device
        grid = Grid(header.tile_items, header.tile_views, items, views)
        self._pending = Pending(grid)
        self.presence = Presence(grid)
        self.items = items or 0
        self.views = views or 0
        self.n_rows = 0  # written

    @property
    def item_columns(self) -> set[str]:
        """Names of the columns that each item may have."""
        return {a.name for stream in self._header.streams if stream.per == "item" for a in stream.arrays}

    def resume(self, file: SpkFile) -> None:
        """Go on after what a file holds."""
        for part in file.parts:
            tile = part.first_item // self._header.tile_items, part.first_view // self._header.tile_views
            self.presence.write(TilePart(*tile, read_presence(file, part), {}))
        self.items, self.views, self.n_rows = file.commit.items, file.commit.views, file.commit.n_rows

    def add(self, block: RowBlock) -> None:
        """Encode rows and write the tiles that they complete."""
        self.add_codes(block.item_B, block.view_B, self._encode(block.labels_BC), block.replay)

    def add_codes(
        self,
        item_B: np.ndarray,
        view_B: np.ndarray,
        codes: dict[str, np.ndarray],
        replay: dict[str, np.ndarray],
    ) -> None:
        """Take rows that are encoded already and write the tiles that they complete."""
        if "mix_item" in replay:
            mixed = replay["mix_item"] >= 0
            self.presence.name(replay["mix_item"][mixed].astype(np.int64), view_B[mixed])
        self._pending.add(item_B, view_B, codes | replay)
        if self._pending.n_bytes > PENDING_BYTES:
            self._write_parts(complete_only=True)
        if self._pending.n_bytes > PENDING_BYTES // 2:
            self._write_parts(complete_only=False)
        if self._out.length - self._out.committed_len > max(COMMIT_BYTES, self._out.committed_len // 8):
            self.commit()

    def flush(self) -> None:
        """Write all rows that wait."""
        self._write_parts(complete_only=False)

    def write_items(self, values: Mapping[str, np.ndarray]) -> None:
        """Write what items have; it replaces what was written of them before."""
        for number, stream in enumerate(self._header.streams, 1):
            names = [array.name for array in stream.arrays]
            if stream.per != "item" or names[0] not in values:
                continue
            step = stream.items_per_tile
            for tile, start in enumerate(range(0, len(values[names[0]]), step)):
                arrays = {name: values[name][start : start + step] for name in names}
                n = len(arrays[names[0]])
                payload, raw_len = encode_tile(stream, arrays)
                block = Block(
                    BlockType.TILE, stream=number, tile_item=tile, span_items=n, span_views=1, n_rows=n
                )
                self._out.write(block, payload, raw_len)

    def commit(self) -> None:
        """Commit the rows that are written."""
        self._out.commit(self.items, self.views, self.n_rows)

    def _encode(self, labels_BC: np.ndarray) -> dict[str, np.ndarray]:
        out = {
            a.name: np.empty((len(labels_BC), *a.shape), array_dtype(_code_spec(a))) for a in self._codec.codes
        }
        for start in range(0, len(labels_BC), ENCODE_ROWS):
            rows_BC = torch.from_numpy(labels_BC[start : start + ENCODE_ROWS]).to(self._device).float()
            with torch.no_grad():
                codes = self._codec.encode(rows_BC)
            for name, values in out.items():
                values[start : start + ENCODE_ROWS] = codes[name].cpu().numpy().view(values.dtype)
        return out

    def _write_parts(self, complete_only: bool) -> None:
        try:
            for part in self._pending.take(complete_only):
                self._write_part(part)
        except BaseException:  # rows were taken that are lost now
            self._out.abandon()
            raise

    def _write_part(self, part: TilePart) -> None:
        number = self.presence.write(part)
        span_items, span_views = part.present.shape
        where = Block(
            BlockType.TILE, part=number, tile_item=part.tile_item, tile_view=part.tile_view,
            span_items=span_items, span_views=span_views, n_rows=part.n_rows,
        )  # fmt: skip
        if part.n_rows < span_items * span_views:
            payload, raw_len = encode_tile(PRESENCE, {"present": part.present.reshape(-1)})
            self._out.write(replace(where, stream=layout.IDS_STREAM), payload, raw_len)
        for stream_number, stream in enumerate(self._header.streams, 1):
            if stream.per == "row":
                payload, raw_len = encode_tile(stream, part.arrays)
                self._out.write(replace(where, stream=stream_number), payload, raw_len)
        self.items = max(self.items, part.tile_item * self._header.tile_items + span_items)
        self.views = max(self.views, part.tile_view * self._header.tile_views + span_views)
        self.n_rows += part.n_rows


def write_model(out: BlockFile, codec: Codec, keep_encoder: bool) -> None:
    """Write the codec's tensors, those of its encoder only where they are wanted."""
    parts = [(ModelPart.DECODER, codec.state())]
    if keep_encoder:
        parts.append((ModelPart.ENCODER, codec.encoder_state()))
    for part, tensors in parts:
        if tensors:
            out.write(Block(BlockType.MODEL, stream=part), pack_tensors(tensors))


def _code_spec(array: CodeArray) -> ArraySpec:
    return ArraySpec(array.name, array.shape, "uint", array.bits, array.levels)


def _even_share(total: int, most: int) -> int:
    """Return the size of equal shares of `total`, each at most `most`."""
    shares = -(-total // most)
    return -(-total // shares)
