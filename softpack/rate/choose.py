"""What a user wants of an encoding, and the fitted model that gives it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from softpack.codecs.abc import Progress
from softpack.codecs.head.matrix import read_matrix
from softpack.codecs.registry import setting_names, typed_settings
from softpack.container.model import Model
from softpack.container.promise import promise
from softpack.errors import CodecError
from softpack.rate.control import CODECS, Control
from softpack.rate.target import Target
from softpack.rate.trial import Bench, Trial
from softpack.records import HIDDEN, TEMPERATURES
from softpack.sources.base import Source
from softpack.sources.encoding import fit_model

DEFAULT_CODEC = "vqae"
SPARSE_CODEC = "topk"  # of rows of which only some classes are known
HIDDEN_CODEC = "head"


@dataclass(frozen=True)
class Wanted:
    """How labels are to be coded.

    Args:
        codec_id: of the codec; None takes vqae, or what meets the target best.
        settings: of the codec; numbers may be text.
        target: to meet; None leaves all to the settings.
        temperatures: that students train at; () takes 1, 4 and 20.
        max_kl: the greatest KL of any label, to which corrections hold them.
        seed: of the fit.
        device: to fit and encode on.
        matrix: safetensors with the teacher's output matrix, where rows are its hidden states.
        matrix_inside: store it in the file, which else names it by its hash.
    """

    codec_id: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None
    temperatures: tuple[float, ...] = ()
    max_kl: float | None = None
    seed: int = 0
    device: str = "cpu"
    matrix: str | os.PathLike[str] | None = None
    matrix_inside: bool = True

    @property
    def is_controlled(self) -> bool:
        """Whether rate control has to look for settings."""
        target = self.target
        return target is not None and (self.codec_id in (None, *CODECS) or target.bits is None)

    @property
    def uses_temperatures(self) -> bool:
        """Whether the codec has a use for temperatures."""
        return self.is_controlled or "temperatures" in setting_names(self.codec_id or DEFAULT_CODEC)


def default_codec(source: Source) -> str:
    """Return the codec that rows of a source are coded by where none is asked for."""
    if source.spec.space == HIDDEN:
        return HIDDEN_CODEC
    return DEFAULT_CODEC if source.kept is None else SPARSE_CODEC


def choose(
    source: Source,
    wanted: Wanted,
    *,
    replay: bool = True,
    n_rows: int = 0,
    progress: Progress | None = None,
    say: Callable[[Trial, str], None] = lambda trial, what: None,
) -> Model:
    """Return a model fitted to a source, the one that meets the target best where there is one.

    Args:
        source: whose labels are to be encoded, or the first of them.
        wanted: of the encoding.
        replay: whether the file will keep the replay columns.
        n_rows: labels of the file, where the source is the first of them.
        progress: is told how far a full fit is.
        say: is told of every trial and what it was for.

    Raises:
        CodecError: the target cannot be met, or the rows do not suit the codec.
    """
    settings, codec_id = dict(wanted.settings), wanted.codec_id or default_codec(source)
    made_of = _made_of(source, wanted)
    if source.kept is not None:
        return _of_sparse(source, wanted, settings, n_rows, progress)
    if not made_of and wanted.target is not None and wanted.is_controlled:
        temperatures = wanted.temperatures or TEMPERATURES
        promised = None if wanted.max_kl is None else promise(wanted.max_kl, temperatures)
        bench = Bench(source, temperatures, replay, promised, wanted.seed, wanted.device, n_rows)
        asked = wanted.codec_id or (DEFAULT_CODEC if settings else None)
        typed = typed_settings(asked, settings) if asked else {}
        return Control(bench, wanted.target, asked, typed, progress=progress, say=say).run().model
    if wanted.temperatures and wanted.uses_temperatures:
        settings.setdefault("temperatures", ",".join(f"{T:g}" for T in wanted.temperatures))
    target_bits = None if wanted.target is None else wanted.target.bits
    return fit_model(
        source, codec_id, settings, target_bits=target_bits, n_rows=n_rows or None, seed=wanted.seed,
        device=wanted.device, progress=progress, **made_of,
    )  # fmt: skip


def _made_of(source: Source, wanted: Wanted) -> dict[str, Any]:
    """Return what a codec of hidden states needs besides them; nothing for labels.

    Raises:
        CodecError: it is missing, or is given for labels; or the target is found by trials, which are on labels.
    """
    if source.spec.space != HIDDEN:
        if wanted.matrix is not None or not wanted.matrix_inside:
            raise CodecError(
                f"{source.path}: holds {source.spec.space}, which no output matrix makes; leave --matrix and "
                "--matrix-outside out"
            )
        return {}
    if wanted.codec_id not in (None, HIDDEN_CODEC):
        return {}  # which then says what rows it takes
    if wanted.matrix is None:
        raise CodecError(
            f"{source.path}: holds hidden states of {source.spec.classes} numbers, of which the teacher's output "
            "matrix makes logits; give its checkpoint: --matrix teacher/model.safetensors"
        )
    if wanted.target is not None and wanted.target.bits is None:
        raise CodecError(
            f"{source.path}: --target-kl and --budget try codecs on labels, and these are hidden states; give "
            "--target-bits, and see by `softpack eval` what KL that is"
        )
    matrix_VH = read_matrix(wanted.matrix, source.spec.classes)
    return {"matrix": matrix_VH, "matrix_inside": wanted.matrix_inside}


def _of_sparse(
    source: Source, wanted: Wanted, settings: dict[str, Any], n_rows: int, progress: Progress | None
) -> Model:
    """Return a model of rows of which only some classes are known; topk of all of these where nothing is asked for.

    Raises:
        CodecError: what is asked for takes whole rows.
    """
    target_bits = None
    if wanted.target is not None:
        target_bits = wanted.target.bits
        if target_bits is None:
            raise CodecError(
                f"{source.path}: only some classes of a row are known, and --target-kl and --budget try codecs on "
                "whole rows; give --target-bits, or --set k=K"
            )
    codec_id = wanted.codec_id or default_codec(source)
    if codec_id == SPARSE_CODEC and target_bits is None:
        settings.setdefault("k", source.kept)
    return fit_model(
        source, codec_id, settings, target_bits=target_bits, n_rows=n_rows or None, seed=wanted.seed,
        device=wanted.device, progress=progress,
    )  # fmt: skip
