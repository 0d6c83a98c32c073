"""Write labels: any order of rows, any number of them, in bounded memory, committed or not there at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack import __version__
from softpack.checks import Place, check_cells, check_labels, check_mix
from softpack.codecs.abc import Codec, Progress
from softpack.container.binding import Binding
from softpack.container.blockfile import BlockFile
from softpack.container.columns import as_array, item_values, row_block
from softpack.container.context import Prototypes
from softpack.container.drawn import with_drawn
from softpack.container.file import SpkFile
from softpack.container.forcing import forced_rows
from softpack.container.gathering import Fit, Gathered
from softpack.container.model import Model
from softpack.container.reader import Labels
from softpack.container.tile_writer import (
    TileWriter,
    check_tile,
    choose_tile,
    code_arrays,
    make_streams,
    most_rows,
    write_model,
)
from softpack.container.viewpoint import DrawnViewpoints, ViewpointTable, has_viewpoints
from softpack.errors import CodecError, DataError
from softpack.format.header import ContextSpec, CorrectionSpec, Header
from softpack.recipe import Recipe
from softpack.records import COLUMNS, SEQUENCE_COLUMNS, RowBlock
from softpack.sequences import Sequences

RESUMED_ROWS = 1 << 20  # whose tokens are read at once, where a file is gone on with
MIX_WH = (224, 224)


class Writer:
    """Writes one `.spk` file; made by `create` and `append`, and used as a context manager.

    Leaving the context checks, commits and names the file; an error leaves nothing behind of what was not
    committed.

    Args:
        out: where the blocks go.
        model: of the rows; its codec is not fitted yet where the rows are `gathered`.
        gathered: takes the first rows, to fit the codec to them, or the tables of the entropy coder.
        items: of the file where known.
        views: the same of views.
        tile: items and views of a tile; chosen where None.
        keep_encoder: store what `append` needs to encode.
        seed: of the fit.
        device: where the codec is fitted and encodes.
        progress: is told how far the fit is.
        resumed: the file that `out` goes on with.
        prototypes: of the items [N, P, C], where the codec takes context.
        viewpoints: of rows that are known beforehand, where prototypes are weighted by them.
        mix_wh: width and height of the pictures in which `mix_box_xyxy` lies.
        keep_replay: store the replay columns.
        promised: what rows are held to by corrections; None if they stay as they decode.
        recipe: draws the replay columns, which rows then come without.
        images: what some of the labelled images look like.
        notes: for people, kept beside versions and seed.
        sequences: of tokens, an item each, that rows are bound to.
        fingerprints: of teacher, tokenizer and data.
        forced: classes whose log-probabilities are kept exactly beside the codes.
    """

    def __init__(
        self,
        out: BlockFile,
        model: Model,
        *,
        gathered: Gathered | None = None,
        items: int | None = None,
        views: int | None = None,
        tile: tuple[int, int] | None = None,
        keep_encoder: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        resumed: SpkFile | None = None,
        prototypes: Tensor | None = None,
        viewpoints: ViewpointTable | None = None,
        mix_wh: tuple[int, int] = MIX_WH,
        keep_replay: bool = True,
        promised: CorrectionSpec | None = None,
        recipe: Recipe | None = None,
        images: Mapping[int, bytes] | None = None,
        notes: Mapping[str, Any] | None = None,
        sequences: Sequences | None = None,
        fingerprints: Mapping[str, str] | None = None,
        forced: tuple[int, ...] = (),
    ) -> None:
        self.model = model
        self.n_rows = 0
        self._out = out
        self._items, self._views = items, views
        self._tile = tile
        self._keep_encoder = keep_encoder
        self._seed = seed
        self._device = torch.device(device)
        self._progress = progress
        self._columns: tuple[str, ...] | None = None
        self._by_view = False
        self._item_values: dict[str, np.ndarray] = {}
        self._items_written = True
        self._gathered = gathered
        self._tiles: TileWriter | None = None
        self._mix_wh, self._keep_replay = mix_wh, keep_replay
        self._promised = promised
        self._recipe, self._images, self._notes = recipe, images or {}, notes or {}
        self._viewpoints = ViewpointTable() if viewpoints is None else viewpoints
        self._sequences, self._binding = (
            sequences,
            None if sequences is None else Binding.of(sequences, out.name),
        )
        self._fingerprints, self._forced = fingerprints or {}, forced
        if sequences is not None:
            self._item_values, self._items_written = sequences.columns(), False
        self._prototypes: Prototypes | None = None
        if model.prototypes is not None and prototypes is not None:
            self._prototypes = Prototypes.of_rows(model.prototypes, prototypes)
            if self._items is not None and len(prototypes) > self._items:
                raise DataError(
                    f"{out.name}: found prototypes of {len(prototypes)} items, expected {items} at most"
                )
        if resumed is not None:
            self._resume(resumed)

    @property
    def codec(self) -> Codec:
        """The codec of the rows."""
        return self.model.codec

    def _resume(self, file: SpkFile) -> None:
        labels = Labels(file.path)
        self._prototypes = labels.prototypes
        self._item_values = {name: labels.item_column(name) for name in labels.item_columns}
        self._recipe, self._forced = file.header.recipe, file.header.forced
        drawn = self._drawn_viewpoints()
        if not len(self._viewpoints):
            self._viewpoints = labels.weighing.table() if drawn is None else drawn
        self._tiles = TileWriter(
            self._out, self.model, file.header, None, None, self._device, self._prototypes, self._viewpoints
        )
        self._tiles.resume(file)
        self._columns = None if file.header.stream("mix") else labels.columns
        self._tiles.source_hw_N2 = self._item_values.get("source_hw")
        self._keep_replay = file.header.stream("replay") is not None
        self.n_rows = file.commit.n_rows
        self._bind()

    def append(self, labels_BC: Any, *, item: Any, view: Any, forced: Any = None, **columns: Any) -> None:
        """Add rows, in any order.

        Args:
            labels_BC: tensor or array [B, C] of floats, in the space that the writer was made for.
            item: integers [B], or one for all rows.
            view: the same of views.
            forced: log-probabilities at T=1 [B, F] of the classes that are kept exactly, where the file has such and
                rows do not say them: of hidden states.
            columns: replay columns [B, ...], by the names of `softpack.records.COLUMNS`; the same ones in
                every call.

        Raises:
            DataError: rows or columns are not what they should be, or rows cannot be held to what the file
                promises; none of them were taken.
        """
        block = row_block(labels_BC, item, view, columns, self._out.name)
        numbers_B = np.arange(self.n_rows, self.n_rows + len(block))
        place = Place(self._out.name, numbers_B, block.item_B, block.view_B)
        if block.labels_BC.shape[1] != self.codec.spec.classes:
            raise DataError(
                f"{self._out.name}: rows have {block.labels_BC.shape[1]} numbers, expected {self.codec.spec.classes}"
            )
        check_labels(block.labels_BC, self.codec.spec, str(block.labels_BC.dtype), place)
        check_cells(block, self._items, self._views, place)
        check_mix(block.replay, place)
        if forced is not None:
            block = replace(block, forced_BF=np.array(as_array(forced), np.float32))
        self.add(block)

    def add(self, block: RowBlock) -> None:
        """Add rows that a source has read and checked.

        Raises:
            DataError: they have other columns than the rows before.
        """
        if self.model.prototypes is not None and self._prototypes is None:
            raise CodecError(
                f"{self._out.name}: codec {self.codec.codec_id} codes rows given their items' prototypes, and none "
                "were given; give prototypes= to softpack.create"
            )
        if self._recipe is not None:
            block = with_drawn(block, self._recipe, self._item_values.get("source_hw"), self._out.name)
        block = self._bound(forced_rows(block, self._forced, self.codec.spec, self._out.name))
        if self._columns is None:
            self._columns = tuple(block.replay)
            same_item, same_view = (int((np.diff(of_B) == 0).sum()) for of_B in (block.item_B, block.view_B))
            self._by_view = same_view > same_item
        if tuple(block.replay) != self._columns:
            raise DataError(
                f"{self._out.name}: found the columns {', '.join(block.replay) or 'none'}; the rows before have "
                f"{', '.join(self._columns) or 'none'}; every row has the same columns"
            )
        if self._gathered is None:
            self._begun().add(block)
            self.n_rows += len(block)
            return
        self.n_rows += len(block)
        if self._gathered.add(block):
            self._fit(self._gathered)

    def _bound(self, block: RowBlock) -> RowBlock:
        """Return rows with the tokens that they predict, held to their sequences.

        Raises:
            DataError: they come with other tokens, or without.
        """
        if self._sequences is not None:
            token_B = self._sequences.next_tokens(block.item_B, block.view_B)
            if not np.array_equal(block.replay.get("token", token_B), token_B):
                raise DataError(
                    f"{self._out.name}: found tokens that are not those of the sequences; leave token= out, it follows"
                )
            replay = {"token": token_B, **block.replay}
            block = replace(block, replay={name: replay[name] for name in COLUMNS if name in replay})
        if self._binding is not None and self._keep_replay:
            if "token" not in block.replay:
                raise DataError(
                    f"{self._out.name}: is of sequences, and the rows come without the tokens that they predict; give "
                    "token=, the id of the token after those that the teacher saw"
                )
            self._binding.add(block.item_B, block.view_B, block.replay["token"])
        return block

    def _bind(self) -> None:
        """Take the sequences of the items, and the tokens of the rows that are there."""
        columns = {name: self._item_values[name] for name in SEQUENCE_COLUMNS if name in self._item_values}
        self._binding = Binding(columns, self._out.name) if columns else None
        if self._binding is not None and self.n_rows:
            labels = Labels(self._out.path)
            for start in range(0, labels.n_rows, RESUMED_ROWS):
                item_B, view_B = labels.cells(np.arange(start, min(start + RESUMED_ROWS, labels.n_rows)))
                self._binding.add(item_B, view_B, labels.replay(item_B, view_B)["token"])

    def set_items(self, **columns: Any) -> None:
        """Say what each item has: `target` [items], `source_hw` [items, 2]; before the first rows.

        Raises:
            DataError: an unknown column, another shape, or too late.
        """
        values = item_values(columns, self._out.name)
        late = values.keys() - (self._tiles.item_columns if self._tiles is not None else values.keys())
        if late:
            raise DataError(f"{self._out.name}: say {', '.join(sorted(late))} before the first rows")
        sizes, known = values.get("source_hw"), self._item_values.get("source_hw")
        were_drawn = self._recipe is not None and self.n_rows > 0 and known is not None
        if were_drawn and sizes is not None and not np.array_equal(sizes[: len(known)], known):  # type: ignore[arg-type]
            raise DataError(
                f"{self._out.name}: other sizes of images than those that crops were drawn for; rows are there"
            )
        self._item_values |= values
        self._items_written = False
        if values.keys() & {*SEQUENCE_COLUMNS}:
            if self.n_rows > 0:
                raise DataError(f"{self._out.name}: say sequences before the first rows")
            self._bind()

    def commit(self) -> None:
        """Write all rows so far and make them last, whatever happens to the process after this.

        Should a new file not be closed, they are in `<path>.partial`, and `softpack.recover` gives them back.
        """
        self._flushed().commit()
        self._out.keep_commits = True

    def close(self) -> None:
        """Check that all mix partners are there, commit, and give the file its name."""
        try:
            tiles = self._flushed()
            tiles.presence.check_named()
            if self._binding is not None and self._keep_replay:
                self._binding.check_whole()
            tiles.commit()
            self._out.close()
        except BaseException:
            self._out.abandon()
            raise

    def abandon(self) -> None:
        """Stop, and leave nothing behind of what the caller did not commit."""
        self._out.abandon()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    # -- stages ----------------------------------------------------------------------------------------

    def _fit(self, gathered: Gathered) -> None:
        """Fit codec and tables to the rows so far, and write these."""
        n_rows = self._items * self._views if self._items and self._views else None
        how = Fit(n_rows, self._seed, self._device, self._mix_wh, self._progress)
        self.model = gathered.fitted(self.model, self._prototypes, how)
        self._gathered = None
        for block in gathered.pop():
            self._begun().add(block)

    def _begun(self) -> TileWriter:
        if self._tiles is None:
            header = self._header()
            self._out.begin(header.to_bytes(), max(header.minor, self.model.minor))
            write_model(self._out, self.model, self._keep_encoder)
            drawn = self._drawn_viewpoints()
            self._viewpoints = self._viewpoints if drawn is None else drawn
            self._tiles = TileWriter(
                self._out,
                self.model,
                header,
                self._items,
                self._views,
                self._device,
                self._prototypes,
                self._viewpoints,
            )
            self._tiles.source_hw_N2 = self._item_values.get("source_hw")
            if self._prototypes is not None:
                self._tiles.write_items(code_arrays(self._prototypes.codes))
                self._tiles.items = max(self._tiles.items, len(self._prototypes))
            if "length" in self._item_values:  # of which the last may have no rows
                self._tiles.items = max(self._tiles.items, len(self._item_values["length"]))
            if self._items is not None:  # early, so that a stopped writer leaves them too
                self._write_items(self._tiles)
        return self._tiles

    def _drawn_viewpoints(self) -> ViewpointTable | None:
        """Return where all rows look, if the recipe says it."""
        source_hw_N2 = self._item_values.get("source_hw")
        if self._recipe is None or self._recipe.scale is None or source_hw_N2 is None:
            return None
        return DrawnViewpoints(self._recipe, source_hw_N2)

    def _header(self) -> Header:
        columns = self._columns or ()
        self._check_viewpoints(columns)
        keeps_mix = self.model.prototypes is not None and not self._keep_replay and "mix_item" in columns
        keeps_mix = keeps_mix and self._recipe is None  # which says it
        kept = columns if self._keep_replay else ()
        corrects = self._promised is not None
        streams = make_streams(
            self.model, kept, tuple(self._item_values), keeps_mix, corrects, len(self._forced)
        )
        most = most_rows(streams, self.codec.gives.classes)
        tile = self._tile or choose_tile(streams, most, self._items, self._views, self._by_view)
        check_tile(tile, most, self._out.name)
        context = None
        if self.model.prototypes is not None:
            codec = self.model.prototypes
            context = ContextSpec(codec.codec_id, codec.get_config(), *self._mix_wh, self.model.degree)
        made_by = {
            "softpack": __version__, "torch": torch.__version__, "numpy": np.__version__, "seed": self._seed,
            **self._notes,
        }  # fmt: skip
        codec = self.codec
        return Header(
            codec.codec_id, codec.get_config(), codec.spec, codec.gives, *tile, streams, made_by, context,
            self._promised, self._recipe, self._images, self._fingerprints, self._forced,
        )  # fmt: skip

    def _check_viewpoints(self, columns: tuple[str, ...]) -> None:
        """Refuse rows that do not say where they look, where prototypes are weighted by that; models have none."""
        is_model = self._columns is None and not self.n_rows
        is_kept = self._keep_replay or self._recipe is not None
        said = has_viewpoints(columns, self._item_values.keys()) and is_kept
        if self.model.degree and not said and not is_model:
            raise DataError(
                f"{self._out.name}: the model weighs prototypes by the views' crops, which the file would not have; "
                "keep the replay columns crop_xywh_fraction, or crop_xywh and source_hw, or fit a model without them"
            )

    def _flushed(self) -> TileWriter:
        if self._gathered is not None:
            if not self._gathered and self._gathered.needs_fit:
                raise DataError(
                    f"{self._out.name}: there are no rows to fit the codec {self.codec.codec_id} to"
                )
            self._fit(self._gathered)
        tiles = self._begun()
        tiles.flush()
        self._write_items(tiles)
        return tiles

    def _write_items(self, tiles: TileWriter) -> None:
        for name, values in self._item_values.items():
            if len(values) != tiles.items:
                raise DataError(
                    f"{self._out.name}: {name} has {len(values)} items, the file has {tiles.items}; "
                    "give one entry for every item"
                )
        if not self._items_written:
            tiles.write_items(self._item_values)
            self._items_written = True
