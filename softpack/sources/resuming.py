"""Encoding many rows so that it goes on where it was interrupted.

Rows go into `OUT.unfinished` first, with the encoder in it and a commit now and then; the next run of the same call
finds there what is done. In the end its codes are written into `OUT`, in tiles that are whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softpack.container.blockfile import PARTIAL, refuse_existing
from softpack.container.model import Model, load_model_of
from softpack.container.reader import Labels
from softpack.container.repack import repack
from softpack.container.stopped import clear_way, make_whole, unfinished_of
from softpack.errors import ExistsError, FormatError, SoftpackError
from softpack.format.layout import MAGIC, ModelPart
from softpack.sources.base import Source
from softpack.sources.encoding import Counted, encode_source

RESUMED_NUMBERS = 1 << 27  # in the labels of a source: fewer are encoded anew
LONG_BITS = 1024  # of a label, from which on tiles fill up between commits


@dataclass(frozen=True)
class Encoding:
    """An encoding that may have been interrupted. Only one may be at work on a file: see `stopped.alone`.

    Args:
        out: of the file.
        run: what is encoded and how; an interrupted run of anything else is not gone on with. It lies beside the rows,
            so that the file says nothing of paths and times.
        force: overwrite `out`, and throw away what another run left.
    """

    out: Path
    run: str
    force: bool = False

    @property
    def rows(self) -> Path:
        """Of the rows so far."""
        return unfinished_of(self.out)

    @property
    def partial(self) -> Path:
        """Of the rows so far, while the first run writes them."""
        return self.rows.with_name(self.rows.name + PARTIAL)

    @property
    def of_run(self) -> Path:
        """Of what was encoded and how."""
        return self.rows.with_name(self.rows.name + ".run")

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with."""
        return self.rows.exists() or self.partial.exists()

    def left(self) -> Labels | None:
        """Return what an interrupted run of the same call left, made whole; None where there is nothing.

        Raises:
            ExistsError: another run left it, and `force` is not given.
            DataError: it is damaged, and `force` is not given.
            UnsupportedError: a later softpack left it, and `force` is not given.
        """
        is_ours = self.of_run.exists() and self.of_run.read_text(encoding="utf-8") == self.run
        if self.out.exists():
            refuse_existing(self.out, self.force)
        for path in (self.partial, self.rows):
            _check_own(path)
        try:
            make_whole(self.rows, restart=False, spelt="force=True (--force)")
        except SoftpackError as error:
            if not self.force or not isinstance(error.__cause__ or error, FormatError):
                raise
            self.forget()
        if self.rows.exists() and is_ours:
            return Labels(self.rows)
        if self.rows.exists() and not self.force:
            raise ExistsError(
                f"{self.rows}: was left by another run, of other labels or options; call it as it was, to go on, or "
                "give force=True (--force) to throw it away"
            )
        self.forget()
        refuse_existing(self.out, self.force)
        return None

    def encode(self, source: Source, model: Model | None, counted: Counted | None = None, **how: Any) -> None:
        """Encode all rows that are not there yet, and write the file.

        Args:
            source: of the rows.
            model: fitted; None goes on with what `left` found.
            counted: is told (rows done, rows in all).
            how: further arguments of `encode_source`.

        Raises:
            SoftpackError: the source, the codec or the disk refuses; what is done is kept, and the next call goes on.
        """
        ready = load_model_of(Labels(self.rows).file) if model is None else model
        self.of_run.write_text(self.run, encoding="utf-8")
        encode_source(
            source,
            self.rows,
            ready,
            goes_on=model is None,
            commits=True,
            counted=counted,
            **how | {"appendable": True},
        )
        clear_way(self.out)
        refuse_existing(self.out, self.force)
        if how.get("appendable") or _is_as_it_should_be(ready):
            self.rows.replace(self.out)
        else:
            repack(self.rows, self.out, force=self.force)
        self.forget()

    def forget(self) -> None:
        """Throw away what there is so far."""
        for path in (self.rows, self.partial, self.of_run):
            path.unlink(missing_ok=True)


def _check_own(path: Path) -> None:
    """Refuse to throw away what no encoding has left."""
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(len(MAGIC)) not in (b"", MAGIC):
            raise ExistsError(f"{path}: is no .spk file, and in the way of one; move it away")


def _is_as_it_should_be(model: Model) -> bool:
    """Return whether the rows that were written are worth no second writing: no encoder, and tiles that are whole."""
    parts = model.parts.keys() & {ModelPart.ENCODER, ModelPart.PROTOTYPE_ENCODER}
    return not parts and model.codec.bits_per_label() >= LONG_BITS
