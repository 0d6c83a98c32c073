# fmt: off
# ruff: noqa: I001, F401
"""Read an .spk file: spk.md in Python, plain and slow (python THIS FILE.spk -o OUT.npz [CHECKPOINT])."""
import json
import math
import re
import sys
from collections import namedtuple
from typing import Any

import numpy as np
from reference_blocks import (DECODER, ENCODER, MALFORMED, MODEL, PARTS, PROTOTYPE_ENCODER, PROTOTYPES,
                              TABLES, TILE, VIEW_BASIS, read_blocks)
from reference_codecs import (CorruptError, NotSpkError, TruncatedError, UnsupportedError, fields, need,
                              read_tensors, read_tile, settings_of)
from reference_context import context_of, correct, weights_of
from reference_language import decode, gives_of, page_of, with_matrix
from reference_sequences import check_sequences
from reference_settings import same_labels
from reference_recipe import draw, mixes, read_recipe

STREAMS = {  # name: per, scope, and the columns that it may have
    **dict.fromkeys(["codes", *(f"codes_{stage}" for stage in range(2, 65))], ("row", "codes", "")),
    "prototype": ("item", "item", ""), "mix": ("row", "codes", "mix_item mix_share"),
    "replay": ("row", "replay",
               "crop_xywh crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy patch_order cutout aug_seed "
               "token log_z"),
    "forced": ("row", "codes", "log_prob"), "sequence": ("item", "replay", "length first_token token_hash"),
    "correction": ("correction", "codes", "gap value"),
    "source": ("item", "replay", "source_hw"), "target": ("item", "item", "target")}
COLUMNS = {  # name: kind, bits, shape
    "crop_xywh": ("int", 32, [4]), "crop_xywh_fraction": ("float32", 32, [4]), "flip": ("bool", 1, []),
    "mix_item": ("int", 32, []), "mix_lam": ("float32", 32, []), "mix_box_xyxy": ("int", 32, [4]),
    "mix_share": ("uint", 8, []), "patch_order": ("int", 32, [2]), "source_hw": ("int", 32, [2]),
    "target": ("int", 32, []), "cutout": ("float32", 32, [7]), "aug_seed": ("int", 32, []),
    "gap": ("int", 32, []), "value": ("int", 32, []), "token": ("int", 32, []), "log_z": ("float32", 32, []),
    "length": ("int", 32, []), "first_token": ("int", 32, []), "token_hash": ("int", 32, [2])}
Array: Any = namedtuple("Array", "name shape kind bits levels")
Stream: Any = namedtuple("Stream", "name per arrays items_per_tile")
PRESENCE = Stream("presence", "row", [Array("here", [], "bool", 1, 2)], 0)

def read_stream(value: Any) -> Any:
    """Return a stream of the header: section 7."""
    name, per, scope, declared = fields(value, "name per scope arrays")
    need((per, scope) == STREAMS.get(name, ())[:2], f"stream {name}, {per}, {scope}", UnsupportedError)
    arrays = [Array._make(fields(array, "name shape kind bits levels")) for array in declared]
    columns = STREAMS[name][2].split()
    for a in arrays:
        need(a.name in columns or (a.kind == "uint" and not columns), f"{name}: {a.name}", UnsupportedError)
        column = COLUMNS.get(a.name, ("float32", 32, a.shape))  # of log_prob, which has many shapes
        expected = column if columns else ("uint", (a.levels - 1).bit_length() or 1, a.shape)
        need((a.kind, a.bits, a.shape) == expected, f"{name}: {a.name}")
    most = (1 << 22) // max(1, sum(math.prod(a.shape) for a in arrays))
    return Stream(name, per, arrays, max(1, min(1 << 16, most)))
