"""Read labels: by (item, view), in a stream, or all codes at once on the student's device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Codes
from softpack.codecs.sparse import SparseRows
from softpack.container.context import Prototypes, Weights
from softpack.container.correcting import correct_by_list, decoding, full_precision
from softpack.container.corrections import NONE, Corrections
from softpack.container.file import SpkFile
from softpack.container.language import TokenReader, check_fingerprints
from softpack.container.model import Model, load_model_of
from softpack.container.rows import RowMap, row_map
from softpack.container.stored_columns import StoredColumns
from softpack.container.tile_cache import TileCache
from softpack.container.tiles import array_dtype, read_items
from softpack.container.weighing import Weighing
from softpack.errors import CorruptError, DataError
from softpack.format.header import CorrectionSpec
from softpack.format.streams import StreamSpec
from softpack.recipe import Recipe
from softpack.records import LabelSpec, RowBlock

if TYPE_CHECKING:
    from softpack.container.resident import ResidentLabels

T = TypeVar("T")
Indices = Sequence[int] | np.ndarray | Tensor


class Labels:
    """The labels of an `.spk` file.

    Opening reads the header and the index only; tiles are read, checked and kept (up to
    `tile_cache.CACHE_BYTES`) as rows are asked for. It may be pickled, forked and spawned: each process opens
    the file anew.

    Args:
        path: of the file.
        stages: how many stages of the codes to read, of files that have several; all by default.
        matrix: the teacher's output matrix, of files that name it by its hash: a tensor, or a safetensors file that
            has it, or a folder of such.

    Raises:
        FormatError: the file is not a valid .spk (see `softpack.errors`).
        DataError: it cannot be opened, or has fewer stages.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stages: int | None = None,
        matrix: Tensor | str | os.PathLike[str] | None = None,
    ) -> None:
        self.file = SpkFile(path)
        self._stages = self._checked(stages)
        self._matrix = matrix
        self._check_images()
        self.spec: LabelSpec = self.file.header.gives
        self._tiles = TileCache(self.file)
        self._codecs: dict[torch.device, Codec] = {}
        self._prototypes: dict[torch.device, Prototypes | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.file.path, "stages": self._stages, "matrix": self._matrix}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        items, views, classes = self.shape
        return (
            f"<{self.file.name}: {self.n_rows} {self.spec.space} of {items} items x {views} views, "
            f"{classes} classes, codec {self.file.header.codec_id}>"
        )

    def __len__(self) -> int:
        return self.n_rows

    # -- facts -----------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """Items, views and classes; some (item, view) may be missing."""
        return self.file.commit.items, self.file.commit.views, self.spec.classes

    @property
    def n_rows(self) -> int:
        """Labels in the file."""
        return self.file.commit.n_rows

    @property
    def fingerprint(self) -> str:
        """A number of 16 hexadecimal digits that tells these labels from others."""
        return self.file.fingerprint

    @property
    def tile_items(self) -> int:
        """Items whose labels lie together."""
        return self.file.header.tile_items

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the replay columns that each row has, stored or drawn from the recipe."""
        return self.file.header.replay_columns

    @property
    def recipe(self) -> Recipe | None:
        """How views were made, where the file says it."""
        return self.file.header.recipe

    @property
    def images(self) -> Mapping[int, bytes]:
        """What some of the labelled images look like, by their items; see `softpack.data.thumbprint`."""
        return self.file.header.images

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Names of the columns that each item has; one that a stopped writer left unfinished is not counted."""
        return self._stored_columns.item_names

    @property
    def n_stages(self) -> int:
        """Stages of the codes that are read."""
        return self._stages

    @cached_property
    def model(self) -> Model:
        """The codec of the rows, all stages of it, and that of the prototypes."""
        return load_model_of(self.file)

    @cached_property
    def codec(self) -> Codec:
        """The codec of the stages that are read, with the model of the file."""
        codec = self.model.codec.first_stages(self._stages)
        if self._matrix is None:
            return codec
        if not codec.needs_matrix:
            raise DataError(
                f"{self.file.name}: all that labels are decoded by is in the file; leave matrix= out"
            )
        return codec.with_matrix(self._matrix, self.file.name)

    @cached_property
    def prototypes(self) -> Prototypes | None:
        """What rows are coded given; None where they are coded by themselves."""
        if self.model.prototypes is None:
            return None
        _, stream = self.file.header.stream("prototype")  # type: ignore[misc]
        codes = as_codes(self.prototype_codes, stream)
        prototypes = Prototypes.of_codes(self.model.prototypes, codes, self.model.n_prototypes)
        return prototypes.seen_by(self.codec)

    @property
    def prototype_codes(self) -> dict[str, np.ndarray]:
        """The codes of the prototypes as unsigned numbers, [items, ...] each; {} where there are none."""
        found = self.file.header.stream("prototype")
        return {} if found is None else read_items(self.file, *found)

    @cached_property
    def weighing(self) -> Weighing:
        """What prototypes weigh in labels."""
        return Weighing(self, self._stored_columns.sizes)

    @cached_property
    def _rows(self) -> RowMap:
        return row_map(self.file)

    def has(self, items: Indices, views: Indices) -> np.ndarray:
        """Return for each (item, view) whether its label is there: bool [B]."""
        return self._rows.find(*_pair(items, views)) >= 0

    def view_counts(self) -> np.ndarray:
        """Return how many views each item has: int64 [items]."""
        return self._rows.view_counts

    def n_views(self, item: int) -> int:
        """Return how many views an item has, without counting those of the others."""
        (first,), (stop,) = self._rows.rows_of(np.array([item]))
        return int(stop - first)

    def nth_view(self, items: Indices, n: Indices) -> np.ndarray:
        """Return the n-th present view (from 0, rising) of each item: int64 [B]."""
        return self._rows.nth_view(*_pair(items, n))

    def row_numbers(self, items: Indices, views: Indices) -> np.ndarray:
        """Return the numbers of these labels, counted by item and then view: int64 [B].

        Raises:
            DataError: one of them is not in the file.
        """
        return self._rows.need(*_pair(items, views), self.file.name)

    def cells(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the item and the view of labels by their numbers; of all of them by default."""
        return self._rows.cells(np.arange(self.n_rows) if rows is None else rows)

    def _check_images(self) -> None:
        last = max(self.file.header.images, default=-1)
        if last >= self.file.commit.items:
            raise CorruptError(
                f"{self.file.name}: says how item {last} looks, and holds {self.file.commit.items} items"
            )

    # -- rows ------------------------------------------------------------------------------------------

    def __getitem__(self, where: int | tuple[int, int]) -> Tensor:
        """Return one label [C], or all views [V, C] of one item."""
        if isinstance(where, tuple):
            item, view = where
            return self.read([item], [view])[0]
        if not 0 <= where < self.shape[0]:
            raise DataError(
                f"{self.file.name}: there is no item {where}; it holds items 0 to {self.shape[0] - 1}"
            )
        (first,), (stop,) = self._rows.rows_of(np.array([where]))
        return self.read(*self.cells(np.arange(first, stop)))

    def read(self, items: Indices, views: Indices, device: torch.device | str = "cpu") -> Tensor:
        """Return the labels of these (item, view): float32 [B, C] on `device`.

        They are decoded in float32, under `torch.autocast` too; what `torch.set_float32_matmul_precision` says holds.

        Raises:
            DataError: one of them is not in the file.
            CorruptError: a tile fails its checksum, or holds codes that the codec does not make.
        """
        items, views = _pair(items, views)
        codes = {name: array.to(device) for name, array in self.read_codes(items, views).items()}
        codec, prototypes = self.codec_on(device), self.prototypes_on(device)
        with decoding(device, self.file.name):
            if prototypes is None:
                rows_BC = codec.decode(codes)
            else:
                weights = Weights.of(self.weighing.mixing(items, views), prototypes.device)
                items_B = torch.tensor(items, device=prototypes.device)
                rows_BC = prototypes.decoded(codec, codes, items_B, weights)
        if self.promise is None:
            return rows_BC
        return correct_by_list(rows_BC, self.corrections(items, views), self.spec, self.promise.step)

    def read_sparse(self, items: Indices, views: Indices, device: torch.device | str = "cpu") -> SparseRows:
        """Return the classes that were kept of these (item, view), without making whole rows of them.

        Raises:
            CodecError: the codec keeps all classes.
            DataError: one of them is not in the file, or rows are corrected beyond the classes that were kept.
            CorruptError: a tile fails its checksum, or holds codes that the codec does not make.
        """
        return self.sparse_rows(self.read_codes(items, views), device)

    def sparse_rows(self, codes: Codes, device: torch.device | str) -> SparseRows:
        """Return the classes that were kept of rows with these codes, on `device`; raises what `read_sparse` does."""
        if self.promise is not None:
            raise DataError(
                f"{self.file.name}: rows are corrected so that none is worse than the file promises, in classes that "
                "were not kept, too; read whole rows"
            )
        codes = {name: array.to(device) for name, array in codes.items()}
        with decoding(device, self.file.name):
            return self.codec_on(device).decode_sparse(codes)

    @property
    def promise(self) -> CorrectionSpec | None:
        """The greatest KL of any label, which corrections see to; None without one, or if stages are left out."""
        return self.file.header.correction if self._stages == len(self.file.header.code_streams) else None

    def corrections(self, items: Indices, views: Indices) -> Corrections:
        """Return what is added to these labels once they are decoded; its rows are counted as they are asked for."""
        if self.promise is None:
            return NONE
        items, views = _pair(items, views)
        return self._there(self._tiles.corrections, items, views)

    def context(self, items: Indices, views: Indices, device: torch.device | str = "cpu") -> Tensor | None:
        """Return what these labels are coded given: float32 [B, C] logits, or None."""
        prototypes = self.prototypes_on(device)
        if prototypes is None:
            return None
        items, views = _pair(items, views)
        with full_precision(torch.device(device)):
            return prototypes.context_of(items, self.weighing.mixing(items, views))

    def read_codes(self, items: Indices, views: Indices) -> dict[str, Tensor]:
        """Return the codes of these (item, view), as the codec takes them."""
        stored, streams = self.stored_codes(items, views), self.file.header.streams
        codes: dict[str, Tensor] = {}
        for number in self._code_streams:
            codes |= as_codes(stored, streams[number - 1])
        return codes

    def stored_codes(self, items: Indices, views: Indices) -> dict[str, np.ndarray]:
        """Return the codes of these (item, view) as unsigned numbers, [B, ...] each."""
        stored: dict[str, np.ndarray] = {}
        for number in self._code_streams:
            stored |= self.stored(number, *_pair(items, views))
        return stored

    @property
    def _code_streams(self) -> tuple[int, ...]:
        return self.file.header.code_streams[: self._stages]

    def stored(self, number: int, items: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of a stream for these (item, view), as they are stored."""
        return self._there(partial(self._tiles.arrays, number), items, views)

    def _there(self, read: Callable[[np.ndarray, np.ndarray], T], items: np.ndarray, views: np.ndarray) -> T:
        """Return what is read of these (item, view), and say which is not in the file: tiles know only their own."""
        try:
            return read(items, views)
        except KeyError:
            self._rows.need(items, views, self.file.name)  # has all there are, and raises
            raise

    def _checked(self, stages: int | None) -> int:
        there = len(self.file.header.code_streams)
        if stages is not None and not 1 <= stages <= there:
            raise DataError(f"{self.file.name}: has {there} stages of codes; {stages} were asked for")
        return stages or there

    def replay(self, items: Indices, views: Indices) -> dict[str, np.ndarray]:
        """Return the replay columns of these (item, view), each [B, ...] in the dtype of `COLUMNS`.

        Raises:
            DataError: one of them is not in the file.
            CorruptError: the recipe does not say them of all items.
        """
        items, views = _pair(items, views)
        found = self.file.header.stream("replay")
        if found is not None:
            return self.stored(found[0], items, views)
        if self.recipe is not None:
            self._rows.need(items, views, self.file.name)
        return self._stored_columns.drawn(items, views)

    def item_column(self, name: str) -> np.ndarray:
        """Return a column that each item has, [items, ...] in the dtype of `COLUMNS`.

        Raises:
            DataError: the file has no such column.
        """
        return self._stored_columns.item(name)

    @cached_property
    def _stored_columns(self) -> StoredColumns:
        return StoredColumns(self.file)

    def blocks(self, n_rows: int) -> Iterator[RowBlock]:
        """Yield all labels with their replay columns, by item and then view, `n_rows` at a time."""
        for start in range(0, self.n_rows, n_rows):
            items, views = self.cells(np.arange(start, min(start + n_rows, self.n_rows)))
            yield RowBlock(self.read(items, views).numpy(), items, views, self.replay(items, views))

    def load(self, device: torch.device | str = "cpu") -> ResidentLabels:
        """Return the same labels with all codes in memory on `device`, packed; batches decode there."""
        from softpack.container.resident import ResidentLabels

        return ResidentLabels(self, device)

    def prototypes_on(self, device: torch.device | str) -> Prototypes | None:
        """Return the prototypes on `device`; kept, so that a second call costs nothing."""
        device = torch.device(device)
        if device not in self._prototypes:
            own = self.prototypes
            self._prototypes[device] = own if own is None or device.type == "cpu" else own.to(device)
        return self._prototypes[device]

    def codec_on(self, device: torch.device | str) -> Codec:
        """Return the codec with its tensors on `device`; kept, so that a second call costs nothing."""
        device = torch.device(device)
        if device not in self._codecs:
            self._codecs[device] = self.codec if device.type == "cpu" else self.codec.to(device)
        return self._codecs[device]

    # -- language ------------------------------------------------------------------------------------

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """SHA-256 of `teacher`, `tokenizer` and `data`, those that the file says."""
        return self.file.header.fingerprints

    def check_fingerprints(self, teacher: Any = None, tokenizer: Any = None, data: str | None = None) -> None:
        """Check what these labels come from: each is a fingerprint, or the module or tokenizer itself.

        Raises:
            DataError: one of them is another, or the file does not say it.
        """
        given = {"teacher": teacher, "tokenizer": tokenizer, "data": data}
        check_fingerprints(self.fingerprints, given, self.file.name)

    @cached_property
    def _sequences(self) -> TokenReader:
        return TokenReader(self)

    def tokens(self, item: int) -> np.ndarray:
        """Return the tokens of a sequence, int32 [L]: row v is what the teacher said after tokens 0 to v.

        Raises:
            DataError: the file has no sequences, no such item, or lacks rows of it.
            CorruptError: they are not those that its hash was made of.
        """
        return self._sequences.tokens(item)

    def check_tokens(self, items: Sequence[int] | int, tokens: Sequence[Any], *, whole: bool = True) -> None:
        """Check that sequences are those that were labelled, or where not `whole` the beginnings of them.

        Args:
            items: of the sequences, or one of them.
            tokens: of each, or of the one.
            whole: False lets sequences end earlier, as a trainer cuts them.

        Raises:
            DataError: names the first sequence and position that differ.
        """
        self._sequences.check(items, tokens, whole)

    @property
    def forced_tokens(self) -> tuple[int, ...]:
        """Classes whose log-probabilities are kept exactly beside the codes."""
        return self.file.header.forced

    def forced(self, items: Indices, views: Indices) -> Tensor:
        """Return the log-probabilities at T=1 of `forced_tokens` in these (item, view), float32 [B, F], as they were.

        Raises:
            DataError: the file keeps none, or one of the labels is not in it.
        """
        found = self.file.header.stream("forced")
        if found is None:
            raise DataError(f"{self.file.name}: keeps no classes exactly; encode or capture with forced=")
        return torch.from_numpy(self.stored(found[0], *_pair(items, views))["log_prob"])


def as_codes(arrays: dict[str, np.ndarray], stream: StreamSpec) -> dict[str, Tensor]:
    """Return unsigned numpy codes as the tensors that codecs take (`code_dtype`)."""
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}
    return {
        spec.name: torch.from_numpy(
            np.ascontiguousarray(arrays[spec.name]).view(signed[array_dtype(spec).itemsize])
        )
        for spec in stream.arrays
    }


