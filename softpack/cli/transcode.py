"""`softpack transcode`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from softpack.cli.encode import check_coding, encode_rows, target_of
from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import (
    DEVICE,
    FORCE,
    JSON,
    MATRIX,
    MAX_KL,
    MODEL,
    NO_REPLAY,
    OUT,
    SEED,
    SETTINGS,
    TEMPERATURES,
    check_out,
    codec_option,
    note,
    target_options,
)
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile
from softpack.container.stages import stages_within
from softpack.sources.spk import open_spk

OF_A_CODEC = {
    "pairs": "--set",
    "temperatures": "--temperature",
    "max_kl": "--max-kl",
    "seed": "--seed",
    "device": "--device",
}


@click.command(
    short_help="Write an .spk file anew: whole, or in another codec.",
    epilog="\b\nExamples:\n  softpack transcode labels.spk -o whole.spk\n"
    "  softpack transcode raw.spk -o small.spk --codec vqae --target-bits 64",
)
@click.argument("file", type=click.Path())
@OUT
@codec_option("none, the codes stay as they are")
@SETTINGS
@target_options("64 with vqae")
@TEMPERATURES
@MAX_KL
@SEED
@DEVICE
@MODEL
@MATRIX
@NO_REPLAY
@FORCE
@JSON
@click.pass_context
def transcode(
    ctx: click.Context, /, file: str, out: str, model: str | None, matrix: str | None, no_replay: bool, force: bool,
    as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Write the labels of FILE into another .spk file.

    Without --codec, --model and a target, the codes stay as they are and the tiles are put in order: what
    many appends left in pieces becomes whole. Of codes in stages, --target-bits keeps the first that fit, as they
    are. Otherwise labels are decoded, by --matrix where the file needs it, and encoded again; --set, --temperature,
    --max-kl, --seed and --device are for that. What a file promises by --max-kl stays with codes that stay whole.
    """
    check_out(out, force, file, resumes=True)
    check_coding(how, model)
    anew = how["codec_id"] or target_of(how) or model is not None
    given = [o for name, o in OF_A_CODEC.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT]
    if given and not anew:
        raise click.UsageError(f"{', '.join(given)}: of use to a codec alone; say which, such as --codec vqae")
    found = SpkFile(file)  # a bad one is refused at once, before torch is imported
    stages = None
    takes_stages = how["target_bits"] and not (how["codec_id"] or how["max_kl"] or model)
    if takes_stages and len(found.header.code_streams) > 1:
        stages = stages_within(found, how["target_bits"], not no_replay)
        anew = stages is None
        if anew:
            note(f"{found.name}: its first stage takes more than that: labels are decoded and encoded again")
        elif given:
            raise click.UsageError(
                f"{', '.join(given)}: of no use here: the stages that are kept stay as they are"
            )
    if anew:
        encode_rows(open_spk(Path(file), None, None, matrix), out, model, not no_replay, force, how)
    else:
        from softpack.container.blockfile import refuse_existing
        from softpack.container.repack import repack
        from softpack.container.stopped import alone

        with alone(Path(out)), Bar("writing") as bar:
            refuse_existing(out, force, "--force")  # nothing of this is gone on with
            repack(file, out, replay=not no_replay, stages=stages, force=force, counted=bar)
    made = SpkFile(out)
    if found.header.correction is not None and made.header.correction is None:
        note(_lost_promise(found, anew=bool(anew)))
    print_facts(facts_of(made), as_json)


def _lost_promise(file: SpkFile, anew: bool) -> str:
    """Return what to say where a file promised something of its labels, and what is made of it does not."""
    said = f"{file.name} promises that no row is worse than KL {file.header.correction.max_kl:g}"  # type: ignore[union-attr]
    why = (
        "its labels were encoded again; ask for --max-kl"
        if anew
        else "its corrections were made for all stages"
    )
    return f"{said}; the new file does not: {why}"
