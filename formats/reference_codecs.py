# fmt: off
"""What the numbers of an .spk file mean: spk.md and codecs/ in Python, plain and slow."""
import bisect
import itertools
import json
import math
import struct
from typing import Any

import numpy as np
import zstandard
from reference_settings import as_number, check_fit, groups_of
from reference_topk import check_values, topk_ids, topk_masses, topk_page, topk_steps

NotSpkError, TruncatedError, CorruptError, UnsupportedError = (
    type(f"{kind}Error", (Exception,), {}) for kind in ("NotSpk", "Truncated", "Corrupt", "Unsupported"))
SETTINGS = {  # of each codec: those that every file says, and those that it says if they are not as in LATER
    "raw": ("dtype", ""), "quantize": ("bits", ""), "topk": (
        "k value tail tail_temperature", "ids step tail_temperatures orders listed common"),
    "lowrank": ("rank bits", ""),
    "klt": ("rank bits step context temperatures search axis_price widths", "weighted"),
    "vqae": ("slots k d_c d_h temperatures steps batch lr", "stages context d_x search"),
    "sample": ("draws sampled_at draw_seed common", ""),
    "polyk": ("k exact_k exact_value terms term_value solved_in tail", ""),
    "head": ("vocabulary matrix matrix_dtype rank bits step search widths", "temperatures")}
LATER = {"stages": 1, "context": False, "d_x": 0, "search": 0, "weighted": False,
         "ids": "ranked", "step": "0", "tail_temperatures": "", "orders": 0, "listed": 0, "common": 0,
         "temperatures": "1"}
DTYPES = {"F16": "<f2", "F32": "<f4", "U32": "<u4", "I32": "<i4", "I8": "i1",  # of tensors
          "BF16": "<u2", "I16": "<i2", "I64": "<i8", "F64": "<f8", "U8": "u1", "BOOL": "?"}
BITS = {"fp32": 32, "fp16": 16, "bf16": 16}

def need(true: Any, what: str, error: Any = CorruptError) -> None:
    """Refuse the file unless `true`."""
    if not true:
        raise error(what)
def fields(value: dict[str, Any], names: str, optional: str = "") -> list[Any]:
    """Return the fields of an object that has these, perhaps optional ones (else None), and no others."""
    known = {*names.split(), *optional.split()}
    need(set(value) <= known, f"found {', '.join(value)}, known are {known}", UnsupportedError)
    return [*(value[name] for name in names.split()), *(value.get(name) for name in optional.split())]
def floats(patterns: Any, kind: str = "fp16") -> Any:
    """Return float32 numbers of bit patterns."""
    if kind == "fp16":
        return patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    return (patterns << (16 if kind == "bf16" else 0)).astype(np.uint32).view(np.float32)

def expand(stored: bytes, coding: int, size: int) -> bytes:
    """Return the `size` bytes of a payload or an array, which are one zstd frame if `coding` is 1."""
    if coding:
        need(zstandard.get_frame_parameters(stored).content_size == size <= len(stored) << 15, "frame size")
        stored = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    need(len(stored) == size, f"found {len(stored)} bytes, expected {size}")
    return stored
def read_planes(data: bytes, planes: list[tuple[int, int]], n: int) -> Any:
    """Return `n` numbers of planes of so many bits and bytes, the lowest bits first."""
    values, shift = np.zeros(n, np.int64), 0
    for bits, size in planes:
        fields = np.frombuffer(data[:size], np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)
        values += (fields & (1 << bits) - 1).reshape(-1)[:n].astype(np.int64) << shift
        data, shift = data[size:], shift + bits
    return values
def read_words(data: bytes, tables: Any, n: int) -> Any:
    """Return numbers [columns, n] of coding 3, by the frequencies [columns, levels]: section 7."""
    words, out = list(struct.unpack(f"<{len(data) // 4}I", data)), np.zeros((len(tables), n), np.int64)
    state = words.pop() << 32 | words.pop()
    need(state >> 32, "the last word is 0")
    for column, frequency in zip(out, tables.tolist(), strict=True):
        first = [0, *itertools.accumulate(frequency)]
        for row in range(n):
            place = state % (1 << 24)
            column[row] = symbol = bisect.bisect(first, place) - 1
            state = (state >> 24) * frequency[symbol] + place - first[symbol]
            if state < 1 << 32:
                state = state << 32 | words.pop()
    need(state == 1 << 32 and not words, "words left over, or other words")
    return out
