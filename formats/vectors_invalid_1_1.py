"""The invalid vectors of version 1.1: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy as st
from drafts import Draft
from spoil import (
    DESCRIPTOR,
    Change,
    array,
    compress,
    copy,
    header,
    model,
    tensors,
)

# fmt: off
C, U = "CorruptError", "UnsupportedError"
CONTEXT, BOXES, MIX, STAGES, TABLES = (
    f"1.1_{name}" for name in ("context", "context_boxes", "context_mix", "stages", "tables"))
KLT = "1.1_klt"
PROTOTYPES, TABLE_PART = 3, 5


def stream(h: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a stream of the header's JSON."""
    return next(s for s in h["streams"] if s["name"] == name)


def without(*names: str) -> Change:
    """Take streams out of a file, and their tiles."""
    def apply(draft: Draft) -> None:
        numbers = [draft.stream(name) for name in names]
        draft.blocks = [b for b in draft.blocks if b.fields["type"] != 3 or b.fields["stream"] not in numbers]
        for block in (b for b in draft.blocks if b.fields["type"] == 3):
            block.fields["stream"] -= sum(number < block.fields["stream"] for number in numbers)
        header(lambda h: h.update(streams=[s for s in h["streams"] if s["name"] not in names]))(draft)

    return apply


def both(*changes: Change) -> Change:
    """Make several changes, which are one thing."""
    def apply(draft: Draft) -> None:
        for change in changes:
            change(draft)

    return apply


def renamed(order: dict[str, str]) -> Change:
    """Give streams other names."""
    return header(lambda h: [s.update(name=order.get(s["name"], s["name"])) for s in h["streams"]])


