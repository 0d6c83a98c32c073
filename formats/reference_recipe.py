# fmt: off
"""Columns that are drawn from a seed: recipe.md in Python, plain and slow."""
import math
import re
from typing import Any

import numpy as np
from reference_codecs import UnsupportedError, fields, need

AREA, RATIO, LEFT, TOP, FLIP, IS_MIXED, PARTNER, LAMBDA, BOX_X, BOX_Y, ROWS, COLUMNS = range(12)
NAMES = "alpha flip items mix mixed patches ratio seed size version"
WORD = (1 << 64) - 1


def read_recipe(value: Any) -> dict[str, Any]:
    """Return a recipe with its numbers, checked."""
    need(type(value) is dict, "recipe")
    later = type(value.get("version")) is int and value["version"] > 1
    need(not later, "a recipe of a later version", UnsupportedError)
    found: dict[str, Any] = dict(zip([*NAMES.split(), "scale"], fields(value, NAMES, "scale"), strict=True))
    need(type(found["version"]) is int and found["version"] == 1, "recipe.version")
    need(found["mix"] in ("none", "cutmix", "mixup"), "recipe.mix", UnsupportedError)
    if isinstance(found["seed"], str):
        need(re.fullmatch("-?[1-9][0-9]{15,18}", found["seed"]), "recipe.seed")
        seed = int(found["seed"])
        need(abs(seed) >= 1 << 53, "recipe.seed")
        found["seed"] = seed
    ranges = {"seed": (-1 << 63, (1 << 63) - 1), "items": (0, (1 << 31) - 1), "size": (1, 1 << 15),
              "patches": (1, 7)}
    for name, (least, most) in ranges.items():
        need(type(found[name]) is int and least <= found[name] <= most, f"recipe.{name}")
    for name, low, high in (("flip", 0.0, 1.0), ("mixed", 0.0, 1.0), ("alpha", 0.05, 2.0)):
        found[name] = decimal(found[name])
        need(low <= found[name] <= high, f"recipe.{name}")
    for name, low, high in (("ratio", 2.0 ** -16, 65536.0), ("scale", 5e-324, 1.0)):
        if name in value:
            found[name] = [decimal(number) for number in value[name]]
            need(len(found[name]) == 2 and low <= found[name][0] <= found[name][1] <= high, f"recipe.{name}")
    need(found["items"] or not mixes(found), "recipe.items")
    return found

def decimal(text: Any) -> float:
    """Return the number of a decimal in its one spelling."""
    need(type(text) is str and repr(float(text)) == text and text[0] != "-", f"decimal {text}")
    return float(text)

def mixes(recipe: Any) -> bool:
    """Return whether views are mixed."""
    return bool(recipe["mix"] != "none" and recipe["mixed"] > 0)

def hashed(*numbers: int) -> int:
    """Return the hash of whole numbers."""
    state = 0
    for number in numbers:
        z = state + number + 0x9E3779B97F4A7C15 & WORD
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
        state = z ^ z >> 31
    return state

def u(*numbers: int) -> float:
    """Return a number from 0 to below 1."""
    return (hashed(*numbers) >> 11) * 2.0 ** -53

def power(base: float, exponent: float) -> float:
    """Return base to the exponent by square roots and products."""
    scaled, result, root, square = math.floor(exponent * 65536), 1.0, base, base
    for bit in range(15, -1, -1):
        root = math.sqrt(root)
        result = result * root if scaled >> bit & 1 else result
    for bit in range(16, scaled.bit_length()):
        result = result * square if scaled >> bit & 1 else result
        square = square * square
    return result

def place(n: int, key: int, at: int, back: bool = False) -> int:
    """Return where a permutation puts a place, or what it puts there."""
    half = max(1, -(-(n - 1).bit_length() // 2))
    low = (1 << half) - 1
    while True:
        a, c = at >> half, at & low
        for r in (3, 2, 1, 0) if back else (0, 1, 2, 3):
            a, c = (c ^ hashed(key, r, a) & low, a) if back else (c, a ^ hashed(key, r, c) & low)
        at = a << half | c
        if at < n:
            return at

def crop(recipe: Any, k: int, high: int, wide: int) -> list[int]:
    """Return left, top, width and height of a crop."""
    (least, most), (thin, flat) = recipe["scale"], recipe["ratio"]
    for a in range(10):
        area = float(high) * wide * (least + (most - least) * u(k, AREA, a))
        ratio = thin * power(flat / thin, u(k, RATIO, a))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= wide and 1 <= h <= high:
            return [math.floor(u(k, LEFT) * (wide - w + 1)), math.floor(u(k, TOP) * (high - h + 1)), w, h]
    w, h = min(max(round(min(wide, high * flat)), 1), wide), min(max(round(min(high, wide / thin)), 1), high)
    return [(wide - w) // 2, (high - h) // 2, w, h]

def share(recipe: Any, k: int) -> float:
    """Return the share of the view's own image."""
    if recipe["alpha"] == 1:
        return u(k, LAMBDA, 0, 0)
    q = hashed(k, LAMBDA)
    for a in range(256):
        x, y = (power(u(q, a, side), 1 / recipe["alpha"]) for side in (0, 1))
        if 0 < x + y <= 1:
            return x / (x + y)
    return 0.5

def edges(size: int, k: int, axis: int, side: int) -> list[int]:
    """Return where a box begins and ends."""
    begin = math.floor(u(k, axis) * size) - side // 2
    return [min(max(edge, 0), size) for edge in (begin, begin + side)]

def strips(n: int, k: int, axis: int) -> int:
    """Return an order of strips as digits after a 1."""
    order = sorted(range(n), key=lambda strip: hashed(k, axis, strip))
    return int("1" + "".join(map(str, order)), 16)

def draw(recipe: Any, cells: Any, source_hw: Any) -> dict[str, Any]:
    """Return the columns of rows [n, 2] of item and view."""
    columns: dict[str, list[Any]] = {}
    n, size = recipe["items"], recipe["size"]
    for item, view in cells.tolist():
        k = hashed(recipe["seed"], item, view)
        row: dict[str, Any] = {}
        if recipe["scale"]:
            row["crop_xywh"] = crop(recipe, k, *(max(side, 1) for side in source_hw[item].tolist()))
        if recipe["flip"] > 0:
            row["flip"] = u(k, FLIP) < recipe["flip"]
        if mixes(recipe):
            ring = hashed(recipe["seed"], PARTNER, view)
            partner = place(n, ring, (place(n, ring, item) + 1) % n, back=True)
            mixed, lam = u(k, IS_MIXED) < recipe["mixed"] and partner != item, share(recipe, k)
            row["mix_item"] = partner if mixed else -1
            if recipe["mix"] == "mixup":
                row["mix_lam"] = lam if mixed else 1.0
            else:
                side = math.floor(size * math.sqrt(1 - lam))
                (left, right), (top, bottom) = (edges(size, k, axis, side) for axis in (BOX_X, BOX_Y))
                row["mix_box_xyxy"] = [left, top, right, bottom] if mixed else [-1] * 4
        if recipe["patches"] > 1:
            row["patch_order"] = [strips(recipe["patches"], k, axis) for axis in (ROWS, COLUMNS)]
        for name, found in row.items():
            columns.setdefault(name, []).append(found)
    dtypes = {"flip": np.uint8, "mix_lam": np.float32}
    return {name: np.array(found, dtypes.get(name, np.int32)) for name, found in columns.items()}
