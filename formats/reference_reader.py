"""Read an .spk file with numpy and zstandard alone: spk.md in Python, plain and slow, made to be translated.

python reference_reader.py FILE.spk -o OUT.npz
"""
# fmt: off (200 lines, which a test holds: short enough to be read at one sitting)
from __future__ import annotations

import argparse
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

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
SETTINGS = {"raw": "dtype", "quantize": "bits", "topk": "k value tail tail_temperature", "lowrank": "rank bits",
            "vqae": "slots k d_c d_h temperatures steps batch lr"}
TENSORS = {"lowrank": "basis mean offset step", "vqae": "codebooks hidden_bias hidden_weight out_bias out_weight"}
COLUMNS = {"crop_xywh": ("int", [4]), "crop_xywh_fraction": ("float32", [4]), "flip": ("bool", []),
           "mix_item": ("int", []), "mix_lam": ("float32", []), "mix_box_xyxy": ("int", [4]),
           "source_hw": ("int", [2]), "target": ("int", [])}
STREAMS = {"codes": ("row", "codes", []), "replay": ("row", "replay", list(COLUMNS)[:6]),
           "source": ("item", "replay", ["source_hw"]), "target": ("item", "item", ["target"])}
PRESENCE = {"arrays": [{"name": "present", "shape": [], "kind": "bool", "bits": 1, "levels": 2}]}

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
    for at in range(at, len(data) - 7, 8):
        h = rotate(h ^ mix(0, int.from_bytes(data[at:at + 8], "little")), 27) * p1 + p4
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
        b |= {"head": head, "payload": data[at + 64:stop], "next": at + 64 + -(-b["stored"] // 64) * 64}
        need(b["next"] <= len(data), f"{where}: beyond the end", TruncatedError)
        need(xxh64(b["payload"]) == b["hash"] and not any(data[stop:b["next"]]), f"{where}: payload")
        if kind < 128:
            known = kind in MOST_BYTES and b["coding"] < 2 and (kind != MODEL or b["stream"] < 2)
            need(known, f"{where}: type {kind}, coding {b['coding']}, stream {b['stream']}", UnsupportedError)
            need(max(b["stored"], b["raw"]) <= MOST_BYTES[kind], f"{where}: too large")
            need(kind == TILE or not any(b[name] for name in AREA), f"{where}: has fields of a tile")
            need(kind in (MODEL, INDEX) or not b["coding"], f"{where}: is compressed")
            need(kind in (MODEL, TILE) or not b["stream"], f"{where}: has a stream")
        return b
    end = len(data) - 128
    need(end >= 64 and (data[end:end + 4] == b"SPKB" or data[-8:] == b"SPK.END\n"), "cut off", TruncatedError)
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
    for c, space, degree in (fields(spec, "classes space temperature") for spec in (takes, gives)):
        need(space in ("logits", "log_probs", "probs"), f"space {space}", UnsupportedError)
        need(2 <= c <= 1 << 24 and re.fullmatch(r"(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", degree, re.A), "header: spec")
        need(0 < float(degree) < math.inf and (space != "logits" or float(degree) == 1), "header: temperature")
    need(fields(codec, "id config")[0] in SETTINGS, f"codec {codec['id']}", UnsupportedError)
    fields(codec["config"], SETTINGS[codec["id"]])
    items, views = fields(tile, "items views")
    need(min(items, views) >= 1 and items * views <= 1 << 24, "header: tile")
    need(streams[0]["name"] == "codes" and len({s["name"] for s in streams}) == len(streams), "header: streams")
    for name, per, scope, arrays in (fields(stream, "name per scope arrays") for stream in streams):
        need((per, scope) == STREAMS.get(name, ())[:2], f"stream {name}", UnsupportedError)
        need(arrays and len({a["name"] for a in arrays}) == len(arrays), f"{name}: arrays")
        for column, shape, kind, bits, levels in (fields(a, "name shape kind bits levels") for a in arrays):
            need(kind == "uint" if name == "codes" else column in STREAMS[name][2], f"{column}", UnsupportedError)
            need(1 <= bits <= 32 and 1 <= levels <= 1 << bits and min([1, *shape]) == 1, f"{name}: {column}")
            most = 1 if kind == "bool" else 32
            need(name == "codes" or (kind, shape, bits, levels) == (*COLUMNS[column], most, 1 << most), column)
    return header

def read_tile(b: dict[str, Any], stream: dict[str, Any], n: int) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]."""
    data, raw, out = b["payload"], 0, {}
    need(n * sum(math.prod(a["shape"]) for a in stream["arrays"]) <= 1 << 26, "a tile of too many numbers")
    for a in stream["arrays"]:
        coding, width, reserved, length, base = struct.unpack("<BBHIq", data[:16])
        need(coding < 2, f"{a['name']}: coding {coding}", UnsupportedError)
        need(width <= 32 if a["kind"] == "int" else (width, base) == (a["bits"], 0), f"{a['name']}: width or base")
        need(reserved == 0 and 16 + length <= len(data) and coding * width >= coding, f"{a['name']}: descriptor")
        total, shift = n * math.prod(a["shape"]), 0
        planes = [8] * (width // 8) + [bits for bits in (4, 2, 1) if width & bits]
        sizes = [-(-total * bits // 8) for bits in planes]
        packed, data, raw = expand(data[16:16 + length], coding, sum(sizes)), data[16 + length:], raw + 16 + sum(sizes)
        values = np.zeros(total, np.uint32)
        for bits, size in zip(planes, sizes, strict=True):
            plane = np.frombuffer(packed[:size], np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
            values |= (plane & (1 << bits) - 1).reshape(-1)[:total].astype(np.uint32) << np.uint32(shift)
            packed, shift = packed[size:], shift + bits
        low, high = (int(values.min()) + base, int(values.max()) + base)
        need(-1 << 31 <= low <= high < 1 << 31 if a["kind"] == "int" else high < a["levels"], f"{a['name']}: range")
        if a["kind"] == "int":
            values = values.astype(np.int64) + base
        values = values.view(np.float32) if a["kind"] == "float32" else values
        out[a["name"]] = values.reshape(-1, n).T.reshape(n, *a["shape"])
    need(not data and raw == b["raw"], "a tile of another size")
    return out

def read_tensors(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors of the decoder, as float32."""
    tensors: dict[str, Any] = {}
    for b in (b for b in blocks if (b["type"], b["stream"]) == (MODEL, 0)):
        data = expand(b["payload"], b["coding"], b["raw"])
        start = 8 + int.from_bytes(data[:8], "little")
        for name, t in sorted(json.loads(data[8:start]).items(), key=lambda pair: pair[1]["data_offsets"]):
            size = t["data_offsets"][1] - t["data_offsets"][0]
            need(name not in tensors and size == math.prod(t["shape"]) * {"F16": 2, "F32": 4}[t["dtype"]], name)
            values = np.frombuffer(data[start:start + size], {"F16": "<f2", "F32": "<f4"}[t["dtype"]])
            tensors[name], start = values.reshape(t["shape"]).astype(np.float32), start + size
            need(np.isfinite(tensors[name]).all(), f"tensor {name}: not finite")
        need(start == len(data), "a model of another size")
    return tensors

def floats(codes: Any, kind: str) -> Any:
    """Return float32 numbers of their bit patterns."""
    if kind == "fp16":
        return codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return (codes << 16 if kind == "bf16" else codes).astype(np.uint32).view(np.float32)

def log_softmax(rows: Any) -> Any:
    """Return rows whose exponentials sum to 1."""
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))

