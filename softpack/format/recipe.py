"""The recipe of the views, and what labelled images look like, as the header says them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softpack.format.canonical import without_floats
from softpack.format.layout import MAX_IMAGES, THUMBPRINT_LEN
from softpack.format.strict import LaterError, check_fields, decimal_of, integer_of, known_of, list_of
from softpack.recipe import MIXES, SETTINGS, VERSION, Recipe

DECIMALS = ("flip", "alpha", "mixed")
INTEGER = re.compile(r"-?[1-9][0-9]{0,18}")  # too large for a number of JSON
ITEM = re.compile(r"0|[1-9][0-9]{0,9}")
THUMBPRINT = re.compile(rf"[0-9a-f]{{{2 * THUMBPRINT_LEN}}}")


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe."""
    document = {"version": VERSION, **vars(recipe)}
    if recipe.scale is None:
        del document["scale"]
    document |= {name: float(document[name]) for name in DECIMALS}
    return without_floats(document)  # type: ignore[no-any-return]


def recipe_of(value: Any) -> Recipe:
    """Return the recipe of its fields, taken strictly."""
    if isinstance(value, dict) and type(value.get("version")) is int and value["version"] > VERSION:
        raise LaterError(f"recipe.version {value['version']}, which this softpack does not know")
    check_fields(value, "recipe", " ".join(sorted({*SETTINGS, "version"} - {"scale"})), "scale")
    integer_of(value["version"], "recipe.version", VERSION, VERSION)
    known_of(value["mix"], MIXES, "recipe.mix")
    settings = {name: value[name] for name in ("size", "mix", "patches", "items")}
    seed = value["seed"]
    settings["seed"] = int(seed) if isinstance(seed, str) and INTEGER.fullmatch(seed) else seed
    for name in ("scale", "ratio"):
        listed = list_of(value[name], f"recipe.{name}") if name in value else None
        settings[name] = listed and tuple(decimal_of(number, f"recipe.{name}") for number in listed)
    settings |= {name: decimal_of(value[name], f"recipe.{name}") for name in DECIMALS}
    recipe = Recipe(**settings)
    if recipe_json(recipe) != value:
        raise ValueError(f"recipe: found {value}, expected {recipe_json(recipe)}")
    return recipe


def images_json(images: Mapping[int, bytes]) -> dict[str, str]:
    """Return thumbprints by their items."""
    return {str(item): images[item].hex() for item in sorted(images)}


def images_of(value: Any) -> dict[int, bytes]:
    """Return thumbprints by their items, taken strictly."""
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_IMAGES:
        raise ValueError(f"images: expected an object of 1 to {MAX_IMAGES} items")
    for item, print_ in value.items():
        if not ITEM.fullmatch(item) or not isinstance(print_, str) or not THUMBPRINT.fullmatch(print_):
            raise ValueError(
                f"images: found {item!r}: {print_!r}; expected an item and {2 * THUMBPRINT_LEN} hex digits"
            )
    return {int(item): bytes.fromhex(print_) for item, print_ in value.items()}
