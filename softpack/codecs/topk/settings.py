"""Which settings of `topk` go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softpack.codecs.checks import check_choice, check_integer, check_positive
from softpack.codecs.floats import FLOATS
from softpack.errors import CodecError

if TYPE_CHECKING:
    from softpack.codecs.topk.codec import TopK

TAILS = ("uniform", "zero", "min", "bucket", "mass")
MOST = {"orders": 1 << 12, "listed": 1 << 16, "common": 1 << 24}
MOST_PLACES = 1 << 24  # in all lists together
NEEDS = {  # setting: its default, the setting that it is for, and what that must be
    "tail_temperature": (1.0, "tail", "bucket"),
    "tail_temperatures": ("", "tail", "mass"),
    "step": (0.0, "value", "steps"),
    **dict.fromkeys(MOST, (0, "ids", "set")),
}


def check_settings(codec: TopK) -> None:
    """Refuse settings that are out of range or not for one another."""
    check_integer(codec.codec_id, "k", codec.k, 1, codec.spec.classes)
    check_choice(codec.codec_id, "value", codec.value, (*FLOATS, "steps"))
    check_choice(codec.codec_id, "tail", codec.tail, TAILS)
    check_choice(codec.codec_id, "ids", codec.ids, ("ranked", "set"))
    check_positive(codec.codec_id, "tail_temperature", codec.tail_temperature)
    for name, most in MOST.items():
        check_integer(codec.codec_id, name, getattr(codec, name), 0, most)
    for name, (default, setting, needed) in NEEDS.items():
        found = getattr(codec, setting)
        if found != needed and getattr(codec, name) != default:
            raise CodecError(f"topk: {name} is for {setting}={needed}; found {setting}={found}, leave it out")
    if codec.orders * codec.listed > MOST_PLACES:
        raise CodecError(
            f"topk: {codec.orders} orders list {codec.listed} classes each; expected {MOST_PLACES} together at most; "
            "set orders or listed lower"
        )
    if codec.value == "steps":
        check_positive(codec.codec_id, "step", codec.step)
        if codec.tail in ("uniform", "bucket"):
            raise CodecError(
                "topk: value=steps says how far the kept classes lie apart, not how much they have together, and "
                f"tail={codec.tail} needs that; set tail=mass"
            )
    if codec.tail == "mass":
        _check_temperatures(codec)


def check_fitted(codec: TopK) -> None:
    """Refuse sizes of orders that no fit chooses, such as those of a codec that was not fitted."""
    classes = codec.spec.classes
    if not (codec.orders and 1 <= codec.listed <= classes and 1 <= codec.common <= classes):
        raise CodecError(
            f"topk: has {codec.orders} orders, of {codec.listed} classes each, and {codec.common} in common; "
            f"expected 1 at least, and {classes} classes at most, as fit chooses them"
        )


def _check_temperatures(codec: TopK) -> None:
    found, expected = codec.masses_at, tuple(dict.fromkeys((codec.gives.temperature, *codec.masses_at)))
    if found != expected:
        raise CodecError(
            f"topk: tail_temperatures is {codec.tail_temperatures!r}; expected the rows' own temperature first, and "
            f"none twice; set tail_temperatures={','.join(f'{T:g}' for T in expected)}"
        )
