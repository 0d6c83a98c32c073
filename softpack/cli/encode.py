"""`softpack encode` and `softpack fit`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import xxhash

from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import (
    FORCE,
    JSON,
    MATRIX_OUTSIDE,
    MAX_KL,
    MODEL,
    NO_REPLAY,
    OF_MATRIX,
    OUT,
    check_out,
    codec_options,
    note,
    settings_of,
)
from softpack.cli.progress import Bar
from softpack.cli.source import opened, source_facts, source_options
from softpack.codecs.registry import check_codec_id
from softpack.container.file import SpkFile
from softpack.errors import CodecError, SoftpackError
from softpack.rate.target import Target, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from softpack.container.model import Model
    from softpack.rate.choose import Wanted
    from softpack.rate.trial import Trial
    from softpack.sources.base import Source
    from softpack.sources.resuming import Encoding


@click.command(
    short_help="Compress labels into one .spk file.",
    epilog="\b\nExamples:\n  softpack encode logits.npz -o labels.spk --target-bits 64\n"
    "  softpack encode logits.npz -o labels.spk --codec topk --set k=20\n"
    "  softpack encode logits.npz -o labels.spk --target-bits 64 --max-kl 0.3\n"
    "  softpack encode states.npz -o labels.spk --matrix teacher/model.safetensors --target-bits 512",
)
@click.argument("source", type=click.Path())
@OUT
@codec_options
@source_options
@OF_MATRIX
@MATRIX_OUTSIDE
@MAX_KL
@MODEL
@NO_REPLAY
@click.option("--appendable", is_flag=True, help="Keep the encoder, so that softpack.append needs no model.")
@FORCE
@JSON
def encode(
    source: str, out: str, model: str | None, no_replay: bool, force: bool, as_json: bool, **how: Any
) -> None:
    """Encode the rows of SOURCE into one .spk file.

    SOURCE is a .npy, .npz, .h5, .safetensors, .pt, .parquet, .tar or .spk, or a folder.

    It holds `logits`, `log_probs` or `probs`: [items, views, classes], or [rows, classes] beside `item` and
    `view`; and, if views are augmented, `crop_xywh`, `flip`, `mix_item`, `mix_lam` and `mix_box_xyxy`;
    and, one for each item, `target` and `source_hw`. A .npy holds the labels alone. Or it holds `hidden`, last
    hidden states of a language model after its final norm, whose logits --matrix makes of them.
    A folder holds a label set as SRe2L and others write it, or a cache of a language model, as a .jsonl does: see
    `softpack formats`.
    """
    check_out(out, force, source, resumes=True)
    check_coding(how, model)
    rows = opened(source, how, replay=not no_replay)
    encode_rows(rows, out, model, not no_replay, force, how)
    facts = facts_of(SpkFile(out)) | source_facts(rows)
    print_facts(facts, as_json)
    over = facts["marginal_bits_per_label"] - (how["target_bits"] or math.inf)
    if over > 0:
        note(f"{over:.2f} bits a label more than asked for: {_what_weighs(facts, over)}")


def _what_weighs(facts: dict[str, Any], over: float) -> str:
    """Return what of a file that target_bits does not see takes more bits than were asked for."""
    corrected = facts["correction_bits_per_label"]
    if corrected > over / 2:
        return f"the corrections that --max-kl asks for take {corrected:.1f}"
    return f"with {facts['rows']:,} labels, the file's own parts (header, index, checksums) weigh that much"


def encode_rows(
    rows: Source, out: str, model_path: str | None, replay: bool, force: bool, how: dict[str, Any]
) -> None:
    """Encode a source as the options say, with a fitted codec or one that is fitted to it."""
    from softpack.container.blockfile import refuse_existing
    from softpack.container.stopped import alone
    from softpack.sources.encoding import encode_source
    from softpack.sources.resuming import RESUMED_NUMBERS, Encoding

    asked = {
        "replay": replay, "max_kl": how["max_kl"], "temperatures": how["temperatures"] or None, "seed": how["seed"],
        "appendable": how.get("appendable", False), "device": how["device"], "matrix": how.get("matrix"),
    }  # fmt: skip

    def model() -> Model:
        return fitted(rows, how, replay) if model_path is None else _loaded(model_path, rows, how)

    with alone(Path(out)):
        if rows.n_rows * rows.row_numbers >= RESUMED_NUMBERS:
            run = _run(rows, how | asked | {"model": model_path})
            _go_on(rows, Encoding(Path(out), run, force), model, asked)
            return
        refuse_existing(out, force, "--force")  # what another run left there is not this one's
        ready = model()
        with Bar("encoding") as bar:
            encode_source(rows, out, ready, force=force, counted=bar, **asked)


def _go_on(rows: Source, encoding: Encoding, model: Callable[[], Model], asked: dict[str, Any]) -> None:
    """Encode a source, or what an interrupted run of the same call has left of it."""
    left = encoding.left()
    if left is not None:
        note(f"going on where a run was interrupted: {left.n_rows:,} of {rows.n_rows:,} rows are there")
    ready = model() if left is None else None
    try:
        with Bar("encoding") as bar:
            encoding.encode(rows, ready, bar, **asked)
    except (KeyboardInterrupt, SoftpackError) as error:
        if encoding.is_begun:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped by the error below"
            note(f"{why}; what is done is kept, and the same call goes on")
        raise


def _loaded(path: str, rows: Source, how: dict[str, Any]) -> Model:
    from softpack.container.create import load_model
    from softpack.sources.encoding import check_device, check_model

    check_device(how["device"])
    model = load_model(path, how.get("matrix"))
    check_model(model.codec, rows.spec, path)
    return model


def _run(rows: Source, how: dict[str, Any]) -> str:
    """Return what tells an encoding from others: a hash of the options, and of the source and what it stands in."""
    options = {name: value for name, value in how.items() if name != "skip_bad"}
    shape = rows.n_rows, rows.items, rows.views, *vars(rows.spec).values()
    facts = [str(rows.path.absolute()), *shape, rows.order_known_by]
    stands = [_stands(Path(path)) for path in (rows.path, how["model"], how.get("matrix")) if path is not None]
    run = xxhash.xxh64(json.dumps([facts, options, stands], sort_keys=True, default=str).encode())
    for name, values in sorted(rows.item_columns.items()):
        run.update(name.encode() + values.tobytes())
    return run.hexdigest()


def _stands(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of a file, or of all files of a folder; none where a pattern names them."""
    files = path.rglob("*") if path.is_dir() else [path]
    stats = [(str(file.absolute()), file.stat()) for file in files if file.is_file()]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@click.command(
    short_help="Fit a codec, to encode many sources with it.",
    epilog="\b\nExamples:\n  softpack fit logits.npz -o codec.spkm --target-bits 64\n"
    "  softpack encode more.npz -o more.spk --model codec.spkm",
)
@click.argument("source", type=click.Path())
@OUT
@codec_options
@source_options
@OF_MATRIX
@MATRIX_OUTSIDE
@FORCE
@JSON
def fit(source: str, out: str, force: bool, as_json: bool, **how: Any) -> None:
    """Fit a codec to SOURCE and write it, encoder included, as a .spkm for `encode --model`."""
    check_out(out, force, source)
    check_coding(how)
    model = fitted(opened(source, how), how)
    from softpack.container.create import save_model  # brings torch, as `fitted` did

    save_model(out, model, force=force)
    print_facts(facts_of(SpkFile(out)), as_json)


