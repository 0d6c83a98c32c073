"""Read an .spk file: spk.md and the pages of codecs/ in Python, plain and slow, made to be translated."""
# fmt: off
import json
import math
import struct
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

NotSpkError, TruncatedError, CorruptError, UnsupportedError = (
    type(f"{kind}Error", (Exception,), {}) for kind in ("NotSpk", "Truncated", "Corrupt", "Unsupported"))
Block = namedtuple("Block", "sync type coding stream seq part tile_item tile_view span_items span_views n_rows "
                   "stored_len raw_len reserved payload_hash header_hash head payload")
HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
MOST = {HEADER: (1 << 20, 0, 0), MODEL: ((4 << 30) - 64, 1, 1), TILE: (256 << 20, 0, (1 << 16) - 1),
        INDEX: (1 << 30, 1, 0), COMMIT: (64, 0, 0)}  # bytes, coding and stream of a block at most
PRESENCE = {"per": "row", "arrays": [{"name": "here", "shape": [], "kind": "bool", "bits": 1, "levels": 2}]}
STREAMS = {"codes": "row codes", "replay": "row replay", "source": "item replay", "target": "item item"}
COLUMNS = "crop_xywh crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy source_hw target"
SETTINGS = {"raw": "dtype", "quantize": "bits", "topk": "k value tail tail_temperature", "lowrank": "rank bits",
            "vqae": "slots k d_c d_h temperatures steps batch lr"}

def need(true: Any, what: str, error: Any = CorruptError) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise error(what)

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes. Sums and products grow; whatever needs 64 bits takes them modulo 2^64."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, lines, words = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, len(data) // 32 * 32, len(data) // 8 * 8
    def rotate(x: int, n: int) -> int:
        return (x % 2**64 << n | x % 2**64 >> 64 - n) % 2**64
    def mix(lane: int, word: int) -> int:
        return rotate(lane + word * p2, 31) * p1 % 2**64
    h, lanes = seed + p5, [seed + p1 + p2, seed + p2, seed, seed - p1]
    for line in struct.iter_unpack("<4Q", data[:lines]):
        lanes = list(map(mix, lanes, line))
    if lines:
        h = sum(map(rotate, lanes, (1, 7, 12, 18)))
        for lane in lanes:
            h = (h ^ mix(0, lane)) * p1 + p4
    h += len(data)
    for (word,) in struct.iter_unpack("<Q", data[lines:words]):
        h = rotate(h ^ mix(0, word), 27) * p1 + p4
    if len(data) & 4:
        h = rotate(h ^ int.from_bytes(data[words:words + 4], "little") * p1, 23) * p2 + p3
    for byte in data[words + (len(data) & 4):]:
        h = rotate(h ^ byte * p5, 11) * p1
    for shift, prime in (33, p2), (29, p3), (32, 1):
        h = (h % 2**64 ^ h % 2**64 >> shift) * prime
    return h

def expand(stored: bytes, coding: int, size: int) -> bytes:
    """Return the `size` bytes of a payload or an array, which are one zstd frame if `coding` is 1."""
    if coding:
        stated = zstandard.get_frame_parameters(stored).content_size
        need(stated == size <= len(stored) << 15, f"a zstd frame of {stated} bytes, expected {size}")
        stored = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    need(len(stored) == size, f"found {len(stored)} bytes, expected {size}")
    return stored

