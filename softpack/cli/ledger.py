"""`softpack ledger`."""

from __future__ import annotations

import click

from softpack.accounting import FORMATS, render
from softpack.container.ledger import ledger as account_for
from softpack.errors import DataError
from softpack.presets import against, report
from softpack.presets.registry import budget

LIST = "list"


@click.command(
    short_help="Account for every bit of files, or of published methods.",
    epilog="\b\nExamples:\n  softpack ledger labels.spk\n  softpack ledger labels.spk --images photos --format latex\n"
    "  softpack ledger --preset lpld:ipc=50,prune=40\n"
    "  softpack ledger labels.spk --against sre2l --against tinyvit:k=100",
)
@click.argument("files", type=click.Path(), nargs=-1)
@click.option(
    "--images", type=click.Path(), metavar="PATH", help="Folder of the images, to set beside the labels."
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    is_flag=False,
    flag_value=LIST,
    metavar="NAME[:KEY=VALUE,...]",
    help="The bit budget of a published method, by formula, instead of a file; may be repeated. "
    "--preset alone lists them; an unknown KEY lists a method's settings.",
)
@click.option(
    "--against",
    "methods",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Set FILES beside a published method; may be repeated. What no KEY says is as published, but classes, "
    "images and views of an image (epochs, crops, samples), which are the file's.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_context
def ledger(
    ctx: click.Context,
    files: tuple[str, ...],
    images: str | None,
    presets: tuple[str, ...],
    methods: tuple[str, ...],
    form: str,
    as_json: bool,
) -> None:
    """Account for every bit of FILES, or of published methods: what it is for, and how much of it a label costs.

    Beside a method, bits/label are over the labels that are stored, and bits/view over those that a student sees, one
    an image and epoch: methods that store few labels show them again. Both count crops, flips and partners too.
    """
    form = "json" if as_json else form
    if presets:
        if files or images or methods:
            raise click.UsageError(
                "--preset stands alone; to set a file beside a method: softpack ledger FILE --against NAME"
            )
        click.echo(_presets(presets, form))
        return
    if not files:
        raise click.MissingParameter(ctx=ctx, param_type="argument", param_hint="'FILES...'")
    accounts = [account_for(file, images) for file in files]
    if not methods:
        click.echo(render(accounts, form))
        return
    try:
        compared = [against.compare(account, methods) for account in accounts]
    except DataError as error:
        raise click.UsageError(f"--against: {error}") from None
    click.echo(against.render(compared, form))


def _presets(specs: tuple[str, ...], form: str) -> str:
    if LIST in specs:
        return report.listing(form)
    try:
        return report.render([budget(spec) for spec in specs], form)
    except DataError as error:
        raise click.UsageError(f"--preset: {error}") from None
