"""`softpack info`."""

from __future__ import annotations

import click

from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import JSON
from softpack.container.file import SpkFile


@click.command(short_help="Say what a file holds.", epilog="\b\nExample:\n  softpack info labels.spk")
@click.argument("file", type=click.Path())
@JSON
def info(file: str, as_json: bool) -> None:
    """Say what FILE holds: codec, items, views, classes, bits a label."""
    print_facts(facts_of(SpkFile(file)), as_json)
