"""Read an .spk file: spk.md in Python, plain and slow, made to be translated. Beside it: reference_codecs.py.

python reference_reader.py FILE.spk -o OUT.npz
"""

# 200 lines of code, which a test holds: short enough to be read at one sitting.
# fmt: off
from __future__ import annotations

import json
import math
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from reference_codecs import SETTINGS, decode, read_safetensors


class NotSpkError(Exception):
    """The file does not begin as an .spk does."""
class TruncatedError(Exception):
    """It does not end with a commit."""
class CorruptError(Exception):
    """It breaks a rule of spk.md."""
class UnsupportedError(Exception):
    """It needs something that version 1.0 has not."""

HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
MOST_BYTES = {HEADER: 1 << 20, MODEL: (4 << 30) - 64, TILE: 256 << 20, INDEX: 1 << 30, COMMIT: 64}
AREA = ["part", "tile_item", "tile_view", "span_items", "span_views", "n_rows"]
FIELDS = ["sync", "type", "coding", "stream", "seq", *AREA, "stored", "raw", "reserved", "hash", "seal"]
STREAMS = {"codes": ("row", "codes", ""), "source": ("item", "replay", "source_hw"),
           "replay": ("row", "replay", "crop_xywh crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy"),
           "target": ("item", "item", "target")}
PRESENT = {"name": "present", "shape": [], "kind": "bool", "bits": 1, "levels": 2}

