"""Begin a file, go on with one, and keep a model in one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.checks import MOST
from softpack.codecs.abc import Codec, Progress
from softpack.codecs.checks import temperatures_of
from softpack.codecs.registry import codec_of_matrix, make_codec, setting_names
from softpack.container.blockfile import BlockFile
from softpack.container.file import SpkFile
from softpack.container.forcing import check_forced
from softpack.container.gathering import Gathered, wants_rows
from softpack.container.model import Model, as_model, fit_prototype_codec, load_model_of
from softpack.container.promise import promise
from softpack.container.viewpoint import ViewpointTable
from softpack.container.writer import MIX_WH, Writer
from softpack.errors import CodecError, DataError
from softpack.format.blocks import read_superblock
from softpack.format.language import fingerprints_of
from softpack.format.layout import BLOCK, SUPERBLOCK
from softpack.recipe import Recipe
from softpack.records import TEMPERATURES, LabelSpec
from softpack.sequences import Sequences

PROTOTYPE_BITS = 4  # a view
PROTOTYPE_VIEWS = 64  # of an item, where nothing is known


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
    viewpoints: ViewpointTable | None = None,
    mix_wh: tuple[int, int] = MIX_WH,
    replay: bool = True,
    max_kl: float | None = None,
    temperatures: Sequence[float] | float | str | None = None,
    tile: tuple[int, int] | None = None,
    appendable: bool = False,
    recipe: Recipe | None = None,
    images: Mapping[int, bytes] | None = None,
    notes: Mapping[str, Any] | None = None,
    sequences: Sequences | Iterable[Any] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    matrix: Any = None,
    matrix_inside: bool = True,
    forced: Sequence[int] = (),
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
            that code rows given them (`context=True`); they are coded too. Of a model that weighs several of an
            item by where views look, [items, prototypes, classes].
        viewpoints: of all rows, for such a model, so that a mixed row may be added before its partner's.
        mix_wh: width and height of the pictures in which `mix_box_xyxy` lies, for the prototypes of mixed rows.
        replay: store the replay columns.
        max_kl: no row's KL(teacher || decoded) * T**2, in nats, is to be above this at any of the temperatures;
            rows that would be are corrected, and the file says so. Rows that are appended later are held to it.
        temperatures: that students train at, such as (1, 4, 20), which is the default; of `max_kl`, and of codecs
            that have a setting of this name.
        tile: items and views that are stored and read together; chosen by default.
        appendable: keep the encoder in the file, so that `append` needs no model beside it.
        recipe: that views were made by; it draws the replay columns, and rows come without. With `replay` they are
            stored too, else the recipe says them again whenever they are asked for.
        images: what some of the labelled images look like, by their items (`softpack.data.thumbprint`), so that
            others are refused.
        notes: for people, kept beside versions and seed.
        sequences: the tokens of each item, of language: rows get the token that they predict, row v of L tokens the
            one after tokens 0 to v, and each item must have its L - 1 rows when the writer is closed.
        fingerprints: SHA-256 in hexadecimal of `teacher`, `tokenizer` and `data`, as `softpack.fingerprints` makes
            them, so that others are refused.
        matrix: output matrix [tokens, width] of the teacher, for rows of hidden states (`codec="head"`).
        matrix_inside: store the matrix in the file. Else the file names it by its hash, and readers give it again.
        forced: classes whose log-probabilities at T=1 are kept exactly beside the codes.
        seed: of the fit; the same rows and seed give the same bytes on the same machine.
        device: where the codec is fitted and encodes.
        force: overwrite what is there.
        progress: is told how far the fit is: (steps done, steps in all, text).
        settings: the codec's own, such as `target_bits=64` (for any codec that has a choice), `k=20`.

    Raises:
        ExistsError: the file is there and `force` is not given.
        CodecError: an unknown codec or setting, or a number that is not positive.
        DataError: items or views are out of range, or the file cannot be written.
    """
    check_notes(notes, path)
    bound = None if sequences is None else Sequences.of(sequences)
    if bound is not None:
        items, views = len(bound) if items is None else items, bound.n_views if views is None else views
    for name, total in (("items", items), ("views", views)):
        if total is not None and not 0 <= total <= MOST + 1:
            raise DataError(f"{path}: {name} is {total}; expected 0 to {MOST + 1}")
    at = _temperatures(temperatures)
    promised = None if max_kl is None else promise(max_kl, at or TEMPERATURES)
    if isinstance(codec, str):
        if at and (promised is None or "temperatures" in setting_names(codec)):
            settings["temperatures"] = ",".join(f"{T:g}" for T in at)
        target_bits = settings.pop("target_bits", None)
        if matrix is not None:
            made = codec_of_matrix(
                codec, matrix, classes, settings, target_bits, inside=matrix_inside, where=str(path)
            )
        elif classes is None:
            raise CodecError(f"{path}: say classes=, the numbers in a row")
        else:
            made = make_codec(codec, LabelSpec(classes, space, temperature), settings, target_bits)
        fitted = not made.learns
        rows_NPC = _prototype_rows(prototypes, made, 1, str(path))
        model = Model(made, _prototype_codec(rows_NPC, views, seed))
    else:
        model, fitted = as_model(codec), True
        rows_NPC = None
        if prototypes is not None:
            rows_NPC = _prototype_rows(prototypes, model.codec, model.n_prototypes, str(path))
        if settings or (at and promised is None) or classes not in (None, model.codec.spec.classes):
            raise CodecError(
                f"{path}: the codec is fitted to {model.codec.spec}; give no other classes and settings"
            )
    # A codec that comes without tables gets them from the first rows: else `head` takes half as many bytes again.
    needs_tables = not isinstance(codec, Model) and wants_rows(model.codec)
    gathered = None if fitted and not needs_tables else Gathered(needs_fit=not fitted)
    out = BlockFile(path, force)
    try:
        return Writer(
            out, model, gathered=gathered, items=items, views=views, tile=tile, keep_encoder=appendable,
            seed=seed, device=device, progress=progress, mix_wh=mix_wh, keep_replay=replay,
            prototypes=rows_NPC, viewpoints=viewpoints, promised=promised, recipe=recipe, images=images,
            notes=notes, sequences=bound, fingerprints=_fingerprints(fingerprints, str(path)),
            forced=check_forced(forced, model.codec.gives.classes, str(path)),
        )  # fmt: skip
    except BaseException:
        out.abandon()
        raise