def read_header(data: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Return the header, and its streams by their numbers, presence bits first: section 6."""
    root = json.loads(data.decode(), parse_float=str, parse_constant=str)
    need(json.dumps(root, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data, "JSON")
    codec, takes, gives, tile, declared, _, context, correction, recipe, images, _, _ = fields(
        root, "codec takes gives tile streams made_by", "context correction recipe images fingerprints forced")
    spaces = {fields(labels, "classes space temperature")[1] for labels in (takes, gives)}
    need(spaces <= {"logits", "log_probs", "probs", "hidden"}, f"spaces {spaces}", UnsupportedError)
    c, streams = takes["classes"], [read_stream(value) for value in declared]
    need(1 < c <= 1 << 24 >= math.prod(fields(tile, "items views")) > 0, "classes or tile")
    pages = {f"codes_{n}" if n > 1 else "codes": arrays for n, arrays in enumerate(page_of(codec, c)[0], 1)}
    names, takes_context = [stream.name for stream in streams], settings_of(codec)[1]["context"]
    need(names[:len(pages)] == [*pages] and len({*names}) == len(names), f"streams {names}")
    if context:
        of_items, width, height, degree = fields(context, "codec width height", "degree")
        need(0 < width < 1 << 31 and 0 < height < 1 << 31, "size of pictures")
        need("degree" not in context or (type(degree) is int and 1 <= degree <= 3), f"degree {degree}")
        [arrays], _ = page_of(of_items, c)
        several = [math.comb(degree + 3, 3)] if degree else []
        pages["prototype"] = [(name, [*several, *shape], levels) for name, shape, levels in arrays]
        logits = {**takes, "space": "logits", "temperature": "1.0"}
        need(gives_of(of_items, logits) == logits and not settings_of(of_items)[1]["context"], "prototypes")
    made = {s.name: [(a.name, a.shape, a.levels) for a in s.arrays] for s in streams if not STREAMS[s.name][2]}
    need(made == pages and takes_context == ("context" in root), "codes or context")
    whole = {s.name: [a.name for a in s.arrays] for s in streams if s.name in ("mix", "correction")}
    for name, found in whole.items():
        need(found == STREAMS[name][2].split(), f"{name} of {found}")
    need("mix" not in whole or (context and "replay" not in names), "mix")
    need(("correction" in whole) == ("correction" in root), "corrections without their step, or none")
    if correction:
        max_kl, step, temperatures = fields(correction, "max_kl step temperatures")
        for number in [max_kl, step, *temperatures]:
            need(type(number) is str and 0 < float(number) < math.inf, f"correction: {number}")
        need(1 <= len({*map(float, temperatures)}) == len(temperatures) <= 16, f"temperatures {temperatures}")
    check_sequences(root, streams)
    if "recipe" in root:
        root["recipe"] = recipe = read_recipe(recipe)
        need("mix" not in whole and (not recipe["scale"] or {"replay", "source"} & {*names}), "a recipe")
    if "images" in root:
        need(1 <= len(images) <= 64, "images")
        for item, look in images.items():
            need(re.fullmatch("(0|[1-9][0-9]{0,9}) [0-9a-f]{32}", f"{item} {look}"), f"image {item}")
    need(same_labels(gives, gives_of(codec, takes)), f"gives {gives}")
    return root, [PRESENCE, *streams]

def read_model(blocks: list[Any], streams: list[Any], context: Any) -> dict[int, dict[str, Any]]:
    """Return the tensors of each part of the model, checked if they are tables: section 9."""
    parts: dict[int, dict[str, Any]] = {part: {} for part in PARTS}
    for b in (b for b in blocks if b.type == MODEL):
        need(context or b.stream not in (PROTOTYPES, PROTOTYPE_ENCODER), "prototypes for no context")
        tensors = read_tensors(b.payload) if b.stream not in (ENCODER, PROTOTYPE_ENCODER) else {}
        need(not tensors.keys() & parts[b.stream].keys(), "a tensor twice")
        parts[b.stream] |= tensors
    need({*parts[VIEW_BASIS]} == ({"weight"} if context and "degree" in context else set()), "part 7")
    arrays = {f"{s.name}.{a.name}": a for s in streams[1:] for a in s.arrays if a.kind == "uint"}
    for name, table in parts[TABLES].items():
        shape = math.prod(arrays[name].shape), arrays[name].levels
        need((table.dtype, table.shape) == ("<u4", shape) and shape[1] <= 4096, f"table {name}: shape")
        need(table.min() > 0 and (table.sum(axis=1, dtype=np.int64) == 1 << 24).all(), f"table {name}: sum")
    return parts

def read_tiles(blocks: list[Any], streams: list[Any], tables: Any, c: int, tile: Any, counts: Any) -> list[Any]:
    """Return for each stream its tiles, by their place: section 8."""
    tiles: list[Any] = [{} for _ in streams]
    for b in (b for b in blocks if b.type == TILE):
        stream, found, n = streams[b.stream], tiles[b.stream], b.span_items * b.span_views
        of_item, most = stream.per == "item", n * c if stream.per == "correction" else n
        sides, ends = ((stream.items_per_tile, 1), (counts[0], 1)) if of_item else (tile, counts)
        key = {"row": (*b[6:11], b.part), "item": (b.tile_item,), "correction": (*b[6:10], b.part)}[stream.per]
        need(1 <= b.n_rows <= most and (of_item or key not in found), f"{key}: twice, or of another size")
        for place, span, side, end in zip(b[6:8], b[8:10], sides, ends, strict=False):
            need(span <= side and place * side + span <= end <= 1 << 31, f"{key}: a tile outside, or too large")
        found[key] = read_tile(b.payload, b.raw, stream, b.n_rows if b.stream else n, tables)
    return tiles
def read_cells(presence: Any, parts: Any, tile: Any) -> Any:
    """Return item and view of all rows [n, 2], part by part: section 8."""
    cells = [np.zeros((0, 2), int)]
    for key in parts:
        full = key[4] == key[2] * key[3]
        here = np.ones(key[2:4]) if full else presence.pop(key)["here"].reshape(key[2:4])
        cells.append(np.argwhere(here) + np.multiply(key[:2], tile))
        need(len(cells[-1]) == key[4], "presence bits that are not the rows")
    need(not presence, "presence bits of a full part, or of none")
    return np.concatenate(cells)

def read_rows(data: bytes, stages: int | None = None, checkpoint: Any = None) -> dict[str, Any]:
    """Return what the bytes of a file hold, as `read` does."""
    blocks, (n_items, n_views, n_rows) = read_blocks(data)
    header, streams = read_header(blocks[0].payload)
    context, takes, tile = header.get("context"), header["takes"], fields(header["tile"], "items views")
    model = read_model(blocks, streams, context)
    c, counts = header["gives"]["classes"], (n_items, n_views)
    presence, *tiles = read_tiles(blocks, streams, model[TABLES], c, tile, counts)
    parts = sorted(tiles[0])
    cells = read_cells(presence, parts, tile)
    cells, order = np.unique(cells, axis=0, return_index=True)
    need(len(order) == n_rows == sum(key[4] for key in tiles[0]), "rows twice, or not counted")
    held: Any = {}
    for stream, found in zip(streams[1:], tiles, strict=True):
        blank, of_it = {a.name: np.zeros((0, *a.shape), np.uint8) for a in stream.arrays}, sorted(found.items())
        values = {name: np.concatenate([blank[name], *(part[name] for _, part in of_it)]) for name in blank}
        sizes = [len(part[stream.arrays[0].name]) for _, part in of_it]
        if stream.per == "correction":
            continue
        if stream.per == "row":
            need(found.keys() == tiles[0].keys(), "a part without one of its streams")
            values = {name: numbers[order] for name, numbers in values.items()}
        elif stream.name == "prototype":  # it may lack items, but at the end alone
            starts = [key[0] * stream.items_per_tile for key, _ in of_it]
            need(starts == (np.cumsum(sizes) - sizes).tolist(), "prototypes that lack items between others")
        if stream.per == "row" or stream.name == "prototype" or sum(sizes) == n_items:  # else it is unfinished
            held[stream.name] = values
    stage_names = [stream.name for stream in streams if stream.name.startswith("codes")][:stages]
    codes = {name: numbers for stage in stage_names for name, numbers in held[stage].items()}
    columns = {name: numbers for stream in ("forced", "replay", "source", "target", "sequence")
               for name, numbers in held.get(stream, {}).items()}
    recipe, rows_context = header.get("recipe"), None
    need(max(map(int, header.get("images", {})), default=-1) < n_items, "the look of no item")
    if recipe and "replay" not in held:
        need(n_items <= recipe["items"] or not mixes(recipe), "items that partners are not drawn among")
        columns |= draw(recipe, cells, columns.get("source_hw"))
    if context:
        degree, sides = context.get("degree", 0), (context["width"], context["height"])
        weights = weights_of(model[VIEW_BASIS].get("weight"), degree, columns, cells[:, 0])
        n, each = weights.shape[1], held["prototype"]
        each = {name: v.reshape(-1, *v.shape[2:]) for name, v in each.items()} if degree else each
        logits = {**takes, "space": "logits", "temperature": "1.0"}
        known = decode(context["codec"], logits, each, model[PROTOTYPES])
        known = known.reshape(-1, n, takes["classes"])
        rows_context = context_of(known, weights, cells, held.get("mix", columns), sides)
    tensors = with_matrix(header["codec"], takes["classes"], model[DECODER], checkpoint or {})
    labels = decode(header["codec"], takes, codes, tensors, rows_context)
    for stream, found in zip(streams[1:], tiles, strict=True):
        if stream.per == "correction" and len(stage_names) == sum(s.name.startswith("codes") for s in streams):
            labels = correct(labels, found, parts, order, header["correction"]["step"], header["gives"])
    found = {"header": blocks[0].payload.decode(), "item": cells[:, 0], "view": cells[:, 1], "labels": labels}
    return found | columns
def read(path: Any, stages: int | None = None, checkpoint: Any = None) -> dict[str, Any]:
    """Return "header", "item", "view" [n], "labels" float32 [n, classes], columns (see codecs/head.md)."""
    try:
        given = read_tensors(np.fromfile(checkpoint, np.uint8).tobytes(), True) if checkpoint else {}
        return read_rows(np.fromfile(path, np.uint8).tobytes(), stages, given)
    except MALFORMED as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None
if __name__ == "__main__":
    np.savez(sys.argv[3], **read(sys.argv[1], None, *sys.argv[4:]))
