# fmt: off
# ruff: noqa: I001
"""Read an .spk file: spk.md in Python, plain and slow (python THIS FILE.spk -o OUT.npz)."""
import json
import math
import struct
import sys
from collections import namedtuple
from typing import Any

import numpy as np
import zstandard
from reference_codecs import (CorruptError, NotSpkError, TruncatedError, UnsupportedError, context_of, decode,
                              expand, fields, gives_of, need, page_of, read_tensors, read_tile, settings_of)

Block: Any = namedtuple("Block", "sync type coding stream seq part tile_item tile_view span_items span_views "
                        "n_rows stored_len raw reserved payload_hash seal head payload")
HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
DECODER, ENCODER, PROTOTYPES, PROTOTYPE_ENCODER, TABLES = PARTS = 0, 1, 3, 4, 5
STREAMS = {  # name: per, scope, and the columns that it may have
    **dict.fromkeys(["codes", *(f"codes_{stage}" for stage in range(2, 65))], ("row", "codes", "")),
    "prototype": ("item", "item", ""), "mix": ("row", "codes", "mix_item mix_share"),
    "replay": ("row", "replay", "crop_xywh crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy"),
    "source": ("item", "replay", "source_hw"), "target": ("item", "item", "target")}
COLUMNS = {  # name: kind, bits, shape
    "crop_xywh": ("int", 32, [4]), "crop_xywh_fraction": ("float32", 32, [4]), "flip": ("bool", 1, []),
    "mix_item": ("int", 32, []), "mix_lam": ("float32", 32, []), "mix_box_xyxy": ("int", 32, [4]),
    "mix_share": ("uint", 8, []), "source_hw": ("int", 32, [2]), "target": ("int", 32, [])}
