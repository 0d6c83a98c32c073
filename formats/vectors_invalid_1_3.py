"""The invalid vectors of version 1.3: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

from typing import Any

from drafts import Draft
from spoil import Change, header
from vectors_invalid_1_1 import without

# fmt: off
C, U = "CorruptError", "UnsupportedError"
PLAIN, CUTMIX, WHOLE, CONTEXT = (f"1.3_recipe{name}" for name in ("", "_cutmix", "_whole_images", "_context"))
MIX = {"name": "mix", "per": "row", "scope": "codes", "arrays": [
    {"name": "mix_item", "shape": [], "kind": "int", "bits": 32, "levels": 1 << 32},
    {"name": "mix_share", "shape": [], "kind": "uint", "bits": 8, "levels": 256}]}


def recipe(**values: Any) -> Change:
    """Change fields of the recipe."""
    return header(lambda h: h["recipe"].update(values))


def images(**values: Any) -> Change:
    """Say how other images look."""
    return header(lambda h: h.update(images=values))


def less(name: str) -> Change:
    """Leave a field of the recipe out."""
    return header(lambda h: h["recipe"].pop(name))


def with_mix(draft: Draft) -> None:
    """Let a file whose recipe says who is mixed say it in a stream too."""
    header(lambda h: h["streams"].append(MIX))(draft)


PRINT = "00" * 16
# name: (kind, valid vector it begins with, why, change of the draft)
DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    "recipe_null": (C, PLAIN, "a recipe that is null", header(lambda h: h.update(recipe=None))),
    "recipe_of_version_2": (U, PLAIN, "a recipe of a later version", recipe(version=2)),
    "recipe_of_version_0": (C, PLAIN, "a recipe of no version", recipe(version=0)),
    "recipe_unknown_field": (U, PLAIN, "a recipe with a field of a later version", recipe(cutout="0.5")),
    "recipe_without_seed": (C, PLAIN, "a recipe without its seed", less("seed")),
    "recipe_without_ratio": (C, PLAIN, "a recipe without ratio", less("ratio")),
    "recipe_unknown_mix": (U, PLAIN, "a way of mixing of a later version", recipe(mix="fmix")),
    "recipe_size_0": (C, PLAIN, "views of no pixels", recipe(size=0)),
    "recipe_size_too_large": (C, PLAIN, "views of more than 32768 pixels", recipe(size=32769)),
    "recipe_size_true": (C, PLAIN, "a size that is true", recipe(size=True)),
    "recipe_scale_0": (C, PLAIN, "crops of no area", recipe(scale=["0.0", "1.0"])),
    "recipe_scale_above_1": (C, PLAIN, "crops larger than the image", recipe(scale=["0.5", "1.5"])),
    "recipe_scale_turned_round": (C, PLAIN, "more at least than at most", recipe(scale=["1.0", "0.5"])),
    "recipe_scale_of_one": (C, PLAIN, "one number where two belong", recipe(scale=["1.0"])),
    "recipe_scale_null": (C, PLAIN, "a scale that is null", recipe(scale=None)),
    "recipe_ratio_infinite": (C, PLAIN, "crops of infinite width", recipe(ratio=["0.75", "1e999"])),
    "recipe_ratio_tiny": (C, PLAIN, "crops that are infinitely narrow", recipe(ratio=["1e-320", "1.0"])),
    "recipe_flip_minus_0": (C, PLAIN, "a share of minus zero", recipe(flip="-0.0")),
    "recipe_of_version_2_of_other_fields": (U, PLAIN, "a recipe of a later version that says other things",
     header(lambda h: h.update(recipe={"version": 2, "seed": 1}))),
    "recipe_ratio_0": (C, PLAIN, "crops of no width", recipe(ratio=["0.0", "1.0"])),
    "recipe_flip_above_1": (C, PLAIN, "more flips than views", recipe(flip="1.5")),
    "recipe_flip_negative": (C, PLAIN, "fewer flips than none", recipe(flip="-0.5")),
    "recipe_flip_a_number": (C, PLAIN, "a share that is no decimal", recipe(flip=1)),
    "recipe_flip_spelled_otherwise": (C, PLAIN, "a decimal that is not spelled as it is written", recipe(flip="0.50")),
    "recipe_alpha_0": (C, CUTMIX, "a Beta distribution that is none", recipe(alpha="0.0")),
    "recipe_alpha_3": (C, CUTMIX, "an alpha that draws would take long for", recipe(alpha="3.0")),
    "recipe_mixed_nan": (C, CUTMIX, "a share that is no number", recipe(mixed="nan")),
    "recipe_patches_0": (C, PLAIN, "no strips", recipe(patches=0)),
    "recipe_patches_8": (C, PLAIN, "more strips than digits", recipe(patches=8)),
    "recipe_seed_beyond_64_bits": (C, PLAIN, "a seed of 65 bits", recipe(seed="18446744073709551616")),
    "recipe_seed_small_as_text": (C, PLAIN, "a small seed as a string", recipe(seed="7")),
    "recipe_items_negative": (C, PLAIN, "fewer items than none", recipe(items=-1)),
    "recipe_mixes_no_items": (C, CUTMIX, "partners of no items", recipe(items=0)),
    "recipe_mixes_fewer_items": (C, CUTMIX, "rows of items that partners are not drawn among", recipe(items=3)),
    "recipe_crops_without_sizes": (C, PLAIN, "crops of images of unknown size", without("source")),
    "recipe_and_mix": (C, CONTEXT, "who is mixed, said twice", with_mix),
    "images_null": (C, CUTMIX, "images that are null", header(lambda h: h.update(images=None))),
    "images_none": (C, CUTMIX, "looks of no image", images()),
    "images_of_65": (C, CUTMIX, "looks of too many images", images(**{str(n): PRINT for n in range(65)})),
    "images_of_15_bytes": (C, CUTMIX, "a look that is too short", images(**{"0": "00" * 15})),
    "images_in_capitals": (C, CUTMIX, "a look in capital digits", images(**{"0": "AA" * 16})),
    "images_of_no_item": (C, CUTMIX, "a look of an item with a leading zero", images(**{"00": PRINT})),
    "images_of_no_item_of_the_file": (C, CUTMIX, "a look of an item that the file has not", images(**{"6": PRINT})),
    "images_a_number": (C, CUTMIX, "a look that is a number", images(**{"0": 0})),
}