def _pair(items: Indices, views: Indices) -> tuple[np.ndarray, np.ndarray]:
    pair = tuple(np.atleast_1d(np.asarray(values)) for values in (items, views))
    if any(values.size and values.dtype.kind not in "iu" for values in pair):
        raise DataError(f"items and views are of {pair[0].dtype} and {pair[1].dtype}; expected integers")
    pair = tuple(values.astype(np.int64, copy=False) for values in pair)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 1:
        raise DataError(
            f"items and views have the shapes {pair[0].shape} and {pair[1].shape}; expected [B] and [B]"
        )
    return pair  # type: ignore[return-value]


def open(  # noqa: A001
    path: str | os.PathLike[str],
    stages: int | None = None,
    matrix: Tensor | str | os.PathLike[str] | None = None,
) -> Labels:
    """Open the labels of an `.spk` file; reads its header and index only.

    Args:
        path: of the file.
        stages: how many stages of the codes to read, of files that have several: fewer are coarser labels.
        matrix: the teacher's output matrix, of files that name it by its hash: a tensor, or a safetensors file that
            has it, or a folder of such.

    Raises:
        FormatError: the file is not a valid .spk (see `softpack.errors`).
        DataError: it cannot be opened, has fewer stages, or names no matrix.
        CodecError: the matrix is of another teacher.
    """
    labels = Labels(path, stages, matrix)
    if matrix is not None:
        _ = labels.codec  # refuses another teacher's here, not at the first batch
    return labels