def read_tile(data: bytes, raw: int, stream: Any, n: int, tables: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a tile of `n` rows by name, [n, *shape]: section 7."""
    at, out, sizes = 0, {}, [math.prod(a.shape) for a in stream.arrays]
    need(min(sizes) > 0 and n * sum(sizes) <= 1 << 26, "a tile of too many numbers")
    for a, total in zip(stream.arrays, (n * size for size in sizes), strict=True):
        coding, width, reserved, count, base = struct.unpack("<BBHIq", data[at:at + 16])
        need(coding in (0, 1, 3), f"{a.name}: coding {coding}", UnsupportedError)
        need(width < 33 and not reserved and (a.kind == "int" or (width, base) == (a.bits, 0)), a.name)
        planes = [(b, -(-total * b // 8)) for b in [8] * (width // 8) + [b for b in (4, 2, 1) if width & b]]
        stored, size = data[at + 16:at + 16 + count], sum(size for _, size in planes)
        if coding == 3:
            values = read_words(stored, tables[f"{stream.name}.{a.name}"], n).reshape(-1)
        else:
            values = base + read_planes(expand(stored, coding, size), planes, total)
        need(values.min() >= -2**31 and values.max() < (2**31 if a.kind == "int" else a.levels), a.name)
        values = floats(values, "fp32") if a.kind == "float32" else values
        out[a.name], at, raw = values.reshape(-1, n).T.reshape(n, *a.shape), at + 16 + count, raw - 16 - size
    need((at, raw) == (len(data), 0), "a tile of another size")
    return out

def read_tensors(data: bytes, is_checkpoint: bool = False) -> dict[str, Any]:
    """Return the tensors of a part of the model."""
    start = stop = 8 + int.from_bytes(data[:8], "little")
    out: dict[str, Any] = {}
    facts = {**json.loads(data[8:start])}
    need(facts.pop("__metadata__", None) is None or is_checkpoint, "metadata")
    for name, fact in sorted(facts.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, (first, last) = DTYPES[fact["dtype"]], fact["data_offsets"]
        out[name] = np.frombuffer(data[start + first:start + last], dtype).reshape(fact["shape"])
        need(start + first == stop and np.isfinite(out[name]).all(), f"tensor {name}")
        stop = start + last
    need(stop == len(data), "bytes behind the last tensor")
    return out

def settings_of(codec: Any) -> tuple[str, dict[str, Any]]:
    """Return the id and all settings of a codec of the header."""
    name, config = fields(codec, "id config")
    need(name in SETTINGS, f"codec {name}", UnsupportedError)
    fields(config, *SETTINGS[name])
    need(type(config.get("context", False)) is bool, "context is neither true nor false")
    return name, LATER | config
def gives_of(codec: Any, takes: dict[str, Any]) -> dict[str, Any]:
    """Return what decoded rows are."""
    need(takes["space"] != "hidden", "hidden states of another codec than head")
    as_given = codec["id"] == "raw" or (codec["id"] != "topk" and takes["space"] == "logits")
    return takes if as_given else {**takes, "space": "log_probs"}
def page_of(codec: Any, c: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays (name, shape, levels) of each stage, and dtype and shape of the decoder's tensors."""
    name, s = settings_of(codec)
    if name == "raw":
        return [[("values", [c], 1 << BITS[s["dtype"]])]], {}
    if name == "quantize":
        return [[("levels", [c], 1 << s["bits"]), ("minimum", [], 1 << 16), ("step", [], 1 << 16)]], {}
    if name == "topk":
        return topk_page(s, c, 8 if s["value"] == "steps" else BITS[s["value"]])
    if name == "lowrank":
        shapes = {"mean": ("float16", c), "basis": ("float16", s["rank"], c),
                  "offset": ("float32", s["rank"]), "step": ("float32", s["rank"])}
        return [[("levels", [s["rank"]], 1 << s["bits"])]], shapes
    if name == "klt":
        check_fit(s)
        need(0 < as_number(s["axis_price"]) < math.inf and type(s["weighted"]) is bool, "axis_price, weighted")
        groups = groups_of(s)
        shapes = {"axes": ("int8", 1 + s["rank"], c), "scale": ("float32", 1 + s["rank"]),
                  "first": ("int32", s["rank"]), "shift": ("int8", sum(n << bits for bits, n in groups))}
        return [[(f"levels_{bits}", [n], 1 << bits) for bits, n in groups]], shapes
    latents, stages = s["slots"] * s["d_c"], [s["stages"]] if s["stages"] > 1 else []
    shapes = {"codebooks": ("float16", *stages, s["slots"], s["k"], s["d_c"]),
              "hidden_weight": ("float16", latents, s["d_h"]), "hidden_bias": ("float16", s["d_h"]),
              "out_weight": ("float16", latents + s["d_h"], c), "out_bias": ("float16", c)}
    if s["context"]:
        shapes["context_weight"] = ("float16", c, s["d_x"])
        shapes["context_hidden"] = ("float16", s["d_x"], s["d_h"])
    names = ["index", *(f"index_{stage}" for stage in range(2, s["stages"] + 1))]
    return [[(name, [s["slots"]], s["k"])] for name in names], shapes

def decode(codec: Any, takes: Any, codes: Any, tensors: Any, context: Any = None) -> Any:
    """Return rows of labels, float32 [n, classes], of codes [n, ...] of all stages or the first."""
    (name, s), c = settings_of(codec), takes["classes"]
    shapes = {key: (value.dtype.name, *value.shape) for key, value in tensors.items()}
    need(shapes == page_of(codec, c)[1], f"tensors of {name}: {shapes}")
    t = {key: value.astype(np.float32) for key, value in tensors.items()}
    if name == "raw":
        return floats(codes["values"], s["dtype"])
    if name == "quantize":
        step = floats(codes["step"])[:, None]
        rows = floats(codes["minimum"])[:, None] + codes["levels"].astype(np.float32) * step
    elif name == "topk":
        is_steps, ids = s["value"] == "steps", topk_ids(s, c, codes, tensors)
        values = codes["values"]
        values = topk_steps(values, s["step"]) if is_steps else floats(values, s["value"])
        check_values(s, values, floats(codes["tail"]) if s["tail"] == "bucket" and "tail" in codes else None)
        if s["tail"] == "mass":
            return topk_masses(s, takes, ids, values, codes)
        left = (1 - np.exp(values).sum(axis=1)) / max(1, c - s["k"])
        fill = {"zero": np.full_like(left, -np.inf), "min": values.min(axis=1),
                "uniform": np.log(left.clip(1e-8)),
                "bucket": floats(codes["tail"]) if "tail" in codes else left}[s["tail"]]  # no tail if k is c
        rows = np.repeat(fill[:, None], c, axis=1)
        np.put_along_axis(rows, ids, values, axis=1)
    elif name == "lowrank":
        rows = t["mean"] + (t["offset"] + codes["levels"].astype(np.float32) * t["step"]) @ t["basis"]
    elif name == "klt":
        of_axis = np.repeat([1 << int(key[7:]) for key in codes], [value.shape[1] for value in codes.values()])
        q, axes = np.hstack([*codes.values()]), t["axes"] * t["scale"][:, None]
        a = t["first"] + q.astype(np.float32) + t["shift"][np.cumsum(of_axis) - of_axis + q] / 128
        rows = axes[0] + a * np.float32(s["step"]) @ axes[1:]
    else:
        books, words = t["codebooks"].reshape(-1, s["slots"], s["k"], s["d_c"]), np.float32(0)  # type: Any, Any
        for book, index in zip(books, codes.values(), strict=False):  # stage by stage
            words = words + book[np.arange(s["slots"]), index].reshape(-1, s["slots"] * s["d_c"])
        before = words @ t["hidden_weight"] + t["hidden_bias"]
        if s["context"]:
            before = before + context @ t["context_weight"] @ t["context_hidden"]
        rows = np.hstack([words, np.maximum(before, 0)]) @ t["out_weight"] + t["out_bias"]
    if s["context"] or name == "klt":
        rows = (rows + (context if s["context"] else 0)) / np.float32(takes["temperature"])
    if gives_of(codec, takes)["space"] == "logits":
        return rows
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
