"""What all arms share: text, the teacher's hidden states, and files of labels, each made when it is first needed.

Shapes in names: N sequences, L tokens, V = L - 1 positions, D width of the teacher, C tokens of its vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import softpack
from language.arms import Arm
from language.teacher import Teacher, logits
from language.text import PARTS, Sizes, sequences
from softpack.codecs.abc import Codec
from softpack.codecs.head import Head
from softpack.codecs.registry import make_codec
from softpack.container.model import Model
from softpack.container.reader import Labels
from softpack.container.tables import tables_of_sample
from softpack.container.tile_writer import code_arrays
from softpack.errors import CodecError, SoftpackError, UnsupportedError
from softpack.records import LabelSpec

TABLE_SEQUENCES = 8  # whose codes the entropy coder's tables are made from
TOGETHER = 100  # sequences that are written between two points at which an interrupted run goes on
Bar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]  # (what, steps) -> so many are done


class Room:
    """A folder, and what is in it.

    Args:
        work: the folder.
        sizes: of the text.
        fit: sequences of training text that codecs are fitted to, and those that hold no whole rows of them.
        bar: shows progress.
    """

    def __init__(self, work: Path, sizes: Sizes, fit: tuple[int, int], bar: Bar) -> None:
        self.work, self.sizes, self.fit, self.bar = work, sizes, fit, bar
        self._models: dict[str, Model] = {}

    # -- text and teacher ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make text and hidden states, where they are not there."""
        (self.work / "teacher").mkdir(parents=True, exist_ok=True)
        teacher = Teacher(self.work)
        if not (self.work / "tokens.npz").is_file():
            found = sequences(
                self.work / "packages", teacher.tokens, teacher.tokenizer.bos_token_id, self.sizes
            )
            np.savez(self.work / "tokens.npz", **found)
        if not (output := self.work / "teacher" / "output.npy").is_file():
            np.save(output, teacher.output())
        for part in PARTS:
            if not (path := self.work / "teacher" / f"{part}.npy").is_file():
                tokens_NL = self.tokens(part)
                with self.bar(f"teacher: {part}", len(tokens_NL)) as step:
                    teacher.write_hidden(tokens_NL, path, step)

    @cached_property
    def _text(self) -> dict[str, np.ndarray]:
        with np.load(self.work / "tokens.npz") as file:
            return dict(file)

    def tokens(self, part: str) -> np.ndarray:
        """Return the tokens of a part, int32 [N, L]."""
        return self._text[part]

    def hidden(self, part: str) -> np.ndarray:
        """Return the hidden states of a part, float32 [N, V, D]."""
        return np.load(self.work / "teacher" / f"{part}.npy", mmap_mode="r")

    @cached_property
    def output(self) -> Tensor:
        """The teacher's output matrix, float32 [C, D]."""
        return torch.from_numpy(np.load(self.work / "teacher" / "output.npy")).float()

    def states(self, part: str, which: Sequence[int], what: str) -> Iterator[tuple[int, Tensor]]:
        """Yield number and hidden states [V, D] of some sequences, and show how far it is."""
        hidden_NVD = self.hidden(part)
        with self.bar(what, len(which)) as step:
            for n in which:
                yield n, torch.from_numpy(hidden_NVD[n].copy())
                step()

    def blocks(self, part: str, which: Sequence[int], what: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield number, hidden states [V, D] and logits [V, C] of some sequences, and show how far it is."""
        for n, hidden_VD in self.states(part, which, what):
            yield n, hidden_VD, logits(hidden_VD, self.output)

    # -- files of labels -------------------------------------------------------------------------------

    def why_not(self, arm: Arm) -> str:
        """Return why an arm cannot be made here, "" where it can."""
        if not arm.has_file:
            return ""
        try:
            self._unfitted(arm)
        except (CodecError, UnsupportedError) as error:
            return str(error)
        return ""

    def _unfitted(self, arm: Arm) -> Codec:
        if (
            arm.codec == "head"
        ):  # the matrix is counted, and beside the file, so that it is not compressed for each arm
            return Head.of_matrix(self.output.half(), named=True, **arm.settings)
        return make_codec(arm.codec, LabelSpec(len(self.output)), arm.settings)

    def fitted(self, arm: Arm) -> Model:
        """Return the model of an arm, fitted to training text, with tables for the entropy coder."""
        if arm.slug not in self._models:
            path = self.work / "models" / f"{arm.slug}.spkm"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                begun = time.perf_counter()
                model = self._fit(arm)
                path.with_suffix(".seconds").write_text(f"{time.perf_counter() - begun:.2f}")
                softpack.save_model(path, model, force=True)
            matrix = self.output.half() if arm.codec == "head" else None
            self._models[arm.slug] = softpack.load_model(path, matrix)
        return self._models[arm.slug]

    def fit_seconds(self, arm: Arm) -> float:
        """Return how long the fit took, whenever it was made."""
        self.fitted(arm)
        return float((self.work / "models" / f"{arm.slug}.seconds").read_text())

    def _fit(self, arm: Arm) -> Model:
        codec: Any = self._unfitted(arm)
        n_rows = int(np.prod(self.hidden("train").shape[:2]))
        sample = self._sample(arm, codec)
        if codec.learns:
            codec = codec.fit(sample, n_rows=n_rows)
        if not codec.wants_tables or codec.zstd_level is not None:
            return Model(codec)
        rows = itertools.islice(
            sample if isinstance(sample, list) else self._sample(arm, codec), TABLE_SEQUENCES
        )
        parts = [code_arrays(codec.encode(rows_VC)) for rows_VC in rows]
        return Model(codec, None, tables_of_sample(codec, parts, n_rows))

    def _sample(self, arm: Arm, codec: Codec) -> Iterable[Tensor]:
        """Return rows of training text to fit to, of as many sequences as memory has room for."""
        n, is_light = len(self.tokens("train")), codec.is_sparse or arm.codec == "head"
        which = np.linspace(0, n - 1, min(n, self.fit[is_light])).astype(int).tolist()
        if arm.codec == "head":
            return [torch.from_numpy(self.hidden("train")[n].copy()) for n in which]
        rows = (logits_VC for _, _, logits_VC in self.blocks("train", which, f"fit: {arm.name}"))
        return rows if codec.is_sparse else list(rows)

    def path(self, arm: Arm, part: str) -> Path:
        """Return the file of an arm's labels of a part."""
        return self.work / "labels" / part / f"{arm.slug}.spk"

    def open(self, arm: Arm, part: str) -> Labels:
        """Return an arm's labels of a part."""
        return softpack.open(self.path(arm, part), matrix=self.output.half() if arm.codec == "head" else None)

    def write(self, arms: Sequence[Arm], part: str, which: Sequence[int], also: Sequence[Taker] = ()) -> None:
        """Write the labels of some sequences as all of these arms keep them.

        The teacher's product, which takes longest, is taken once for all of them. A run that was interrupted goes on
        after the last `TOGETHER` sequences that were done.

        Args:
            arms: those whose files are there, or who have none, are left out.
            part: of the text.
            which: sequences of it.
            also: what else is to be given their logits.
        """
        todo = {self.path(arm, part): arm for arm in arms if arm.has_file}
        todo = {path: arm for path, arm in todo.items() if not path.is_file()}
        (self.work / "labels" / part).mkdir(parents=True, exist_ok=True)
        n_views = self.hidden(part).shape[1]
        files = {path: _Begun(path, self.fitted(arm), n_views) for path, arm in todo.items()}
        for start in range(0, len(which), TOGETHER):
            numbers, takers = (
                which[start : start + TOGETHER],
                [taker for taker in also if taker.n_done <= start],
            )
            open_files = {path: file for path, file in files.items() if file.n_done <= start}
            if not open_files and not takers:
                continue
            is_head = {path: todo[path].codec == "head" for path in open_files}
            what = f"labels: {part}, {start} to {start + len(numbers)} of {len(which)}"
            with ExitStack() as stack:
                writers = {path: stack.enter_context(file.writer()) for path, file in open_files.items()}
                for n, hidden_VD in self.states(part, numbers, what):
                    needs_logits = bool(takers) or not all(is_head.values())
                    logits_VC = logits(hidden_VD, self.output) if needs_logits else hidden_VD
                    for path, writer in writers.items():
                        rows = hidden_VD if is_head[path] else logits_VC
                        writer.append(rows, item=n, view=np.arange(n_views))
                    for taker in takers:
                        taker.add(n, logits_VC)
            for taker in takers:
                taker.commit(start + len(numbers))
        for file in files.values():
            file.finish()


class Taker(Protocol):
    """What is given the logits of sequences."""

    n_done: int

    def add(self, number: int, logits_VC: Tensor) -> None:
        """Take those of a sequence."""

    def commit(self, n_done: int) -> None:
        """Make all so far last; they are of so many sequences."""


class _Begun:
    """A file of labels that has its name once it is whole.

    Args:
        path: of the file.
        model: of its codec.
        n_views: rows of a sequence.
    """

    def __init__(self, path: Path, model: Any, n_views: int) -> None:
        self._path, self._begun = path, path.with_name(path.name + ".begun")
        self._model, self._n_views = model, n_views
        if self._begun.is_file() and not self._is_whole():
            self._begun.unlink()

    @property
    def n_done(self) -> int:
        """Sequences that are in it."""
        return softpack.open(self._begun).n_rows // self._n_views if self._begun.is_file() else 0

    def _is_whole(self) -> bool:
        """Return whether it ends where some sequences that are written together do."""
        try:
            return softpack.open(self._begun).n_rows % (self._n_views * TOGETHER) == 0
        except SoftpackError:  # a writer was killed
            return False

    def writer(self) -> Any:
        """Return a writer that goes on with it."""
        if self._begun.is_file():
            return softpack.append(self._begun, self._model)
        return softpack.create(self._begun, self._model, views=self._n_views, replay=False, force=True)

    def finish(self) -> None:
        """Give it its name."""
        self._begun.rename(self._path)