def check_coding(how: dict[str, Any], model: str | None = None) -> None:
    """Refuse options that cannot be meant, before torch is imported.

    Raises:
        click.UsageError: a setting is no KEY=VALUE, or is one that the model has settled.
        SoftpackError: the codec is not known, or the model is no .spk file.
    """
    settings_of(how["pairs"])
    target_of(how)
    if how["codec_id"]:
        check_codec_id(how["codec_id"])
    if model is not None:
        refuse_with_model(how)
        SpkFile(model)


def fitted(rows: Source, how: dict[str, Any], replay: bool = True) -> Model:
    """Fit the codec that the options ask for, or the one that meets their target best; say what was tried."""
    from softpack.rate.choose import choose, default_codec
    from softpack.sources.encoding import check_device

    wanted = wanted_of(how)
    check_device(wanted.device)
    if wanted.temperatures and not wanted.uses_temperatures and wanted.max_kl is None:
        note(f"--temperature is not used: {wanted.codec_id} has no use for it")
    what = "fitting" if wanted.is_controlled else f"fitting {wanted.codec_id or default_codec(rows)}"
    with Bar(what, "step") as bar:
        return choose(rows, wanted, replay=replay, progress=bar, say=sayer(bar))


def sayer(bar: Bar) -> Callable[[Trial, str], None]:
    """Return what says on a bar which plan was tried and what it would give."""

    def say(trial: Trial, what: str) -> None:
        kl = " / ".join(f"{value:.4f}" for value in trial.kl.values())
        at = "/".join(f"{T:g}" for T in trial.kl)
        bar.write(
            f"softpack: tried {trial.plan} ({what}): {trial.marginal_bits:.1f} bits a label, "
            f"{trial.n_bytes / 1000:,.0f} kB, KL {kl} at T={at}"
        )

    return say


def wanted_of(how: dict[str, Any]) -> Wanted:
    """Return what the options want of the encoding."""
    from softpack.rate.choose import Wanted

    return Wanted(
        how["codec_id"], settings_of(how["pairs"]), target_of(how), how["temperatures"], how.get("max_kl"),
        how["seed"], how["device"], how.get("matrix"), not how.get("matrix_outside"),
    )  # fmt: skip


def target_of(how: dict[str, Any]) -> Target | None:
    """Return what the options aim at; None where they name no target.

    Raises:
        click.UsageError: two of them contradict each other, or the budget is no size.
    """
    given = [name for name in ("target_bits", "target_kl", "budget") if how[name] is not None]
    if len(given) > 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"{names} cannot go together: give one target")
    if not given:
        return None
    try:
        n_bytes = None if how["budget"] is None else parse_size(how["budget"])
    except CodecError as error:
        raise click.UsageError(f"--budget: {error}") from None
    return Target(how["target_bits"], how["target_kl"], n_bytes)


def refuse_with_model(how: dict[str, Any]) -> None:
    """Refuse options that a fitted codec has settled.

    Raises:
        click.UsageError: one of them is given.
    """
    given = {"--codec": how["codec_id"], "--set": how["pairs"], "--target-bits": how["target_bits"],
             "--target-kl": how["target_kl"], "--budget": how["budget"],
             "--temperature": how["temperatures"] and not how["max_kl"],
             "--matrix-outside": how.get("matrix_outside")}  # fmt: skip
    names = [name for name, value in given.items() if value]
    if names:
        raise click.UsageError(f"{', '.join(names)} cannot go with --model: the model says it already")