def decode(header: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any]) -> Any:
    """Return the rows [n, classes] of codes, as the page of the codec says."""
    name, s, c = header["codec"]["id"], header["codec"]["config"], header["takes"]["classes"]
    space, degree = header["takes"]["space"], header["takes"]["temperature"]
    gives = "log_probs" if name == "topk" or (name != "raw" and space == "probs") else space
    need(header["gives"] == {"classes": c, "space": gives, "temperature": degree}, "header: gives")
    need(" ".join(sorted(tensors)) == TENSORS.get(name, ""), f"{name}: tensors {sorted(tensors)}")
    if name == "raw":
        return floats(codes["values"], s["dtype"])
    if name == "quantize":
        rows = floats(codes["minimum"], "fp16")[:, None] + codes["levels"] * floats(codes["step"], "fp16")[:, None]
    elif name == "topk":
        values, rest = floats(codes["values"], s["value"]), c - s["k"]
        left = np.maximum((1 - np.exp(values).sum(axis=1, keepdims=True)) / max(rest, 1), 1e-8)
        fill = {"uniform": lambda: np.log(left), "zero": lambda: left * -np.inf, "min": lambda: values[:, -1:],
                "bucket": lambda: floats(codes["tail"], "fp16")[:, None] if rest else left}[s["tail"]]()
        rows = np.repeat(fill, c, axis=1)
        np.put_along_axis(rows, codes["ids"].astype(np.int64), values, axis=1)
    elif name == "lowrank":
        rows = tensors["mean"] + (tensors["offset"] + codes["levels"] * tensors["step"]) @ tensors["basis"]
    else:
        words = tensors["codebooks"][np.arange(s["slots"]), codes["index"]].reshape(len(codes["index"]), -1)
        hidden = np.maximum(words @ tensors["hidden_weight"] + tensors["hidden_bias"], 0)
        rows = np.hstack([words, hidden]) @ tensors["out_weight"] + tensors["out_bias"]
        rows = rows if gives == "logits" else rows / np.float32(degree)
    return rows.astype(np.float32) if gives == "logits" else log_softmax(rows).astype(np.float32)

def read_file(data: bytes) -> dict[str, Any]:
    """Return what a file holds: see `read`."""
    blocks, (_, _, _, n_items, n_views, n_rows, *_) = read_blocks(data)
    header = read_header(blocks[0]["payload"])
    streams, tile, parts, singles = header["streams"], header["tile"], {}, {}
    for b in (b for b in blocks if b["type"] == TILE):
        need(b["stream"] <= len(streams), "a tile of an unknown stream")
        per_item = b["stream"] and streams[b["stream"] - 1]["per"] == "item"
        each = sum(math.prod(a["shape"]) for a in streams[b["stream"] - 1]["arrays"])
        side = (min(1 << 16, max(1, (1 << 22) // each)), 1) if per_item else (tile["items"], tile["views"])
        first, last = b["tile_item"] * side[0], b["tile_view"] * side[1]
        ...
    return {}