Array: Any = namedtuple("Array", "name shape kind bits levels")
Stream: Any = namedtuple("Stream", "name by_row arrays items_per_tile")
PRESENCE = Stream("presence", True, [Array("here", [], "bool", 1, 2)], 0)

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes. Sums and products may grow beyond 64 bits until they are rotated."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, lanes = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, [seed + p1 + p2, seed + p2, seed, seed - p1]
    by_32, by_8, by_4 = (len(data) // n * n for n in (32, 8, 4))
    def rotate(x: int, n: int) -> int:
        return (x % 2**64 << n | x % 2**64 >> 64 - n) % 2**64
    for line in struct.iter_unpack("<4Q", data[:by_32]):
        lanes = [rotate(lane + word * p2, 31) * p1 for lane, word in zip(lanes, line, strict=True)]
    h = sum(map(rotate, lanes, (1, 7, 12, 18))) if by_32 else seed + p5
    for lane in lanes if by_32 else []:
        h = (h ^ rotate(lane * p2, 31) * p1) * p1 + p4
    h += len(data)
    for (word,) in struct.iter_unpack("<Q", data[by_32:by_8]):
        h = rotate(h ^ rotate(word * p2, 31) * p1, 27) * p1 + p4
    for (word,) in struct.iter_unpack("<I", data[by_8:by_4]):
        h = rotate(h ^ word * p1, 23) * p2 + p3
    for byte in data[by_4:]:
        h = rotate(h ^ byte * p5, 11) * p1
    for shift, prime in (33, p2), (29, p3), (32, 1):
        h = (h % 2**64 ^ h % 2**64 >> shift) * prime
    return h

def read_blocks(data: bytes) -> tuple[list[Any], list[int]]:
    """Return all blocks, checked, and the numbers of items, views and rows: sections 3, 4, 5 and 10."""
    need(data and data[:8] == b"\x89SPK\r\n\x1a\n"[:len(data)], "not an .spk file", NotSpkError)
    need(len(data) >= 64, "no whole superblock", TruncatedError)
    _, major, minor, size, seed, _, features, _, _, seal = struct.unpack("<8sHHI6Q", data[:64])
    need(xxh64(data[:56]) == seal, "superblock: hash")
    need(major == 1 and not features, f"version {major}.{minor}, features {features:#x}", UnsupportedError)
    need(len(data) >= 192 and data[-128:-123] == b"SPKB\5", "does not end with a commit", TruncatedError)
    blocks, at = [], 64  # type: Any, int
    while at < len(data):
        b = Block._make([*struct.unpack("<4sBBH10IQQ", data[at:at + 64]), data[at:at + 64], b""])
        other, why, stop = b.type > 127, f"block at {at}, of type {b.type}", at + 64 + b.stored_len
        payload, at = data[at + 64:stop], -(-stop // 64) * 64
        sound = at <= len(data) and xxh64(b.head[:56], seed) == b.seal and xxh64(payload) == b.payload_hash
        need(sound and (b.sync, b.reserved, b.seq) == (b"SPKB", 0, len(blocks)) and not any(data[stop:at]), why)
        known = other or (0 < b.type < 6 and b.coding < 2 and (b.type != MODEL or b.stream in PARTS))
        need(known, f"{why}, coding {b.coding}, stream {b.stream}", UnsupportedError)
        need(other or not b.coding or b.type == MODEL or (b.type, b.raw) == (INDEX, 64 * b.seq), why)
        blocks += [b._replace(payload=payload if other or b.type == TILE else expand(payload, b.coding, b.raw))]
    (index, commit), types = blocks[-2:], [b.type for b in blocks]
    start, file_len, number, *counts, reserved, mark = struct.unpack("<7Q8s", commit.payload)
    need((size, file_len, reserved, mark) == (64, len(data), 0, b"SPK.END\n"), "superblock or commit")
    found = types.count(HEADER), types.count(COMMIT), index.type, data[start:start + 64], index.payload
    need(found == (1, number + 1, INDEX, index.head, b"".join(b.head for b in blocks[:-2])), "index or blocks")
    return blocks, counts

def read_stream(value: Any) -> Any:
    """Return a stream of the header: section 7."""
    name, per, scope, declared = fields(value, "name per scope arrays")
    need((per, scope) == STREAMS.get(name, ())[:2], f"stream {name}, {per}, {scope}", UnsupportedError)
    arrays = [Array._make(fields(array, "name shape kind bits levels")) for array in declared]
    columns = STREAMS[name][2].split()
    for a in arrays:
        need(a.name in columns or (a.kind == "uint" and not columns), f"{name}: {a.name}", UnsupportedError)
        expected = COLUMNS[a.name] if columns else ("uint", (a.levels - 1).bit_length(), a.shape)
        need((a.kind, a.bits, a.shape) == expected, f"{name}: {a.name}")
    most = (1 << 22) // max(1, sum(math.prod(a.shape) for a in arrays))
    return Stream(name, per == "row", arrays, max(1, min(1 << 16, most)))
def read_header(data: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Return the header, and its streams by their numbers, presence bits first: section 6."""
    root = json.loads(data.decode(), parse_float=str, parse_constant=str)
    need(json.dumps(root, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data, "JSON")
    codec, takes, gives, tile, declared, _, context = fields(
        root, "codec takes gives tile streams made_by", "context")
    spaces = {fields(labels, "classes space temperature")[1] for labels in (takes, gives)}
    need(spaces <= {"logits", "log_probs", "probs"}, f"spaces {spaces}", UnsupportedError)
    c, streams = takes["classes"], [read_stream(value) for value in declared]
    need(1 < c <= 1 << 24 >= math.prod(fields(tile, "items views")) > 0, "classes or tile")
    pages = {f"codes_{n}" if n > 1 else "codes": arrays for n, arrays in enumerate(page_of(codec, c)[0], 1)}
    names, takes_context = [stream.name for stream in streams], settings_of(codec)[1]["context"]
    need(names[:len(pages)] == [*pages] and len({*names}) == len(names), f"streams {names}")
    if context:
        of_items, width, height = fields(context, "codec width height")
        need(0 < width < 1 << 31 and 0 < height < 1 << 31, "size of pictures")
        [pages["prototype"]], _ = page_of(of_items, c)
        logits = {**takes, "space": "logits", "temperature": "1.0"}
        need(gives_of(of_items, logits) == logits and not settings_of(of_items)[1]["context"], "prototypes")
    made = {s.name: [(a.name, a.shape, a.levels) for a in s.arrays] for s in streams if not STREAMS[s.name][2]}
    need(made == pages and takes_context == ("context" in root), "codes or context")
    mix = [a.name for s in streams if s.name == "mix" for a in s.arrays]
    need(not mix or (context and "replay" not in names and mix == ["mix_item", "mix_share"]), "mix")
    need(gives == gives_of(codec, takes), f"gives {gives}")
    return root, [PRESENCE, *streams]

def read_model(blocks: list[Any], streams: list[Any], with_context: bool) -> dict[int, dict[str, Any]]:
    """Return the tensors of each part of the model, checked if they are tables: section 9."""
    parts: dict[int, dict[str, Any]] = {part: {} for part in PARTS}
    for b in (b for b in blocks if b.type == MODEL):
        need(with_context or b.stream not in (PROTOTYPES, PROTOTYPE_ENCODER), "prototypes for no context")
        tensors = read_tensors(b.payload) if b.stream not in (ENCODER, PROTOTYPE_ENCODER) else {}
        need(not tensors.keys() & parts[b.stream].keys(), "a tensor twice")
        parts[b.stream] |= tensors
    arrays = {f"{s.name}.{a.name}": a for s in streams[1:] for a in s.arrays if a.kind == "uint"}
    for name, table in parts[TABLES].items():
        shape = math.prod(arrays[name].shape), arrays[name].levels
        need((table.dtype, table.shape) == ("<u4", shape) and shape[1] <= 4096, f"table {name}: shape")
        need(table.min() > 0 and (table.sum(axis=1, dtype=np.int64) == 1 << 24).all(), f"table {name}: sum")
    return parts

def read_tiles(blocks: list[Any], streams: list[Any], tables: Any, tile: Any, counts: Any) -> list[Any]:
    """Return for each stream its tiles, by their place: section 8."""
    tiles: list[Any] = [{} for _ in streams]
    for b in (b for b in blocks if b.type == TILE):
        stream, found, n = streams[b.stream], tiles[b.stream], b.span_items * b.span_views
        sides, ends = (tile, counts) if stream.by_row else ((stream.items_per_tile, 1), (counts[0], 1))
        key = (*b[6:11], b.part) if stream.by_row else (b.tile_item,)
        need(1 <= b.n_rows <= n and not (stream.by_row and key in found), f"{key}: twice, or of another size")
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

def read_rows(data: bytes, stages: int | None = None) -> dict[str, Any]:
    """Return what the bytes of a file hold, as `read` does."""
    blocks, (n_items, n_views, n_rows) = read_blocks(data)
    header, streams = read_header(blocks[0].payload)
    context, takes, tile = header.get("context"), header["takes"], fields(header["tile"], "items views")
    model = read_model(blocks, streams, context is not None)
    presence, *tiles = read_tiles(blocks, streams, model[TABLES], tile, (n_items, n_views))
    cells = read_cells(presence, sorted(tiles[0]), tile)
    cells, order = np.unique(cells, axis=0, return_index=True)
    need(len(order) == n_rows == sum(key[4] for key in tiles[0]), "rows twice, or not counted")
    held: Any = {}
    for stream, found in zip(streams[1:], tiles, strict=True):
        blank, parts = {a.name: np.zeros((0, *a.shape), np.uint8) for a in stream.arrays}, sorted(found.items())
        values = {name: np.concatenate([blank[name], *(part[name] for _, part in parts)]) for name in blank}
        sizes = [len(part[stream.arrays[0].name]) for _, part in parts]
        if stream.by_row:
            need(found.keys() == tiles[0].keys(), "a part without one of its streams")
            values = {name: numbers[order] for name, numbers in values.items()}
        elif stream.name == "prototype":  # it may lack items, but at the end alone
            starts = [key[0] * stream.items_per_tile for key, _ in parts]
            need(starts == (np.cumsum(sizes) - sizes).tolist(), "prototypes that lack items between others")
        if stream.by_row or stream.name == "prototype" or sum(sizes) == n_items:  # else it is unfinished
            held[stream.name] = values
    stage_names = [stream.name for stream in streams if stream.name.startswith("codes")][:stages]
    codes = {name: numbers for stage in stage_names for name, numbers in held[stage].items()}
    columns = {name: numbers for stream in ("replay", "source", "target")
               for name, numbers in held.get(stream, {}).items()}
    rows_context = None
    if context:
        known = decode(context["codec"], {**takes, "space": "logits"}, held["prototype"], model[PROTOTYPES])
        sides, mixed = (context["width"], context["height"]), held.get("mix", columns)
        rows_context = context_of(known, cells[:, 0], mixed, *sides)
    labels = decode(header["codec"], takes, codes, model[DECODER], rows_context)
    found = {"header": blocks[0].payload.decode(), "item": cells[:, 0], "view": cells[:, 1], "labels": labels}
    return found | columns
def read(path: Any, stages: int | None = None) -> dict[str, Any]:
    """Return "header" (JSON), "item" and "view" [n], "labels" float32 [n, classes], and the columns by name."""
    try:
        return read_rows(np.fromfile(path, np.uint8).tobytes(), stages)
    except (ValueError, LookupError, TypeError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None
if __name__ == "__main__":
    np.savez(sys.argv[3], **read(sys.argv[1]))
