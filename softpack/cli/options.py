"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

CODEC_OPTIONS = (
    click.option("--codec", "codec_id", metavar="NAME", help="raw, quantize, topk, lowrank or vqae [default: vqae]"),
    click.option("--set", "pairs", metavar="KEY=VALUE", multiple=True, help="A setting of the codec; may be repeated."),
    click.option("--target-bits", type=click.FloatRange(min=0, min_open=True), metavar="B",
                 help="Bits a label at most: chooses the codec's settings."),
    click.option("--temperature", "temperatures", type=float, multiple=True, metavar="T",
                 help="Temperature that counts; may be repeated [default: 1, 4, 20]"),
    click.option("--from", "source_format", metavar="FORMAT", help="Kind of the source, if its name does not say it."),
    click.option("--space", type=click.Choice(["logits", "log_probs", "probs"]),
                 help="What a .npy holds [default: logits]"),
    click.option("--source-temperature", type=float, metavar="T", help="That log_probs and probs were taken at."),
    click.option("--seed", type=int, default=0, metavar="N", help="Of the fit; same seed, same bytes [default: 0]"),
    click.option("--device", default="cpu", metavar="D", help="Where to fit and encode, such as cuda [default: cpu]"),
)  # fmt: skip

FORCE = click.option("--force", is_flag=True, help="Overwrite the output if it is there.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
MODEL = click.option(
    "--model", type=click.Path(), metavar="CODEC.spkm", help="A codec that `softpack fit` wrote."
)
NO_REPLAY = click.option("--no-replay", is_flag=True, help="Leave the replay columns out.")
OUT = click.option("-o", "--out", required=True, type=click.Path(), metavar="FILE", help="Where to write.")


def codec_options(command: F) -> F:
    """Add the options that say how rows are coded."""
    for option in reversed(CODEC_OPTIONS):
        command = option(command)
    return command


def settings_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return KEY=VALUE options as a dictionary.

    Raises:
        click.UsageError: one of them is not that.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--set {pair}: expected KEY=VALUE, such as --set bits=4")
        if key in settings:
            raise click.UsageError(f"--set {key} is there twice; give it once")
        settings[key] = value
    return settings
