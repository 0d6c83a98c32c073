"""The options that say what a SOURCE is, and opening it as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softpack.cli.options import F, note, positive
from softpack.records import ROW_SPACES
from softpack.sources.base import Source
from softpack.sources.opening import open_source
from softpack.sources.peers.given import SAMPLERS, Given
from softpack.sources.pruning import first_views

LABEL_SEED = click.option(
    "--label-seed", type=int, metavar="N",
    help="Of the order in which images were labelled, where the files do not say it.",
)  # fmt: skip
SAMPLER = click.option(
    "--sampler", type=click.Choice(SAMPLERS),
    help="Of the PyTorch that labelled: new, 1.11 and later, or old; unknown gives the order up.",
)  # fmt: skip
OPTIONS = (
    click.option("--first-views", "n_views", type=click.IntRange(min=1), metavar="N",
                 help="Take the first N views of each item alone."),
    click.option("--from", "source_format", metavar="FORMAT",
                 help="What SOURCE is, if its name does not say it; `softpack formats` lists them."),
    click.option("--space", type=click.Choice(ROW_SPACES), help="What a .npy holds [default: logits]"),
    click.option("--source-temperature", type=float, callback=positive, metavar="T",
                 help="That log_probs and probs were taken at, if SOURCE does not say so."),
    click.option("--images", type=click.Path(), metavar="DIR",
                 help="The images that were labelled, a folder for each class: their order, sizes and classes."),
    LABEL_SEED,
    SAMPLER,
    click.option("--classes", type=click.IntRange(min=2), metavar="C",
                 help="Of the labels, where files hold some of them alone (fkd, lpqld, tinyvit, mldr, megatron, "
                 "maxtext, vllm)."),
    click.option("--label-type", metavar="TYPE",
                 help="Of fkd: hard, smoothing, marginal_smoothing, marginal_renorm or ori, where shapes do not tell; "
                 "of mldr: smooth or zeros; of legacy distillkit: log_probs or logits."),
    click.option("--config", type=click.Path(), metavar="YAML",
                 help="Of distillkit: how labels were compressed, if it is not beside them."),
    click.option("--sequence-length", type=click.IntRange(min=1), metavar="N",
                 help="Of vllm: rows of each sequence, where arrays do not say where sequences end."),
    click.option("--skip-bad", is_flag=True, help="Leave out files of a folder that are missing or cannot be used."),
)  # fmt: skip


def source_options(command: F) -> F:
    """Add the options that say what a source is."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def opened(source: str, how: dict[str, Any], replay: bool = True) -> Source:
    """Open a source as the options say, and say what of it is ignored.

    Args:
        source: its path.
        how: the options.
        replay: whether the replay columns are wanted.

    Raises:
        DataError: it is none, or more must be said of it.
    """
    images = how["images"]
    given = Given(
        None if images is None else Path(images),
        how["label_seed"],
        how["sampler"],
        how["skip_bad"],
        how["classes"],
        how["label_type"],
        replay=replay,
        config=None if how["config"] is None else Path(how["config"]),
        sequence_length=how["sequence_length"],
    )
    rows = open_source(
        source,
        space=how["space"],
        temperature=how["source_temperature"],
        kind=how["source_format"],
        given=given,
    )
    if rows.ignored:
        note(f"not used of {source}: {', '.join(rows.ignored)}")
    return first_views(rows, how["n_views"])


def source_facts(source: Source) -> dict[str, Any]:
    """Return what there is to say of a source once it has been read; say which of its files were left out."""
    for said in source.skipped.values():
        note(f"left out: {said}")
    for said in source.remarks:
        note(f"{source.path}: {said}")
    return {
        "source": str(source.path),
        "source_bytes": source.n_bytes,
        "order_known_by": source.order_known_by,
        "left_out": dict(source.skipped),
        "remarks": list(source.remarks),
    }
