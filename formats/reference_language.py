# fmt: off
"""The codecs for language models: codecs/ sample.md, polyk.md and head.md in Python, plain and slow."""
import hashlib
import re
from typing import Any

import numpy as np
import reference_codecs as others
from reference_codecs import BITS, floats, need, settings_of
from reference_settings import as_number, check_fit, groups_of

NUMPY = {"fp32": "float32", "fp16": "float16", "bf16": "uint16"}  # which has no bf16: bit patterns


def gives_of(codec: Any, takes: dict[str, Any]) -> dict[str, Any]:
    """Return what decoded rows are."""
    if codec["id"] == "head":
        need(takes["space"] == "hidden" and float(takes["temperature"]) == 1, "head of no hidden states")
        need(1 < codec["config"]["vocabulary"] <= 1 << 24, "vocabulary")
        return {"classes": codec["config"]["vocabulary"], "space": "logits", "temperature": "1.0"}
    if codec["id"] == "sample":
        at = codec["config"]["sampled_at"]
        return {**others.gives_of(codec, takes), "space": "log_probs", "temperature": at}
    return {**others.gives_of(codec, takes)} | ({"space": "log_probs"} if codec["id"] == "polyk" else {})
def page_of(codec: Any, c: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays (name, shape, levels) of each stage, and dtype and shape of the decoder's tensors."""
    name, s = settings_of(codec)
    if name == "sample":
        need(type(s["draws"]) is int and 0 < s["draws"] <= 4096, "draws")
        need(0 < as_number(s["sampled_at"]) < np.inf, "sampled_at")
        need(0 <= s["common"] <= 1 << 24 and 0 <= s["draw_seed"] < 1 << 53, "common or draw_seed")
        b = max(2, (c // s["draws"]).bit_length())
        n_bytes = max(1, -(-(s["draws"] * (b - 2) + (c >> b - 1)) // 8))
        shapes = {"order": ("int32", min(s["common"], c))} if s["common"] else {}
        return [[("lengths", [s["draws"]], c.bit_length() + 1), ("rest", [n_bytes], 256)]], shapes
    if name == "polyk":
        terms, k, exact_k = s["terms"].split(","), s["k"], s["exact_k"]
        need({*terms} <= {"sqrt", "exp", *map(str, range(17))} and len({*terms}) == len(terms), "terms")
        need(0 <= exact_k <= k and 1 <= k <= min(c, 1 << 16), "k or exact_k")
        need(s["tail"] in ("zero", "uniform") and s["solved_in"] in ("fp32", "fp64"), "tail or solved_in")
        need(np.isfinite(powers(terms, k - exact_k)).all(), "a term beyond binary32")
        arrays = [("ids", [k], c), ("exact", [exact_k], 1 << BITS[s["exact_value"]]),
                  ("terms", [len(terms) if exact_k < k else 0], 1 << BITS[s["term_value"]])]
        return [[array for array in arrays if array[1] != [0]]], {}
    if name == "head":
        need(re.fullmatch("inside|[0-9a-f]{64}", s["matrix"]) and s["rank"] <= c, "matrix or rank")
        check_fit(s)
        arrays = [(f"levels_{bits}", [n], 1 << bits) for bits, n in groups_of(s)]
        return [arrays], {"mean": ("float32", c), "axes": ("int16", s["rank"], c),
                          "scale": ("float32", s["rank"]), "first": ("int32", s["rank"]),
                          "matrix": (NUMPY[s["matrix_dtype"]], s["vocabulary"], c)}
    return others.page_of(codec, c)

def decode(codec: Any, takes: Any, codes: Any, tensors: Any, context: Any = None) -> Any:
    """Return rows of labels, float32 [n, classes], of codes [n, ...] of all stages or the first."""
    (name, s), c = settings_of(codec), takes["classes"]
    if name not in ("sample", "polyk", "head"):
        return others.decode(codec, takes, codes, tensors, context)
    shapes = {key: (value.dtype.name, *value.shape) for key, value in tensors.items()}
    need(shapes == page_of(codec, c)[1], f"tensors of {name}: {shapes}")
    if name == "head":
        return times_matrix(s, codes, tensors)
    return drawn(s, c, codes, tensors) if name == "sample" else curved(s, c, codes)

def with_matrix(codec: Any, h: int, tensors: dict[str, Any], checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a decoder, with the matrix of the teacher's checkpoint if the file names one."""
    sha256 = codec["config"].get("matrix", "inside")
    if codec["id"] != "head" or sha256 == "inside":
        return tensors
    need("matrix" not in tensors, "a matrix that is named and inside")
    dtype, shape = NUMPY[codec["config"]["matrix_dtype"]], (codec["config"]["vocabulary"], h)
    likely = [t for t in checkpoint.values() if (t.dtype.name, t.shape) == (dtype, shape)]
    found = [t for t in likely if hashlib.sha256(t.tobytes()).hexdigest() == sha256]
    need(found, f"give the checkpoint that has the matrix of SHA-256 {sha256}", FileNotFoundError)
    return {**tensors, "matrix": found[0]}
def times_matrix(s: dict[str, Any], codes: Any, t: Any) -> Any:
    """Return rows of the codec head."""
    stored = t["matrix"]
    matrix = floats(stored.astype(np.int64), "bf16") if stored.dtype == np.uint16 else stored.astype(np.float32)
    need(np.isfinite(matrix).all(), "a matrix of infinite numbers")
    a = (np.hstack([*codes.values()]) + t["first"]).astype(np.float32) * np.float32(s["step"])
    return (t["mean"] + a @ (t["axes"] * t["scale"][:, None])) @ matrix.T

def drawn(s: dict[str, Any], c: int, codes: Any, tensors: Any) -> Any:
    """Return rows of the codec sample."""
    order = tensors["order"].tolist() if tensors else []
    need(len({*order}) == len(order) and {*order} <= {*range(c)}, "order")
    classes = [*order, *sorted({*range(c)} - {*order})]
    rows = np.full((len(codes["rest"]), c), -np.inf, np.float32)
    for row, lengths, rest in zip(rows, codes["lengths"].tolist(), codes["rest"], strict=True):
        bits, rank, counts = int.from_bytes(rest.astype(np.uint8).tobytes(), "little"), -1, [0] * c
        for length in lengths:
            if length:
                rank += 1 << length - 1 | bits & (1 << length - 1) - 1
                bits >>= length - 1
            need(0 <= rank < c, "a rank that no class has")
            counts[classes[rank]] += 1
        with np.errstate(divide="ignore"):
            row[:] = np.log(np.array(counts) / s["draws"])
    return rows

def powers(terms: list[str], n: int) -> Any:
    """Return the terms of a curve at ranks 0 to n - 1: float32 [n, terms]."""
    rank = np.arange(n, dtype=np.float32)
    with np.errstate(over="ignore"):
        special = {"sqrt": np.sqrt(rank), "exp": np.exp(rank)}
        return np.stack([special[term] if term in special else rank ** int(term) for term in terms], axis=1)
def curved(s: dict[str, Any], c: int, codes: Any) -> Any:
    """Return rows of the codec polyk."""
    ids, parts = codes["ids"], []
    if "exact" in codes:
        parts.append(floats(codes["exact"], s["exact_value"]))
    if "terms" in codes:
        by_rank = powers(s["terms"].split(","), s["k"] - s["exact_k"])
        by_term = by_rank.astype(np.float64) * floats(codes["terms"], s["term_value"])[:, None]
        parts.append(sum(np.moveaxis(by_term, 2, 0)).astype(np.float32))
    values = np.hstack(parts)
    need(np.isfinite(values).all() and (np.diff(np.sort(ids)) > 0).all(), "a class twice, or no numbers")
    with np.errstate(divide="ignore", over="ignore"):
        left = (1 - np.exp(values).sum(axis=1, keepdims=True)).clip(0) / max(1, c - s["k"])
        rows = np.repeat(np.log(left if s["tail"] == "uniform" else 0 * left), c, axis=1)
    np.put_along_axis(rows, ids, values, axis=1)
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