def _fingerprints(given: Mapping[str, str] | None, where: str) -> dict[str, str]:
    try:
        return fingerprints_of(dict(given)) if given else {}
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _temperatures(given: Sequence[float] | float | str | None) -> tuple[float, ...]:
    """Return temperatures that are given as numbers, or as a codec's setting says them."""
    if given is None:
        return ()
    if isinstance(given, (int, float)):
        given = (given,)
    return temperatures_of(
        "create", given if isinstance(given, str) else ",".join(str(float(T)) for T in given)
    )


def _prototype_codec(rows_NPC: Tensor | None, views: int | None, seed: int) -> Codec | None:
    if rows_NPC is None:
        return None
    return fit_prototype_codec(rows_NPC.flatten(0, 1), PROTOTYPE_BITS * (views or PROTOTYPE_VIEWS), seed)


def _prototype_rows(prototypes: Any, codec: Codec, n: int, where: str) -> Tensor | None:
    """Return prototypes as float32 logits of mean zero [N, P, C]; None for a codec that takes none.

    Where an item has one (`n` is 1), they may be [N, C].

    Raises:
        CodecError: they are missing, or given to a codec that has no use for them.
        DataError: they are not finite numbers of that shape.
    """
    classes = codec.spec.classes
    expected = f"finite logits [items, {classes}], such as the mean of each item's rows"
    if n > 1:
        expected = (
            f"finite logits [items, {n}, {classes}], of which the first is about the mean of the item's rows"
        )
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
        rows_NPC = torch.as_tensor(given).float().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: prototypes are no numbers: {error}; expected {expected}") from None
    shape = [*rows_NPC.shape]
    if rows_NPC.ndim == 2 and n == 1:
        rows_NPC = rows_NPC.unsqueeze(1)
    is_right = rows_NPC.shape[1:] == (n, classes) and len(rows_NPC) > 0
    if not is_right or not torch.isfinite(rows_NPC).all():
        said = "hold nan or inf" if is_right else "are none"
        raise DataError(f"{where}: prototypes of shape {shape} {said}; expected {expected}")
    return rows_NPC - rows_NPC.mean(2, keepdim=True)


