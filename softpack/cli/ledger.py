"""`softpack ledger`."""

from __future__ import annotations

import click

from softpack.accounting import FORMATS, render
from softpack.container.ledger import ledger as account_for


@click.command(
    short_help="Account for every bit of files.",
    epilog="\b\nExamples:\n  softpack ledger labels.spk\n  softpack ledger labels.spk --images photos --format latex",
)
@click.argument("files", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--images", type=click.Path(), metavar="PATH", help="Folder of the images, to set beside the labels."
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True,
              help="How to print it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def ledger(files: tuple[str, ...], images: str | None, form: str, as_json: bool) -> None:
    """Account for every bit of FILES: what it is for, and how much of it a label costs."""
    click.echo(render([account_for(file, images) for file in files], "json" if as_json else form))
