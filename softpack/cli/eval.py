"""`softpack eval`."""

from __future__ import annotations

import json
from typing import Any

import click

from softpack.accounting import grid
from softpack.cli.options import COMPARED_AT, JSON, MATRIX
from softpack.cli.progress import Bar
from softpack.cli.source import opened, source_options
from softpack.container.file import SpkFile
from softpack.records import TEMPERATURES


@click.command(
    name="eval",
    short_help="Measure what compression cost.",
    epilog="\b\nExamples:\n  softpack eval labels.spk --against logits.npz\n"
    "  softpack eval labels.spk --against logits.npz --temperature 4 --json",
)
@click.argument("file", type=click.Path())
@click.option(
    "--against", required=True, type=click.Path(), metavar="SOURCE", help="The rows it was made from."
)
@COMPARED_AT
@MATRIX
@source_options
@JSON
def evaluate(
    file: str, against: str, temperatures: tuple[float, ...], matrix: str | None, as_json: bool, **how: Any
) -> None:
    """Measure FILE against its SOURCE: KL(source || decoded) * T^2 in nats a row, and top-1 agreement."""
    SpkFile(file)  # a bad one is refused at once, before torch is imported
    source = opened(against, how, replay=False)  # which labels are compared without
    from softpack.container.reader import Labels
    from softpack.eval.fidelity import fidelity

    labels = Labels(file, matrix=matrix)
    with Bar("comparing") as bar:
        found = fidelity(labels, source, temperatures or TEMPERATURES, bar)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    rows: list[tuple[str, ...]] = [("T", "KL mean", "KL p99", "KL max")]
    rows += [
        (f"{T:g}", *(f"{value:.4f}" for value in (d.kl_mean, d.kl_p99, d.kl_max)))
        for T, d in found.temperatures.items()
    ]
    click.echo(grid(rows))
    left = labels.n_rows - found.rows
    more = f"; {left:,} more of the file are not in the source" if left else ""
    click.echo(f"\ntop-1 agreement {100 * found.top1_agreement:.2f}% of {found.rows:,} rows{more}")
