"""`softpack decode`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softpack.cli.options import FORCE, MATRIX, NO_REPLAY, OUT, check_out, note, positive
from softpack.cli.progress import Bar
from softpack.cli.source import LABEL_SEED, SAMPLER
from softpack.container.blockfile import refuse_existing
from softpack.container.file import SpkFile
from softpack.sources.files.sinks import NAMED
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given, order_of
from softpack.sources.peers.orders import BatchOrder, ListedOrder, Order
from softpack.sources.peers.registry import PEERS
from softpack.sources.writing import sink_of

FOLDERS = [name for name, peer in PEERS.items() if peer.writes]


@click.command(
    short_help="Write labels out as arrays, or as others lay them out.",
    epilog="\b\nExamples:\n  softpack decode labels.spk -o logits.npz\n"
    "  softpack decode labels.spk -o some.h5 --items 0:100 --as probs --temperature 4\n"
    "  softpack decode labels.spk -o FKD_cutmix_fp16/ --to sre2l\n"
    "  softpack decode labels.spk -o topk/ --to lpqld --k 3",
)
@click.argument("file", type=click.Path())
@OUT
@click.option(
    "--to",
    "target_format",
    metavar="FORMAT",
    help="npy, npz, h5, safetensors, pt or parquet, if the name of the output does not say it; or what others read: "
    f"{', '.join([*NAMED, *FOLDERS])}.",
)
@click.option("--items", metavar="A:B", help="Items from A up to B, without B.")
@click.option("--views", metavar="A:B", help="Views from A up to B, without B.")
@click.option("--as", "space", type=click.Choice(["logits", "log_probs", "probs"]),
              help="What to write [default: what the file holds]")  # fmt: skip
@click.option("--temperature", type=float, callback=positive, metavar="T",
              help="Of log_probs and probs [default: the file's]")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float16", "float32"]),
              help="Of the labels [default: float32; float16 for sre2l and its like]")  # fmt: skip
@click.option("--batch-size", "batch", type=click.IntRange(1), default=1024, show_default=True, metavar="B",
              help="Rows in a batch of sre2l and its like; views that are mixed by batches keep theirs.")  # fmt: skip
@LABEL_SEED
@SAMPLER
@click.option("--order", type=click.Path(), metavar="JSON",
              help="Index of the set that batches are to be ordered as, instead of a seed.")  # fmt: skip
@click.option(
    "--k",
    type=click.IntRange(1),
    metavar="K",
    help="Classes to keep of each row (lpqld, fkd, tinyvit, and language models).",
)
@click.option("--images", type=click.Path(), metavar="DIR",
              help="The images that were labelled, after which fkd names its files, and tinyvit its keys.")  # fmt: skip
@click.option("--micro-batch", type=click.IntRange(1), metavar="N",
              help="Sequences of a microbatch of megatron, whose --batch-size counts sequences too.")  # fmt: skip
@click.option("--meta", type=click.Path(), metavar="JSON",
              help="Of megatron: what the student's run says of itself, or a tar of the teacher's run.")  # fmt: skip
@click.option("--label-type", metavar="TYPE",
              help="Of fkd: hard, smoothing, marginal_smoothing_kK, marginal_renorm_kK or ori.")  # fmt: skip
@MATRIX
@NO_REPLAY
@FORCE
def decode(
    file: str, out: str, target_format: str | None, items: str | None, views: str | None, space: str | None,
    temperature: float | None, dtype: str | None, matrix: str | None, no_replay: bool, force: bool, **how: Any,
) -> None:  # fmt: skip
    """Decode FILE into .npy, .npz, .h5, .safetensors, .pt or .parquet, as `encode` reads it.

    With --items and --views, they are counted from 0 again in the output. Mixed rows need their partners among
    the selected items; --no-replay leaves the columns out instead.
    """
    ranges = _range(items, "--items"), _range(views, "--views")
    if target_format in FOLDERS:
        if items or views or space or no_replay:
            raise click.UsageError(
                f"--items, --views, --as and --no-replay are of files of arrays, not of {target_format}"
            )
        _decode_folder(
            file,
            Path(out),
            target_format,
            force,
            how | {"dtype": dtype, "temperature": temperature, "matrix": _path(matrix)},
        )
        return
    sink = sink_of(out, target_format)
    check_out(out, force, file, is_folder=sink.files is not None)
    SpkFile(file)  # a bad one is refused at once, before torch is imported
    from softpack.sources.decoding import Selection, decode_to

    with Bar("decoding") as bar:
        dropped = decode_to(
            file, out, Selection(*ranges), space=space, temperature=temperature, dtype=dtype or "float32",
            kind=target_format, replay=not no_replay, matrix=matrix, force=force, counted=bar,
        )  # fmt: skip
    if dropped:
        note(
            f"{out} holds the labels alone; not in a {target_format or Path(out).suffix}: {', '.join(dropped)}. "
            "A .npz, .h5 or .safetensors keeps all of it"
        )


def _decode_folder(file: str, out: Path, layout: str, force: bool, how: dict[str, Any]) -> None:
    found = SpkFile(file)
    refuse_existing(out, force, "--force")
    order = _order(
        layout, found.commit.items, **{name: how.pop(name) for name in ("order", "label_seed", "sampler")}
    )
    images, meta = how.pop("images"), how.pop("meta")
    from softpack.sources.peers.writers import WRITERS

    asked = Asked(order=order, images=_path(images), meta=_path(meta), **how)
    with Bar("decoding") as bar:
        WRITERS[layout](Path(file), out, asked, force, bar)


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _order(
    layout: str, n_items: int, order: str | None, label_seed: int | None, sampler: str | None
) -> Order | None:
    """Return the order of an index or of a seed."""
    if order is None:
        return order_of(Given(label_seed=label_seed, sampler=sampler), n_items)
    if label_seed is not None or sampler is not None:
        raise click.UsageError(
            "--order cannot go with --label-seed and --sampler: both say the order of the images"
        )
    if not Path(order).is_file():
        raise click.UsageError(f"--order {order}: is not there")
    return (BatchOrder if layout == "lpqld" else ListedOrder)(Path(order), n_items)


def _range(text: str | None, option: str) -> tuple[int, int | None] | None:
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    numbers = [start or "0", *([stop] if stop else [])]
    if not colon or not all(number.isdecimal() for number in numbers):
        raise click.UsageError(f"{option} {text}: expected A:B, such as {option} 0:100")
    return int(start or 0), int(stop) if stop else None
