"""Rows -> codes -> tiles -> blocks: the writing half of a file whose codec is fitted and whose columns are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec, Codes
from softpack.codecs.sparse import as_sparse_rows
from softpack.container.blockfile import BlockFile
from softpack.container.context import Prototypes
from softpack.container.correcting import full_precision
from softpack.container.corrections import (
    CORRECTION_STREAM,
    NONE,
    Corrections,
    WaitingCorrections,
    stored_arrays,
)
from softpack.container.file import SpkFile
from softpack.container.mixing import Mixing, mix_columns, mixing_of, seen
from softpack.container.model import Model, pack_tensors
from softpack.container.pending import Grid, Pending, Presence, TilePart
from softpack.container.promise import find_corrections
from softpack.container.tiles import PRESENCE, array_dtype, encode_tile, read_presence
from softpack.container.viewpoint import ViewpointTable
from softpack.entropy.tables import pack_tables
from softpack.errors import CodecError, DataError
from softpack.format import layout
from softpack.format.blocks import Block
from softpack.format.header import Header
from softpack.format.layout import BlockType, ModelPart
from softpack.format.streams import (
    FORCED,
    STREAMS,
    ArraySpec,
    StreamSpec,
    code_stream,
    column_array,
    column_stream,
)
from softpack.records import COLUMNS, HIDDEN, SEQUENCE_COLUMNS, RowBlock

PENDING_BYTES = 32 << 20  # of codes and columns that wait for their tiles
COMMIT_BYTES = 64 << 20  # written between two commits, or an eighth of the file where that is more
TILE_BITS = 8 << 20  # of codes and columns in a tile, about
MAX_TILE_ROWS = 8192
MAX_SIDE_VIEWS = 64
ENCODE_ROWS = 4096
ENCODE_VALUES = 1 << 24  # numbers in the rows that are encoded at a time: fewer rows of very many classes
MIX_STREAM = column_stream("mix")
SEQUENCE_STREAM = column_stream("sequence")


def make_streams(
    model: Model,
    columns: tuple[str, ...],
    item_columns: tuple[str, ...],
    keeps_mix: bool = False,
    corrects: bool = False,
    n_forced: int = 0,
) -> tuple[StreamSpec, ...]:
    """Return the streams of a file: codes by their stages, then columns, then what items have.

    Args:
        model: whose codes they are.
        columns: replay columns.
        item_columns: of every item.
        keeps_mix: keep who is mixed into rows for their context, where the replay columns do not.
        corrects: rows may be corrected.
        n_forced: classes that are kept exactly.

    Raises:
        CodecError: codes and columns share a name.
    """
    codec = model.codec
    twice = {array.name for array in codec.codes} & {*columns, *STREAMS["mix"][2], FORCED.name}
    if twice:
        raise CodecError(f"codec {codec.codec_id} names its codes {', '.join(twice)}, as columns are named")
    streams = {
        code_stream(stage): tuple(code_spec(array) for array in codec.codes if array.stage == stage)
        for stage in range(1, codec.n_stages + 1)
    }
    streams["forced"] = (replace(column_array(FORCED), shape=(n_forced,)),) if n_forced else ()
    streams["replay"] = tuple(column_array(COLUMNS[name]) for name in columns)
    streams["mix"] = MIX_STREAM.arrays if keeps_mix else ()
    streams["correction"] = CORRECTION_STREAM.arrays if corrects else ()
    streams["prototype"] = tuple(map(code_spec, model.prototype_arrays))
    for stream, column in (("source", "source_hw"), ("target", "target")):
        streams[stream] = (column_array(COLUMNS[column]),) if column in item_columns else ()
    streams["sequence"] = SEQUENCE_STREAM.arrays if {*SEQUENCE_COLUMNS} <= {*item_columns} and columns else ()
    return tuple(StreamSpec(name, *STREAMS[name][:2], arrays) for name, arrays in streams.items() if arrays)


def choose_tile(
    streams: tuple[StreamSpec, ...], most: int, items: int | None, views: int | None, by_view: bool = False
) -> tuple[int, int]:
    """Return the items and views of a tile: about a mebibyte, square-ish, without a small rest at the edge.

    Args:
        streams: of the file.
        most: rows that it may have.
        items: of the file where known beforehand.
        views: the same of views.
        by_view: rows come view after view, so that tiles are to be of no more views than can wait for all their items.
    """
    arrays = [array for stream in streams if stream.per == "row" for array in stream.arrays]
    bits = sum(array.values_per_row * min(array.bits, 16 if array.kind == "int" else 32) for array in arrays)
    rows = max(1, min(TILE_BITS // bits, MAX_TILE_ROWS, most))
    most_views = min(rows, MAX_SIDE_VIEWS)
    if by_view and items:
        most_views = max(1, min(most_views, PENDING_BYTES // 2 * 8 // (items * bits)))
    side_views = _even_share(views or MAX_SIDE_VIEWS, most_views)
    side_items = max(1, rows // side_views)
    return (side_items if items is None else _even_share(max(items, 1), side_items)), side_views


def most_rows(streams: tuple[StreamSpec, ...], classes: int) -> int:
    """Return how many rows a tile may have, by the limits of readers, were every class of them corrected."""
    entries = {"row": 1, "correction": classes, "item": 0}  # of a row at most
    widest = max(entries[stream.per] * stream.values_per_row for stream in streams)
    return min(layout.MAX_TILE_CELLS, layout.MAX_TILE_VALUES // widest)


def check_tile(tile: tuple[int, int], most: int, where: str) -> None:
    """Check a tile that the caller chose.

    Raises:
        DataError: it has no rows, or more than `most`, which readers take.
    """
    if min(tile) < 1 or tile[0] * tile[1] > most:
        raise DataError(f"{where}: tile is {tile[0]} items x {tile[1]} views; expected 1 to {most} rows")


class TileWriter:
    """Codes rows and writes them, tile by tile, in bounded memory.

    Args:
        out: where the blocks go; begun, with header and model in it.
        model: fitted.
        header: of the file.
        items: of the file where known beforehand.
        views: the same of views.
        device: where rows are encoded.
        prototypes: of the items, as they decode, where the codec takes context.
        viewpoints: of rows that are known beforehand, where prototypes are weighted by them.
    """

    def __init__(
        self,
        out: BlockFile,
        model: Model,
        header: Header,
        items: int | None,
        views: int | None,
        device: torch.device,
        prototypes: Prototypes | None = None,
        viewpoints: ViewpointTable | None = None,
    ) -> None:
        self._out = out
        self._codec = model.codec.to(device)
        self._basis = model.basis
        self._viewpoints = ViewpointTable() if viewpoints is None else viewpoints
        self.source_hw_N2: np.ndarray | None = None
        self._tables = model.tables
        self._prototypes = prototypes.to(device) if prototypes is not None else None
        self._header = header
        self._device = device
        grid = Grid(header.tile_items, header.tile_views, items, views)
        self._pending = Pending(grid)
        self._corrections = WaitingCorrections()
        self.presence = Presence(grid)
        self.items = items or 0
        self.views = views or 0
        self.n_rows = 0  # written

    @property
    def item_columns(self) -> set[str]:
        """Names of the columns that each item may have."""
        streams = (s for s in self._header.streams if s.per == "item" and s.name != "prototype")
        return {array.name for stream in streams for array in stream.arrays}

    def resume(self, file: SpkFile) -> None:
        """Go on after what a file holds."""
        for part in file.parts:
            tile = part.first_item // self._header.tile_items, part.first_view // self._header.tile_views
            number = int(file.blocks[next(iter(part.blocks.values()))]["part"])
            self.presence.write(TilePart(*tile, read_presence(file, part), {}), number)
        self.items, self.views, self.n_rows = file.commit.items, file.commit.views, file.commit.n_rows

    def add(self, block: RowBlock) -> None:
        """Encode rows and write the tiles that they complete."""
        mixing, mix, replay = self._mixing(block)
        codes, corrections = self._encode(block, mixing)
        if block.forced_BF is not None:
            codes[FORCED.name] = block.forced_BF
        self.add_codes(block.item_B, block.view_B, codes | mix, replay, corrections)

    def add_codes(
        self,
        item_B: np.ndarray,
        view_B: np.ndarray,
        codes: dict[str, np.ndarray],
        replay: dict[str, np.ndarray],
        corrections: Corrections = NONE,
    ) -> None:
        """Take rows that are encoded already and write the tiles that they complete.

        Args:
            item_B: of each row.
            view_B: of each row.
            codes: of the rows, and the columns of `mix` and `forced`.
            replay: columns.
            corrections: of the rows, counted as they come.
        """
        if "mix_item" in replay:
            mixed = replay["mix_item"] >= 0
            self.presence.name(replay["mix_item"][mixed].astype(np.int64), view_B[mixed])
        self._pending.add(item_B, view_B, codes | (replay if self._header.stream("replay") else {}))
        self._corrections.add(corrections, item_B, view_B)
        if self._waiting_bytes > PENDING_BYTES:
            self._write_parts(complete_only=True)
            if self._waiting_bytes > PENDING_BYTES // 2:  # else the next rows would soon look for tiles again
                self._write_parts(complete_only=False)
        if self._out.length - self._out.committed_len > max(COMMIT_BYTES, self._out.committed_len // 8):
            self.commit()

    @property
    def _waiting_bytes(self) -> int:
        return self._pending.n_bytes + self._corrections.n_bytes

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
                payload, raw_len = encode_tile(stream, arrays, self._tables)
                block = Block(
                    BlockType.TILE, stream=number, tile_item=tile, span_items=n, span_views=1, n_rows=n
                )
                self._out.write(block, payload, raw_len)

    def commit(self) -> None:
        """Commit the rows that are written."""
        self._out.commit(self.items, self.views, self.n_rows)

    def _mixing(self, block: RowBlock) -> tuple[Mixing, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return who is mixed into rows, the columns that keep it, and the replay columns that are kept."""
        n_rows, context = len(block), self._header.context
        size_wh = (context.width, context.height) if context is not None else (1, 1)
        mixing = mixing_of(block.replay if context is not None else {}, size_wh, n_rows)
        if self._basis is not None:
            mixing = seen(mixing, self._basis, self._viewpoints, block, self.source_hw_N2, self._out.name)
        if self._header.stream("mix") is None:
            return mixing, {}, block.replay
        mix = mix_columns(mixing)
        return mixing_of(mix, size_wh, n_rows), mix, {}  # shares as a reader finds them

    def _encode(self, block: RowBlock, mixing: Mixing) -> tuple[dict[str, np.ndarray], Corrections]:
        """Return the codes of rows, and the corrections that hold them to what the file promises."""
        out = {a.name: np.empty((len(block), *a.shape), array_dtype(code_spec(a))) for a in self._codec.codes}
        corrections = []
        codec = self._codec
        numbers = codec.spec.classes
        if self._header.correction is not None:  # rows are decoded to see how far they are
            numbers = max(numbers, codec.gives.classes)
        if block.sparse is not None:
            numbers = block.sparse.ids_BK.shape[1]
        step = max(1, min(ENCODE_ROWS, ENCODE_VALUES // numbers))
        for start in range(0, len(block), step):
            part = slice(start, start + step)
            if block.sparse is not None:
                for name, codes_B in codes_of(codec, block.take(part), self._device).items():
                    out[name][part] = codes_B
                continue
            rows_BC = torch.from_numpy(block.labels_BC[part]).to(self._device).float()
            with torch.no_grad(), full_precision(self._device):
                context_BC = None
                if self._prototypes is not None:
                    context_BC = self._prototypes.context_of(block.item_B[part], mixing.rows(part))
                codes = self._codec.encode(rows_BC, context_BC)
                found = self._correct(rows_BC, codes, context_BC, block.take(part))
            corrections.append(found.numbered(np.arange(start, start + len(rows_BC))))
            for name, values in out.items():
                values[part] = codes[name].cpu().numpy().view(values.dtype)
        return out, Corrections.join(corrections)

    def _correct(
        self, rows_BC: Tensor, codes: Codes, context_BC: Tensor | None, block: RowBlock
    ) -> Corrections:
        if self._header.correction is None:
            return NONE
        decoded_BC = self._codec.decode(codes, context_BC).float()
        rows_BC = self._codec.teacher_rows(rows_BC)

        def where(row: int) -> str:
            return f"{self._out.name}: item {block.item_B[row]}, view {block.view_B[row]}"

        codec, promised = self._codec, self._header.correction
        spec = codec.gives if codec.spec.space == HIDDEN else codec.spec
        return find_corrections(rows_BC, decoded_BC, spec, codec.gives, promised, where)

    def _write_parts(self, complete_only: bool) -> None:
        try:
            for part in self._pending.take(complete_only):
                self._write_part(part)
            self._corrections.keep(*self._pending.cells)
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
        self._write_corrections(part, where)
        for stream_number, stream in enumerate(self._header.streams, 1):
            if stream.per == "row":
                payload, raw_len = encode_tile(stream, part.arrays, self._tables, self._codec.zstd_level)
                self._out.write(replace(where, stream=stream_number), payload, raw_len)
        self.items = max(self.items, part.tile_item * self._header.tile_items + span_items)
        self.views = max(self.views, part.tile_view * self._header.tile_views + span_views)
        self.n_rows += part.n_rows

    def _write_corrections(self, part: TilePart, where: Block) -> None:
        """Write the corrections of a part before its codes: a writer that is stopped leaves both, or neither."""
        item_B, view_B = part.cells
        header = self._header
        found = self._corrections.take(
            item_B + part.tile_item * header.tile_items, view_B + part.tile_view * header.tile_views
        )
        if len(found):
            number, stream = header.stream(CORRECTION_STREAM.name)  # type: ignore[misc]
            payload, raw_len = encode_tile(stream, stored_arrays(found, header.gives.classes))
            self._out.write(replace(where, stream=number, n_rows=len(found)), payload, raw_len)


def write_model(out: BlockFile, model: Model, keep_encoder: bool) -> None:
    """Write the tensors of the codecs, those of encoders only where they are wanted."""
    for part, tensors in model.parts.items():
        if keep_encoder or part not in (ModelPart.ENCODER, ModelPart.PROTOTYPE_ENCODER):
            out.write(Block(BlockType.MODEL, stream=part), pack_tensors(tensors))
    if model.tables:
        out.write(Block(BlockType.MODEL, stream=ModelPart.TABLES), pack_tables(model.tables))


def code_arrays(codes: Codes) -> dict[str, np.ndarray]:
    """Return the codes that a codec made as unsigned numpy arrays."""
    unsigned = {torch.uint8: np.uint8, torch.int16: np.uint16, torch.int32: np.uint32}
    return {name: values.cpu().numpy().view(unsigned[values.dtype]) for name, values in codes.items()}


def codes_of(
    codec: Codec, block: RowBlock, device: torch.device | str, context_BC: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Return the codes of rows, of which all classes are known or only some, as unsigned numpy arrays."""
    with torch.no_grad(), full_precision(torch.device(device)):
        if block.sparse is not None:
            return code_arrays(codec.encode_sparse(as_sparse_rows(block.sparse, codec.spec, device)))
        return code_arrays(codec.encode(torch.from_numpy(block.labels_BC).to(device).float(), context_BC))


def code_spec(array: CodeArray) -> ArraySpec:
    """Return how an array of codes is stored."""
    return ArraySpec(array.name, array.shape, "uint", array.bits, array.levels)


def _even_share(total: int, most: int) -> int:
    """Return the size of equal shares of `total`, each at most `most`."""
    shares = -(-total // most)
    return -(-total // shares)
