"""The facts that every room of softpack speaks in. No torch.

Shapes in names: B rows of a batch, C classes, N items, V views.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from softpack.errors import DataError

SPACES = ("logits", "log_probs", "probs")
HIDDEN = "hidden"  # what rows are, too: a language model's last hidden states, of which a codec makes logits
ROW_SPACES = (*SPACES, HIDDEN)
IGNORED = -100  # a hard label that no loss counts, as torch has it
DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")  # as headers spell numbers
MAX_CLASSES = 1 << 24
TEMPERATURES = (1.0, 4.0, 20.0)  # that students train at: what labels are judged by unless others are named


@dataclass(frozen=True)
class LabelSpec:
    """What the numbers of a row are.

    Args:
        classes: numbers in a row, 2 to 2**24.
        space: "logits", "log_probs" or "probs"; or "hidden", for what a teacher makes its logits of.
        temperature: the one that log_probs and probs were taken at; always 1.0 for the others.
    """

    classes: int
    space: str = "logits"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.space not in ROW_SPACES:
            raise DataError(f"space is {self.space!r}; expected one of {', '.join(SPACES)}")
        if not 2 <= self.classes <= MAX_CLASSES:
            raise DataError(f"rows have {self.classes} classes; expected 2 to {MAX_CLASSES}")
        if not (self.temperature > 0 and np.isfinite(self.temperature)):
            raise DataError(f"temperature is {self.temperature}; expected a positive number")
        if self.space in ("logits", HIDDEN) and self.temperature != 1.0:
            raise DataError(
                f"{self.space} have no temperature, but {self.temperature} was given; "
                "divide them by it, or say that they are log_probs or probs"
            )


@dataclass(frozen=True)
class Column:
    """One replay column: what is stored of a view beside its label.

    Args:
        name: of the column, as sources and `append` spell it.
        shape: of one row's entry; () is a single number.
        dtype: numpy dtype that readers get.
        missing: what stands for "this view has none".
        per_item: True when an item has one entry, not each of its views.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    missing: float | None = None
    per_item: bool = False


COLUMNS = {
    column.name: column
    for column in (
        Column("crop_xywh", (4,), "int32"),
        Column("crop_xywh_fraction", (4,), "float32"),
        Column("flip", (), "bool"),
        Column("mix_item", (), "int32", missing=-1),
        Column("mix_lam", (), "float32"),
        Column("mix_box_xyxy", (4,), "int32", missing=-1),
        Column("patch_order", (2,), "int32", missing=0),
        Column("cutout", (7,), "float32", missing=-1),
        Column("aug_seed", (), "int32"),
        Column("token", (), "int32"),
        Column("log_z", (), "float32"),
        Column("source_hw", (2,), "int32", per_item=True),
        Column("target", (), "int32", per_item=True),
        Column("length", (), "int32", per_item=True),
        Column("first_token", (), "int32", missing=-1, per_item=True),
        Column("token_hash", (2,), "int32", per_item=True),
    )
}
SEQUENCE_COLUMNS = ("length", "first_token", "token_hash")  # an item has all of them, or none


@dataclass(frozen=True)
class SparseLabels:
    """Log-probabilities of some classes of every row: what `softpack.codecs.sparse.SparseRows` is with torch.

    Args:
        ids_BK: int32, no class twice in a row, -1 where a row has fewer than K.
        log_probs_BK: float32, at the temperature of the rows; -inf where there is no class.
        tail_B: float32, ln of the probability that all other classes of a row have together, -inf for none; None
            where no row leaves them any.
    """

    ids_BK: np.ndarray
    log_probs_BK: np.ndarray
    tail_B: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids_BK)

    def take(self, rows: slice | np.ndarray) -> SparseLabels:
        """Return some of the rows."""
        tail_B = None if self.tail_B is None else self.tail_B[rows]
        return SparseLabels(self.ids_BK[rows], self.log_probs_BK[rows], tail_B)


@dataclass(frozen=True)
class RowBlock:
    """Some rows, in any order.

    Args:
        labels_BC: float16 or float32 [B, C]; [B, 0] where only some classes are known.
        item_B: int64 [B], the item of each row.
        view_B: int64 [B], the view of each row.
        replay: replay columns by name, each [B, ...].
        forced_BF: float32 [B, F], the log-probabilities at T=1 of classes that are kept exactly beside the codes.
        sparse: the classes that are known, where not all are.
    """

    labels_BC: np.ndarray
    item_B: np.ndarray
    view_B: np.ndarray
    replay: dict[str, np.ndarray] = field(default_factory=dict)
    forced_BF: np.ndarray | None = None
    sparse: SparseLabels | None = None

    @classmethod
    def of_sparse(
        cls, sparse: SparseLabels, item_B: np.ndarray, view_B: np.ndarray, replay: dict[str, np.ndarray]
    ) -> RowBlock:
        """Return rows of which only some classes are known."""
        return cls(np.empty((len(sparse), 0), np.float32), item_B, view_B, replay, sparse=sparse)

    def __len__(self) -> int:
        return len(self.labels_BC)

    def take(self, rows: slice | np.ndarray) -> RowBlock:
        """Return some of the rows."""
        return RowBlock(
            self.labels_BC[rows],
            self.item_B[rows],
            self.view_B[rows],
            {name: values[rows] for name, values in self.replay.items()},
            None if self.forced_BF is None else self.forced_BF[rows],
            sparse=None if self.sparse is None else self.sparse.take(rows),
        )
