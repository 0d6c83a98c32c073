"""`softpack capture`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softpack.cli.facts import facts_of, print_facts
from softpack.cli.options import (
    FORCE,
    JSON,
    MATRIX_OUTSIDE,
    OUT,
    SEED,
    SETTINGS,
    check_out,
    codec_option,
    note,
    positive,
    settings_of,
)
from softpack.cli.progress import Bar
from softpack.container.blockfile import PARTIAL
from softpack.container.file import SpkFile
from softpack.errors import DataError

DTYPE = click.option(
    "--dtype", type=click.Choice(("auto", "float32", "bfloat16", "float16")), default="auto", show_default=True,
    help="That the language model computes in; auto is that of its checkpoint.",
)  # fmt: skip


def _ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return () if value is None else tuple(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value}: expected ids of tokens, such as 1,106") from None


@click.command(
    short_help="Ask a language model, straight into one .spk file.",
    epilog="\b\nExamples:\n"
    "  softpack capture texts.jsonl -o labels.spk --model ./teacher --max-length 1024 --set k=64\n"
    "  softpack capture texts.jsonl -o labels.spk --model ./teacher --codec head --target-bits 512\n"
    "  softpack capture book.txt -o labels.spk --model ./teacher --max-length 512 --codec klt --set bits=512",
)
@click.argument("text_or_tokens", type=click.Path())
@OUT
@click.option("--model", required=True, metavar="PATH",
              help="Of a causal language model of transformers; or MODULE:NAME, a function's.")  # fmt: skip
@click.option("--tokenizer", metavar="PATH", help="Of the tokenizer [default: that of the model]")
@codec_option("topk", "head, ")
@SETTINGS
@click.option(
    "--target-bits", type=float, callback=positive, metavar="B", help="Bits a label at most, of codes alone."
)
@MATRIX_OUTSIDE
@click.option("--max-length", type=click.IntRange(2), metavar="L",
              help="Tokens of a sequence at most: what is behind is left out, and a .txt is cut so.")  # fmt: skip
@click.option("--batch-tokens", type=click.IntRange(1), default=8192, show_default=True, metavar="T",
              help="Tokens that the model sees at once, padding included.")  # fmt: skip
@click.option("--forced", callback=_ids, metavar="ID,ID,...",
              help="Tokens whose log-probabilities are kept exactly in every row.")  # fmt: skip
@DTYPE
@SEED
@click.option("--device", metavar="D", help="Where the model and the codec work, such as cuda [default: cpu]")
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run left.")
@FORCE
@JSON
def capture(text_or_tokens: str, out: str, model: str, **how: Any) -> None:
    """Capture what a language model says after every token of TEXT_OR_TOKENS, straight into one .spk file.

    TEXT_OR_TOKENS is a .jsonl of objects with text or input_ids, each of which is a sequence; a .parquet with such
    columns; an .npz or .npy of input_ids; or a .txt, one long text that is cut into sequences of --max-length tokens.
    Texts get the tokenizer's own special tokens. The file holds all tokens, so a student needs no text beside it.
    Interrupted, the same command goes on where it was.
    """
    if how["matrix_outside"] and how["codec_id"] != "head":
        raise click.UsageError("--matrix-outside is of --codec head alone, which decodes by the output matrix")
    check_out(out, how["force"], text_or_tokens, resumes=True)
    if not Path(text_or_tokens).is_file():
        raise DataError(f"{text_or_tokens}: is no file; expected texts or ids of tokens")
    from softpack.capturing.capture import capture as captured
    from softpack.capturing.pretrained import load_model, load_tokenizer

    settings: dict[str, Any] = settings_of(how["pairs"])
    if how["matrix_outside"]:
        settings["matrix_inside"] = False
    if how["target_bits"] is not None:
        settings["target_bits"] = how["target_bits"]
    try:
        captured(
            load_model(model, how["dtype"]), text_or_tokens, out, how["codec_id"] or "topk",
            tokenizer=load_tokenizer(how["tokenizer"], model, text_or_tokens), max_length=how["max_length"],
            batch_tokens=how["batch_tokens"], forced=how["forced"], seed=how["seed"], device=how["device"],
            force=how["force"], restart=how["restart"], stage=Bar, **settings,
        )  # fmt: skip
    except KeyboardInterrupt:
        if any(Path(f"{out}.unfinished{partial}").exists() for partial in ("", PARTIAL)):
            note(f"interrupted; what is done is kept in {out}.unfinished*, and the same command goes on")
        raise
    print_facts(facts_of(SpkFile(out)), how["as_json"])
