# fmt: off
"""What topk keeps of rows: the sets, steps and masses of codecs/topk.md in Python, plain and slow.

A ValueError is a file that is Corrupt.
"""
import math
from typing import Any

import numpy as np
from reference_settings import as_number, require


def topk_page(s: dict[str, Any], c: int, bits: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays of topk, and dtype and shape of its tensors."""
    k, n, is_set = s["k"], s["listed"], s["ids"] == "set"
    require(1 <= k <= c and s["ids"] in ("ranked", "set"), "k or ids")
    sizes = (s["orders"], n, s["common"])
    least = 1 if is_set else 0
    most = (4096, min(c, 65536), c) if is_set else (0, 0, 0)
    ranges = zip(sizes, most, strict=True)
    require(s["orders"] * n <= 1 << 24, "lists of too many places")
    require(all(type(size) is int and least <= size <= top for size, top in ranges), "orders")
    step = as_number(s["step"])
    require(0 <= step < math.inf and (s["value"] == "steps" or step == 0), "step")
    require(s["value"] != "steps" or s["tail"] not in ("uniform", "bucket"), "steps have no scale")
    require(s["tail"] == "mass" or s["tail_temperatures"] == "", "tail_temperatures")
    at = as_number(s["tail_temperature"])
    require(0 < at < math.inf and (s["tail"] == "bucket" or at == 1), "tail_temperature")
    arrays = [("order", [], s["orders"]), ("gaps", [k], c + n)] if is_set else [("ids", [k], c)]
    arrays.append(("values", [k], 1 << bits))
    if s["tail"] in ("bucket", "mass") and k < c:
        arrays.append(("tail", [] if s["tail"] == "bucket" else [len(masses(s))], 1 << 16))
    return [arrays], {"common": ("int32", s["common"]), "lists": ("int32", s["orders"], n)} if is_set else {}

def masses(s: dict[str, Any], own: str = "1.0") -> list[float]:
    """Return the temperatures at which tails have their mass: the rows' own first."""
    found = [as_number(text) for text in (s["tail_temperatures"] or own).split(",")]
    require(len({*found}) == len(found) <= 16 and all(1e-3 <= t <= 1e4 for t in found), "tail_temperatures")
    return found

def topk_ids(s: dict[str, Any], c: int, codes: Any, tensors: Any) -> Any:
    """Return the kept classes of rows [n, k]."""
    if s["ids"] == "ranked":
        return codes["ids"]
    common = np.cumsum(tensors["common"], dtype=np.int64)
    lists = np.cumsum(tensors["lists"], axis=1, dtype=np.int64)
    for found in (common, lists):
        require(found.min() >= 0 and found.max() < c, "a class beyond the last")
    base = np.concatenate([common, np.setdiff1d(np.arange(c), common)])
    require(len(base) == c, "a common class twice")
    n = s["listed"]
    place = np.minimum(np.cumsum(codes["gaps"] + 1, axis=1) - 1, n + c - 1)
    listed = np.take_along_axis(lists[codes["order"]], np.minimum(place, n - 1), axis=1)
    return base[np.where(place < n, listed, place - n)]

def check_values(s: dict[str, Any], values: Any, tail: Any) -> None:
    """Refuse rows that have no class, or no numbers, where the settings are of 1.5."""
    is_language = {s["ids"], s["value"], s["tail"]} & {"set", "steps", "mass"}
    require(not is_language or np.isfinite(values.max(axis=1)).all(), "a row without a class")  # nan is its max
    require(not is_language or tail is None or (tail < np.inf).all(), "a tail of no number")

def topk_steps(codes: Any, step: str) -> Any:
    """Return log-probabilities up to a constant of each row."""
    weights = codes.astype(np.float32) * np.float32(float(step) or 0.25)
    return np.where(codes == 255, np.float32(-np.inf), weights)

def topk_masses(s: dict[str, Any], takes: Any, ids: Any, values: Any, codes: Any) -> Any:
    """Return log-probabilities [n, classes] whose tail has its mass."""
    c, temperature = takes["classes"], float(takes["temperature"])
    require(masses(s, takes["temperature"])[0] == temperature, "the rows' own temperature is not the first")
    odds = np.full(len(ids), -np.inf) if s["k"] == c else (codes["tail"][:, 0] - 32768) / 1024
    odds = odds if s["k"] == c else np.where(codes["tail"][:, 0] == 0, -np.inf, odds)
    kept = values - (np.logaddexp.reduce(values, axis=1) + np.logaddexp(0, odds))[:, None]
    others = c - (values > -np.inf).sum(axis=1)
    each = -np.logaddexp(0, -odds) - np.log(np.maximum(others, 1))
    rows = np.repeat(each[:, None], c, axis=1)
    np.put_along_axis(rows, ids, np.where(values > -np.inf, kept, each[:, None]), axis=1)
    return rows.astype(np.float32)