def save_model(path: str | os.PathLike[str], model: Codec | Model, force: bool = False) -> None:
    """Write a fitted codec or model, encoders included, as a `.spkm`: an `.spk` without rows."""
    with create(path, model, appendable=True, force=force):
        pass


def check_notes(notes: Mapping[str, Any] | None, path: str | os.PathLike[str], *more: str) -> None:
    """Refuse notes by whose names a file says something itself, `more` besides.

    Raises:
        DataError: there are some.
    """
    if taken := sorted({"softpack", "torch", "numpy", "seed", *more} & (notes or {}).keys()):
        raise DataError(f"{path}: notes have {taken[0]}, which the file says itself; name it otherwise")


def load_model(path: str | os.PathLike[str], matrix: Any = None) -> Model:
    """Return the model of a `.spkm`, or of an `.spk` whose encoder is in it.

    Args:
        path: of the file.
        matrix: the teacher's output matrix, of models that name it by its hash: a tensor, or a safetensors file that
            has it, or a folder of such.

    Raises:
        CodecError: the file has no encoder, or the matrix is missing, another, or not called for.
    """
    stored = load_model_of(SpkFile(path))
    if matrix is not None and not stored.codec.needs_matrix:
        raise CodecError(f"{path}: all that rows are coded by is in the file; leave the matrix out")
    model = _with_matrix(stored, matrix, str(path))
    if model.codec.needs_matrix and model.codec.encoder_state():
        raise CodecError(
            f"{path}: names the teacher's output matrix by its hash; give it: load_model(path, "
            "matrix='teacher/model.safetensors')"
        )
    if not model.can_encode:
        raise CodecError(f"{path}: holds no encoder; give the .spkm that `softpack fit` wrote")
    return model


def append(
    path: str | os.PathLike[str],
    model: Codec | Model | None = None,
    device: torch.device | str = "cpu",
    viewpoints: ViewpointTable | None = None,
    matrix: Any = None,
) -> Writer:
    """Return a writer that adds rows to an existing file; new items and views are welcome.

    Rows are held to what the file promises (`max_kl` of `create`), as those before.

    Readers that have the file open see it as it was; it can be opened again once the writer is closed (or
    `commit` is called). An error cuts it back to its last commit, one of which is made every 64 MiB.

    Args:
        path: of the file.
        model: the fitted codec, where the file has no encoder.
        device: where rows are encoded.
        viewpoints: of all rows, as `create` takes them.
        matrix: the teacher's output matrix, of files that name it by its hash.

    Raises:
        CodecError: the file has no encoder and no model is given, or the model is another.
    """
    SpkFile(path)  # refuse what is no .spk before it is opened for writing
    out = BlockFile.reopen(Path(path))
    try:
        file = SpkFile(path)  # again, now that nobody else writes it
        encoder = _encoder_for(file, model, matrix)
        file_id = read_superblock(file.pread(0, SUPERBLOCK.size), file.name, append=True)
        tail = [file.pread(offset, BLOCK.size) for offset in file.tail_offsets]
        headers = [*(row.tobytes() for row in file.blocks), *tail]
        out.resume(file_id, headers, file.file_len, file.commit.number + 1)
        return Writer(out, encoder, device=device, resumed=file, viewpoints=viewpoints)
    except BaseException:
        out.abandon()
        raise


def _with_matrix(model: Model, matrix: Any, where: str) -> Model:
    """Return a model with the output matrix that it names by its hash, if it does and it is given."""
    if matrix is None or not model.codec.needs_matrix:
        return model
    return replace(model, codec=model.codec.with_matrix(matrix, where))


def _encoder_for(file: SpkFile, given: Codec | Model | None, matrix: Any) -> Model:
    own = _with_matrix(load_model_of(file), matrix, file.name)
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
