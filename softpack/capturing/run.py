"""One run of capturing, or what is left of one that was stopped.

Rows go from the teacher into `OUT.unfinished`, with the encoder in it and a commit now and then, and their codes from
there into `OUT` in the end. The rows that the codec is fitted to are in memory alone.

Shapes in names: R rows of the file, N sequences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from softpack.capturing.asking import Asker
from softpack.capturing.first import first_rows
from softpack.codecs.abc import Progress, Stage
from softpack.container.create import append, create
from softpack.container.reader import Labels
from softpack.container.repack import repack
from softpack.container.stopped import clear_way, unfinished_of
from softpack.container.writer import Writer
from softpack.errors import DataError
from softpack.records import RowBlock
from softpack.relabelling.labeller import same_logits
from softpack.sources.encoding import fit_model

COMMIT_S = 60.0  # between two commits, about


@dataclass(frozen=True)
class Captured:
    """What a file is to hold, by which an interrupted run is told from another.

    Args:
        codec_id: of the codec.
        settings: of the codec, and `target_bits`.
        fingerprints: of teacher, tokenizer and data, those that there are.
        probe: some logits of the teacher, which tell it from others where it has no fingerprint; else "".
        notes: for people, kept in the file.
        seed: of the fit.
    """

    codec_id: str
    settings: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    probe: str
    notes: Mapping[str, Any]
    seed: int

    @property
    def encoding(self) -> str:
        """How rows are coded, as the file notes it."""
        return " ".join([self.codec_id, *(f"{name}={value}" for name, value in sorted(self.settings.items()))])

    @property
    def made_by(self) -> dict[str, Any]:
        """What the file notes."""
        probe = {"teacher": self.probe} if self.probe else {}
        return {**self.notes, "encoding": self.encoding, **probe}


@dataclass(frozen=True)
class Run:
    """One run of `capture`.

    Args:
        out: of the file.
        asker: of the teacher.
        batches: items of each.
        captured: what the file is to hold.
        n_first: rows that the codec is fitted to.
        matrix: the teacher's output matrix, for `head`.
        device: of the codec.
        force: overwrite `out`.
        stage: makes a progress bar for each stage of the work.
    """

    out: Path
    asker: Asker
    batches: list[np.ndarray]
    captured: Captured
    n_first: int
    matrix: Tensor | None
    device: str
    force: bool
    stage: Stage | None

    @property
    def unfinished(self) -> Path:
        """Of the coded rows so far."""
        return unfinished_of(self.out)

    def capture(self) -> None:
        """Do all of it that has not been done."""
        is_there_R = np.zeros(self.asker.sequences.n_rows, bool)
        if self.unfinished.exists():
            labels = Labels(self.unfinished)
            self._check_same(labels)
            is_there_R[self._numbers(*labels.cells())] = True
            del labels
            writer = append(self.unfinished, device=self.device, matrix=self.matrix)
        else:
            writer = self._begun(is_there_R)
        with writer:
            self._write(writer, is_there_R)
        clear_way(self.out)
        with self.bar("writing", "row") as bar:
            repack(
                self.unfinished, self.out, force=self.force, counted=lambda done, total: bar(done, total, "")
            )
        self.unfinished.unlink()

    def _begun(self, is_there_R: np.ndarray) -> Writer:
        """Fit the codec to some rows, and return the writer of the file, with these in it."""
        captured, settings = self.captured, dict(self.captured.settings)
        fit = {name: settings.pop(name) for name in ("target_bits", "matrix_inside") if name in settings}
        how: dict[str, Any] = {
            "sequences": self.asker.sequences, "fingerprints": captured.fingerprints, "forced": self.asker.forced,
            "notes": captured.made_by, "appendable": True, "seed": captured.seed, "device": self.device,
        }  # fmt: skip
        with self.bar("asking for the first rows", "token") as bar:
            first = first_rows(self.asker, self.batches, self.n_first, captured.seed, self.out, bar)
        with self.bar("fitting", "step") as bar:
            model = fit_model(
                first, captured.codec_id, settings, matrix=self.matrix, n_rows=len(is_there_R), seed=captured.seed,
                device=self.device, progress=bar, **fit,
            )  # fmt: skip
        writer = create(self.unfinished, model, **how)
        try:
            self._add(writer, first.rows, is_there_R)
            writer.commit()  # fitting is not to be done again, whatever comes
        except BaseException:
            writer.abandon()
            raise
        return writer

    def _write(self, writer: Writer, is_there_R: np.ndarray) -> None:
        """Ask for the rows that are not there, and add them."""
        lengths_N, done, committed = self.asker.sequences.lengths_N, 0, time.monotonic()
        with self.bar("capturing", "token") as bar:
            try:
                for items in self.batches:
                    if not self._has(items, is_there_R):
                        for block in self.asker.ask(items):
                            self._add(writer, block, is_there_R)
                    done += int(lengths_N[items].sum()) - len(items)
                    if time.monotonic() - committed > COMMIT_S:
                        writer.commit()
                        committed = time.monotonic()
                    bar(done, len(is_there_R), "")
            except KeyboardInterrupt:
                with suppress(DataError):  # it came while rows were written: those are lost
                    writer.commit()
                raise

    def _has(self, items: np.ndarray, is_there_R: np.ndarray) -> bool:
        starts = self._numbers(items, np.zeros_like(items))
        stops = starts + self.asker.sequences.lengths_N[items] - 1
        return all(is_there_R[start:stop].all() for start, stop in zip(starts, stops, strict=True))

    def _add(self, writer: Writer, block: RowBlock, is_there_R: np.ndarray) -> None:
        numbers_B = self._numbers(block.item_B, block.view_B)
        missing_B = ~is_there_R[numbers_B]
        if missing_B.any():
            writer.add(block if missing_B.all() else block.take(missing_B))
            is_there_R[numbers_B] = True

    def _numbers(self, item_B: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        """Return the numbers of rows, counted by item and then view."""
        numbers_B: np.ndarray = self._firsts_N[item_B] + view_B
        return numbers_B

    @cached_property
    def _firsts_N(self) -> np.ndarray:
        counts_N = np.maximum(self.asker.sequences.lengths_N - 1, 0)
        firsts_N: np.ndarray = np.cumsum(counts_N) - counts_N
        return firsts_N

    def _check_same(self, labels: Labels) -> None:
        """Refuse to go on with what another run left.

        Raises:
            DataError: says in what it differs.
        """
        header, ways = labels.file.header, []
        for name in ("teacher", "tokenizer", "data"):
            new, old = (found.get(name) for found in (self.captured.fingerprints, labels.fingerprints))
            if new != old:
                ways.append(f"the {name} is another ({str(new)[:16]}, and was {str(old)[:16]})")
        if self.captured.probe and not same_logits(self.captured.probe, str(header.made_by.get("teacher"))):
            ways.append("the teacher gives other logits")
        asked = {"encoding": self.captured.encoding, "seed": self.captured.seed}
        ways += [
            f"{n} is {new}, and was {header.made_by.get(n)}"
            for n, new in asked.items()
            if header.made_by.get(n) != new
        ]
        if header.forced != self.asker.forced:
            ways.append(f"forced tokens are {list(self.asker.forced)}, and were {list(header.forced)}")
        if ways:
            raise DataError(
                f"{labels.file.name}: was left by another run: {'; '.join(ways)}. Call it as it was, or with "
                "restart=True (--restart) to throw that away"
            )

    def bar(self, what: str, unit: str) -> AbstractContextManager[Progress]:
        """Return what shows how far a stage of the work is."""
        return nullcontext(lambda done, total, seen: None) if self.stage is None else self.stage(what, unit)
