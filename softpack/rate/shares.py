"""How a rate is shared between the codes of a label and the prototypes of its item."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softpack.codecs.vqae import VQAE
from softpack.errors import CodecError
from softpack.records import LabelSpec

ITEM_BITS_A_DOUBLING = 217.0  # of a prototype, for each doubling of the rate beyond 4 bits a label
CROP_BITS = 12.0  # of the prototypes by crop of an item of one label, at a rate of one bit
CROP_POWER = 0.7  # of the rate, with which they grow, as with the root of an item's labels
MOST_OF_ITEMS = 0.75  # of a rate
CODED = 0.985  # of the bits of vqae's codes, what they take entropy-coded
MOST_OFF = 4  # bits by which slots may miss their share
WORDS = 256  # that the codebook of a slot should have


@dataclass(frozen=True)
class Shares:
    """Of a rate.

    Args:
        codes: bits of a label's codes, before they are entropy-coded.
        items: bits a label of the prototypes.
    """

    codes: float
    items: float = 0.0


def shares(
    bits: float, codec_id: str, settings: Mapping[str, Any], spec: LabelSpec, views: float, degree: int = 0
) -> Shares:
    """Return how bits a label should be shared where rows are coded given prototypes.

    Args:
        bits: of codes and prototypes together.
        codec_id: of the rows' codec. The slots of vqae can have few rates: prototypes take what is left.
        settings: of the rows' codec.
        spec: of the rows.
        views: labels an item.
        degree: of the functions of crops that an item has a prototype for each of; 0: one prototype.
    """
    items = item_share(bits, views, degree)
    return moved(Shares(bits - items, items), 0.0, codec_id, settings, spec)


def moved(shared: Shares, by: float, codec_id: str, settings: Mapping[str, Any], spec: LabelSpec) -> Shares:
    """Return shares of `by` more bits: more of both, or of vqae's codes as far as slots can have them."""
    if codec_id != "vqae":
        more = max(by / (shared.codes + shared.items), -0.9)
        return Shares(max(shared.codes * (1 + more), 1.0), shared.items * (1 + more))
    wanted = max(shared.codes + by, 1.0)
    codes = _slots_near(wanted, settings, spec)
    return Shares(codes, max(shared.items + wanted - CODED * codes, shared.items / 2))


def item_share(bits: float, views: float, degree: int = 0) -> float:
    """Return the bits a label that prototypes should take of a rate.

    Found by trying on real labels of 62 views an item: 7 of 16, 14 of 64, 17 of 128. What a prototype needs depends
    on how close rows are to be told, not on how many share it. Where prototypes are weighted by crops, 10 of 16, 28 of
    64, 47 of 128, and of 300 views an item 11 of 66: with more rows, more of what they say can be learnt.

    Args:
        bits: the marginal rate.
        views: labels an item.
        degree: of the functions of crops that an item has a prototype for each of; 0: one prototype.
    """
    an_item = ITEM_BITS_A_DOUBLING * math.log2(max(bits, 4.0) / 4)
    if degree:
        an_item = CROP_BITS * math.sqrt(views) * bits**CROP_POWER
    return min(an_item / max(views, 1.0), MOST_OF_ITEMS * bits)


def _slots_near(bits: float, settings: Mapping[str, Any], spec: LabelSpec) -> float:
    """Return the rate next to `bits` that slots of vqae can have, of many codewords where they may."""
    near: list[VQAE] = []
    for off in range(-MOST_OFF, MOST_OFF + 1):
        with contextlib.suppress(CodecError):
            near.append(VQAE.at_bits(spec, bits + off, **settings))
    words = min(WORDS if bits >= math.log2(WORDS) else 1, max((codec.k for codec in near), default=0))
    rates = [
        (abs(codec.bits_per_label() - bits) + max(math.log2(codec.k / WORDS), 0), float(codec.bits_per_label()))
        for codec in near
        if codec.k >= words
    ]
    return min(rates, default=(0.0, bits))[1]  # none: the codec says why
