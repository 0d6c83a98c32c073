"""What a caller asks of a label set that is written as others lay it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softpack.sources.peers.orders import Order


@dataclass(frozen=True)
class Asked:
    """How labels are to be laid out, where the layout leaves it open.

    Args:
        batch: rows of a batch.
        order: of the items of each view; None puts rows that are mixed alike together, and others in their order.
        dtype: "float16" or "float32", of the labels; None takes what the layout's own writer takes.
        k: classes that are kept of a row; None keeps those that have a probability.
        label_type: what is stored of a row, where the layout has several ways.
        temperature: of probabilities; None takes that of the labels.
        images: folder of the images that were labelled, where files are named after them.
        micro_batch: rows or sequences of a microbatch.
        meta: file that says of which run the student is.
        matrix: safetensors with the output matrix that labels are decoded by, of files that name it by its hash.
    """

    batch: int = 1024
    order: Order | None = None
    dtype: str | None = None
    k: int | None = None
    label_type: str | None = None
    temperature: float | None = None
    images: Path | None = None
    micro_batch: int | None = None
    meta: Path | None = None
    matrix: Path | None = None
