"""The invalid vectors of version 1.4: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

from spoil import Change, header

# fmt: off
C, U = "CorruptError", "UnsupportedError"
CUTOUT = "1.4_cutout"


def array(of: str, **values: object) -> Change:
    """Change how an array of the replay columns is declared."""
    def change(h: dict) -> None:
        streams = {stream["name"]: stream for stream in h["streams"]}
        next(a for a in streams["replay"]["arrays"] if a["name"] == of).update(values)
    return header(change)


DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    "cutout_of_four": (C, CUTOUT, "a rectangle without a colour", array("cutout", shape=[4])),
    "cutout_of_integers": (C, CUTOUT, "a rectangle in integers", array("cutout", kind="int")),
    "aug_seed_of_two": (C, CUTOUT, "two seeds", array("aug_seed", shape=[2])),
    "aug_seed_of_floats": (C, CUTOUT, "a seed in floats", array("aug_seed", kind="float32")),
    "cutout_renamed": (U, CUTOUT, "a column of a later version", array("cutout", name="erased")),
}
