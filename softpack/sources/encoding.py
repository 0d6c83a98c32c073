"""From a source to a fitted codec and to an `.spk` file: a stream of blocks in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.codecs.abc import Codec, Progress
from softpack.codecs.registry import codec_of_matrix, make_codec
from softpack.codecs.sparse import SparseRows, as_sparse_rows
from softpack.container.context import Prototypes
from softpack.container.correcting import full_precision
from softpack.container.create import PROTOTYPE_BITS, append, create
from softpack.container.gathering import fit_rows
from softpack.container.model import Model, arrays_of_item, as_model, fit_prototype_codec
from softpack.container.reader import Labels
from softpack.container.tables import bits_per_row, fit_tables, tables_of_sample
from softpack.container.tile_writer import code_arrays, codes_of
from softpack.container.writer import MIX_WH, Writer
from softpack.errors import CodecError, DataError
from softpack.records import HIDDEN, LabelSpec, RowBlock
from softpack.sources.base import Source
from softpack.sources.learning import Learned, learn

COMMIT_NUMBERS = 1 << 26  # in labels, between two commits that an interrupted run goes on from
TABLE_ROWS = 8192  # whose codes the entropy coder's tables are made from
HIDDEN_TABLE_ROWS = 2048  # the same of hidden states, each of which is searched for long
TABLE_VALUES = 1 << 28  # numbers in them: fewer rows of very many classes

Counted = Callable[[int, int], None]  # (rows done, rows in all)


def fit_model(
    source: Source,
    codec_id: str,
    settings: dict[str, Any],
    *,
    target_bits: float | None = None,
    learned: Learned | None = None,
    degree: int = 0,
    item_bits: float | None = None,
    n_rows: int | None = None,
    matrix: Tensor | None = None,
    matrix_inside: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Model:
    """Return a codec fitted to a sample of a source, with one for the prototypes where it takes context.

    Args:
        source: whose rows are to be encoded.
        codec_id: of the codec.
        settings: of the codec.
        target_bits: bits a label at most; chooses the settings that are left open.
        learned: the prototypes, where they have been learned already.
        degree: of the functions of where views look that an item has a prototype for each of, where they are not
            learned yet; 0: one prototype.
        item_bits: bits of an item's prototypes, about; 4 for each of its labels by default.
        n_rows: labels that the model will encode, where the source is the first of them.
        matrix: output matrix [tokens, width] of the teacher, where the source holds hidden states.
        matrix_inside: keep the matrix in the model, which else names it by its hash.
        seed: of the sample and of the fit.
        device: where it is fitted.
        progress: is told how far it is.

    Raises:
        CodecError: an unknown codec or setting, or rows that it cannot be fitted to.
        DataError: the source's rows are not what they should be.
    """
    n_rows = n_rows or source.n_rows
    if matrix is None:
        codec = make_codec(codec_id, source.spec, settings, target_bits)
    else:
        codec = codec_of_matrix(
            codec_id,
            matrix,
            source.spec.classes,
            settings,
            target_bits,
            inside=matrix_inside,
            where=str(source.path),
        )
    with full_precision(torch.device(device)):
        if source.kept is not None:
            check_takes_sparse(source, codec)
            fitted = codec.fit_sparse(
                _SparseSample(source, seed, device), seed=seed, n_rows=n_rows, progress=progress
            )
            return Model(fitted, None, _tables(fitted, source, None, None, n_rows, seed, device))
        prototype_codec, prototypes, contexts, basis = None, None, None, None
        if codec.takes_context:
            learned = learned or learn(source, degree)
            basis = learned.basis
            item_bits = item_bits or PROTOTYPE_BITS * n_rows / source.items
            prototype_codec = _fit_prototypes(learned.rows_NPC, item_bits, seed)
            prototypes = learned.prototypes(prototype_codec, device)
            contexts = _contexts(_Sample(source, seed, device), learned, prototypes)
        fitted = codec.fit(
            _Sample(source, seed, device), seed=seed, n_rows=n_rows, progress=progress, contexts=contexts
        )
        tables = _tables(fitted, source, learned, prototypes, n_rows, seed, device)
        return Model(fitted, prototype_codec, tables, basis)


def _fit_prototypes(rows_NPC: Tensor, bits: float, seed: int) -> Codec:
    """Return a codec for the prototypes of items [N, P, C] under which those of an item cost about `bits` together.

    It counts bits as if all prototypes were alike. Where an item has several, tables tell them apart and find them
    to cost less, and few prototypes cost more than many would, so it is fitted again by what they were found to cost.
    """
    rows_RC, n = rows_NPC.flatten(0, 1), rows_NPC.shape[1]
    codec = fit_prototype_codec(rows_RC, bits / n, seed)
    codes = code_arrays(Prototypes.of_rows(codec, rows_NPC).codes)
    arrays = arrays_of_item(codec, n)
    found = bits_per_row(arrays, codes, fit_tables(arrays, codes, len(rows_NPC), "prototype"), "prototype")
    return fit_prototype_codec(rows_RC, bits / n * min(max(bits / found, 0.5), 2.0), seed)


def _contexts(sample: _Sample, learned: Learned, prototypes: Prototypes) -> Iterator[Tensor]:
    for block in sample.blocks():
        yield learned.context_of(block, prototypes)


def _tables(
    codec: Codec,
    source: Source,
    learned: Learned | None,
    prototypes: Prototypes | None,
    n_rows: int,
    seed: int,
    device: torch.device | str,
) -> dict[str, np.ndarray]:
    """Return the entropy coder's tables, from the codes of some rows and of all prototypes."""
    tables = {}
    if prototypes is not None:
        arrays = arrays_of_item(prototypes.codec, prototypes.n)
        tables = fit_tables(arrays, code_arrays(prototypes.codes), source.items, "prototype")
    if codec.zstd_level is not None:
        return tables
    parts = []
    most = TABLE_ROWS if source.spec.space != HIDDEN else HIDDEN_TABLE_ROWS
    for block in source.sample(min(most, max(1, TABLE_VALUES // source.row_numbers)), seed):
        context_BC = None if prototypes is None or learned is None else learned.context_of(block, prototypes)
        parts.append(codes_of(codec, block, device, context_BC))
    return tables | tables_of_sample(codec, parts, n_rows)


class _Sample:
    """The rows that a codec is fitted to, read when they are asked for: most codecs learn nothing."""

    def __init__(self, source: Source, seed: int, device: torch.device | str) -> None:
        self._source, self._seed, self._device = source, seed, device

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.blocks():
            yield torch.from_numpy(block.labels_BC).to(self._device).float()

    def blocks(self) -> Iterator[RowBlock]:
        return self._source.sample(fit_rows(self._source.spec.classes), self._seed)


class _SparseSample:
    """The same of rows of which only some classes are known."""

    def __init__(self, source: Source, seed: int, device: torch.device | str) -> None:
        self._source, self._seed, self._device = source, seed, device

    def __iter__(self) -> Iterator[SparseRows]:
        for block in self._source.sample(fit_rows(self._source.row_numbers), self._seed):
            if block.sparse is not None:
                yield as_sparse_rows(block.sparse, self._source.spec, self._device)


def check_takes_sparse(source: Source, codec: Codec) -> None:
    """Check that a codec keeps some classes of a row alone, where a source has no others.

    Raises:
        CodecError: it needs whole rows.
    """
    if source.kept is not None and not codec.is_sparse:
        raise CodecError(
            f"{source.path}: holds about {source.kept} of the {source.spec.classes} classes of a row, and codec "
            f"{codec.codec_id} needs all of them; nobody knows the others: take --codec topk"
        )


def check_device(device: torch.device | str) -> None:
    """Check that torch can work on a device here.

    Raises:
        CodecError: it cannot.
    """
    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise CodecError(
            f"device {device!r} cannot be used here: {reason}; leave it out to use the CPU"
        ) from None


def check_model(codec: Codec, spec: LabelSpec, model: str) -> None:
    """Check that a fitted codec takes the rows of a source.

    Raises:
        CodecError: it was fitted to other rows.
    """
    if codec.spec != spec:
        raise CodecError(
            f"{model}: was fitted to {_said(codec.spec)}; the source holds {_said(spec)}. "
            "Fit a model to rows like these: `softpack fit SOURCE -o MODEL.spkm`"
        )


def encode_source(
    source: Source,
    path: str | os.PathLike[str],
    model: Codec | Model,
    *,
    learned: Learned | None = None,
    replay: bool = True,
    max_kl: float | None = None,
    temperatures: Sequence[float] | None = None,
    appendable: bool = False,
    commits: bool = False,
    goes_on: bool = False,
    matrix: Any = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    force: bool = False,
    counted: Counted | None = None,
) -> None:
    """Encode all rows of a source into a new `.spk` file.

    Args:
        source: whose rows they are.
        path: of the file; nothing is left there if anything goes wrong.
        model: fitted.
        learned: the prototypes, where they have been learned already.
        replay: keep the replay columns.
        max_kl: the greatest KL of any label at the temperatures, to which corrections hold them.
        temperatures: of `max_kl`; 1, 4 and 20 by default.
        appendable: keep the encoder in the file.
        commits: commit now and then, so that an interrupted run leaves what it has done.
        goes_on: add the rows that are not there yet to what such a run has left.
        matrix: the teacher's output matrix, where what such a run has left names it by its hash.
        seed: noted in the header.
        device: where rows are encoded.
        force: overwrite what is there.
        counted: is told (rows done, rows in all).

    Raises:
        SoftpackError: the source, the codec or the disk refuses.
    """
    model = as_model(model)
    check_model(model.codec, source.spec, "the model")
    check_takes_sparse(source, model.codec)
    if source.kept is not None and max_kl is not None:
        raise CodecError(
            f"{source.path}: max_kl (--max-kl) corrects whole rows, and only some classes of these are known; leave "
            "it out, and keep all classes that are known instead"
        )
    if model.prototypes is not None and learned is None:
        learned = learn(source, basis=model.basis)
    viewpoints = None if learned is None or model.basis is None else learned.viewpoints
    with _naming(source.path, path):
        if goes_on:
            with append(path, matrix=matrix, device=device, viewpoints=viewpoints) as writer:
                _fill(writer, source, Labels(path), replay, commits, counted)
            return
        with create(
            path,
            model,
            items=source.items,
            views=source.views,
            prototypes=None if learned is None or model.prototypes is None else learned.rows_NPC,
            viewpoints=viewpoints,
            mix_wh=MIX_WH if learned is None else learned.mix_wh,
            replay=replay and source.recipe is None,
            recipe=source.recipe if replay else None,
            images=source.images if replay else None,
            fingerprints=source.fingerprints,
            forced=source.forced,
            max_kl=max_kl,
            temperatures=temperatures if max_kl is not None else None,
            appendable=appendable,
            seed=seed,
            device=device,
            force=force,
        ) as writer:
            columns = (
                source.item_columns
                if replay
                else {n: v for n, v in source.item_columns.items() if n == "target"}
            )
            writer.set_items(**columns)
            _fill(writer, source, None, replay, commits, counted)


def _fill(
    writer: Writer,
    source: Source,
    there: Labels | None,
    replay: bool,
    commits: bool,
    counted: Counted | None,
) -> None:
    """Add all rows of a source that are not there yet."""
    done = committed = 0
    keeps_columns = replay or there is None or there.file.header.stream("mix") is not None
    for block in source.blocks(source.block_rows):
        done += len(block)
        if there is not None:
            is_there_B = _is_there(there, block)
            block = block.take(~is_there_B)
            committed += int(is_there_B.sum())
        if len(block):
            writer.add(block if keeps_columns else replace(block, replay={}))
        waiting, were = ((n * source.row_numbers) for n in (done - committed, committed))
        if commits and waiting > max(COMMIT_NUMBERS, were // 8):
            writer.commit()
            committed = done
        if counted is not None:
            counted(done, source.n_rows)


def _is_there(labels: Labels, block: RowBlock) -> np.ndarray:
    """Return which rows a file has, bool [B]."""
    items, views, _ = labels.shape
    is_there_B = (block.item_B < items) & (block.view_B < views)
    is_there_B[is_there_B] = labels.has(block.item_B[is_there_B], block.view_B[is_there_B])
    return is_there_B


@contextmanager
def _naming(source: Path, out: str | os.PathLike[str]) -> Iterator[None]:
    """Say which source the rows came from, where a message about them does not name a file."""
    try:
        yield
    except DataError as error:
        if str(error).startswith((str(source), str(out))):
            raise
        raise DataError(f"{source}: {error}") from error


def _said(spec: LabelSpec) -> str:
    if spec.space == HIDDEN:
        return f"hidden states of {spec.classes} numbers"
    at = "" if spec.space == "logits" else f" at temperature {spec.temperature:g}"
    return f"{spec.space} of {spec.classes} classes{at}"
