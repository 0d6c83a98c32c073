"""The invalid vectors of version 1.5: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

from typing import Any

from drafts import Draft
from spoil import Change, header

# fmt: off
C, U = "CorruptError", "UnsupportedError"
SEQUENCES, FORCED, PRINTS = "1.5_sequences", "1.5_forced", "1.5_fingerprints"


def stream_of(h: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a stream of the header."""
    return next(stream for stream in h["streams"] if stream["name"] == name)


def array(stream: str, of: str, **values: object) -> Change:
    """Change how an array of a stream is declared."""
    def change(h: dict[str, Any]) -> None:
        next(a for a in stream_of(h, stream)["arrays"] if a["name"] == of).update(values)
    return header(change)


def prints(**values: object) -> Change:
    """Change fingerprints."""
    return header(lambda h: h["fingerprints"].update(values))


def forced(tokens: object) -> Change:
    """Say other classes that are kept exactly."""
    return header(lambda h: h.update(forced=tokens))


def other_token(draft: Draft) -> None:
    """Put another first token in the place of one."""
    block = draft.tile(draft.stream("sequence"))
    payload = bytearray(block.payload or b"")
    stored = int.from_bytes(payload[4:8], "little")
    payload[16 + stored + 16] ^= 1
    block.payload = bytes(payload)


def shorter(by: int) -> Change:
    """Say that every sequence has so many tokens less."""
    def apply(draft: Draft) -> None:
        block = draft.tile(draft.stream("sequence"))
        payload = bytearray(block.payload or b"")
        base = int.from_bytes(payload[8:16], "little", signed=True) - by
        block.payload = bytes(payload[:8]) + base.to_bytes(8, "little", signed=True) + bytes(payload[16:])

    return apply


DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    "sequences_of_no_tokens": (C, SEQUENCES, "sequences, and rows without tokens", header(
        lambda h: stream_of(h, "replay").update(arrays=stream_of(h, "replay")["arrays"][1:]))),
    "sequence_without_hash": (C, SEQUENCES, "sequences that lack an array", header(
        lambda h: stream_of(h, "sequence")["arrays"].pop())),
    "sequence_turned_round": (C, SEQUENCES, "arrays of sequences in another order", header(
        lambda h: stream_of(h, "sequence")["arrays"].reverse())),
    "token_hash_of_one": (C, SEQUENCES, "half a hash", array("sequence", "token_hash", shape=[])),
    "token_of_floats": (C, SEQUENCES, "tokens in floats", array("replay", "token", kind="float32")),
    "log_z_of_integers": (C, SEQUENCES, "log_z in integers", array("replay", "log_z", kind="int")),
    "sequence_per_row": (U, SEQUENCES, "sequences per row", header(
        lambda h: stream_of(h, "sequence").update(per="row"))),
    "sequence_renamed": (U, SEQUENCES, "an array of a later version", array("sequence", "first_token", name="begin")),
    "token_hash_of_another": (C, SEQUENCES, "a token that its sequence's hash was not made of", other_token),
    "sequences_of_less_than_nothing": (C, SEQUENCES, "sequences of fewer tokens than none", shorter(99)),
    "sequences_of_fewer_tokens": (C, SEQUENCES, "rows behind the last of their sequence", shorter(1)),
    "fingerprints_of_nothing": (C, PRINTS, "no fingerprint", header(lambda h: h.update(fingerprints={}))),
    "fingerprint_of_63": (C, PRINTS, "a fingerprint too short", prints(data="0" * 63)),
    "fingerprint_uppercase": (C, PRINTS, "a fingerprint in capitals", prints(teacher="AB" * 32)),
    "fingerprint_of_integer": (C, PRINTS, "a fingerprint as number", prints(teacher=7)),
    "fingerprint_of_later": (U, PRINTS, "a fingerprint of a later version", prints(licence="0" * 64)),
    "forced_of_none": (C, FORCED, "an empty list of classes", forced([])),
    "forced_twice": (C, FORCED, "a class that is kept twice", forced([7, 0, 7])),
    "forced_outside": (C, FORCED, "a class that rows do not have", forced([7, 0, 12])),
    "forced_of_two": (C, FORCED, "fewer classes than numbers", forced([7, 0])),
    "forced_without_stream": (C, SEQUENCES, "classes without their numbers", forced([7])),
    "forced_stream_alone": (C, FORCED, "numbers without their classes", header(lambda h: h.pop("forced"))),
    "forced_of_integers": (C, FORCED, "log-probabilities in integers", array("forced", "log_prob", kind="int")),
    "forced_of_a_matrix": (C, FORCED, "log-probabilities of two axes", array("forced", "log_prob", shape=[3, 1])),
}
SHOULD = {"token_hash_of_another", "sequences_of_less_than_nothing", "sequences_of_fewer_tokens"}