def need(true: Any, what: str, error: type[Exception] = CorruptError) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise error(what)

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, u64, at = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, (1 << 64) - 1, len(data) // 32 * 32
    def rotate(x: int, n: int) -> int:
        return ((x & u64) << n | (x & u64) >> (64 - n)) & u64
    def mix(lane: int, word: int) -> int:
        return rotate(lane + word * p2, 31) * p1 & u64
    h, lanes = seed + p5, [seed + p1 + p2, seed + p2, seed, seed - p1]
    for words in struct.iter_unpack("<4Q", data[:at]):
        lanes = [mix(lane, word) for lane, word in zip(lanes, words, strict=True)]
    if at:
        h = sum(rotate(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            h = (h ^ mix(0, lane)) * p1 + p4
    h += len(data)
    for (word,) in struct.iter_unpack("<Q", data[at:len(data) // 8 * 8]):
        h = rotate(h ^ mix(0, word), 27) * p1 + p4
    rest = data[len(data) // 8 * 8:]
    if len(rest) >= 4:
        h, rest = rotate(h ^ int.from_bytes(rest[:4], "little") * p1, 23) * p2 + p3, rest[4:]
    for byte in rest:
        h = rotate(h ^ byte * p5, 11) * p1
    h = ((h & u64) ^ (h & u64) >> 33) * p2 & u64
    h = (h ^ h >> 29) * p3 & u64
    return h ^ h >> 32

def expand(stored: bytes, coding: int, size: int) -> bytes:
    """Return the `size` bytes of a payload or an array, which are one zstd frame if `coding` is 1."""
    if coding:
        stated = zstandard.get_frame_parameters(stored).content_size
        need(stated == size <= len(stored) << 15, f"a zstd frame of {stated} bytes, expected {size}")
        stored = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(stored, allow_extra_data=False)
    need(len(stored) == size, f"found {len(stored)} bytes, expected {size}")
    return stored

def read_blocks(data: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """Check superblock, blocks, index and commit; return the blocks and the numbers of the commit."""
    need(data and data[:8] == b"\x89SPK\r\n\x1a\n"[:len(data)], "not an .spk file", NotSpkError)
    need(len(data) >= 64, "no whole superblock", TruncatedError)
    _, major, minor, size, seed, _, features, _, _, seal = struct.unpack("<8sHHIQQQQQQ", data[:64])
    need(xxh64(data[:56]) == seal, "superblock: hash")
    need(major == 1 and not features, f"version {major}.{minor}, features {features:#x}", UnsupportedError)
    need(size == 64, "superblock: size")
    def block(at: int) -> dict[str, Any]:
        head, where = data[at:at + 64], f"block at {at}"
        b = dict(zip(FIELDS, struct.unpack("<4sBBH10IQQ", head), strict=True))
        need(b["sync"] == b"SPKB" and xxh64(head[:56], seed) == b["seal"] and not b["reserved"], where)
        kind, stop = b["type"], at + 64 + b["stored"]
        b |= {"head": head, "payload": data[at + 64:stop], "next": -(-stop // 64) * 64}
        need(b["next"] <= len(data) and xxh64(b["payload"]) == b["hash"], f"{where}: payload")
        need(not any(data[stop:b["next"]]), f"{where}: padding")
        if kind < 128:
            known = kind in MOST_BYTES and b["coding"] < 2 and (kind != MODEL or b["stream"] < 2)
            need(known, f"{where}: type {kind}, coding {b['coding']}, stream {b['stream']}", UnsupportedError)
            need(max(b["stored"], b["raw"]) <= MOST_BYTES[kind], f"{where}: too large")
            need(kind == TILE or not any(b[name] for name in AREA), f"{where}: has fields of a tile")
            need(kind in (MODEL, INDEX) or not b["coding"], f"{where}: is compressed")
            need(kind in (MODEL, TILE) or not b["stream"], f"{where}: has a stream")
        return b
    end = len(data) - 128
    need(end >= 64 and (data[end:end + 5] == b"SPKB\5" or data[-8:] == b"SPK.END\n"), "cut off", TruncatedError)
    last = block(end)
    need(last["type"] == COMMIT and last["stored"] == 64, "does not end with a commit", TruncatedError)
    *commit, reserved, mark = struct.unpack("<7Q8s", last["payload"])
    need((commit[1], reserved, mark) == (len(data), 0, b"SPK.END\n") and 64 <= commit[0] < end, "commit")
    index = block(commit[0])
    need(index["type"] == INDEX and index["next"] == end and last["seq"] == index["seq"] + 1, "index")
    need(64 <= index["raw"] == 64 * index["seq"] <= commit[0], "index: size")
    listed, blocks, at = expand(index["payload"], index["coding"], index["raw"]), [], 64
    for seq in range(index["seq"]):
        blocks.append(block(at))
        need(blocks[-1]["head"] == listed[64 * seq:64 * seq + 64], f"block {seq}: not as the index lists it")
        need(blocks[-1]["seq"] == seq and (blocks[-1]["type"] == HEADER) == (seq == 0), f"block {seq}: order")
        at = blocks[-1]["next"]
    need(at == commit[0] and commit[2] == sum(b["type"] == COMMIT for b in blocks), "index and commit")
    return blocks, commit

def fields(value: dict[str, Any], names: str) -> list[Any]:
    """Return the fields of an object that has these and no others."""
    need(set(value) <= set(names.split()), f"found {', '.join(value)}; known are {names}", UnsupportedError)
    return [value[name] for name in names.split()]

def read_header(data: bytes) -> dict[str, Any]:
    """Return the header, checked."""
    header: dict[str, Any] = json.loads(data.decode(), parse_float=str, parse_constant=str,
                                        parse_int=lambda text: int(text) if abs(int(text)) < 1 << 53 else text)
    spelled = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    need(spelled == data, "header: not canonical JSON")
    codec, takes, gives, tile, streams, _ = fields(header, "codec takes gives tile streams made_by")
    for classes, space, degree in (fields(spec, "classes space temperature") for spec in (takes, gives)):
        need(space in ("logits", "log_probs", "probs"), f"space {space}", UnsupportedError)
        need(re.fullmatch(r"(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", degree, re.A) and classes > 1, "header: labels")
    need(fields(codec, "id config")[0] in SETTINGS, f"codec {codec['id']}", UnsupportedError)
    fields(codec["config"], SETTINGS[codec["id"]])
    need(min(fields(tile, "items views")) >= 1 and tile["items"] * tile["views"] <= 1 << 24, "header: tile")
    need(streams[0]["name"] == "codes" and len({s["name"] for s in streams}) == len(streams), "header: streams")
    for stream, per, scope, arrays in (fields(stream, "name per scope arrays") for stream in streams):
        need(stream in STREAMS and STREAMS[stream][:2] == (per, scope), f"stream {stream}", UnsupportedError)
        for name, shape, kind, bits, levels in (fields(a, "name shape kind bits levels") for a in arrays):
            known = name in STREAMS[stream][2].split() if STREAMS[stream][2] else kind == "uint"
            need(known, f"array {name} of the kind {kind}", UnsupportedError)
            need(1 <= bits <= 32 and 1 <= levels <= 1 << bits and min([1, *shape]) == 1, f"array {name}")
    return header

def read_tile(b: dict[str, Any], arrays: list[dict[str, Any]], n: int) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]."""
    data, raw, out = b["payload"], 0, {}
    need(n * sum(math.prod(a["shape"]) for a in arrays) <= 1 << 26, "a tile of too many numbers")
    for a in arrays:
        coding, width, reserved, length, base = struct.unpack("<BBHIq", data[:16])
        need(coding < 2, f"{a['name']}: coding {coding}", UnsupportedError)
        need(width <= 32 if a["kind"] == "int" else (width, base) == (a["bits"], 0), f"{a['name']}: width")
        need(reserved == 0 and 16 + length <= len(data) and coding * width >= coding, f"{a['name']}: sizes")
        total, shift = n * math.prod(a["shape"]), 0
        planes = [8] * (width // 8) + [bits for bits in (4, 2, 1) if width & bits]
        size = sum(-(-total * bits // 8) for bits in planes)
        packed, data, raw = expand(data[16:16 + length], coding, size), data[16 + length:], raw + 16 + size
        values = np.zeros(total, np.uint32)
        for bits in planes:
            size = -(-total * bits // 8)
            plane = np.frombuffer(packed[:size], np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
            values |= (plane & (1 << bits) - 1).reshape(-1)[:total].astype(np.uint32) << np.uint32(shift)
            packed, shift = packed[size:], shift + bits
        low, high = int(values.min()) + base, int(values.max()) + base
        need(-1 << 31 <= low <= high < 1 << 31 if a["kind"] == "int" else high < a["levels"], a["name"])
        values = values.astype(np.int64) + base if a["kind"] == "int" else values
        values = values.view(np.float32) if a["kind"] == "float32" else values
        out[a["name"]] = values.reshape(-1, n).T.reshape(n, *a["shape"])
    need(not data and raw == b["raw"], "a tile of another size")
    return out

def read_rows(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a file hold, as `read` does."""
    blocks, (_, _, _, n_items, n_views, n_rows) = read_blocks(data)
    header, tensors, alone, parts = read_header(blocks[0]["payload"]), {}, {}, {}  # type: Any, Any, Any, Any
    names, tile = [stream["name"] for stream in header["streams"]], header["tile"]
    arrays = [[PRESENT], *(stream["arrays"] for stream in header["streams"])]
    per_row = [number for number, name in enumerate(names, 1) if STREAMS[name][0] == "row"]
    for b in (b for b in blocks if b["type"] == MODEL and b["stream"] == 0):
        found = read_safetensors(expand(b["payload"], b["coding"], b["raw"]))
        need(not found.keys() & tensors.keys(), "a tensor stands twice")
        tensors |= found
    for b in (b for b in blocks if b["type"] == TILE):
        number, n, span = b["stream"], b["n_rows"], (b["span_items"], b["span_views"])
        each, of_items = sum(math.prod(a["shape"]) for a in arrays[number]), number not in (0, *per_row)
        side = (min(1 << 16, max(1, (1 << 22) // each)), 1) if of_items else (tile["items"], tile["views"])
        first = b["tile_item"] * side[0], b["tile_view"] * side[1]
        need(span[0] <= side[0] and span[1] <= side[1] and 1 <= n <= math.prod(span), "a tile of another size")
        need(first[0] + span[0] <= n_items and (of_items or first[1] + span[1] <= n_views), "a tile outside")
        if of_items:
            need(n == span[0] and b["tile_view"] == b["part"] == 0, "a tile of items with views or parts")
            alone[names[number - 1], first[0]] = read_tile(b, arrays[number], n)  # replaces an earlier one
        else:
            part = parts.setdefault((*first, b["part"]), {"is": (span, n)})
            need(part["is"] == (span, n) and number not in part, "blocks of a tile that disagree")
            part[number] = read_tile(b, arrays[number], n if number else math.prod(span))
    nothing = [{a["name"]: np.zeros((0, *a["shape"]), np.uint32) for a in arrays[number]} for number in per_row]
    cells, rows = [np.zeros((2, 0), np.int64)], [nothing]  # so that a file may have no rows
    for (item, view, _), part in parts.items():
        span, n = part.pop("is")
        present = part.pop(0)["present"] if n < math.prod(span) else np.ones(span)
        need(sorted(part) == per_row and present.sum() == n, "a tile of other streams or rows")
        cells.append(np.add(np.nonzero(present.reshape(span)), [[item], [view]]))
        rows.append([part[number] for number in per_row])
    items, views = np.concatenate(cells, axis=1)
    order = np.lexsort((views, items))
    need(n_rows == len(items) == len({*zip(items, views, strict=True)}), "rows there twice, or not counted")
    codes, *replay = ({name: np.concatenate([r[i][name] for r in rows])[order] for name in arrays_of}
                      for i, arrays_of in enumerate(nothing))
    items, views, labels = items[order], views[order], decode(header, codes, tensors)
    out = {"header": header, "item": items, "view": views, "labels": labels}
    for name in (name for name in names if STREAMS[name][0] == "item"):
        tiles = [alone[key] for key in sorted(alone) if key[0] == name]
        columns = {key: np.concatenate([t[key] for t in tiles]) for key in STREAMS[name][2].split() if tiles}
        out |= {key: values for key, values in columns.items() if len(values) == n_items}  # else unfinished
    return {**out, **(replay[0] if replay else {})}

def read(path: str | Path) -> dict[str, Any]:
    """Return "header", "item" and "view" [n], "labels" float32 [n, classes], and the columns by name."""
    try:
        with np.errstate(all="ignore"):
            return read_rows(Path(path).read_bytes())
    except (ValueError, LookupError, TypeError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None

if __name__ == "__main__":
    content = read(sys.argv[1])
    np.savez(sys.argv[3], **{**content, "header": json.dumps(content["header"])})
