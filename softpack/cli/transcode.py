"""`softpack transcode`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from softpack.cli.encode import check_coding, encode_rows
from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import (
    DEVICE,
    FORCE,
    JSON,
    MODEL,
    NO_REPLAY,
    OUT,
    SEED,
    SETTINGS,
    TEMPERATURES,
    check_out,
    codec_option,
    target_bits_option,
)
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile
from softpack.sources.opening import open_source

OF_A_CODEC = {"pairs": "--set", "temperatures": "--temperature", "seed": "--seed", "device": "--device"}


@click.command(
    short_help="Write an .spk file anew: whole, or in another codec.",
    epilog="\b\nExamples:\n  softpack transcode labels.spk -o whole.spk\n"
    "  softpack transcode raw.spk -o small.spk --codec vqae --target-bits 64",
)
@click.argument("file", type=click.Path())
@OUT
@codec_option("none, the codes stay as they are")
@SETTINGS
@target_bits_option("64 with vqae; given alone it means vqae")
@TEMPERATURES
@SEED
@DEVICE
@MODEL
@NO_REPLAY
@FORCE
@JSON
@click.pass_context
def transcode(
    ctx: click.Context, /, file: str, out: str, model: str | None, no_replay: bool, force: bool, as_json: bool,
    **how: Any,
) -> None:  # fmt: skip
    """Write the labels of FILE into another .spk file.

    Without --codec, --target-bits and --model, the codes stay as they are and the tiles are put in order: what
    many appends left in pieces becomes whole. With one of them, labels are decoded and encoded again;
    --set, --temperature, --seed and --device are for that.
    """
    check_out(out, force, file)
    check_coding(how, model)
    anew = how["codec_id"] or how["target_bits"] or model is not None
    given = [o for name, o in OF_A_CODEC.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT]
    if given and not anew:
        raise click.UsageError(f"{', '.join(given)}: of use to a codec alone; say which, such as --codec vqae")
    SpkFile(file)  # a bad one is refused at once, before torch is imported
    if anew:
        encode_rows(open_source(file, kind="spk"), out, model, not no_replay, force, how)
    else:
        from softpack.container.repack import repack

        with Bar("writing") as bar:
            repack(file, out, replay=not no_replay, force=force, counted=bar)
    print_facts(facts_of(SpkFile(out)), as_json)
