"""Whether a file says what its language model says: some sequences, asked again.

Shapes in names: N sequences, L tokens of one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from softpack import chance
from softpack.capturing.asking import Asker
from softpack.capturing.teacher import LanguageTeacher
from softpack.codecs.abc import Progress
from softpack.codecs.spaces import to_logits
from softpack.container.reader import Labels
from softpack.errors import DataError
from softpack.eval.fidelity import FidelityMeter
from softpack.records import TEMPERATURES, LabelSpec
from softpack.relabelling.check import CHOOSES, Checked, check_classes
from softpack.sequences import Sequences
from softpack.sources.encoding import check_device


def check_capture(
    labels: Labels | str | os.PathLike[str],
    model: Any,
    *,
    rows: int = 1024,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = lambda done, total, seen: None,
) -> Checked:
    """Ask a language model again for some rows of a file, twice, and compare.

    The file holds the tokens of its sequences, so nothing else is needed. It may be captured, or made of the hidden
    states or the cache that others wrote, where these say the tokens.

    Args:
        labels: of the file, or its path; by its path a file that names its output matrix is opened with the model's.
        model: that labelled, as `softpack.capture` takes it.
        rows: how many to ask for, of whole sequences but for the last; all where there are fewer.
        temperatures: to compare at.
        seed: chooses the sequences.
        device: where the model is moved to; None takes its own.
        progress: is told (rows done, rows in all, "").

    Raises:
        DataError: the file holds no sequences, or the model is another.
        CodecError: its output matrix is not the one that the file names.
    """
    teacher = LanguageTeacher(model, device)
    check_device(teacher.device)
    file = labels if isinstance(labels, Labels) else Labels(labels)
    items_N, sequences = _chosen(file, rows, seed)
    if "teacher" in file.fingerprints and hasattr(model, "state_dict"):
        file.check_fingerprints(teacher=model)
    sequences.check_vocabulary(teacher.n_inputs or (1 << 31), "the teacher")
    sequences.check_longest(teacher.longest or (1 << 31), "the teacher")
    with teacher.at_work():
        if not isinstance(labels, Labels) and file.codec.needs_matrix:
            file = Labels(labels, matrix=teacher.matrix(sequences[0]))
        teacher.probe(sequences[0])
        check_classes(teacher.classes, file)
        asker = Asker(teacher, sequences, (), LabelSpec(teacher.classes))
        meters, done = (FidelityMeter(temperatures), FidelityMeter(temperatures)), 0
        for number, item in enumerate(items_N.tolist()):
            # Twice in one batch, it is computed otherwise than alone.
            alone, beside = asker.ask(np.array([number])), asker.ask(np.array([number, number]))
            for said, again in zip(alone, beside, strict=False):
                said_BV, again_BV = (torch.from_numpy(block.labels_BC) for block in (said, again))
                decoded_BV = file.read(np.full_like(said.view_B, item), said.view_B)
                meters[0].update(said_BV, to_logits(decoded_BV, file.spec))
                meters[1].update(said_BV, again_BV[: len(said)])
                done += len(said)
                progress(done, sequences.n_rows, "")
    return Checked(meters[0].result(), meters[1].result())


def _chosen(labels: Labels, rows: int, seed: int) -> tuple[np.ndarray, Sequences]:
    """Return some items of a file and their tokens, the last of them cut, so that all together have so many rows."""
    if "length" not in labels.item_columns:
        raise DataError(
            f"{labels.file.name}: holds no tokens of sequences, by which a language model could be asked again"
        )
    if type(rows) is not int or rows < 1:
        raise DataError(f"rows is {rows!r}; expected a whole number from 1")
    items, tokens = [], []
    for item in np.argsort(chance.hashed(seed, CHOOSES, np.arange(labels.shape[0])), kind="stable").tolist():
        tokens_L = labels.tokens(item)[: rows + 1]
        if len(tokens_L) < 2:
            continue
        items.append(item)
        tokens.append(tokens_L)
        rows -= len(tokens_L) - 1
        if rows <= 0:
            break
    if not items:
        raise DataError(f"{labels.file.name}: holds no row, so that there is nothing to compare")
    return np.array(items), Sequences.of(tokens)
