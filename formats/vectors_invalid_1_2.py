"""The invalid vectors of version 1.2: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy as st
from drafts import Draft
from spoil import DESCRIPTOR, Change, copy, header, tensors
from vectors_invalid_1_1 import stream, without

from softpack.entropy.arrays import decode_array, encode_array

# fmt: off
C, U = "CorruptError", "UnsupportedError"
SOME, NONE, PARTS = (f"1.2_correction{name}" for name in ("", "_none", "_parts"))
CROPS, PIXELS, MIXED = (f"1.2_crops{name}" for name in ("", "_pixels", "_mixed"))
BASIS = 7


def entries(change: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]], number: int = 0) -> Change:
    """Change gaps and values of the corrections of a part, stored as plain numbers of 32 bits."""
    def apply(draft: Draft) -> None:
        block = draft.tile(draft.stream("correction"), number)
        view, found = memoryview(block.payload or b""), []
        for name in ("gap", "value"):
            values, used = decode_array(view, block.fields["n_rows"], 1, 32, None, name)
            found.append(values[:, 0].astype(np.int64))
            view = view[used:]
        made = [encode_array(np.asarray(values)[:, None]) for values in change(*found)]
        block.payload = b"".join(data for data, _ in made)
        block.fields |= {"raw_len": sum(raw for _, raw in made), "n_rows": len(change(*found)[0])}

    return apply


def at(values: np.ndarray, place: int, value: int) -> np.ndarray:
    """Return numbers with another one at a place."""
    return np.concatenate([values[:place], [value], values[place:][1:]])


def correction(**values: Any) -> Change:
    """Change fields of the header's `correction`."""
    return header(lambda h: h["correction"].update(values))


def moved(**fields: int) -> Change:
    """Change fields of the block of the first corrections."""
    return lambda d: d.tile(d.stream("correction")).fields.update(fields)


def twice(draft: Draft) -> None:
    """Let a part have its corrections twice."""
    block = draft.tile(draft.stream("correction"))
    draft.blocks.insert(draft.blocks.index(block), copy(block))


def of_no_entries(draft: Draft) -> None:
    """Let a part have a block of no corrections."""
    block = draft.tile(draft.stream("correction"))
    block.payload = 2 * DESCRIPTOR.pack(0, 0, 0, 0, 1)
    block.fields |= {"n_rows": 0, "raw_len": 32}


def huge(draft: Draft) -> None:
    """Let a part say that it has 2^24 corrections in no bits."""
    block = draft.tile(draft.stream("correction"))
    block.payload = 2 * DESCRIPTOR.pack(0, 0, 0, 0, 1)
    block.fields |= {"n_rows": 1 << 24, "raw_len": 32}


def in_words(draft: Draft) -> None:
    """Let gaps say that they are entropy-coded."""
    block = draft.tile(draft.stream("correction"))
    block.payload = b"\x03" + (block.payload or b"")[1:]


def degree(value: Any) -> Change:
    """Say another degree."""
    return header(lambda h: h["context"].update(degree=value))


