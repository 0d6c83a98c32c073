"""Budgets as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from softpack.accounting import entry_grid, one_or_several, separated, size
from softpack.presets.budget import Budget, Published, plain
from softpack.presets.registry import PRESETS


def render(budgets: Sequence[Budget], form: str) -> str:
    """Return budgets as a table, markdown, latex, csv or json (one object; a list of several)."""
    if form == "json":
        return one_or_several([budget.to_json() for budget in budgets])
    if form == "csv":
        rows: list[tuple[object, ...]] = [("preset", "what", "scope", "bits", "labels")]
        for budget in budgets:
            for e in budget.parts.entries:
                rows.append((spelled(budget), e.what, e.scope, e.n_bits, budget.parts.n_labels))
        return separated(rows)
    return "\n\n".join(_one(budget, form) for budget in budgets)


def listing(form: str) -> str:
    """Return the presets that there are, a line each."""
    if form == "json":
        listed = [
            {
                "preset": preset.name,
                "about": preset.about,
                "source": preset.source,
                "settings": plain({setting.name: setting.default for setting in preset.settings}),
            }
            for preset in PRESETS.values()
        ]
        return json.dumps({"presets": listed}, indent=1)
    wide = max(map(len, PRESETS))
    lines = [f"{name:{wide}}  {preset.about}" for name, preset in PRESETS.items()]
    return "\n".join(
        [*lines, "", "Settings stand behind a colon: sre2l:ipc=50,epochs=300. An unknown one lists them."]
    )


def spelled(budget: Budget) -> str:
    """Return a budget's name with all of its settings, as a preset is written."""
    return f"{budget.preset.name}:" + ",".join(
        f"{key}={value}" for key, value in plain(budget.settings).items()
    )


def _one(budget: Budget, form: str) -> str:
    table = entry_grid(budget.parts.entries, budget.parts.n_labels, "all", form)
    if form == "latex":
        return table
    return "\n".join([budget.preset.about, spelled(budget), "", table, "", *_lines(budget)])


def _lines(budget: Budget) -> Iterator[str]:
    if budget.image_bytes is None:
        yield f"labels {size(budget.label_bytes)}; images are those of the data set, and not counted"
    else:
        yield (
            f"images {size(budget.image_bytes)}; labels {size(budget.label_bytes)}; "
            f"both {size(budget.total_bytes)}"
        )
    shares = []
    if budget.bits_per_label is not None:
        shares.append(f"{budget.bits_per_label:,.2f} bits a label of the {budget.parts.n_labels:,} stored")
    if budget.bits_per_view is not None:
        shares.append(
            f"{budget.bits_per_view:,.2f} bits a label of the {budget.parts.n_seen:,} that a student sees"
        )
    if shares:
        yield "; ".join(shares)
    if budget.disk_bytes is not None:
        yield f"on a disk of 4 KiB blocks the labels take {size(budget.disk_bytes)}"
    for published in budget.published():
        yield f"published: {_said(budget, published)}"
    yield f"source: {budget.preset.source}"


def _said(budget: Budget, published: Published) -> str:
    said = f"{published.what}: {published.text}"
    if published.n_bytes is not None:
        formula = budget.bytes_for(published)
        on_disk = " on such a disk" if published.on_disk else ""
        said += f"; the formula gives {size(formula)}{on_disk}, {100 * (formula / published.n_bytes - 1):+.2f}%"
        said += f"; {published.remark}" if published.remark else ""
    return f"{said} [{published.source}]"
