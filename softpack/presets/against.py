"""A file beside published methods, like with like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softpack.accounting import Ledger, grid, one_or_several, separated
from softpack.presets.budget import Budget, plain
from softpack.presets.registry import PRESETS, budget
from softpack.presets.settings import Value, split

HEAD = ("what", "image bytes", "label bytes", "labels", "bits/label", "bits/view", "times the file")


@dataclass(frozen=True)
class Comparison:
    """A file and the budgets of methods at its settings.

    Args:
        ledger: of the file.
        budgets: of the methods, by what was asked for.
    """

    ledger: Ledger
    budgets: dict[str, Budget]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for the file and one for each method: sizes, and bits a label and a view."""
        file = self.ledger
        first = {
            "what": file.name,
            "image_bytes": file.image_bytes,
            "label_bytes": file.file_bytes,
            "labels": file.n_rows,
            "bits_per_label": _over(file.total_bits, file.n_rows),
            "bits_per_view": _over(file.total_bits, file.items * file.views),
            "times": 1.0,
        }
        return [first, *(self._row(spec, one) for spec, one in self.budgets.items())]

    def _row(self, spec: str, one: Budget) -> dict[str, Any]:
        return {
            "what": spec,
            "image_bytes": one.image_bytes,
            "label_bytes": one.label_bytes,
            "labels": one.parts.n_labels,
            "bits_per_label": one.bits_per_label,
            "bits_per_view": one.bits_per_view,
            "times": _over(one.label_bytes, self.ledger.file_bytes) or None,
            "settings": plain(one.settings),
            "differs": self.differs(one),
        }

    def differs(self, one: Budget) -> list[str]:
        """Return what is not alike in a file and a method."""
        file, settings = self.ledger, one.settings
        shape: dict[str, float] = {"classes": file.classes, "items": file.items, one.preset.views: file.views}
        shape["vocabulary"] = file.classes
        if "items" not in settings and "ipc" in settings:
            shape["ipc"] = file.items / file.classes
        return [
            f"{name}={settings[name]}, the file has {here:,}"
            for name, here in shape.items()
            if name in settings and settings[name] != here
        ]


def compare(ledger: Ledger, specs: Sequence[str]) -> Comparison:
    """Return a file beside presets: what these do not say (classes, images, views of an image) is the file's.

    Raises:
        DataError: there is no such preset or setting, or a value is missing or out of range.
    """
    return Comparison(ledger, {spec: budget(spec, _taken(ledger, spec)) for spec in specs})


def _taken(ledger: Ledger, spec: str) -> dict[str, Value]:
    """Return the settings of a preset that a file has, under the names of that preset."""
    preset = PRESETS.get(split(spec)[0])
    taken: dict[str, Value] = {"classes": ledger.classes, "items": ledger.items}
    if preset is not None and preset.views:
        taken[preset.views] = ledger.views
    for setting in () if preset is None else preset.settings:
        if setting.name == "vocabulary":
            taken |= {"tokens": ledger.n_rows}
            taken |= {"vocabulary": ledger.classes} if ledger.classes <= setting.most else {}
    each, rest = divmod(ledger.items, ledger.classes)
    if not rest:
        taken["ipc"] = each
    return {name: value for name, value in taken.items() if value}  # an empty file says nothing


def render(comparisons: Sequence[Comparison], form: str) -> str:
    """Return comparisons as tables, markdown, latex, csv or json (one object; a list of several)."""
    if form == "json":
        return one_or_several([{"file": one.ledger.name, "rows": one.rows()} for one in comparisons])
    if form == "csv":
        names = ("what", "image_bytes", "label_bytes", "labels", "bits_per_label", "bits_per_view", "times")
        rows = [[row[name] for name in names] for one in comparisons for row in one.rows()]
        return separated([names, *rows])
    return "\n\n".join(_one(comparison, form) for comparison in comparisons)


def _one(comparison: Comparison, form: str) -> str:
    cells = [[_cell(value) for value in list(row.values())[: len(HEAD)]] for row in comparison.rows()]
    table = grid([HEAD, *cells], form)
    if form == "latex":
        return table
    file = comparison.ledger
    shape = f"{file.items:,} items x {file.views:,} views, {file.n_rows:,} labels of {file.classes:,} classes"
    lines = [f"{file.name}: {shape}", "", table]
    differing = {spec: comparison.differs(one) for spec, one in comparison.budgets.items()}
    notes = [f"{spec}: {'; '.join(said)}" for spec, said in differing.items() if said]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _over(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
