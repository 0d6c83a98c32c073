"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from softpack.errors import DataError

F = TypeVar("F", bound=Callable[..., Any])
MAX_SEED = (1 << 63) - 1


def positive(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return one number or several, all of them positive and finite; click calls it."""
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and not 0 < number < math.inf:
            raise click.BadParameter(f"{number:g}: expected a positive number")
    return value


def _seed(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if not 0 <= value <= MAX_SEED:
        raise click.BadParameter(f"{value}: expected a whole number from 0 to 2**63 - 1")
    return value


def _show_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().params["debug"] = True


SETTINGS = click.option(
    "--set", "pairs", metavar="KEY=VALUE", multiple=True,
    help="A setting of the codec, such as k=20; may be repeated. An unknown KEY lists them.",
)  # fmt: skip
TEMPERATURES = click.option(
    "--temperature", "temperatures", type=float, multiple=True, callback=positive, metavar="T",
    help="That students train at, for vqae, klt, head and --max-kl; may be repeated "
    "[default: 1, 4, 20; 1 with head]",
)  # fmt: skip
COMPARED_AT = click.option(
    "--temperature", "temperatures", type=float, multiple=True, callback=positive, metavar="T",
    help="To compare at; may be repeated [default: 1, 4, 20]",
)  # fmt: skip
MAX_KL = click.option(
    "--max-kl", type=float, callback=positive, metavar="KL",
    help="Promise that no label's KL is above this at any --temperature: those that would be are corrected.",
)  # fmt: skip
SEED = click.option("--seed", type=int, default=0, callback=_seed, metavar="N",
                    help="Same seed, same bytes [default: 0]")  # fmt: skip
DEVICE = click.option("--device", default="cpu", metavar="D",
                      help="Where to fit and encode, such as cuda [default: cpu]")  # fmt: skip

MATRIX = click.option(
    "--matrix", type=click.Path(), metavar="PATH",
    help="Safetensors with the teacher's output matrix, of files of codec head that name it by its hash.",
)  # fmt: skip
OF_MATRIX = click.option(
    "--matrix", type=click.Path(), metavar="PATH",
    help="Safetensors with the teacher's output matrix, where SOURCE holds hidden states.",
)  # fmt: skip
MATRIX_OUTSIDE = click.option(
    "--matrix-outside", is_flag=True,
    help="Of --codec head: name the output matrix by its hash; readers give the checkpoint.",
)  # fmt: skip
FORCE = click.option("--force", is_flag=True, help="Overwrite the output if it is there.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
MODEL = click.option(
    "--model", type=click.Path(), metavar="CODEC.spkm", help="A codec that `softpack fit` wrote."
)
NO_REPLAY = click.option("--no-replay", is_flag=True, help="Leave the replay columns out.")
DEBUG = click.Option(["--debug"], is_flag=True, expose_value=False, hidden=True, callback=_show_traceback)
OUT = click.option("-o", "--out", required=True, type=click.Path(), metavar="FILE", help="Where to write.")


def codec_option(default: str, more: str = "") -> Callable[[F], F]:
    """Return the option that names a codec, of those that code any rows or `more`."""
    names = f"raw, quantize, topk, sample, polyk, lowrank, klt, vqae, {more}or of an installed package"
    names += f" [default: {default}]"
    return click.option("--codec", "codec_id", metavar="NAME", help=names)


def target_options(default: str) -> Callable[[F], F]:
    """Return the options that say what to aim at."""
    bits = f"Bits a label at most, of all but model and replay [default: {default}]"
    options = (
        click.option("--target-bits", type=float, callback=positive, metavar="B", help=bits),
        click.option(
            "--target-kl", type=float, callback=positive, metavar="KL",
            help="Mean KL at most, at the first --temperature, in as few bits as that takes.",
        ),
        click.option("--budget", metavar="SIZE", help="Size of the whole file at most, such as 400KB or 64MB."),
    )  # fmt: skip

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def codec_options(command: F) -> F:
    """Add the options that say how rows are coded."""
    coding = (
        codec_option("vqae, or what meets a target best; head of hidden states", "head, "),
        SETTINGS,
        target_options("64 with vqae"),
        TEMPERATURES,
    )
    for option in reversed((*coding, SEED, DEVICE)):
        command = option(command)
    return command


def check_out(out: str, force: bool, source: str, *, is_folder: bool = False, resumes: bool = False) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Args:
        out: of the file.
        force: overwrite it.
        source: that is read.
        is_folder: the output is to be a folder.
        resumes: an interrupted run is gone on with. If there is one, what is left of the output itself is its own.

    Raises:
        ExistsError: it is there and `force` is not given.
        DataError: it is a folder (or none, where it is to be one), is in none that can be written to, or is the
            source itself.
    """
    from softpack.container.blockfile import refuse_existing
    from softpack.container.stopped import unfinished_of

    path = Path(out)
    if path.is_dir() and not is_folder:
        raise DataError(f"{out}: is a folder; expected the name of a file to write; name a file in it")
    if path.is_file() and is_folder:
        raise DataError(f"{out}: is a file; expected the name of a folder to write")
    if not path.parent.is_dir():
        raise DataError(f"{out}: cannot be written, as there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise DataError(
            f"{out}: cannot be written, as {path.parent} may not be written to; take another folder"
        )
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise DataError(f"{out}: is the source itself, which would be lost; write to another file")
    is_left = resumes and unfinished_of(path).exists() and not path.exists()
    refuse_existing(out, force or is_left, "--force")


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


def say_what_helps_damage() -> None:
    """Say on stderr what to do about a damaged file."""
    ways = (
        "copy the file again from where it is whole",
        "`softpack recover FILE` leaves out, in place, what is damaged",
    )
    click.echo(f"softpack: {'; or '.join(ways)}", err=True)


def note(text: str) -> None:
    """Say on stderr what the user may want to know; nothing went wrong."""
    click.echo(f"softpack: note: {text}", err=True)
