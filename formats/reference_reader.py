# fmt: off
"""Read an .spk file: spk.md and codecs/ in Python, plain and slow (python THIS FILE.spk -o OUT.npz)."""
import json
import math
import struct
import sys
from collections import namedtuple
from typing import Any

import numpy as np
import zstandard

NotSpkError, TruncatedError, CorruptError, UnsupportedError = (
    type(f"{kind}Error", (Exception,), {}) for kind in ("NotSpk", "Truncated", "Corrupt", "Unsupported"))
Block: Any = namedtuple("Block", "sync type coding stream seq part tile_item tile_view span_items span_views "
                        "n_rows stored_len raw reserved payload_hash seal head payload")
HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
PRESENCE = (True, [{"name": "here", "shape": [], "kind": "bool", "bits": 1, "levels": 2}])
WORDS = ("logits log_probs probs row item codes replay source target uint int float32 bool crop_xywh "
         "crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy source_hw")
SETTINGS = {"raw": "dtype", "quantize": "bits", "topk": "k value tail tail_temperature", "lowrank": "rank bits",
            "vqae": "slots k d_c d_h temperatures steps batch lr"}
FLOAT: Any = {"fp32": lambda x: x.astype(np.uint32).view(np.float32), "bf16": lambda x: FLOAT["fp32"](x << 16),
              "fp16": lambda x: x.astype(np.uint16).view(np.float16).astype(np.float32)}  # of bit patterns

def need(true: Any, what: str, error: Any = CorruptError) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise error(what)
def fields(value: dict[str, Any], names: str) -> list[Any]:
    """Return the fields of an object that has these and no others."""
    need(set(value) <= set(names.split()), f"found {', '.join(value)}, known are {names}", UnsupportedError)
    return [value[name] for name in names.split()]
def expand(stored: bytes, coding: int, size: int) -> bytes:
    """Return the `size` bytes of a payload or an array, which are one zstd frame if `coding` is 1."""
    if coding:
        need(zstandard.get_frame_parameters(stored).content_size == size <= len(stored) << 15, "frame size")
        stored = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    need(len(stored) == size, f"found {len(stored)} bytes, expected {size}")
    return stored
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
    """Return all blocks, checked, and the numbers of items, views and rows."""
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
        known = other or (0 < b.type < 6 and b.coding < 2 and (b.type != MODEL or b.stream < 2))
        need(known, f"{why}, coding {b.coding}, stream {b.stream}", UnsupportedError)
        need(other or not b.coding or b.type == MODEL or (b.type, b.raw) == (INDEX, 64 * b.seq), why)
        blocks += [b._replace(payload=payload if other or b.type == TILE else expand(payload, b.coding, b.raw))]
    (index, commit), types = blocks[-2:], [b.type for b in blocks]
    start, file_len, number, *counts, reserved, mark = struct.unpack("<7Q8s", commit.payload)
    need((size, file_len, reserved, mark) == (64, len(data), 0, b"SPK.END\n"), "superblock or commit")
    found = types.count(HEADER), types.count(COMMIT), index.type, data[start:start + 64], index.payload
    need(found == (1, number + 1, INDEX, index.head, b"".join(b.head for b in blocks[:-2])), "index or blocks")
    return blocks, counts

