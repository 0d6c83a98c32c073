"""`softpack encode` and `softpack fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import FORCE, JSON, MODEL, NO_REPLAY, OUT, check_out, codec_options, settings_of
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile

if TYPE_CHECKING:
    from softpack.codecs.abc import Codec
    from softpack.sources.base import Source


@click.command(
    short_help="Compress labels into one .spk file.",
    epilog="\b\nExamples:\n  softpack encode logits.npz -o labels.spk --target-bits 64\n"
    "  softpack encode logits.npz -o labels.spk --codec topk --set k=20",
)
@click.argument("source", type=click.Path())
@OUT
@codec_options
@MODEL
@NO_REPLAY
@click.option("--appendable", is_flag=True, help="Keep the encoder, so that softpack.append needs no model.")
@FORCE
@JSON
def encode(
    source: str, out: str, model: str | None, no_replay: bool, force: bool, as_json: bool, **how: Any
) -> None:
    """Encode the rows of SOURCE (.npy, .npz, .h5, .safetensors or .spk) into one .spk file.

    SOURCE holds `logits`, `log_probs` or `probs`: [items, views, classes], or [rows, classes] beside `item` and
    `view`; and, if views are augmented, `crop_xywh`, `flip`, `mix_item`, `mix_lam` and `mix_box_xyxy`.
    """
    check_out(out, force, source)
    encode_rows(source, out, model, not no_replay, force, how)
    print_facts(facts_of(SpkFile(out)), as_json)


def encode_rows(
    source: str, out: str, model: str | None, replay: bool, force: bool, how: dict[str, Any]
) -> None:
    """Encode a source as the options say, with a fitted codec or one that is fitted to it."""
    from softpack.container.writer import load_model
    from softpack.sources.encoding import check_model, encode_source

    if model is not None:
        refuse_with_model(how)
    rows = opened(source, how)
    if model is None:
        codec = fitted(rows, how)
    else:
        codec = load_model(model)
        check_model(codec, rows.spec, model)
    with Bar("encoding") as bar:
        encode_source(
            rows, out, codec, replay=replay, appendable=how.get("appendable", False), seed=how["seed"],
            device=how["device"], force=force, counted=bar,
        )  # fmt: skip


@click.command(
    short_help="Fit a codec, to encode many sources with it.",
    epilog="\b\nExamples:\n  softpack fit logits.npz -o codec.spkm --target-bits 64\n"
    "  softpack encode more.npz -o more.spk --model codec.spkm",
)
@click.argument("source", type=click.Path())
@OUT
@codec_options
@FORCE
@JSON
def fit(source: str, out: str, force: bool, as_json: bool, **how: Any) -> None:
    """Fit a codec to SOURCE and write it, encoder included, as a .spkm for `encode --model`."""
    from softpack.container.writer import save_model

    check_out(out, force, source)
    save_model(out, fitted(opened(source, how), how), force=force)
    print_facts(facts_of(SpkFile(out)), as_json)


def opened(source: str, how: dict[str, Any]) -> Source:
    """Open a source and say what of it is ignored."""
    from softpack.sources.encoding import check_device
    from softpack.sources.opening import open_source

    check_device(how["device"])
    rows = open_source(
        source, space=how["space"], temperature=how["source_temperature"], kind=how["source_format"]
    )
    if rows.ignored:
        click.echo(f"softpack: {source}: not used: {', '.join(rows.ignored)}", err=True)
    return rows


def fitted(rows: Source, how: dict[str, Any]) -> Codec:
    """Fit the codec that the options ask for."""
    from softpack.codecs.registry import setting_names
    from softpack.sources.encoding import fit_codec

    codec_id = how["codec_id"] or "vqae"
    settings: dict[str, Any] = dict(settings_of(how["pairs"]))
    if how["temperatures"] and "temperatures" in setting_names(codec_id):
        settings.setdefault("temperatures", ",".join(f"{T:g}" for T in how["temperatures"]))
    elif how["temperatures"]:
        click.echo(f"softpack: not used: --temperature, which {codec_id} has no use for", err=True)
    with Bar(f"fitting {codec_id}", "step") as bar:
        return fit_codec(
            rows, codec_id, settings, target_bits=how["target_bits"], seed=how["seed"], device=how["device"],
            progress=bar,
        )  # fmt: skip


def refuse_with_model(how: dict[str, Any]) -> None:
    """Refuse options that a fitted codec has settled.

    Raises:
        click.UsageError: one of them is given.
    """
    given = {"--codec": how["codec_id"], "--set": how["pairs"], "--target-bits": how["target_bits"],
             "--temperature": how["temperatures"]}  # fmt: skip
    names = [name for name, value in given.items() if value]
    if names:
        raise click.UsageError(f"{', '.join(names)} cannot go with --model: the model says it already")
