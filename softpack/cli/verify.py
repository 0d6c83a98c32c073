"""`softpack verify`."""

from __future__ import annotations

import json

import click

from softpack.cli.options import JSON, say_what_helps_damage
from softpack.cli.progress import Bar
from softpack.container.verify import verify as verify_file


@click.command(short_help="Check every byte of a file.", epilog="\b\nExample:\n  softpack verify labels.spk")
@click.argument("file", type=click.Path())
@JSON
def verify(file: str, as_json: bool) -> None:
    """Check every byte of FILE; list what is damaged and which labels are lost."""
    with Bar("verifying", "block") as bar:
        report = verify_file(file, bar)
    if as_json:
        click.echo(json.dumps({"ok": not report.problems, **vars(report)}))
    else:
        for problem in report.problems:
            click.echo(problem, err=True)
        sound = report.n_rows - report.lost_rows
        n = len(report.problems)
        state = "sound" if not n else f"DAMAGED: {n} problem{'s' if n > 1 else ''}"
        click.echo(
            f"{file}: {state}; {report.n_blocks} blocks, {sound:,} of {report.n_rows:,} labels can be read"
        )
    if report.problems:
        say_what_helps_damage()
        raise SystemExit(1)