def read_header(data: bytes) -> list[Any]:
    """Return codec, takes, gives, sides of a tile, and for each stream if it is per row, and its arrays."""
    root = json.loads(data.decode(), parse_float=str, parse_constant=str)
    need(json.dumps(root, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data, "JSON")
    codec, takes, gives, tile, streams, _ = fields(root, "codec takes gives tile streams made_by")
    words = [fields(labels, "classes space temperature")[1] for labels in (takes, gives)]
    for stream, per, scope, arrays in (fields(s, "name per scope arrays") for s in streams):
        for name, _, kind, _, _ in (fields(a, "name shape kind bits levels") for a in arrays):
            words += [stream, per, scope, kind, "uint" if stream == "codes" else name]
    need({*words} <= {*WORDS.split()} and codec["id"] in SETTINGS, f"{codec['id']}, {words}", UnsupportedError)
    fields(fields(codec, "id config")[1], SETTINGS[codec["id"]])
    need(1 < takes["classes"] <= 1 << 24 >= math.prod(fields(tile, "items views")), "classes or tile")
    streams = [PRESENCE, *((stream["per"] == "row", stream["arrays"]) for stream in streams)]
    return [codec, takes, gives, fields(tile, "items views"), streams]

def read_tile(data: bytes, raw: int, arrays: list[Any], n: int) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]."""
    at, out, sizes = 0, {}, [math.prod(a["shape"]) for a in arrays]
    need(min(sizes) > 0 and n * sum(sizes) <= 1 << 26, "a tile of too many numbers")
    for name, shape, kind, bits, levels in (fields(a, "name shape kind bits levels") for a in arrays):
        coding, width, reserved, count, base = struct.unpack("<BBHIq", data[at:at + 16])
        need(coding < 2, f"{name}: coding {coding}", UnsupportedError)
        need(width < 33 and not reserved and (kind == "int" or (width, base) == (bits, 0)), f"{name}: width")
        total, shift = n * math.prod(shape), 0
        planes = [(b, -(-total * b // 8)) for b in [8] * (width // 8) + [b for b in (4, 2, 1) if width & b]]
        size, values = sum(size for _, size in planes), np.full(total, base, np.int64)
        packed, at, raw = expand(data[at + 16:at + 16 + count], coding, size), at + 16 + count, raw - 16 - size
        for b, size in planes:
            plane = np.frombuffer(packed[:size], np.uint8)[:, None] >> np.arange(0, 8, b, dtype=np.uint8)
            values += (plane & (1 << b) - 1).reshape(-1)[:total].astype(np.int64) << shift
            packed, shift = packed[size:], shift + b
        need(values.min() >= -2**31 and values.max() < (2**31 if kind == "int" else levels), name)
        out[name] = (FLOAT["fp32"](values) if kind == "float32" else values).reshape(-1, n).T.reshape(n, *shape)
    need((at, raw) == (len(data), 0), "a tile of another size")
    return out

def decode(codec: Any, takes: Any, gives: Any, codes: Any, t: Any) -> Any:
    """Return rows of labels, float32 [n, classes], of codes [n, ...] and the tensors `t` of the decoder."""
    name, s, c, space = codec["id"], codec["config"], takes["classes"], takes["space"]
    shapes, fp16 = {}, FLOAT["fp16"]  # type: Any, Any
    if name == "raw":
        rows = FLOAT[s["dtype"]](codes["values"])
    elif name == "quantize":
        rows = fp16(codes["minimum"])[:, None] + codes["levels"].astype("f4") * fp16(codes["step"])[:, None]
    elif name == "topk":
        values = FLOAT[s["value"]](codes["values"])
        left = (1 - np.exp(values).sum(axis=1)) / max(1, c - s["k"])
        fill = {"zero": np.full_like(left, -np.inf), "min": values[:, -1], "uniform": np.log(left.clip(1e-8)),
                "bucket": fp16(codes["tail"]) if "tail" in codes else left}[s["tail"]]  # no tail if k is c
        rows = np.repeat(fill[:, None], c, axis=1)
        np.put_along_axis(rows, codes["ids"], values, axis=1)
    elif name == "lowrank":
        shapes = {"mean": (c,), "basis": (s["rank"], c), "offset": (s["rank"],), "step": (s["rank"],)}
        rows = t["mean"] + (t["offset"] + codes["levels"].astype("f4") * t["step"]) @ t["basis"]
    else:
        slots, d_c, d_h, latents = s["slots"], s["d_c"], s["d_h"], s["slots"] * s["d_c"]
        shapes = {"codebooks": (slots, s["k"], d_c), "hidden_weight": (latents, d_h), "hidden_bias": (d_h,),
                  "out_weight": (latents + d_h, c), "out_bias": (c,)}
        words = t["codebooks"][np.arange(len(t["codebooks"])), codes["index"]].reshape(-1, latents)
        hidden = np.maximum(words @ t["hidden_weight"] + t["hidden_bias"], 0)
        rows = np.hstack([words, hidden]) @ t["out_weight"] + t["out_bias"]
    need({key: t[key].shape for key in t} == shapes and rows.shape[1:] == (c,), "shapes of tensors or codes")
    space = "log_probs" if name == "topk" or (name != "raw" and space == "probs") else space
    need(gives == {**takes, "space": space}, f"gives {gives}, expected {space}")
    log_sum = np.logaddexp.reduce(rows, axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return rows if name == "raw" or space == "logits" else rows - log_sum

def read_rows(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a file hold, as `read` does."""
    blocks, (n_items, n_views, n_rows) = read_blocks(data)
    codec, takes, gives, (high, wide), streams = read_header(blocks[0].payload)
    tiles, grid, t, out = [{} for _ in streams], [np.zeros((0, 2), int)], {}, {}  # type: Any, Any, Any, Any
    for b in (b for b in blocks if b.type == MODEL and b.stream == 0):
        base = stop = 8 + int.from_bytes(b.payload[:8], "little")
        for name, fact in sorted({**json.loads(b.payload[8:base])}.items(), key=lambda x: x[1]["data_offsets"]):
            dtype, (first, last) = {"F16": "<f2", "F32": "<f4"}[fact["dtype"]], fact["data_offsets"]
            numbers = np.frombuffer(b.payload[base + first:base + last], dtype).astype(np.float32)
            need(name not in t and base + first == stop and np.isfinite(numbers).all(), f"tensor {name}")
            t[name], stop = numbers.reshape(fact["shape"]), base + last
        need(stop == len(b.payload), "bytes behind the last tensor")
    for b in (b for b in blocks if b.type == TILE):
        found, (by_row, arrays) = tiles[b.stream], streams[b.stream]
        most = max(1, min(1 << 16, (1 << 22) // max(1, sum(math.prod(a["shape"]) for a in arrays))))
        sides, ends = ((high, wide), (n_items, n_views)) if by_row else ((most, 1), (n_items, 1))
        n, key = math.prod(b[8:10]), (*b[6:11], b.part) if by_row else b.tile_item
        need(1 <= b.n_rows <= n and not (by_row and key in found), f"{key}: a tile of another size, or twice")
        for place, span, side, end in zip(b[6:8], b[8:10], sides, ends, strict=True):
            need(span <= side and place * side + span <= end <= 1 << 31, f"{key}: a tile outside, or too large")
        found[key] = read_tile(b.payload, b.raw, arrays, b.n_rows if b.stream else n)
    for key in sorted(tiles[1]):
        here = tiles[0].pop(key)["here"] if key[4] < math.prod(key[2:4]) else np.ones(key[2:4])
        grid.append(np.add(np.argwhere(here.reshape(key[2:4])), (key[0] * high, key[1] * wide)))
        need(len(grid[-1]) == key[4], "presence bits that are not the rows")
    grid, order = np.unique(np.concatenate(grid), axis=0, return_index=True)
    need(len(order) == n_rows == sum(key[4] for key in tiles[1]) and not tiles[0], "rows twice, or not counted")
    for found, (by_row, arrays) in zip(tiles[1:], streams[1:], strict=True):
        need(found.keys() == tiles[1].keys() or not by_row, "a part without one of its streams")
        for name, shape in ((a["name"], a["shape"]) for a in arrays):
            values = np.concatenate([np.zeros((0, *shape), np.uint8), *(found[k][name] for k in sorted(found))])
            if by_row or len(values) == n_items:  # else it is unfinished
                out[name] = values[order] if by_row else values
    rows = decode(codec, takes, gives, {a["name"]: out.pop(a["name"]) for a in streams[1][1]}, t)
    return {"header": blocks[0].payload.decode(), "item": grid[:, 0], "view": grid[:, 1], "labels": rows, **out}
def read(path: Any) -> dict[str, Any]:
    """Return "header" (JSON), "item" and "view" [n], "labels" float32 [n, classes], and the columns by name."""
    try:
        return read_rows(np.fromfile(path, np.uint8).tobytes())
    except (ValueError, LookupError, TypeError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None
if __name__ == "__main__":
    np.savez(sys.argv[3], **read(sys.argv[1]))
