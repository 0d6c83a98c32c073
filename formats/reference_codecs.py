"""Turn the codes of an .spk file into rows of labels: the pages of `codecs/` in numpy. Knows no file."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

SETTINGS = {
    "raw": "dtype",
    "quantize": "bits",
    "topk": "k value tail tail_temperature",
    "lowrank": "rank bits",
    "vqae": "slots k d_c d_h temperatures steps batch lr",
}
TENSORS = {
    "lowrank": {"mean", "basis", "offset", "step"},
    "vqae": {"codebooks", "hidden_weight", "hidden_bias", "out_weight", "out_bias"},
}
DTYPES = {"F16": ("<f2", 2), "F32": ("<f4", 4)}


def read_safetensors(data: bytes) -> dict[str, Any]:
    """Return the tensors of a safetensors file as float32.

    Raises:
        ValueError, KeyError: it is none, or holds what no codec here has.
    """
    base, tensors = 8 + int.from_bytes(data[:8], "little"), {}
    facts, start = json.loads(data[8:base]), base
    for name, tensor in sorted(facts.items(), key=lambda pair: pair[1]["data_offsets"]):
        (dtype, size), shape = DTYPES[tensor["dtype"]], tensor["shape"]
        stop = start + math.prod(shape) * size
        first, last = tensor["data_offsets"]
        if (base + first, base + last) != (start, stop) or stop > len(data):
            raise ValueError(f"tensor {name}: a shape of other bytes, a hole or an overlap")
        tensors[name] = np.frombuffer(data[start:stop], dtype).reshape(shape).astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"tensor {name}: not finite")
        start = stop
    if start != len(data):
        raise ValueError("bytes behind the last tensor")
    return tensors


def decode(header: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any]) -> Any:
    """Return float32 rows [n, classes] in the space that the header's "gives" says.

    Args:
        header: of the file.
        codes: arrays of unsigned integers [n, ...] by name.
        tensors: of the decoder, float32.

    Raises:
        ValueError, KeyError: header, codes and tensors are not of one codec.
    """
    codec, config, classes = header["codec"]["id"], header["codec"]["config"], header["takes"]["classes"]
    if set(tensors) != TENSORS.get(codec, set()):
        raise ValueError(f"the model has the tensors {sorted(tensors)}")
    space = header["takes"]["space"]
    gives = "log_probs" if codec == "topk" or (codec != "raw" and space == "probs") else space
    if header["gives"] != {**header["takes"], "space": gives}:
        raise ValueError(f"gives is {header['gives']}, expected {gives}")
    rows = {"raw": raw, "quantize": quantize, "topk": topk, "lowrank": lowrank, "vqae": vqae}[codec](
        config, codes, tensors, classes
    )
    if rows.shape[1:] != (classes,):
        raise ValueError(f"rows of the shape {rows.shape}, expected {classes} classes")
    return rows if codec == "raw" or gives == "logits" else log_softmax(rows)


def raw(config: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any], classes: int) -> Any:
    """Return the numbers as they are."""
    return floats(codes["values"], config["dtype"])


def quantize(config: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any], classes: int) -> Any:
    """Return minimum + level * step."""
    low, step = floats(codes["minimum"], "fp16"), floats(codes["step"], "fp16")
    return low[:, None] + codes["levels"].astype(np.float32) * step[:, None]


def topk(config: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any], classes: int) -> Any:
    """Return the kept values, and what `tail` says for the rest."""
    values, n_tail = floats(codes["values"], config["value"]), classes - config["k"]
    if n_tail == 0 or config["tail"] == "zero":
        fill = np.full_like(values[:, :1], -np.inf)
    elif config["tail"] == "min":
        fill = values[:, -1:]
    elif config["tail"] == "bucket":
        fill = floats(codes["tail"], "fp16")[:, None]
    else:
        left = (1 - np.exp(values).sum(axis=1, keepdims=True)) / np.float32(n_tail)
        fill = np.log(np.maximum(left, np.float32(1e-8)))
    rows = np.repeat(fill, classes, axis=1)
    np.put_along_axis(rows, codes["ids"].astype(np.int64), values, axis=1)
    return rows


def lowrank(config: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any], classes: int) -> Any:
    """Return mean + (offset + level * step) @ basis."""
    coordinates = tensors["offset"] + codes["levels"].astype(np.float32) * tensors["step"]
    return tensors["mean"] + coordinates @ tensors["basis"]


def vqae(config: dict[str, Any], codes: dict[str, Any], tensors: dict[str, Any], classes: int) -> Any:
    """Return what the decoder network makes of the codewords."""
    index = codes["index"].astype(np.int64)
    words = tensors["codebooks"][np.arange(config["slots"]), index].reshape(len(index), -1)
    hidden = np.maximum(words @ tensors["hidden_weight"] + tensors["hidden_bias"], 0)
    return np.hstack([words, hidden]) @ tensors["out_weight"] + tensors["out_bias"]


def floats(codes: Any, kind: str) -> Any:
    """Return float32 numbers of their bit patterns in fp32, fp16 or bf16."""
    if kind == "fp16":
        return codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return (codes << np.uint32({"fp32": 0, "bf16": 16}[kind])).view(np.float32)


def log_softmax(rows: Any) -> Any:
    """Return rows whose exponentials sum to 1."""
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
