"""`softpack decode`."""

from __future__ import annotations

import click

from softpack.cli.options import FORCE, NO_REPLAY, OUT, check_out, note, positive
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile
from softpack.sources.writing import check_kind


@click.command(
    short_help="Write labels out as arrays.",
    epilog="\b\nExamples:\n  softpack decode labels.spk -o logits.npz\n"
    "  softpack decode labels.spk -o some.h5 --items 0:100 --as probs --temperature 4",
)
@click.argument("file", type=click.Path())
@OUT
@click.option(
    "--to",
    "target_format",
    metavar="FORMAT",
    help="npy, npz, h5 or safetensors, if the name of the output does not say it.",
)
@click.option("--items", metavar="A:B", help="Items from A up to B, without B.")
@click.option("--views", metavar="A:B", help="Views from A up to B, without B.")
@click.option("--as", "space", type=click.Choice(["logits", "log_probs", "probs"]),
              help="What to write [default: what the file holds]")  # fmt: skip
@click.option("--temperature", type=float, callback=positive, metavar="T",
              help="Of log_probs and probs [default: the file's]")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float32", show_default=True,
              help="Of the labels.")  # fmt: skip
@NO_REPLAY
@FORCE
def decode(
    file: str, out: str, target_format: str | None, items: str | None, views: str | None, space: str | None,
    temperature: float | None, dtype: str, no_replay: bool, force: bool,
) -> None:  # fmt: skip
    """Decode FILE into .npy, .npz, .h5 or .safetensors, as `encode` reads it.

    With --items and --views, they are counted from 0 again in the output. Mixed rows need their partners among
    the selected items; --no-replay leaves the columns out instead.
    """
    ranges = _range(items, "--items"), _range(views, "--views")
    check_out(out, force, file)
    check_kind(out, target_format)
    SpkFile(file)  # a bad one is refused at once, before torch is imported
    from softpack.sources.decoding import Selection, decode_to

    with Bar("decoding") as bar:
        dropped = decode_to(
            file, out, Selection(*ranges), space=space, temperature=temperature, dtype=dtype, kind=target_format,
            replay=not no_replay, force=force, counted=bar,
        )  # fmt: skip
    if dropped:
        note(
            f"{out} holds the labels alone; not in a .npy: {', '.join(dropped)}. "
            "A .npz, .h5 or .safetensors keeps all of it"
        )


def _range(text: str | None, option: str) -> tuple[int, int | None] | None:
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    numbers = [start or "0", *([stop] if stop else [])]
    if not colon or not all(number.isdecimal() for number in numbers):
        raise click.UsageError(f"{option} {text}: expected A:B, such as {option} 0:100")
    return int(start or 0), int(stop) if stop else None
