"""Read an .spk file: spk.md and codecs/ in Python, plain and slow. Run as: reference_reader.py FILE.spk -o OUT.npz"""
# fmt: off
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
Block = namedtuple("Block", "sync type coding stream seq part tile_item tile_view span_items span_views n_rows "
                   "stored_len raw_len reserved payload_hash header_hash head payload")
HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
MOST = {HEADER: (1 << 20, 0, 0), MODEL: ((4 << 30) - 64, 1, 1), TILE: (256 << 20, 0, (1 << 16) - 1),
        INDEX: (1 << 30, 1, 0), COMMIT: (64, 0, 0)}  # bytes, coding and stream of a block at most
PRESENCE = {"per": "row", "arrays": [{"name": "here", "shape": [], "kind": "bool", "bits": 1, "levels": 2}]}
WORDS = ("logits log_probs probs row item codes replay source target uint int float32 bool crop_xywh "
         "crop_xywh_fraction flip mix_item mix_lam mix_box_xyxy source_hw raw quantize topk lowrank vqae")
SETTINGS = {"raw": "dtype", "quantize": "bits", "topk": "k value tail tail_temperature", "lowrank": "rank bits",
            "vqae": "slots k d_c d_h temperatures steps batch lr"}

def need(true: Any, what: str, error: Any = CorruptError) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise error(what)

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes. Sums and products may grow beyond 64 bits; rotating cuts them."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, lanes = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, [seed + p1 + p2, seed + p2, seed, seed - p1]
    by_32, by_8, by_4 = (len(data) // n * n for n in (32, 8, 4))
    def rotate(x: int, n: int) -> int:
        return (x % 2**64 << n | x % 2**64 >> 64 - n) % 2**64
    def mix(lane: int, word: int) -> int:
        return rotate(lane + word * p2, 31) * p1 % 2**64
    for line in struct.iter_unpack("<4Q", data[:by_32]):
        lanes = list(map(mix, lanes, line))
    h = sum(map(rotate, lanes, (1, 7, 12, 18))) if by_32 else seed + p5
    for lane in lanes if by_32 else []:
        h = (h ^ mix(0, lane)) * p1 + p4
    h += len(data)
    for (word,) in struct.iter_unpack("<Q", data[by_32:by_8]):
        h = rotate(h ^ mix(0, word), 27) * p1 + p4
    for (word,) in struct.iter_unpack("<I", data[by_8:by_4]):
        h = rotate(h ^ word * p1, 23) * p2 + p3
    for byte in data[by_4:]:
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
    """Return all blocks, checked, and the numbers of items, views and rows."""
    need(data and data[:8] == b"\x89SPK\r\n\x1a\n"[:len(data)], "not an .spk file", NotSpkError)
    need(len(data) >= 64, "no whole superblock", TruncatedError)
    _, major, minor, size, seed, _, features, _, _, seal = struct.unpack("<8sHHI6Q", data[:64])
    need(xxh64(data[:56]) == seal, "superblock: hash")
    need(major == 1 and not features, f"version {major}.{minor}, features {features:#x}", UnsupportedError)
    need(len(data) >= 192 and data[-128:-123] == b"SPKB\5", "does not end with a commit", TruncatedError)
    blocks, at = [], size  # type: Any, int
    while at < len(data):
        b = Block(*struct.unpack("<4sBBH10IQQ", data[at:at + 64]), data[at:at + 64], b"")
        where, start, stop = f"block at {at}, type {b.type}", at + 64, at + 64 + b.stored_len
        payload, at = data[start:stop], -(-stop // 64) * 64
        need(b.sync == b"SPKB" and not b.reserved and xxh64(b.head[:56], seed) == b.header_hash, where)
        need(at <= len(data) and xxh64(payload) == b.payload_hash and not any(data[stop:at]), f"{where}: bytes")
        if b.type < 128:
            known = b.type in MOST and b.coding < 2 and (b.type != MODEL or b.stream < 2)
            need(known, f"{where}: coding {b.coding}, stream {b.stream}", UnsupportedError)
            most, coding, stream = MOST[b.type]
            sound = max(b.stored_len, b.raw_len) <= most and b.coding <= coding and b.stream <= stream
            need(sound and (b.type == TILE or not any(b[5:11])), f"{where}: size, coding or fields of a tile")
            need(b.type != INDEX or b.raw_len == 64 * b.seq < start, f"{where}: size of the index")
            payload = payload if b.type == TILE else expand(payload, b.coding, b.raw_len)
        blocks.append(b._replace(payload=payload))
    types, (*listed, index, commit) = [b.type for b in blocks], blocks
    index_at, file_len, number, *counts, reserved, mark = struct.unpack("<7Q8s", commit.payload)
    need((size, file_len, reserved, mark) == (64, len(data), 0, b"SPK.END\n"), "superblock or commit")
    need(types[0] == HEADER and types.count(HEADER) == 1 and types.count(COMMIT) == number + 1, "types of blocks")
    need([b.seq for b in blocks] == list(range(len(blocks))), "blocks out of order")
    need(index.type == INDEX and index.head == data[index_at:index_at + 64], "no index")
    need(index.payload == b"".join(b.head for b in listed), "index")
    return blocks, counts

def fields(value: dict[str, Any], names: str) -> list[Any]:
    """Return the fields of an object that has these and no others."""
    need(set(value) <= set(names.split()), f"found {', '.join(value)}; known are {names}", UnsupportedError)
    return [value[name] for name in names.split()]

def read_header(data: bytes) -> Any:
    """Return the header, checked."""
    header = json.loads(data.decode(), parse_float=str, parse_constant=str)
    spelled = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    need(spelled.encode() == data, "header: not canonical JSON")
    codec, takes, gives, tile, streams, _ = fields(header, "codec takes gives tile streams made_by")
    words, names = [fields(labels, "classes space temperature")[1] for labels in (takes, gives)], []
    for stream, per, scope, arrays in (fields(s, "name per scope arrays") for s in streams):
        names.append(stream)
        for name, shape, kind, bits, levels in (fields(a, "name shape kind bits levels") for a in arrays):
            words += [stream, per, scope, kind, "uint" if stream == "codes" else name]
            need(1 <= bits <= 32 and 1 <= levels <= 1 << bits and min([1, *shape]) == 1, f"array {name}")
    words.append(fields(codec, "id config")[0])
    need(set(words) <= set(WORDS.split()), f"one of {words}", UnsupportedError)
    fields(codec["config"], SETTINGS[codec["id"]])
    sound = min(fields(tile, "items views")) >= 1 and math.prod(tile.values()) <= 1 << 24
    need(sound and names[0] == "codes" and len(names) == len(set(names)), "header: tile or streams")
    return header

def read_tile(data: bytes, raw_len: int, arrays: list[Any], n: int) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]."""
    at, out = 0, {}
    need(n * sum(math.prod(a["shape"]) for a in arrays) <= 1 << 26, "a tile of too many numbers")
    for a in arrays:
        coding, width, reserved, length, base = struct.unpack("<BBHIq", data[at:at + 16])
        total, is_int, shift = n * math.prod(a["shape"]), a["kind"] == "int", 0
        need(coding < 2, f"{a['name']}: coding {coding}", UnsupportedError)
        sound = width <= 32 if is_int else (width, base) == (a["bits"], 0)
        need(sound and not reserved, f"{a['name']}: width, base or reserved")
        planes = [8] * (width // 8) + [bits for bits in (4, 2, 1) if width & bits]
        sizes = [-(-total * bits // 8) for bits in planes]
        packed = expand(data[at + 16:at + 16 + length], coding, sum(sizes))
        at, raw_len, values = at + 16 + length, raw_len - 16 - sum(sizes), np.full(total, base, np.int64)
        for bits, size in zip(planes, sizes, strict=True):
            plane = np.frombuffer(packed[:size], np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
            values += (plane & (1 << bits) - 1).reshape(-1)[:total].astype(np.int64) << shift
            packed, shift = packed[size:], shift + bits
        low, above = (-1 << 31, 1 << 31) if is_int else (0, a["levels"])
        need(low <= values.min() <= values.max() < above, f"{a['name']}: a number out of range")
        dtype = {"int": np.int32, "float32": np.float32}.get(a["kind"], np.uint32)
        out[a["name"]] = values.astype(np.uint32).view(dtype).reshape(-1, n).T.reshape(n, *a["shape"])
    need((at, raw_len) == (len(data), 0), "a tile of another size")
    return out

def read_tensors(data: bytes) -> dict[str, Any]:
    """Return the tensors of a safetensors file as float32."""
    start = stop = 8 + int.from_bytes(data[:8], "little")
    facts, tensors = json.loads(data[8:start]), {}
    for name in sorted(facts, key=lambda name: facts[name]["data_offsets"]):
        dtype, shape, (first, last) = fields(facts[name], "dtype shape data_offsets")
        numbers = np.frombuffer(data[start + first:start + last], {"F16": "<f2", "F32": "<f4"}[dtype])
        need(start + first == stop and np.isfinite(numbers).all(), f"tensor {name}: a hole, or not finite")
        tensors[name], stop = numbers.reshape(shape).astype(np.float32), start + last
    need(stop == len(data), "bytes behind the last tensor")
    return tensors

def floats(codes: Any, dtype: str) -> Any:
    """Return float32 numbers of their bit patterns in fp32, fp16 or bf16."""
    wide = codes << np.uint32({"fp32": 0, "fp16": 0, "bf16": 16}[dtype])
    return (wide.astype(np.uint16).view(np.float16) if dtype == "fp16" else wide.view(np.float32)).astype(np.float32)

def decode(header: Any, codes: Any, tensors: Any) -> Any:
    """Return rows of labels, float32 [n, classes], of codes [n, ...] and the tensors of the decoder."""
    codec, s, takes, shapes = header["codec"]["id"], header["codec"]["config"], header["takes"], {}
    c, space = takes["classes"], takes["space"]
    if codec == "raw":
        rows = floats(codes["values"], s["dtype"])
    elif codec == "quantize":
        low, step = floats(codes["minimum"], "fp16")[:, None], floats(codes["step"], "fp16")[:, None]
        rows = low + codes["levels"].astype(np.float32) * step
    elif codec == "topk":
        values = floats(codes["values"], s["value"])
        left = (1 - np.exp(values).sum(axis=1)) / (c - s["k"])  # nobody's share if all classes are kept
        fill = {"zero": np.full_like(left, -np.inf), "min": values[:, -1], "uniform": np.log(left.clip(1e-8)),
                "bucket": floats(codes["tail"], "fp16") if "tail" in codes else left}[s["tail"]]
        rows = np.repeat(fill[:, None], c, axis=1)
        np.put_along_axis(rows, codes["ids"].astype(np.int64), values, axis=1)
    elif codec == "lowrank":
        shapes = {"mean": (c,), "basis": (s["rank"], c), "offset": (s["rank"],), "step": (s["rank"],)}
        rows = tensors["offset"] + codes["levels"].astype(np.float32) * tensors["step"]
        rows = tensors["mean"] + rows @ tensors["basis"]
    elif codec == "vqae":
        slots, k, d_c, d_h, *_ = fields(s, SETTINGS["vqae"])
        shapes = {"codebooks": (slots, k, d_c), "hidden_weight": (slots * d_c, d_h), "hidden_bias": (d_h,),
                  "out_weight": (slots * d_c + d_h, c), "out_bias": (c,)}
        words = tensors["codebooks"][np.arange(slots), codes["index"].astype(np.int64)].reshape(-1, slots * d_c)
        hidden = np.maximum(words @ tensors["hidden_weight"] + tensors["hidden_bias"], 0)
        rows = np.hstack([words, hidden]) @ tensors["out_weight"] + tensors["out_bias"]
    sound = shapes == {name: tensor.shape for name, tensor in tensors.items()} and rows.shape[1:] == (c,)
    gives = "log_probs" if codec == "topk" or (codec != "raw" and space == "probs") else space
    need(sound and header["gives"] == {**takes, "space": gives}, "shapes or gives are not the codec's")
    if codec != "raw" and gives == "log_probs":
        rows = rows - rows.max(axis=1, keepdims=True)
        rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows

def read_rows(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a file hold, as `read` does."""
    blocks, (n_items, n_views, n_rows) = read_blocks(data)
    header = read_header(blocks[0].payload)
    streams, (high, wide) = [PRESENCE, *header["streams"]], (header["tile"]["items"], header["tile"]["views"])
    tiles, cells, tensors, codes, columns = [{} for _ in streams], [np.zeros((0, 2), np.int64)], {}, {}, {}  # type: Any
    for b in blocks:
        if b.type == MODEL and b.stream == 0:
            found = read_tensors(b.payload)
            need(not found.keys() & tensors.keys(), "a tensor stands twice")
            tensors |= found
        if b.type == TILE:
            arrays, by_row = streams[b.stream]["arrays"], streams[b.stream]["per"] == "row"
            most = max(1, min(1 << 16, (1 << 22) // sum(math.prod(a["shape"]) for a in arrays)))
            tops = (high, wide, n_views) if by_row else (most, 1, 1)
            sound = b.span_items <= tops[0] and b.tile_item * tops[0] + b.span_items <= n_items
            sound &= b.span_views <= tops[1] and b.tile_view * tops[1] + b.span_views <= tops[2]
            n, key = b.span_items * b.span_views, (*b[6:11], b.part) if by_row else b.tile_item
            sound &= 1 <= b.n_rows <= n and (key not in tiles[b.stream] if by_row else b.n_rows == n and not b.part)
            need(sound, "")
            tiles[b.stream][key] = read_tile(b.payload, b.raw_len, arrays, b.n_rows if b.stream else n)
    for key in sorted(tiles[1]):
        tile_item, tile_view, *span, n, _ = key
        here = tiles[0].pop(key)["here"] if n < math.prod(span) else np.ones(span)
        cells.append(np.argwhere(here.reshape(span)) + [tile_item * high, tile_view * wide])
        need(len(cells[-1]) == n, "presence bits that are not the rows")
    cells, order = np.unique(np.concatenate(cells), axis=0, return_index=True)
    need(not tiles[0] and len(order) == n_rows == sum(key[4] for key in tiles[1]), "rows there twice, or not counted")
    for stream, found in zip(streams[1:], tiles[1:], strict=True):
        by_row = stream["per"] == "row"
        need(found.keys() == tiles[1].keys() or not by_row, "a part without one of its streams")
        for name, shape in ((a["name"], a["shape"]) for a in stream["arrays"]):
            values = np.concatenate([np.zeros((0, *shape), np.uint8), *(found[key][name] for key in sorted(found))])
            if by_row or len(values) == n_items:  # else it is unfinished
                (codes if found is tiles[1] else columns)[name] = values[order] if by_row else values
    labels = decode(header, codes, tensors)
    return {"header": header, "item": cells[:, 0], "view": cells[:, 1], "labels": labels, **columns}

def read(path: Any) -> dict[str, Any]:
    """Return "header", "item" and "view" [n], "labels" float32 [n, classes], and the columns by name."""
    try:
        with np.errstate(all="ignore"):
            return read_rows(np.fromfile(path, np.uint8).tobytes())
    except (ValueError, LookupError, TypeError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from None

if __name__ == "__main__":
    content = read(sys.argv[1])
    np.savez(sys.argv[3], **{**content, "header": json.dumps(content["header"])})