def basis(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the functions of viewpoints."""
    return tensors(change, BASIS)


def beside(draft: Draft) -> None:
    """Give a file whose items have one prototype functions of viewpoints."""
    made = st.save({"weight": np.eye(4, dtype=np.float32)})
    draft.blocks.insert(1, draft.block(made, type=2, stream=BASIS))


def lost_partner(draft: Draft) -> None:
    """Let a row be mixed with an item beyond those of the file."""
    block = draft.tile(draft.stream("replay"))
    names = [a["name"] for a in stream(json.loads(draft.blocks[0].content), "replay")["arrays"]]
    shapes = {"crop_xywh_fraction": (4, 32), "mix_item": (1, 32), "mix_box_xyxy": (4, 32)}
    view, made, n, before = memoryview(block.payload or b""), [], block.fields["n_rows"], 0
    for name in names:
        size, used = shapes[name][0], 0
        if name == "mix_item":
            values, used = decode_array(view, n, size, 32, None, name)
            values = values.astype(np.int64)
            before = encode_array(values)[1]
            values[values >= 0] = 1000
            made.append(encode_array(values))
        else:
            _, _, _, length, _ = DESCRIPTOR.unpack(view[:16])
            used = 16 + length
            made.append((bytes(view[:used]), 0))
        view = view[used:]
    block.payload = b"".join(data for data, _ in made)
    block.fields["raw_len"] += made[names.index("mix_item")][1] - before


# name: (kind, valid vector it begins with, why, change of the draft)
DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    # prototypes that are weighted by crops
    "crops_degree_0": (C, CROPS, "a degree of 0, which is none", degree(0)),
    "crops_degree_4": (C, CROPS, "a degree above 3", degree(4)),
    "crops_degree_true": (C, CROPS, "a degree that is true", degree(True)),
    "crops_degree_2_of_4_prototypes": (C, CROPS, "a degree of 2, but prototypes of one of 1", degree(2)),
    "crops_without_degree": (C, CROPS, "several prototypes of an item, but no degree",
     header(lambda h: h["context"].pop("degree"))),
    "crops_without_functions": (C, CROPS, "no functions that prototypes are weighted by",
     lambda d: d.blocks.remove(d.model(BASIS))),
    "crops_functions_of_one_prototype": (C, "1.1_context", "functions where an item has one prototype", beside),
    "crops_functions_without_context": (C, "raw_fp16", "functions where there is no context", beside),
    "crops_functions_twice": (C, CROPS, "functions in two blocks",
     lambda d: d.blocks.insert(1, copy(d.model(BASIS)))),
    "crops_functions_of_other_shape": (C, CROPS, "functions of another degree",
     basis(lambda t: t.update(weight=np.eye(10, dtype=np.float32)))),
    "crops_functions_fp16": (C, CROPS, "functions in fp16",
     basis(lambda t: t.update(weight=t["weight"].astype(np.float16)))),
    "crops_functions_nan": (C, CROPS, "functions with nan",
     basis(lambda t: t.update(weight=np.full((4, 4), np.nan, np.float32)))),
    "crops_functions_by_another_name": (C, CROPS, "functions by another name",
     basis(lambda t: t.update(weights=t.pop("weight")))),
    "crops_functions_and_more": (C, CROPS, "functions beside another tensor",
     basis(lambda t: t.update(more=t["weight"]))),
    "crops_not_there": (C, CROPS, "rows that do not say where they look", without("replay")),
    "crops_pixels_without_sizes": (C, PIXELS, "crops in pixels of nobody knows how many", without("source")),
    "crops_lost_partner": (C, MIXED, "rows mixed with an item that has no such row", lost_partner),
    # header
    "correction_without_stream": (C, SOME, "a step for corrections that there are none of", without("correction")),
    "correction_without_step": (C, NONE, "corrections without the step that they are multiples of",
     header(lambda h: h.pop("correction"))),
    "correction_null": (C, NONE, "a correction that is null", header(lambda h: h.update(correction=None))),
    "correction_unknown_field": (U, NONE, "a correction with a field of a later version", correction(more="1.0")),
    "correction_missing_field": (C, NONE, "a correction without the promise",
     header(lambda h: h["correction"].pop("max_kl"))),
    "correction_step_0": (C, NONE, "a step of 0", correction(step="0.0")),
    "correction_step_infinite": (C, NONE, "a step above all numbers", correction(step="1e999")),
    "correction_step_negative": (C, NONE, "a negative step", correction(step="-1.0")),
    "correction_step_a_number": (C, NONE, "a step that is no decimal", correction(step=1)),
    "correction_max_kl_0": (C, NONE, "a promise of 0", correction(max_kl="0")),
    "correction_at_no_temperature": (C, NONE, "a promise at no temperature", correction(temperatures=[])),
    "correction_at_a_temperature_twice": (C, NONE, "a promise at T = 4 twice",
     correction(temperatures=["4.0", "1.0", "4"])),
    "correction_at_temperature_0": (C, NONE, "a promise at T = 0", correction(temperatures=["1.0", "0.0"])),
    "correction_at_17_temperatures": (C, NONE, "a promise at 17 temperatures",
     correction(temperatures=[f"{T}.0" for T in range(1, 18)])),
    "correction_at_one_temperature": (C, NONE, "temperatures that are no list", correction(temperatures="1.0")),
    # stream
    "correction_per_row": (U, NONE, "corrections per row",
     header(lambda h: stream(h, "correction").update(per="row"))),
    "correction_of_item_scope": (U, NONE, "corrections of another scope",
     header(lambda h: stream(h, "correction").update(scope="item"))),
    "correction_without_values": (C, NONE, "corrections without values",
     header(lambda h: stream(h, "correction")["arrays"].pop())),
    "correction_turned_round": (C, NONE, "corrections with the values first",
     header(lambda h: stream(h, "correction")["arrays"].reverse())),
    "correction_of_16_bits": (C, NONE, "values of 16 bits",
     header(lambda h: stream(h, "correction")["arrays"][1].update(bits=16, levels=1 << 16))),
    "correction_with_class": (U, NONE, "corrections with an array of a later version",
     header(lambda h: stream(h, "correction")["arrays"].append(
         {"name": "class", "shape": [], "kind": "int", "bits": 32, "levels": 1 << 32}))),
    # tiles
    "correction_twice": (C, SOME, "the corrections of a part twice", twice),
    "correction_of_no_part": (C, SOME, "corrections of a part that is not there", moved(part=3)),
    "correction_of_other_cells": (C, SOME, "corrections that cover fewer views than their part",
     moved(span_views=4)),
    "correction_of_nothing": (C, SOME, "a block of no corrections", of_no_entries),
    "correction_huge_of_width_0": (C, SOME, "2^24 corrections in no bits, of 240 numbers", huge),
    "correction_of_more_entries": (C, SOME, "a block that says one entry too many",
     lambda d: moved(n_rows=d.tile(d.stream("correction")).fields["n_rows"] + 1)(d)),
    "correction_gap_0": (C, SOME, "a number corrected twice", entries(lambda gap, value: (at(gap, 3, 0), value))),
    "correction_first_gap_0": (C, SOME, "a correction before the first number",
     entries(lambda gap, value: (at(gap, 0, 0), value))),
    "correction_gap_negative": (C, SOME, "corrections out of order",
     entries(lambda gap, value: (at(at(gap, 3, -1), 4, gap[3] + gap[4] + 1), value))),
    "correction_beyond_the_rows": (C, SOME, "a correction of the number behind the last",
     entries(lambda gap, value: (np.append(gap, 241 - gap.sum()), np.append(value, 1)))),
    "correction_far_beyond_the_rows": (C, SOME, "gaps whose sum is 2^32 more than the last number",
     entries(lambda gap, value: (np.append([(1 << 31) - 1, (1 << 31) - 1, 2], gap), np.append([1, 1, 1], value)))),
    "correction_of_a_missing_row": (C, PARTS, "a correction behind the rows that are there",
     entries(lambda gap, value: (np.append(gap, 13 - gap.sum()), np.append(value, 1)), number=2)),
    "correction_by_0": (C, SOME, "a correction by nothing", entries(lambda gap, value: (gap, at(value, 3, 0)))),
    "correction_by_2_31": (C, SOME, "a correction by 2^31 steps",
     entries(lambda gap, value: (gap, at(value, 3, 1 << 31)))),
    "correction_in_words": (C, SOME, "corrections that say they are entropy-coded", in_words),
}
# fmt: on
