"""`softpack recover`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from softpack.cli.options import JSON
from softpack.cli.progress import Bar
from softpack.container.recover import recover as recover_file


@click.command(
    short_help="Give back what is whole of a broken file.",
    epilog="\b\nExample:\n  softpack recover labels.spk.partial",
)
@click.argument("file", type=click.Path())
@JSON
def recover(file: str, as_json: bool) -> None:
    """Give back what is whole of a FILE whose writer was stopped, or that was damaged.

    The file is made whole in place: tiles that are damaged or not complete are left out, and listed. A
    FILE.spk.partial becomes FILE.spk. Where no label is whole, nothing is changed.
    """
    with Bar("reading", "byte") as bar:
        found = recover_file(file, bar)
    for lost in found.lost:
        click.echo(f"softpack: {file}: left out: {lost}", err=True)
    if as_json:
        click.echo(json.dumps({**vars(found), "path": str(found.path)}))
    elif found.was_whole:
        change = "nothing was changed" if found.path == Path(file) else "it has its name now"
        click.echo(f"{found.path}: was whole: {found.n_rows:,} labels; {change}")
    else:
        click.echo(f"{found.path}: {found.n_rows:,} labels given back, {found.dropped_bytes:,} bytes left out")