def prototypes_at(*tiles: tuple[int, int]) -> Change:
    """Let blocks of prototypes be those of these tiles, with so many items each, in a file of many items."""
    def apply(draft: Draft) -> None:
        block = draft.tile(draft.stream("prototype"))
        at = draft.blocks.index(block)
        n, payload = block.fields["n_rows"], block.payload or b""
        coding, width, _, length, base = DESCRIPTOR.unpack(payload[:16])
        blocks = []
        for tile, items in tiles:
            codes = np.frombuffer(payload[16:], np.uint8).reshape(-1, n)[:, :items].tobytes()
            made = copy(block)
            made.payload = DESCRIPTOR.pack(coding, width, 0, length // n * items, base) + codes
            made.fields |= {"tile_item": tile, "span_items": items, "n_rows": items, "raw_len": len(made.payload)}
            blocks.append(made)
        draft.blocks[at:at + 1] = blocks
        draft.commit.update(items=70_000)

    return apply


def named_array(
    name: str, change: Callable[[list[Any], bytes], tuple[list[Any], bytes]], raw: int = 0
) -> Change:
    """Change the first array of a stream's first tile, and by how much its planes would be longer."""
    return lambda draft: array(draft.stream(name), change, raw)(draft)


def words(change: Callable[[np.ndarray], Any]) -> Change:
    """Change the words of entropy-coded codes."""
    def apply(facts: list[Any], stored: bytes) -> tuple[list[Any], bytes]:
        made = np.asarray(change(np.frombuffer(stored, "<u4")), "<u4").tobytes()
        return [*facts[:3], len(made), facts[4]], made

    return named_array("codes", apply)


def word_bytes(change: Callable[[bytes], bytes]) -> Change:
    """Change the bytes of entropy-coded codes."""
    return named_array("codes", lambda f, s: ([*f[:3], len(change(s)), f[4]], change(s)))


def tables(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the tables."""
    return tensors(change, TABLE_PART)


def klt_widths(change: Callable[[list[str]], list[str]]) -> Change:
    """Change the widths of klt."""
    return header(
        lambda h: h["codec"]["config"].update(
            widths=",".join(change(h["codec"]["config"]["widths"].split(",")))))


def moved_up(table: np.ndarray) -> None:
    """Give the frequency of the first code to the second."""
    table[0, 1] += table[0, 0]
    table[0, 0] = 0


def too_many_levels(draft: Draft) -> None:
    """Give codes of 16 bits a table, which may have 4096 levels."""
    n = json.loads(draft.blocks[0].content)["takes"]["classes"]
    flat = np.full((n, 1 << 16), 1 << 8, np.uint32)
    draft.blocks.insert(1, draft.block(st.save({"codes.values": flat}), type=2, stream=TABLE_PART))
    compress(draft.blocks[1])


# name: (kind, valid vector it begins with, why, change of the draft)
DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    # context in the header
    "context_without_prototypes": (C, CONTEXT, "a context without the stream of prototypes",
     without("prototype")),
    "context_missing": (C, CONTEXT, "prototypes without the context that they are for",
     header(lambda h: h.pop("context"))),
    "context_for_no_codec": (C, "raw_fp16", "a context for a codec that takes none",
     header(lambda h: (
         h.update(context={"codec": {"id": "quantize", "config": {"bits": 4}}, "width": 1, "height": 1}),
         h["streams"].append({"name": "prototype", "per": "item", "scope": "item", "arrays": [
             {"name": "levels", "shape": [12], "kind": "uint", "bits": 4, "levels": 16},
             {"name": "minimum", "shape": [], "kind": "uint", "bits": 16, "levels": 1 << 16},
             {"name": "step", "shape": [], "kind": "uint", "bits": 16, "levels": 1 << 16}]})))),
    "context_of_the_codec_alone": (C, CONTEXT, "a codec that takes context in a file that has none",
     both(without("prototype"), header(lambda h: h.pop("context")),
          lambda d: d.blocks.remove(d.model(PROTOTYPES)))),
    "context_as_number": (C, CONTEXT, "1 for true", header(lambda h: h["codec"]["config"].update(context=1))),
    "context_null": (C, "raw_fp16", "a context that is null", header(lambda h: h.update(context=None))),
    "context_unknown_field": (U, CONTEXT, "a context with a field of a later version",
     header(lambda h: h["context"].update(depth=3))),
    "context_width_0": (C, CONTEXT, "pictures of no width", header(lambda h: h["context"].update(width=0))),
    "context_height_2_31": (C, CONTEXT, "pictures of 2^31 lines",
     header(lambda h: h["context"].update(height=1 << 31))),
    "prototypes_unknown_codec": (U, CONTEXT, "prototypes of a codec that is not known",
     header(lambda h: h["context"]["codec"].update(id="klt9"))),
    "prototypes_unknown_setting": (U, CONTEXT, "prototypes with a setting of a later version",
     header(lambda h: h["context"]["codec"]["config"].update(turns=2))),
    "prototypes_missing_setting": (C, CONTEXT, "prototypes without a setting",
     header(lambda h: h["context"]["codec"]["config"].pop("rank"))),
    "prototypes_of_other_codes": (C, CONTEXT, "prototypes of another shape than their codec makes",
     header(lambda h: stream(h, "prototype")["arrays"][0].update(shape=[4]))),
    "prototypes_no_logits": (C, "1.1_context_prototype_codec", "prototypes of a codec that gives no logits",
     header(lambda h: (
         h["context"]["codec"].update(
             id="topk", config={"k": 12, "value": "fp16", "tail": "zero", "tail_temperature": "1.0"}),
         stream(h, "prototype").update(arrays=[
             {"name": "ids", "shape": [12], "kind": "uint", "bits": 4, "levels": 12},
             {"name": "values", "shape": [12], "kind": "uint", "bits": 16, "levels": 1 << 16}])))),
    "prototypes_given_context": (C, CONTEXT, "prototypes of a codec that takes context itself",
     both(header(lambda h: (
         h["context"].update(codec=h["codec"]),
         stream(h, "prototype").update(arrays=stream(h, "codes")["arrays"]))),
         lambda d: d.model(PROTOTYPES).change(d.model().content))),
    "prototypes_in_stages": (C, "1.1_stages_context_log_probs_t2", "prototypes of a codec of two stages",
     both(header(lambda h: (
         h["context"]["codec"].update(id="vqae", config={
             name: value for name, value in h["codec"]["config"].items() if name not in ("context", "d_x")}),
         stream(h, "prototype").update(arrays=stream(h, "codes")["arrays"] + stream(h, "codes_2")["arrays"]))),
         lambda d: d.model(PROTOTYPES).change(d.model().content),
         tensors(lambda t: [t.pop(name) for name in ("context_weight", "context_hidden")], PROTOTYPES))),
    "prototypes_per_row": (U, CONTEXT, "prototypes per row",
     header(lambda h: stream(h, "prototype").update(per="row"))),
    # streams
    "stages_out_of_order": (C, STAGES, "the second stage after the third",
     renamed({"codes_2": "codes_3", "codes_3": "codes_2"})),
    "stages_with_a_gap": (C, STAGES, "a fourth stage where the third is due", renamed({"codes_3": "codes_4"})),
    "stages_after_others": (C, "1.1_stages_context_log_probs_t2", "the second stage after the prototypes",
     header(lambda h: h["streams"].append(h["streams"].pop(1)))),
    "stages_more_than_settings": (C, STAGES, "three stages where the settings say two",
     both(header(lambda h: h["codec"]["config"].update(stages=2)),
          tensors(lambda t: t.update(codebooks=t["codebooks"][:2])))),
    "stages_fewer_than_settings": (C, STAGES, "two stages where the settings say three", without("codes_3")),
    "stage_1": (U, STAGES, "a stream codes_1", renamed({"codes_3": "codes_1"})),
    "stage_65": (U, STAGES, "a stream codes_65", renamed({"codes_3": "codes_65"})),
    "mix_without_context": (C, STAGES, "the stream mix where there is no context",
     header(lambda h: h["streams"].append(MIX_STREAM))),
    "mix_beside_replay": (C, BOXES, "the stream mix beside replay",
     header(lambda h: h["streams"].append(MIX_STREAM))),
    "mix_without_share": (C, MIX, "the stream mix without shares",
     header(lambda h: stream(h, "mix")["arrays"].pop())),
    "mix_in_other_order": (C, MIX, "the stream mix with the shares first",
     header(lambda h: stream(h, "mix")["arrays"].reverse())),
    "mix_share_of_16_bits": (C, MIX, "shares of 16 bits",
     header(lambda h: stream(h, "mix")["arrays"][1].update(bits=16, levels=1 << 16))),
    "replay_with_share": (U, BOXES, "shares among the replay columns",
     header(lambda h: stream(h, "replay")["arrays"].append(MIX_STREAM["arrays"][1]))),
    # prototypes
    "prototypes_begin_late": (C, CONTEXT, "prototypes of items from 65536 on, without those before",
     prototypes_at((1, 6))),
    "prototypes_with_a_gap": (C, CONTEXT, "prototypes of 4 of the first 65536 items, and of items behind them",
     prototypes_at((0, 4), (1, 2))),
    # model
    "model_part_2": (U, CONTEXT, "part 2 of the model, which there is not",
     lambda d: d.model(PROTOTYPES).fields.update(stream=2)),
    "model_part_6": (U, CONTEXT, "a part of the model of a later version",
     lambda d: d.model(PROTOTYPES).fields.update(stream=6)),
    "prototypes_without_model": (C, CONTEXT, "what decodes the prototypes is missing",
     lambda d: d.blocks.remove(d.model(PROTOTYPES))),
    "prototypes_of_wrong_shape": (C, CONTEXT, "prototypes of other classes",
     tensors(lambda t: t.update(basis=t["basis"][:, 1:]), PROTOTYPES)),
    "prototypes_model_twice": (C, CONTEXT, "what decodes the prototypes stands twice",
     lambda d: d.blocks.insert(1, copy(d.model(PROTOTYPES)))),
    "prototypes_model_needless": (C, STAGES, "a model of prototypes in a file without context",
     lambda d: d.blocks.insert(1, d.block(st.save({"mean": np.zeros(12, "f2")}), type=2, stream=PROTOTYPES))),
    "prototypes_encoder_needless": (C, STAGES, "an encoder of prototypes in a file without context",
     lambda d: d.blocks.insert(1, d.block(st.save({"mean": np.zeros(12, "f2")}), type=2, stream=4))),
    "context_weight_missing": (C, CONTEXT, "the decoder lacks what it needs for context",
     tensors(lambda t: t.pop("context_weight"))),
    "model_encoder_within": (C, "1.1_context_no_rows", "the encoder is stored with the decoder",
     lambda d: (d.model(0).change(st.save(st.load(d.model(0).content) | st.load(d.model(1).content))),
                d.blocks.remove(d.model(1)))),
    "stages_codebooks_of_two": (C, STAGES, "codebooks of two stages of three",
     tensors(lambda t: t.update(codebooks=t["codebooks"][:2]))),
    # klt
    "klt_widths_spelled": (C, KLT, "widths with a zero in front",
     klt_widths(lambda parts: ["0" + parts[0], *parts[1:]])),
    "klt_widths_of_more_axes": (C, KLT, "widths of more axes than the rank",
     header(lambda h: h["codec"]["config"].update(rank=h["codec"]["config"]["rank"] - 1))),
    "klt_widths_rise": (C, KLT, "widths from narrow to wide", klt_widths(lambda parts: parts[::-1])),
    "klt_widths_twice": (C, KLT, "a width that stands twice", klt_widths(lambda parts: [*parts[:-1], "1x1", "1x1"])),
    "klt_shift_short": (C, KLT, "a level without its shift", tensors(lambda t: t.update(shift=t["shift"][:-1]))),
    "klt_axes_of_16_bits": (C, KLT, "axes in binary16", tensors(lambda t: t.update(axes=t["axes"].astype("f2")))),
    "klt_scale_nan": (C, KLT, "NaN among the scales", tensors(lambda t: t["scale"].fill(float("nan")))),
    # tables
    "table_sum": (C, TABLES, "frequencies that sum to 2^24 - 1",
     tables(lambda t: np.subtract(t["codes.index"], t["codes.index"] == t["codes.index"].max(),
                                  out=t["codes.index"]))),
    "table_sum_2_32": (C, "1.1_tables_2_levels", "frequencies that sum to 2^24 + 2^32",
     tables(lambda t: t.update({"codes.levels": np.array([[(1 << 24) + 1, (1 << 32) - 1]], np.uint32)}))),
    "table_of_zero": (C, TABLES, "a frequency of 0", tables(lambda t: moved_up(t["mix.mix_share"]))),
    "table_of_floats": (C, TABLES, "frequencies in binary32",
     tables(lambda t: t.update({"codes.index": t["codes.index"].astype("f4")}))),
    "table_of_fewer_columns": (C, TABLES, "frequencies of fewer columns",
     tables(lambda t: t.update({"codes.index": t["codes.index"][:-1]}))),
    "table_of_other_levels": (C, TABLES, "frequencies of one code too many",
     tables(lambda t: t.update({"codes.index": np.hstack([
         t["codes.index"] - (t["codes.index"] == t["codes.index"].max(1, keepdims=True)).astype("u4"),
         np.ones((3, 1), "u4")])}))),
    "table_of_too_many_levels": (C, "raw_fp16", "frequencies of 65536 levels", too_many_levels),
    "table_of_no_array": (C, TABLES, "a table for an array that is not there",
     tables(lambda t: t.update({"codes.level": t["codes.index"]}))),
    "table_of_a_column": (C, TABLES, "a table for a column of int",
     tables(lambda t: t.update({"mix.mix_item": t["codes.index"]}))),
    "table_twice": (C, TABLES, "the tables stand twice",
     lambda d: d.blocks.insert(1, copy(d.model(TABLE_PART)))),
    "table_no_safetensors": (C, TABLES, "tables that are no safetensors",
     model(lambda data: b"\x80\x04pickle" + bytes(32), TABLE_PART)),
    # entropy-coded arrays
    "words_without_table": (C, TABLES, "entropy-coded codes without their table",
     tables(lambda t: t.pop("codes.index"))),
    "words_of_a_column": (C, MIX, "a column of int that says it is entropy-coded",
     named_array("mix", lambda f, s: ([3, *f[1:]], s))),
    "words_of_presence": (C, "ragged", "presence bits that say they are entropy-coded",
     array(0, lambda f, s: ([3, *f[1:]], s))),
    "words_with_a_base": (C, TABLES, "entropy-coded codes with a base",
     named_array("codes", lambda f, s: ([*f[:4], 1], s))),
    "words_of_another_width": (C, TABLES, "entropy-coded codes of 4 bits where the header says 3",
     named_array("codes", lambda f, s: ([f[0], 4, *f[2:]], s), raw=15)),
    "words_of_width_0": (C, TABLES, "entropy-coded numbers of no bits",
     named_array("codes", lambda f, s: ([f[0], 0, *f[2:]], s), raw=-48)),
    "words_none": (C, TABLES, "entropy-coded codes of no words", word_bytes(lambda s: b"")),
    "words_one": (C, TABLES, "entropy-coded codes of a single word", word_bytes(lambda s: s[-4:])),
    "words_cut": (C, TABLES, "entropy-coded codes of half a word more", word_bytes(lambda s: bytes(2) + s)),
    "words_last_is_0": (C, TABLES, "a last word of 0", words(lambda w: [*w[:-1], w[-1], 0])),
    "words_left_over": (C, TABLES, "a word too many in front", words(lambda w: [7, *w])),
    "words_missing": (C, TABLES, "the first word is missing", words(lambda w: w[1:])),
    "words_of_another_end": (C, TABLES, "a first word that leads to another end",
     words(lambda w: [w[0] ^ 1, *w[1:]])),
    "words_for_planes": (C, TABLES, "entropy-coded codes that say they are planes",
     named_array("codes", lambda f, s: ([0, *f[1:]], s))),
}
MIX_STREAM = {"name": "mix", "per": "row", "scope": "codes", "arrays": [
    {"name": "mix_item", "shape": [], "kind": "int", "bits": 32, "levels": 1 << 32},
    {"name": "mix_share", "shape": [], "kind": "uint", "bits": 8, "levels": 1 << 8}]}
# fmt: on
