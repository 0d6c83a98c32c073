"""`softpack check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from softpack.accounting import grid
from softpack.cli.capture import DTYPE
from softpack.cli.options import COMPARED_AT, JSON, SEED
from softpack.cli.progress import Bar
from softpack.cli.relabel import BATCH, IMAGES_HELP, MEAN, STD, TEACHER_HELP, images_named
from softpack.container.file import SpkFile
from softpack.records import TEMPERATURES

if TYPE_CHECKING:
    from softpack.relabelling.check import Checked

# Options that one kind of teacher alone has a use for.
OF_VIEWS = {
    "teachers": "--teacher",
    "size": "--size",
    "mean": "--mean",
    "std": "--std",
    "batch_size": "--batch-size",
}
OF_LANGUAGE = {"dtype": "--dtype"}


@click.command(
    short_help="Ask the teacher again for some labels.",
    epilog="\b\nExamples:\n  softpack check labels.spk --images images/ --teacher my_teacher:load\n"
    "  softpack check text.spk --model ./teacher --temperature 1",
)
@click.argument("file", type=click.Path())
@click.option("--images", type=click.Path(), metavar="IMAGES", help=f"Of images: {IMAGES_HELP}.")
@click.option("--teacher", "teachers", multiple=True, metavar="MODULE:NAME", help=TEACHER_HELP)
@click.option("--model", metavar="PATH", help="Of language: of the model, as `softpack capture` takes it.")
@click.option(
    "--rows", type=click.IntRange(1), default=1024, show_default=True, metavar="N", help="To ask for."
)
@click.option("--size", type=int, metavar="PIXELS", help="Of the views, where FILE has no recipe.")
@MEAN
@STD
@COMPARED_AT
@BATCH
@DTYPE
@SEED
@click.option("--device", metavar="D", help="Where the teacher works, such as cuda [default: cpu]")
@JSON
@click.pass_context
def check(
    ctx: click.Context,
    /,
    file: str,
    images: str | None,
    model: str | None,
    temperatures: tuple[float, ...],
    as_json: bool,
    **how: Any,
) -> None:
    """Compare some labels of FILE with what the teacher says now: of the same views, or after the same tokens.

    The control is the teacher asked twice, in batches of another size: what no file could do better than.
    """
    if (images is None) == (model is None):
        raise click.UsageError("give --images and --teacher, or --model where FILE holds sequences of tokens")
    if images is not None and not how["teachers"]:
        raise click.UsageError("give --teacher beside --images")
    beside, others = ("--model", OF_VIEWS) if images is None else ("--images", OF_LANGUAGE)
    for name, option in others.items():
        if ctx.get_parameter_source(name) != ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} is of no use beside {beside}")
    SpkFile(file)
    how |= {"temperatures": temperatures or TEMPERATURES}
    result = _of_images(file, images, **how) if model is None else _of_language(file, model, **how)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        _show(result)


def _of_images(file: str, images: Any, teachers: tuple[str, ...], dtype: str, **how: Any) -> Checked:
    found = images_named(images)
    from softpack.relabelling.check import check as checked
    from softpack.relabelling.teacher import load_teacher

    with Bar("asking") as bar:
        how["device"] = how["device"] or "cpu"
        return checked(file, [load_teacher(name) for name in teachers], found, progress=bar, **how)


def _of_language(file: str, model: str, dtype: str, **how: Any) -> Checked:
    from softpack.capturing.check import check_capture
    from softpack.capturing.pretrained import load_model

    asked = {name: how[name] for name in ("rows", "temperatures", "seed", "device")}
    with Bar("asking") as bar:
        return check_capture(file, load_model(model, dtype), progress=bar, **asked)


def _show(found: Checked) -> None:
    rows: list[tuple[str, ...]] = [("T", "KL mean", "KL p99", "KL max", "control")]
    for T, of_labels in found.labels.temperatures.items():
        control = found.control.temperatures[T].kl_mean
        figures = of_labels.kl_mean, of_labels.kl_p99, of_labels.kl_max, control
        rows.append((f"{T:g}", *(f"{value:.4f}" for value in figures)))
    click.echo(grid(rows))
    agreement, control = (100 * of.top1_agreement for of in (found.labels, found.control))
    click.echo(f"\ntop-1 agreement {agreement:.2f}% of {found.labels.rows:,} rows; control {control:.2f}%")