def read_blocks(data: bytes) -> tuple[list[Any], list[int]]:
    """Return the blocks before the last index, checked, and the items, views and rows of the last commit."""
    need(data and data[:8] == b"\x89SPK\r\n\x1a\n"[:len(data)], "not an .spk file", NotSpkError)
    need(len(data) >= 64, "no whole superblock", TruncatedError)
    _, major, minor, size, seed, _, features, _, _, seal = struct.unpack("<8sHHI6Q", data[:64])
    need(xxh64(data[:56]) == seal, "superblock: hash")
    need(major == 1 and not features, f"version {major}.{minor}, features {features:#x}", UnsupportedError)
    need(size == 64, "superblock: size")
    need(len(data) >= 192 and data[-128:-123] == b"SPKB\5", "does not end with a commit", TruncatedError)
    blocks, at = [], 64  # type: Any, int
    while at < len(data):
        b = Block(*struct.unpack("<4sBBH10IQQ", data[at:at + 64]), data[at:at + 64], b"")
        stop, where = at + 64 + b.stored_len, f"block at {at}, of type {b.type}"
        payload, after = data[at + 64:stop], -(-stop // 64) * 64
        need(b.sync == b"SPKB" and xxh64(b.head[:56], seed) == b.header_hash and not b.reserved, where)
        need(after <= len(data) and xxh64(payload) == b.payload_hash, f"{where}: payload")
        need(not any(data[stop:after]), f"{where}: padding")
        if b.type < 128:
            known = b.type in MOST and b.coding < 2 and (b.type != MODEL or b.stream < 2)
            need(known, f"{where}: coding {b.coding}, stream {b.stream}", UnsupportedError)
            fits = max(b.stored_len, b.raw_len), b.coding, b.stream
            need(all(map(int.__le__, fits, MOST[b.type])), f"{where}: too large, compressed or of a stream")
            need(b.type == TILE or not any(b[5:11]), f"{where}: has fields of a tile")
            need(b.type != INDEX or b.raw_len == 64 * b.seq <= at, f"{where}: size")
            payload = payload if b.type == TILE else expand(payload, b.coding, b.raw_len)
        blocks.append(b._replace(payload=payload))
        at = after
    need([b.seq for b in blocks] == list(range(len(blocks))), "blocks out of order")
    *blocks, index, commit = blocks
    index_at, file_len, number, *counts, reserved, mark = struct.unpack("<7Q8s", commit.payload)
    types = [b.type for b in blocks]
    need((file_len, reserved, mark) == (len(data), 0, b"SPK.END\n") and number == types.count(COMMIT), "commit")
    need(index.type == INDEX and data[index_at:index_at + 64] == index.head, "no index where it should be")
    need(index.payload == b"".join(b.head for b in blocks), "index of other blocks")
    need(types.index(HEADER) == 0 and types.count(HEADER) == 1, "not one header, first")
    return blocks, counts

def fields(value: dict[str, Any], names: str) -> list[Any]:
    """Return the fields of an object that has these and no others."""
    need(set(value) <= set(names.split()), f"found {', '.join(value)}; known are {names}", UnsupportedError)
    return [value[name] for name in names.split()]

def read_header(data: bytes) -> Any:
    """Return the header, checked."""
    header = json.loads(data.decode(), parse_float=str, parse_constant=str,
                        parse_int=lambda text: int(text) if abs(int(text)) < 1 << 53 else text)
    spelled = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    need(spelled.encode() == data, "header: not canonical JSON")
    codec, takes, gives, tile, streams, _ = fields(header, "codec takes gives tile streams made_by")
    for classes, space, _ in (fields(labels, "classes space temperature") for labels in (takes, gives)):
        need(space in ("logits", "log_probs", "probs"), f"space {space}", UnsupportedError)
        need(1 < classes <= 1 << 24, f"{classes} classes")
    need(fields(codec, "id config")[0] in SETTINGS, f"codec {codec['id']}", UnsupportedError)
    fields(codec["config"], SETTINGS[codec["id"]])
    need(min(fields(tile, "items views")) >= 1 and tile["items"] * tile["views"] <= 1 << 24, "header: tile")
    need(streams[0]["name"] == "codes" and len({s["name"] for s in streams}) == len(streams), "header: streams")
    for stream, per, scope, arrays in (fields(s, "name per scope arrays") for s in streams):
        need(STREAMS.get(stream) == f"{per} {scope}", f"stream {stream} {per} {scope}", UnsupportedError)
        for name, shape, kind, bits, levels in (fields(a, "name shape kind bits levels") for a in arrays):
            known = kind == "uint" if stream == "codes" else name in COLUMNS.split()
            need(known, f"array {name} of kind {kind}", UnsupportedError)
            need(1 <= bits <= 32 and 1 <= levels <= 1 << bits and min([1, *shape]) == 1, f"array {name}")
    return header

def read_tile(b: Any, arrays: list[Any], n: int) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]."""
    data, left, out = b.payload, b.raw_len, {}
    need(n * sum(math.prod(a["shape"]) for a in arrays) <= 1 << 26, "a tile of too many numbers")
    for a in arrays:
        coding, width, reserved, length, base = struct.unpack("<BBHIq", data[:16])
        total, is_int, shift = n * math.prod(a["shape"]), a["kind"] == "int", 0
        need(coding < 2, f"{a['name']}: coding {coding}", UnsupportedError)
        need(width <= 32 if is_int else (width, base) == (a["bits"], 0), f"{a['name']}: width or base")
        need(reserved == 0 and 16 + length <= len(data), f"{a['name']}: sizes")
        planes = [8] * (width // 8) + [bits for bits in (4, 2, 1) if width & bits]
        sizes = [-(-total * bits // 8) for bits in planes]
        packed = expand(data[16:16 + length], coding, sum(sizes))
        data, left, values = data[16 + length:], left - 16 - sum(sizes), np.full(total, base, np.int64)
        for bits, size in zip(planes, sizes, strict=True):
            plane = np.frombuffer(packed[:size], np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
            values += (plane & (1 << bits) - 1).reshape(-1)[:total].astype(np.int64) << shift
            packed, shift = packed[size:], shift + bits
        above = 1 << 31 if is_int else a["levels"]  # of the sums, those beyond 64 bits come out as too low
        need(-1 << 31 <= values.min() and values.max() < above, f"{a['name']}: a number out of range")
        values = values if is_int else values.astype(np.uint32)
        values = values.view(np.float32) if a["kind"] == "float32" else values
        out[a["name"]] = values.reshape(-1, n).T.reshape(n, *a["shape"])
    need(not data and not left, "a tile of another size")
    return out

def read_tensors(data: bytes) -> dict[str, Any]:
    """Return the tensors of a safetensors file as float32."""
    start = stop = 8 + int.from_bytes(data[:8], "little")
    facts, tensors = json.loads(data[8:start]), {}
    for name in sorted(facts, key=lambda name: facts[name]["data_offsets"]):
        dtype, shape, (first, last) = fields(facts[name], "dtype shape data_offsets")
        need(start + first == stop, f"tensor {name}: a hole or an overlap")
        stop = start + last
        numbers = np.frombuffer(data[start + first:stop], {"F16": "<f2", "F32": "<f4"}[dtype])
        need(np.isfinite(numbers).all(), f"tensor {name}: not finite")
        tensors[name] = numbers.reshape(shape).astype(np.float32)
    need(stop == len(data), "bytes behind the last tensor")
    return tensors

def floats(codes: Any, dtype: str) -> Any:
    """Return float32 numbers of their bit patterns in fp32, fp16 or bf16."""
    if dtype == "fp16":
        return codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return (codes << np.uint32({"fp32": 0, "bf16": 16}[dtype])).view(np.float32)

def decode(header: Any, codes: Any, tensors: Any) -> Any:
    """Return rows of labels, float32 [n, classes], of codes [n, ...] and the tensors of the decoder."""
    codec, s, takes = header["codec"]["id"], header["codec"]["config"], header["takes"]
    c, space = takes["classes"], takes["space"]
    if codec == "raw":
        shapes = {"values": (c,)}
        rows = floats(codes["values"], s["dtype"])
    elif codec == "quantize":
        shapes = {"levels": (c,), "minimum": (), "step": ()}
        low, step = floats(codes["minimum"], "fp16")[:, None], floats(codes["step"], "fp16")[:, None]
        rows = low + codes["levels"].astype(np.float32) * step
    elif codec == "topk":
        shapes = {"ids": (s["k"],), "values": (s["k"],), **({"tail": ()} if "tail" in codes else {})}
        values = floats(codes["values"], s["value"])
        left = (1 - np.exp(values).sum(axis=1)) / (c - s["k"])  # nobody's share if all classes are kept
        rows = {"zero": np.full_like(left, -np.inf), "min": values[:, -1], "uniform": np.log(left.clip(1e-8)),
                "bucket": floats(codes["tail"], "fp16") if "tail" in codes else left}[s["tail"]]
        rows = np.repeat(rows[:, None], c, axis=1)
        np.put_along_axis(rows, codes["ids"].astype(np.int64), values, axis=1)
    elif codec == "lowrank":
        shapes = {"levels": (s["rank"],), "mean": (c,), "basis": (s["rank"], c), "offset": (s["rank"],), "step": (s["rank"],)}
        rows = tensors["offset"] + codes["levels"].astype(np.float32) * tensors["step"]
        rows = tensors["mean"] + rows @ tensors["basis"]
    else:
        pass
    return rows
