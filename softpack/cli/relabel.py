"""`softpack relabel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softpack.cli.encode import check_coding, sayer
from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import (
    DEVICE,
    FORCE,
    JSON,
    MAX_KL,
    OUT,
    SEED,
    SETTINGS,
    TEMPERATURES,
    check_out,
    codec_option,
    settings_of,
    target_options,
)
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile
from softpack.errors import DataError
from softpack.recipe import MIXES, Recipe

PAIR = click.Tuple([float, float])
TEACHER_HELP = (
    "Python that gives the teacher: a torch module, or a function that returns one. Several are a committee, whose "
    "logits are averaged."
)
BATCH = click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, metavar="B",
                     help="Views that the teacher sees at once.")  # fmt: skip
IMAGES_HELP = "a folder with a folder of images for each class, or MODULE:NAME of a map-style dataset"


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value}: expected a number for each channel, such as 0.485,0.456,0.406"
        ) from None


MEAN = click.option("--mean", callback=_numbers, metavar="R,G,B",
                    help="Subtracted from pixels in [0, 1] before the teacher sees them.")  # fmt: skip
STD = click.option("--std", callback=_numbers, metavar="R,G,B", help="By which they are then divided.")


@click.command(
    short_help="Ask a teacher, straight into one .spk file.",
    epilog="\b\nExamples:\n"
    "  softpack relabel images/ -o labels.spk --teacher my_teacher:load --views 300 --target-bits 64\n"
    "  softpack relabel images/ -o labels.spk --teacher my_teacher:load --views 300 --mix cutmix --codec klt",
)
@click.argument("images", type=click.Path())
@OUT
@click.option("--teacher", "teachers", required=True, multiple=True, metavar="MODULE:NAME", help=TEACHER_HELP)
@click.option("--views", type=click.IntRange(1), required=True, metavar="V", help="Of each image.")
@click.option(
    "--size", type=int, default=224, show_default=True, metavar="PIXELS", help="Height and width of a view."
)
@click.option("--scale", type=PAIR, default=(0.08, 1.0), show_default=True, metavar="LEAST MOST",
              help="Of a crop's share of the image's area.")  # fmt: skip
@click.option("--no-crop", is_flag=True, help="Take the whole image.")
@click.option("--ratio", type=PAIR, default=(3 / 4, 4 / 3), metavar="LEAST MOST",
              help="Of a crop's width over its height [default: 3/4 4/3]")  # fmt: skip
@click.option(
    "--flip", type=float, default=0.5, show_default=True, metavar="SHARE", help="Of the views are flipped."
)
@click.option("--mix", type=click.Choice(MIXES), default="none", show_default=True, help="What mixes views.")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Of the Beta distribution of mixes.")
@click.option(
    "--mixed", type=float, default=1.0, show_default=True, metavar="SHARE", help="Of the views are mixed."
)
@click.option("--patches", type=int, default=1, show_default=True, metavar="N",
              help="Cut images into N strips both ways and shuffle them first, as RDED does.")  # fmt: skip
@MEAN
@STD
@click.option(
    "--store-replay", is_flag=True, help="Store crops, flips and mixes; else the seed says them again."
)
@click.option("--spool-views", type=click.IntRange(1), metavar="V",
              help="Of each image, to learn from before the first is coded [default: enough]")  # fmt: skip
@BATCH
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="That load images."
)
@codec_option("vqae, or what meets a target best")
@SETTINGS
@target_options("64 with vqae")
@TEMPERATURES
@MAX_KL
@SEED
@DEVICE
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run left.")
@FORCE
@JSON
def relabel(images: str, out: str, teachers: tuple[str, ...], **how: Any) -> None:
    """Label IMAGES by a teacher, straight into one .spk file.

    IMAGES is a folder with a folder of images for each class, or MODULE:NAME of a map-style dataset. The teacher is
    what the function load() of my_teacher.py returns, if it is called my_teacher:load. Every view is drawn from (seed,
    item, view), so the file need not store how it was made, and a student replays it. Interrupted, the same command
    goes on where it was.
    """
    check_out(out, how["force"], images, resumes=True)
    check_coding(how)
    recipe = Recipe(
        how["size"], None if how["no_crop"] else how["scale"], how["ratio"], how["flip"], how["mix"], how["alpha"],
        how["mixed"], how["patches"], how["seed"],
    )  # fmt: skip
    found = images_named(images)
    from softpack.relabelling.relabel import relabel as label
    from softpack.relabelling.teacher import load_teacher

    with Bar("") as bar:
        label(
            [load_teacher(name) for name in teachers], found, how["views"], recipe, out, how["codec_id"],
            target_bits=how["target_bits"], target_kl=how["target_kl"], budget=how["budget"], max_kl=how["max_kl"],
            temperatures=how["temperatures"], mean=how["mean"], std=how["std"], batch_size=how["batch_size"],
            workers=how["workers"], device=how["device"], store_replay=how["store_replay"],
            spool_views=how["spool_views"], force=how["force"], restart=how["restart"], stage=Bar, say=sayer(bar),
            **settings_of(how["pairs"]),
        )  # fmt: skip
    print_facts(facts_of(SpkFile(out)), how["as_json"])


def images_named(named: str) -> Any:
    """Return the dataset that a text names."""
    if Path(named).is_dir():
        from softpack.folder import ImageFolder

        return ImageFolder(named)
    if ":" not in named:
        raise DataError(f"{named}: is no folder; expected {IMAGES_HELP}")
    from softpack.relabelling.teacher import load_named

    found = load_named(named)
    return found if hasattr(found, "__len__") and not isinstance(found, type) else found()
