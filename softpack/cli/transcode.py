"""`softpack transcode`."""

from __future__ import annotations

from typing import Any

import click

from softpack.cli.encode import fitted, opened, refuse_with_model
from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import FORCE, JSON, MODEL, NO_REPLAY, OUT, codec_options
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile


@click.command(
    epilog="\b\nExamples:\n  softpack transcode labels.spk -o whole.spk\n"
    "  softpack transcode raw.spk -o small.spk --codec vqae --target-bits 64"
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

    Without a codec, the codes stay as they are and the tiles are put in order: what many appends left in
    pieces becomes whole. With one, labels are decoded and encoded again.
    """
    from softpack.container.blockfile import refuse_existing
    from softpack.container.repack import repack
    from softpack.container.writer import load_model
    from softpack.sources.encoding import check_model, encode_source

    refuse_existing(out, force)
    again = how["codec_id"] or how["pairs"] or how["target_bits"] or how["temperatures"]
    with Bar("writing") as bar:
        if model is None and not again:
            repack(file, out, replay=not no_replay, force=force, counted=bar)
        else:
            rows = opened(file, how)
            if model is None:
                codec = fitted(rows, how)
            else:
                refuse_with_model(how)
                codec = load_model(model)
                check_model(codec, rows.spec, model)
            encode_source(
                rows, out, codec, replay=not no_replay, seed=how["seed"], device=how["device"], force=force,
                counted=bar,
            )  # fmt: skip
    print_facts(facts_of(SpkFile(out)), as_json)
