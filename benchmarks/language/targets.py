"""Labels over the teacher's vocabulary -> targets over a student's: its tokens, and one class for all others.

The student's vocabulary is smaller than the teacher's so that a student takes minutes. Labels are coded at the full
one; this step comes after they are decoded, once for each arm.

Shapes in names: N sequences, V positions, B a batch of sequences, M rows, C classes of the student, K kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from language.arms import Arm
from language.decoded import Rows, reader
from language.room import Room
from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import SparseRows
from softpack.records import LabelSpec


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a student knows.

    Args:
        ids_C: int64, of the teacher's vocabulary, most frequent first; class C stands for all others.
        n_teacher: tokens of the teacher's vocabulary.
    """

    ids_C: Tensor
    n_teacher: int

    @classmethod
    def of_text(cls, tokens_NL: np.ndarray, n_teacher: int, classes: int) -> Vocabulary:
        """Return the most frequent tokens of a text, equal ones by their ids."""
        counts = np.bincount(tokens_NL.ravel(), minlength=n_teacher)
        return cls(torch.from_numpy(np.argsort(-counts, kind="stable")[:classes].copy()), n_teacher)

    @property
    def classes(self) -> int:
        """How many classes there are, with that of all others."""
        return len(self.ids_C) + 1

    @cached_property
    def class_of(self) -> Tensor:
        """The class of each token of the teacher's vocabulary, int64."""
        classes = torch.full((self.n_teacher,), len(self.ids_C))
        return classes.index_put_((self.ids_C,), torch.arange(len(self.ids_C)))

    def of_tokens(self, tokens_NL: np.ndarray) -> Tensor:
        """Return the classes of tokens, int64 [N, L]."""
        return self.class_of[torch.from_numpy(tokens_NL.astype(np.int64))]

    def of_rows(self, rows_MC: Tensor, spec: LabelSpec) -> Tensor:
        """Return the probabilities of the student's classes, float32 [M, C], of whole rows at T = 1."""
        logits = to_logits(rows_MC, spec)
        kept = (logits[:, self.ids_C] - logits.logsumexp(1, keepdim=True)).exp()
        return torch.cat([kept, (1 - kept.sum(1, keepdim=True)).clamp_min(0)], dim=1)


class Writer:
    """The targets of all training text, in a folder that appears when it is whole.

    Whole rows become `probs`, float16 [N, V, C]; where some tokens were kept, `ids` int16 and `kept` float16 [N, V, K],
    and `left` float32 [N, V], the mass that they leave.

    Args:
        room: of the text.
        arm: whose labels they are; those in files are there.
        vocabulary: of the student.
        folder: that appears.
    """

    def __init__(self, room: Room, arm: Arm, vocabulary: Vocabulary, folder: Path) -> None:
        self.arm, self._vocabulary, self._folder = arm, vocabulary, folder
        self._read, self._spec = reader(arm, room, "train")
        self._n = len(room.tokens("train"))
        self._begun = folder.with_name(folder.name + ".partial")
        self._begun.mkdir(parents=True, exist_ok=True)
        self._count = self._begun / "done"
        self.n_done = int(self._count.read_text()) if self._count.is_file() else 0
        paths = self._begun.glob("*.npy") if self.n_done else ()
        self._tables: dict[str, np.ndarray] = {path.stem: np.load(path, mmap_mode="r+") for path in paths}

    def add(self, number: int, logits_VC: Tensor) -> None:
        """Add a sequence; the teacher's logits are looked at only where labels lie in no file."""
        found = _targets(self._read(number, logits_VC), self._spec, self._vocabulary)
        for name, value in found.items():
            if name not in self._tables:
                path, shape = self._begun / f"{name}.npy", (self._n, *value.shape)
                self._tables[name] = np.lib.format.open_memmap(path, "w+", value.numpy().dtype, shape)
            self._tables[name][number] = value.numpy()

    def commit(self, n_done: int) -> None:
        """Make all so far last; they are of so many sequences."""
        for table in self._tables.values():
            table.flush()  # type: ignore[attr-defined]
        written = self._count.with_name("done.new")
        written.write_text(str(n_done))
        written.replace(self._count)
        self.n_done = n_done

    def close(self) -> None:
        """Let the folder appear."""
        self._tables = {}
        self._count.unlink()
        self._begun.rename(self._folder)


def _targets(rows: Rows, spec: LabelSpec, vocabulary: Vocabulary) -> dict[str, Tensor]:
    if not isinstance(rows, SparseRows):
        return {"probs": vocabulary.of_rows(rows, spec).half()}
    kept_VK = rows.log_probs_BK.exp()
    left_V = torch.zeros(len(rows))
    if not rows.sampled:
        kept_log, left_log = rows.at(1.0)
        kept_VK, left_V = kept_log.exp(), left_log.exp()
    classes_VK = vocabulary.class_of[rows.ids_BK.clamp_min(0)]
    return {"ids": classes_VK.short(), "kept": kept_VK.masked_fill(~rows.is_class_BK, 0).half(), "left": left_V}


class Soft:
    """Targets that a `Writer` wrote; see `student.Targets`.

    Args:
        folder: of the targets.
        vocabulary: of the student.
        tail: what becomes of the mass that was not kept; see `Arm`.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary, tail: str) -> None:
        self._tables = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        self._classes, self._tail = vocabulary.classes, tail

    def loss(self, logits_MC: Tensor, sequences_B: Tensor) -> Tensor:
        """Return the cross-entropy of the targets: KL and what does not depend on the student."""
        log_q_MC = logits_MC.log_softmax(1)
        if "probs" in self._tables:
            return -(self._of("probs", sequences_B) * log_q_MC).sum(1).mean()
        kept_MC, left_M = self._sparse(sequences_B)
        if self._tail == "ghost":
            is_kept_MC = kept_MC > 0
            is_kept_MC[:, -1] = False  # some tokens of the last class were kept, and all others of it were not
            others_MC = log_q_MC.masked_fill(is_kept_MC, -torch.inf)
            return -((kept_MC * log_q_MC).sum(1) + left_M * others_MC.logsumexp(1)).mean()
        return -(kept_MC / kept_MC.sum(1, keepdim=True) * log_q_MC).sum(1).mean()

    def _of(self, name: str, sequences_B: Tensor) -> Tensor:
        return torch.from_numpy(self._tables[name][sequences_B.numpy()]).flatten(0, 1).float()

    def _sparse(self, sequences_B: Tensor) -> tuple[Tensor, Tensor]:
        ids_MK = self._of("ids", sequences_B).long()
        kept_MC = torch.zeros(len(ids_MK), self._classes)
        kept_MC.scatter_add_(1, ids_MK, self._of("kept", sequences_B))
        return kept_MC, self._of("left", sequences_B)
