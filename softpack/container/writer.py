"""Write labels: any order of rows, any number of them, in bounded memory, committed or not there at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack import __version__
from softpack.checks import MOST, Place, check_cells, check_labels, check_mix
from softpack.codecs.abc import Codec, Progress
from softpack.codecs.registry import make_codec
from softpack.container.blockfile import BlockFile
from softpack.container.columns import item_values, row_block
from softpack.container.context import Prototypes
from softpack.container.file import SpkFile
from softpack.container.mixing import mixing_of
from softpack.container.model import Model, as_model, fit_prototype_codec, load_model_of
from softpack.container.reader import Labels
from softpack.container.tile_writer import (
    TileWriter,
    check_tile,
    choose_tile,
    code_arrays,
    make_streams,
    write_model,
)
from softpack.errors import CodecError, DataError
from softpack.format.blocks import read_superblock
from softpack.format.header import ContextSpec, Header
from softpack.format.layout import BLOCK, SUPERBLOCK
from softpack.records import LabelSpec, RowBlock

MIX_WH = (224, 224)
PROTOTYPE_BITS = 4  # a view
PROTOTYPE_VIEWS = 64  # of an item, where nothing is known
FIT_VALUES = 1 << 25  # numbers in the sample that a codec is fitted to
LEAST_FIT_ROWS = 4096


def fit_rows(classes: int) -> int:
    """Return how many rows a codec is fitted to at most."""
    return max(LEAST_FIT_ROWS, FIT_VALUES // classes)


class Writer:
    """Writes one `.spk` file; made by `create` and `append`, and used as a context manager.

    Leaving the context checks, commits and names the file; an error leaves nothing behind of what was not
    committed.

    Args:
        out: where the blocks go.
        codec: of the rows.
        needs_fit: whether the first rows are gathered to fit the codec.
        items: of the file where known.
        views: the same of views.
        tile: items and views of a tile; chosen where None.
        keep_encoder: store what `append` needs to encode.
        seed: of the fit.
        device: where the codec is fitted and encodes.
        progress: is told how far the fit is.
        resumed: the file that `out` goes on with.
        prototypes: of the items, where the codec takes context.
        mix_wh: width and height of the pictures in which `mix_box_xyxy` lies.
        keep_replay: store the replay columns.
    """

    def __init__(
        self,
        out: BlockFile,
        model: Model,
        *,
        needs_fit: bool = False,
        items: int | None = None,
        views: int | None = None,
        tile: tuple[int, int] | None = None,
        keep_encoder: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        resumed: SpkFile | None = None,
        prototypes: Tensor | None = None,
        mix_wh: tuple[int, int] = MIX_WH,
        keep_replay: bool = True,
    ) -> None:
        self.model = model
        self.n_rows = 0
        self._out = out
        self._needs_fit = needs_fit
        self._items, self._views = items, views
        self._tile = tile
        self._keep_encoder = keep_encoder
        self._seed = seed
        self._device = torch.device(device)
        self._progress = progress
        self._columns: tuple[str, ...] | None = None
        self._item_values: dict[str, np.ndarray] = {}
        self._items_written = True
        self._spool: list[RowBlock] = []
        self._tiles: TileWriter | None = None
        self._mix_wh, self._keep_replay = mix_wh, keep_replay
        self._prototypes: Prototypes | None = None
        if model.prototypes is not None and prototypes is not None:
            self._prototype_codes = model.prototypes.encode(prototypes)
            self._prototypes = Prototypes.of_codes(model.prototypes, self._prototype_codes)
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
        self._tiles = TileWriter(self._out, self.model, file.header, None, None, self._device, self._prototypes)
        self._tiles.resume(file)
        self._columns = None if file.header.stream("mix") else labels.columns
        self._item_values = {name: labels.item_column(name) for name in labels.item_columns}
        self.n_rows = file.commit.n_rows

    def append(self, labels_BC: Any, *, item: Any, view: Any, **columns: Any) -> None:
        """Add rows, in any order.

        Args:
            labels_BC: tensor or array [B, C] of floats, in the space that the writer was made for.
            item: integers [B], or one for all rows.
            view: the same of views.
            columns: replay columns [B, ...], by the names of `softpack.records.COLUMNS`; the same ones in
                every call.

        Raises:
            DataError: rows or columns are not what they should be; none of them were taken.
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
        if self._columns is None:
            self._columns = tuple(block.replay)
        if tuple(block.replay) != self._columns:
            raise DataError(
                f"{self._out.name}: found the columns {', '.join(block.replay) or 'none'}; the rows before have "
                f"{', '.join(self._columns) or 'none'}; every row has the same columns"
            )
        if not self._needs_fit:
            self._begun().add(block)
            self.n_rows += len(block)
            return
        self._spool.append(
            replace(block, labels_BC=block.labels_BC.copy())
        )  # the caller may use its array again
        self.n_rows += len(block)
        if sum(map(len, self._spool)) >= fit_rows(self.codec.spec.classes):
            self._fit()

    def set_items(self, **columns: Any) -> None:
        """Say what each item has: `target` [items], `source_hw` [items, 2]; before the first rows.

        Raises:
            DataError: an unknown column, another shape, or too late.
        """
        values = item_values(columns, self._out.name)
        late = values.keys() - (self._tiles.item_columns if self._tiles is not None else values.keys())
        if late:
            raise DataError(f"{self._out.name}: say {', '.join(sorted(late))} before the first rows")
        self._item_values |= values
        self._items_written = False

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

    def _fit(self) -> None:
        rows = [torch.from_numpy(block.labels_BC).to(self._device).float() for block in self._spool]
        n_rows = self._items * self._views if self._items and self._views else None
        contexts = None
        if self._prototypes is not None:
            prototypes = self._prototypes.to(self._device)
            contexts = [
                prototypes.context_of(block.item_B, mixing_of(block.replay, self._mix_wh, len(block)))
                for block in self._spool
            ]
        codec = self.codec.fit(rows, seed=self._seed, n_rows=n_rows, progress=self._progress, contexts=contexts)
        self.model = replace(self.model, codec=codec)
        self._needs_fit = False
        spool, self._spool = self._spool, []
        for block in spool:
            self._begun().add(block)

    def _begun(self) -> TileWriter:
        if self._tiles is None:
            header = self._header()
            self._out.begin(header.to_bytes(), max(header.minor, self.model.minor))
            write_model(self._out, self.model, self._keep_encoder)
            self._tiles = TileWriter(
                self._out, self.model, header, self._items, self._views, self._device, self._prototypes
            )
            if self._prototypes is not None:
                self._tiles.write_items(code_arrays(self._prototype_codes))
                self._tiles.items = max(self._tiles.items, len(self._prototypes))
            if self._items is not None:  # early, so that a stopped writer leaves them too
                self._write_items(self._tiles)
        return self._tiles

    def _header(self) -> Header:
        columns = self._columns or ()
        keeps_mix = self.model.prototypes is not None and not self._keep_replay and "mix_item" in columns
        streams = make_streams(
            self.model, columns if self._keep_replay else (), tuple(self._item_values), keeps_mix
        )
        tile = choose_tile(streams, self._items, self._views) if self._tile is None else self._tile
        check_tile(tile, streams, self._out.name)
        context = None
        if self.model.prototypes is not None:
            codec = self.model.prototypes
            context = ContextSpec(codec.codec_id, codec.get_config(), *self._mix_wh)
        made_by = {
            "softpack": __version__, "torch": torch.__version__, "numpy": np.__version__, "seed": self._seed
        }  # fmt: skip
        codec = self.codec
        return Header(
            codec.codec_id, codec.get_config(), codec.spec, codec.gives, *tile, streams, made_by, context
        )

    def _flushed(self) -> TileWriter:
        if self._needs_fit:
            if not self._spool:
                raise DataError(
                    f"{self._out.name}: there are no rows to fit the codec {self.codec.codec_id} to"
                )
            self._fit()
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


