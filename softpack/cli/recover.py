"""`softpack recover`."""

from __future__ import annotations

import json

import click

from softpack.cli.options import JSON
from softpack.container.recover import recover as recover_file


@click.command(
    short_help="Give back what is whole of a broken file.",
    epilog="\b\nExample:\n  softpack recover labels.spk.partial",
)
@click.argument("file", type=click.Path())
@JSON
def recover(file: str, as_json: bool) -> None:
    """Give back what is whole of a FILE whose writer was stopped or whose end is damaged.

    The file is cut, in place, after its last complete tile before the damage and committed there. A
    FILE.spk.partial becomes FILE.spk.
    """
    found = recover_file(file)
    if as_json:
        click.echo(json.dumps({**vars(found), "path": str(found.path)}))
    elif found.was_whole:
        click.echo(
            f"{found.path}: ends with a whole commit; {found.n_rows:,} labels (`softpack verify` checks them)"
        )
    else:
        click.echo(f"{found.path}: {found.n_rows:,} labels given back, {found.dropped_bytes:,} bytes cut off")
