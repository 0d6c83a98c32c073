"""`softpack formats`."""

from __future__ import annotations

import json

import click

from softpack.cli.options import JSON
from softpack.sources.opening import FORMATS


@click.command(
    short_help="List what softpack reads and writes.",
    epilog="\b\nExample:\n  softpack formats",
)
@JSON
def formats(as_json: bool) -> None:
    """List the formats of label sets, by the names that --from and --to take."""
    if as_json:
        click.echo(json.dumps({"formats": [vars(one) for one in FORMATS]}))
        return
    ways = {(True, True): "in, out", (True, False): "in", (False, True): "out"}
    wide = max(len(one.name) for one in FORMATS)
    for one in FORMATS:
        click.echo(f"{one.name:{wide}}  {ways[one.reads, one.writes]:7}  {one.about}")
