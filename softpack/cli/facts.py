"""What `info` and `encode` say of a file. No torch."""

from __future__ import annotations

import json
from typing import Any

import click

from softpack.accounting import size
from softpack.container.corrections import read_corrections
from softpack.container.file import SpkFile
from softpack.container.ledger import ledger_of
from softpack.container.tiles import read_items
from softpack.format.language import FINGERPRINTS
from softpack.format.layout import VERSION_MAJOR

ITEM_STREAMS = ("source", "target", "sequence")


def facts_of(file: SpkFile) -> dict[str, Any]:
    """Return what there is to know of a file without decoding it.

    Raises:
        FormatError: it is damaged.
    """
    account, header, commit = ledger_of(file), file.header, file.commit
    corrected_rows, corrections = _corrected(file)
    correction_bits = sum(entry.n_bits for entry in account.entries if entry.what == "corrections")
    return {
        "file": file.name,
        "format": f"spk {VERSION_MAJOR}.{file.minor}",
        "codec": header.codec_id,
        "config": dict(header.config),
        "items": commit.items,
        "views": commit.views,
        "classes": header.gives.classes,
        "rows": commit.n_rows,
        "space": header.gives.space,
        "temperature": header.gives.temperature,
        "encoded_from": header.takes.space,
        "columns": [
            *header.replay_columns,
            *(a.name for stream in header.streams if stream.name in ITEM_STREAMS for a in stream.arrays),
        ],
        "columns_are_drawn": header.recipe is not None and header.stream("replay") is None,
        "recipe": header.recipe and vars(header.recipe),
        "sequence_tokens": _tokens(file),
        "fingerprints": dict(header.fingerprints),
        "forced": list(header.forced),
        "tile": [header.tile_items, header.tile_views],
        "commits": commit.number + 1,
        "bytes": file.file_len,
        "marginal_bits_per_label": account.marginal_bits_per_label,
        "all_in_bits_per_label": account.all_in_bits_per_label,
        "codes_bits_per_label": account.bits_of("codes") / max(commit.n_rows, 1),
        "model_bits_per_label": account.bits_of("model") / max(commit.n_rows, 1),
        "max_kl": header.correction and header.correction.max_kl,
        "max_kl_temperatures": list(header.correction.temperatures) if header.correction else [],
        "corrected_rows": corrected_rows,
        "corrections": corrections,
        "correction_bits_per_label": correction_bits / max(commit.n_rows, 1),
        "replay_bits_per_label": account.bits_of("replay") / max(commit.n_rows, 1),
        "ratio_vs_fp16": account.ratio_vs(16),
        "made_by": dict(header.made_by),
    }


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts for people, or as JSON."""
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, text in _lines(facts):
        click.echo(f"{name:<12} {text}")


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    settings = " ".join(f"{key}={value}" for key, value in facts["config"].items())
    space = facts["space"] if facts["space"] == "logits" else f"{facts['space']} at T={facts['temperature']:g}"
    each = [("each", f"{facts['classes']:,} {space}"), ("codec", f"{facts['codec']}  {settings}")]
    file = ("file", f"{facts['file']}  ({facts['format']}, {size(facts['bytes'])})")
    if not facts["rows"]:
        return [file, ("labels", "none: a model for `encode --model`"), *each]
    cells = facts["items"] * facts["views"]
    is_whole = facts["rows"] == cells or facts["sequence_tokens"] is not None  # sequences differ in length
    missing = "" if is_whole else f" ({cells - facts['rows']:,} views missing)"
    marginal, all_in = facts["marginal_bits_per_label"], facts["all_in_bits_per_label"]
    return [
        file,
        ("labels", f"{facts['rows']:,} of {facts['items']:,} items x {facts['views']:,} views{missing}"),
        *each,
        ("columns", ", ".join(facts["columns"]) or "none"),
        *_recipe(facts),
        *_language(facts),
        *_promise(facts),
        ("bits/label", f"{marginal:.2f} marginal; {all_in:.2f} all-in, of which " + _shares(facts)),
        ("ratio", f"{facts['ratio_vs_fp16']:.1f} times smaller than fp16 (whole file)"),
        *_source(facts),
    ]


def _source(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what `encode` says of where the labels come from."""
    if "source" not in facts:
        return []
    order = f"; order by {facts['order_known_by']}" if facts["order_known_by"] else ""
    skipped = f"; {len(facts['left_out'])} files left out" if facts["left_out"] else ""
    times = facts["source_bytes"] / facts["bytes"]
    return [
        (
            "source",
            f"{facts['source']}  ({size(facts['source_bytes'])}, {times:.1f} times the file{order}{skipped})",
        )
    ]


def _recipe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    if facts["recipe"] is None:
        return []
    settings = " ".join(
        f"{name}={_spelled(value)}" for name, value in facts["recipe"].items() if value is not None
    )
    what = "columns are drawn by it, not stored" if facts["columns_are_drawn"] else "columns are stored"
    return [("recipe", f"{settings}; {what}")]


def _language(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if facts["sequence_tokens"] is not None:
        lines.append(
            ("sequences", f"{facts['items']:,} of {facts['sequence_tokens']:,} tokens in all, every one kept")
        )
    if facts["fingerprints"]:
        said = [
            f"{name} {facts['fingerprints'][name][:16]}"
            for name in FINGERPRINTS
            if name in facts["fingerprints"]
        ]
        lines.append(("from", ", ".join(said)))
    if facts["forced"]:
        forced = ", ".join(map(str, facts["forced"][:8])) + (", ..." if len(facts["forced"]) > 8 else "")
        lines.append(("kept exactly", f"{len(facts['forced']):,} tokens of every row: {forced}"))
    return lines


def _tokens(file: SpkFile) -> int | None:
    """Return the tokens of all sequences of a file; None where it has none."""
    found = file.header.stream("sequence")
    return None if found is None else int(read_items(file, *found)["length"].sum(dtype="int64"))


def _spelled(value: Any) -> str:
    return ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


def _corrected(file: SpkFile) -> tuple[int, int]:
    """Return how many rows of a file are corrected, and by how many corrections."""
    n_rows, n_corrections = 0, 0
    for part in file.parts:
        found = read_corrections(file, part)
        n_rows, n_corrections = n_rows + found.n_rows, n_corrections + len(found)
    return n_rows, n_corrections


def _promise(facts: dict[str, Any]) -> list[tuple[str, str]]:
    if facts["max_kl"] is None:
        return []
    at = ", ".join(f"{T:g}" for T in facts["max_kl_temperatures"])
    corrected = (
        f"{facts['corrected_rows']:,} of {facts['rows']:,} labels, by {facts['corrections']:,} corrections "
        f"({facts['correction_bits_per_label']:.2f} bits a label)"
    )
    return [("promise", f"no row worse than KL {facts['max_kl']:g} at T = {at}"), ("corrected", corrected)]


def _shares(facts: dict[str, Any]) -> str:
    shares = ("codes", "model", "replay")
    return ", ".join(f"{share} {facts[f'{share}_bits_per_label']:.2f}" for share in shares)