def create(
    path: str | os.PathLike[str],
    codec: str | Codec | Model = "vqae",
    *,
    classes: int | None = None,
    space: str = "logits",
    temperature: float = 1.0,
    items: int | None = None,
    views: int | None = None,
    prototypes: Any = None,
    mix_wh: tuple[int, int] = MIX_WH,
    replay: bool = True,
    tile: tuple[int, int] | None = None,
    appendable: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Writer:
    """Make a new `.spk` file and return its writer.

    Args:
        path: of the file; it appears when the writer is closed.
        codec: an id ("raw", "quantize", "topk", "lowrank", "klt", "vqae", or of an installed package), which is
            fitted to the first rows; or a codec or model that is fitted already.
        classes: numbers in a row; not needed where `codec` is a fitted codec.
        space: "logits", "log_probs" or "probs".
        temperature: that log_probs and probs were taken at.
        items: how many, where it is known: then rows outside are refused, and the model suits the size.
        views: the same of views.
        prototypes: logits [items, classes] that the rows of each item are near to, such as their mean, for codecs
            that code rows given them (`context=True`); they are coded too.
        mix_wh: width and height of the pictures in which `mix_box_xyxy` lies, for the prototypes of mixed rows.
        replay: store the replay columns.
        tile: items and views that are stored and read together; chosen by default.
        appendable: keep the encoder in the file, so that `append` needs no model beside it.
        seed: of the fit; the same rows and seed give the same bytes on the same machine.
        device: where the codec is fitted and encodes.
        force: overwrite what is there.
        progress: is told how far the fit is: (steps done, steps in all, text).
        settings: the codec's own, such as `target_bits=64` (for any codec that has a choice), `k=20`.

    Raises:
        ExistsError: the file is there and `force` is not given.
        CodecError: an unknown codec or setting.
        DataError: items or views are out of range, or the file cannot be written.
    """
    for name, total in (("items", items), ("views", views)):
        if total is not None and not 0 <= total <= MOST + 1:
            raise DataError(f"{path}: {name} is {total}; expected 0 to {MOST + 1}")
    if isinstance(codec, str):
        if classes is None:
            raise CodecError(f"{path}: say classes=, the numbers in a row")
        target_bits = settings.pop("target_bits", None)
        made = make_codec(codec, LabelSpec(classes, space, temperature), settings, target_bits)
        fitted = type(made).fit is Codec.fit  # nothing to learn
        rows_NC = _prototype_rows(prototypes, made, str(path))
        model = Model(made, _prototype_codec(rows_NC, views, seed))
    else:
        model, fitted = as_model(codec), True
        rows_NC = _prototype_rows(prototypes, model.codec, str(path)) if prototypes is not None else None
        if settings or classes not in (None, model.codec.spec.classes):
            raise CodecError(
                f"{path}: the codec is fitted to {model.codec.spec}; give no other classes and settings"
            )
    out = BlockFile(path, force)
    try:
        return Writer(
            out, model, needs_fit=not fitted, items=items, views=views, tile=tile, keep_encoder=appendable,
            seed=seed, device=device, progress=progress, mix_wh=mix_wh, keep_replay=replay,
            prototypes=rows_NC,
        )  # fmt: skip
    except BaseException:
        out.abandon()
        raise


def _prototype_codec(rows_NC: Tensor | None, views: int | None, seed: int) -> Codec | None:
    if rows_NC is None:
        return None
    return fit_prototype_codec(rows_NC, PROTOTYPE_BITS * (views or PROTOTYPE_VIEWS), seed)


def _prototype_rows(prototypes: Any, codec: Codec, where: str) -> Tensor | None:
    """Return prototypes as float32 logits of mean zero [N, C]; None for a codec that takes none.

    Raises:
        CodecError: they are missing, or given to a codec that has no use for them.
        DataError: they are not finite numbers of that shape.
    """
    classes = codec.spec.classes
    expected = f"finite logits [items, {classes}], such as the mean of each item's rows"
    if codec.takes_context != (prototypes is not None):
        what = (
            f"codes rows given their items' prototypes; give prototypes=, {expected}"
            if codec.takes_context
            else "codes each row by itself and has no use for prototypes; leave them out"
        )
        raise CodecError(f"{where}: codec {codec.codec_id} {what}")
    if prototypes is None:
        return None
    try:
        given = prototypes if isinstance(prototypes, Tensor) else np.array(prototypes)
        rows_NC = torch.as_tensor(given).float().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: prototypes are no numbers: {error}; expected {expected}") from None
    if (
        rows_NC.ndim != 2
        or rows_NC.shape[1] != classes
        or not len(rows_NC)
        or not torch.isfinite(rows_NC).all()
    ):
        said = "hold nan or inf" if rows_NC.shape[1:] == (classes,) and len(rows_NC) else "are none"
        raise DataError(f"{where}: prototypes of shape {list(rows_NC.shape)} {said}; expected {expected}")
    return rows_NC - rows_NC.mean(1, keepdim=True)


def save_model(path: str | os.PathLike[str], model: Codec | Model, force: bool = False) -> None:
    """Write a fitted codec or model, encoders included, as a `.spkm`: an `.spk` without rows."""
    with create(path, model, appendable=True, force=force):
        pass


def load_model(path: str | os.PathLike[str]) -> Model:
    """Return the model of a `.spkm`, or of an `.spk` whose encoder is in it.

    Raises:
        CodecError: the file has no encoder.
    """
    model = load_model_of(SpkFile(path))
    if not model.can_encode:
        raise CodecError(f"{path}: holds no encoder; give the .spkm that `softpack fit` wrote")
    return model


def append(
    path: str | os.PathLike[str], model: Codec | Model | None = None, device: torch.device | str = "cpu"
) -> Writer:
    """Return a writer that adds rows to an existing file; new items and views are welcome.

    Readers that have the file open see it as it was; it can be opened again once the writer is closed (or
    `commit` is called). An error cuts it back to its last commit, one of which is made every 64 MiB.

    Args:
        path: of the file.
        model: the fitted codec, where the file has no encoder.
        device: where rows are encoded.

    Raises:
        CodecError: the file has no encoder and no model is given, or the model is another.
    """
    SpkFile(path)  # refuse what is no .spk before it is opened for writing
    out = BlockFile.reopen(Path(path))
    try:
        file = SpkFile(path)  # again, now that nobody else writes it
        encoder = _encoder_for(file, model)
        file_id = read_superblock(file.pread(0, SUPERBLOCK.size), file.name, append=True)
        tail = [file.pread(offset, BLOCK.size) for offset in file.tail_offsets]
        headers = [*(row.tobytes() for row in file.blocks), *tail]
        out.resume(file_id, headers, file.file_len, file.commit.number + 1)
        return Writer(out, encoder, device=device, resumed=file)
    except BaseException:
        out.abandon()
        raise


def _encoder_for(file: SpkFile, given: Codec | Model | None) -> Model:
    own = load_model_of(file)
    if given is None:
        if not own.codec.can_encode:
            raise CodecError(
                f"{file.name}: holds no encoder, so nothing can be appended with it alone; give the model of "
                "`softpack fit`, or create files with appendable=True"
            )
        return own
    given = as_model(given)
    mine, theirs = own.codec.state(), given.codec.state()
    same = type(given.codec) is type(own.codec) and given.codec == own.codec and mine.keys() == theirs.keys()
    if not same or not all(torch.equal(mine[name], theirs[name].cpu()) for name in mine):
        raise CodecError(f"{file.name}: was written with another model than the one given; expected its own")
    return replace(own, codec=given.codec)
