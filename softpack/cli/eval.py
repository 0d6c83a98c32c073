"""`softpack eval`."""

from __future__ import annotations

import json

import click

from softpack.accounting import grid
from softpack.cli.options import JSON
from softpack.cli.progress import Bar


@click.command(name="eval", epilog="\b\nExample:\n  softpack eval labels.spk --against logits.npz")
@click.argument("file", type=click.Path())
@click.option(
    "--against", required=True, type=click.Path(), metavar="SOURCE", help="The rows it was made from."
)
@click.option("--temperature", "temperatures", type=float, multiple=True, metavar="T",
              help="May be repeated [default: 1, 4, 20]")  # fmt: skip
@click.option("--space", type=click.Choice(["logits", "log_probs", "probs"]), help="What a .npy holds.")
@JSON
def evaluate(
    file: str, against: str, temperatures: tuple[float, ...], space: str | None, as_json: bool
) -> None:
    """Measure FILE against its SOURCE: KL(source || decoded) * T^2 in nats a row, and top-1 agreement."""
    from softpack.container.reader import Labels
    from softpack.eval.fidelity import fidelity
    from softpack.sources.opening import open_source

    with Bar("comparing") as bar:
        found = fidelity(Labels(file), open_source(against, space=space), temperatures or (1, 4, 20), bar)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    rows = [("T", "KL mean", "KL p99", "KL max")]
    rows += [
        (f"{T:g}", *(f"{value:.4f}" for value in (d.kl_mean, d.kl_p99, d.kl_max)))
        for T, d in found.temperatures.items()
    ]
    click.echo(grid(rows))
    click.echo(f"\ntop-1 agreement {100 * found.top1_agreement:.2f}% of {found.rows:,} rows")
