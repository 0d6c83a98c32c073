"""The words of the ledger: entries with bits and a scope, whose sum is the file. No torch.

`softpack.container.ledger` fills one from a file; this module adds up and prints.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SCOPES = ("header", "index", "checksum", "model", "item", "codes", "replay", "ids", "padding")
FORMATS = ("table", "markdown", "latex", "csv", "json")
LATEX = str.maketrans(
    {c: "\\" + c for c in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)


@dataclass(frozen=True)
class Entry:
    """One line of a ledger.

    Args:
        what: what the bits say, for people.
        n_bits: how many.
        scope: one of `SCOPES`.
    """

    what: str
    n_bits: int
    scope: str


@dataclass(frozen=True)
class Ledger:
    """Where every bit of a file went.

    Args:
        name: of the file.
        entries: their sum is the file, to the bit.
        file_bytes: the file's size, measured.
        n_rows: labels in it.
        classes: numbers in a label.
        image_bytes: size of the images beside it, None where they were not given.
        matrix_bytes: size of an output matrix beside it, without which nothing is decoded; None where there is none.
        items: images labelled.
        views: of an image, at most.
    """

    name: str
    entries: tuple[Entry, ...]
    file_bytes: int
    n_rows: int
    classes: int
    image_bytes: int | None = None
    matrix_bytes: int | None = None
    items: int = 0
    views: int = 0

    @property
    def total_bits(self) -> int:
        """Sum of the entries."""
        return sum(entry.n_bits for entry in self.entries)

    def bits_of(self, *scopes: str) -> int:
        """Sum of the entries of these scopes."""
        return sum(entry.n_bits for entry in self.entries if entry.scope in scopes)

    @property
    def marginal_bits_per_label(self) -> float:
        """Bits a label of all that is neither model nor replay."""
        return self._per_label(self.total_bits - self.bits_of("model", "replay"))

    @property
    def all_in_bits_per_label(self) -> float:
        """Bits a label of the whole file."""
        return self._per_label(self.total_bits)

    def ratio_vs(self, bits_a_number: int) -> float:
        """How many times smaller the whole file is than rows of 16-bit or 32-bit numbers."""
        return self.n_rows * self.classes * bits_a_number / max(self.total_bits, 1)

    def _per_label(self, n_bits: int) -> float:
        return n_bits / self.n_rows if self.n_rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as one JSON object."""
        return {
            "file": self.name,
            "total_bits": self.total_bits,
            "file_bytes": self.file_bytes,
            "rows": self.n_rows,
            "marginal_bits_per_label": self.marginal_bits_per_label,
            "all_in_bits_per_label": self.all_in_bits_per_label,
            "ratio_vs_fp16": self.ratio_vs(16),
            "ratio_vs_fp32": self.ratio_vs(32),
            "image_bytes": self.image_bytes,
            "matrix_bytes": self.matrix_bytes,
            "entries": [{"what": e.what, "bits": e.n_bits, "scope": e.scope} for e in self.entries],
        }


def size(n_bytes: int) -> str:
    """Return bytes as people write them: exact, and in binary units."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= scale:
            return f"{n_bytes:,} bytes ({n_bytes / scale:.2f} {unit})"
    return f"{n_bytes:,} bytes"


def render(ledgers: Sequence[Ledger], form: str) -> str:
    """Return ledgers as a table, markdown, latex, csv or json (one object; a list of several)."""
    if form == "json":
        return one_or_several([ledger.to_json() for ledger in ledgers])
    if form == "csv":
        return _csv(ledgers)
    return "\n\n".join(_one(ledger, form) for ledger in ledgers)


def grid(rows: Sequence[Sequence[str]], form: str = "table", head: int = 1) -> str:
    """Return rows of cells, `head` of them a head, as a table, markdown or latex; numbers to the right."""
    if form == "latex":
        body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
        columns = "l" + "r" * (len(rows[0]) - 1)
        begin = [rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        return "\n".join([*begin, *body[:head], r"\hline", *body[head:], r"\hline", r"\end{tabular}"])
    widths = [max(2, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    if form == "markdown":
        rule = ["-" * (w - 1) + (":" if i else "-") for i, w in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    text = ["  ".join(line).rstrip() for line in lines]
    return "\n".join([*text[:head], "  ".join("-" * w for w in widths), *text[head:]])


def entry_grid(entries: Sequence[Entry], n_rows: int, last: str, form: str) -> str:
    """Return entries as a grid: what each costs a label of `n_rows`, and in a line `last` their sum."""
    total = sum(entry.n_bits for entry in entries)
    rows = [("what", "scope", "bits", "bits/label", "share")]
    for entry in (*entries, Entry(last, total, "")):
        each = f"{entry.n_bits / n_rows:.3f}" if n_rows else "-"
        share = f"{100 * entry.n_bits / max(total, 1):.2f}%"
        rows.append((entry.what, entry.scope, f"{entry.n_bits:,}", each, share))
    return grid(rows, form)


def _one(ledger: Ledger, form: str) -> str:
    table = entry_grid(ledger.entries, ledger.n_rows, "the file", form)
    if form == "latex":
        return table
    lines = [
        f"{ledger.name}: {size(ledger.file_bytes)}, {ledger.n_rows:,} labels of {ledger.classes:,} classes",
        "",
        table,
        "",
        f"marginal {ledger.marginal_bits_per_label:.2f} bits a label (neither model nor replay), "
        f"all-in {ledger.all_in_bits_per_label:.2f}",
        f"{ledger.ratio_vs(16):.1f} times smaller than fp16, {ledger.ratio_vs(32):.1f} than fp32 (whole file)",
    ]
    if ledger.matrix_bytes is not None:
        both = ledger.matrix_bytes + ledger.file_bytes
        lines.append(
            f"output matrix beside it, named by its hash, {size(ledger.matrix_bytes)}; matrix and labels {size(both)}"
        )
    if ledger.image_bytes is not None:
        both = ledger.image_bytes + ledger.file_bytes
        lines.append(f"images {size(ledger.image_bytes)}; images and labels {size(both)}")
    return "\n".join(lines)


def one_or_several(documents: Sequence[Any]) -> str:
    """Return one document as JSON, or several as a list."""
    return json.dumps(documents[0] if len(documents) == 1 else documents, indent=1)


def separated(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().rstrip("\n")


def _csv(ledgers: Sequence[Ledger]) -> str:
    rows: list[tuple[object, ...]] = [("file", "what", "scope", "bits", "labels")]
    for ledger in ledgers:
        for entry in ledger.entries:
            rows.append((ledger.name, entry.what, entry.scope, entry.n_bits, ledger.n_rows))
        if ledger.matrix_bytes is not None:
            what = "output matrix, beside the file"
            rows.append((ledger.name, what, "model", 8 * ledger.matrix_bytes, ledger.n_rows))
        if ledger.image_bytes is not None:
            rows.append((ledger.name, "images", "images", 8 * ledger.image_bytes, ledger.n_rows))
    return separated(rows)


def _latex(text: str) -> str:
    return text.translate(LATEX)
