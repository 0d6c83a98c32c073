"""`softpack transcode`."""

from __future__ import annotations

from typing import Any

import click

from softpack.cli.encode import encode_rows
from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import FORCE, JSON, MODEL, NO_REPLAY, OUT, check_out, codec_options
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile


@click.command(
    short_help="Write an .spk file anew: whole, or in another codec.",
    epilog="\b\nExamples:\n  softpack transcode labels.spk -o whole.spk\n"
    "  softpack transcode raw.spk -o small.spk --codec vqae --target-bits 64",
)
@click.argument("file", type=click.Path())
@OUT
@codec_options
@MODEL
@NO_REPLAY
@FORCE
@JSON
def transcode(
    file: str, out: str, model: str | None, no_replay: bool, force: bool, as_json: bool, **how: Any
) -> None:
    """Write the labels of FILE into another .spk file.

    Without --codec, --target-bits and --model, the codes stay as they are and the tiles are put in order: what
    many appends left in pieces becomes whole. With one of them, labels are decoded and encoded again.
    """
    from softpack.container.repack import repack

    check_out(out, force, file)
    if how["codec_id"] or how["target_bits"] or model is not None:
        encode_rows(file, out, model, not no_replay, force, how)
    elif how["pairs"] or how["temperatures"]:
        raise click.UsageError("--set and --temperature are for a codec: say which, such as --codec vqae")
    else:
        with Bar("writing") as bar:
            repack(file, out, replay=not no_replay, force=force, counted=bar)
    print_facts(facts_of(SpkFile(out)), as_json)
