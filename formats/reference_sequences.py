# fmt: off
"""What spk.md says of language: sequences of tokens, fingerprints, and classes that are kept exactly."""
import re
from typing import Any

import numpy as np
from reference_blocks import xxh64
from reference_codecs import fields, need

WHOLE = {"sequence": ["length", "first_token", "token_hash"], "forced": ["log_prob"]}  # arrays of these streams

def check_sequences(root: dict[str, Any], streams: list[Any]) -> None:
    """Refuse a header whose parts of language are wrong, or do not go together: section 6 and 7."""
    found = {s.name: {a.name: a.shape for a in s.arrays} for s in streams}
    for name, arrays in WHOLE.items():
        need(name not in found or [*found[name]] == arrays, f"{name} without its arrays")
    need("sequence" not in found or "token" in found.get("replay", {}), "sequences of no tokens")
    if "fingerprints" in root:
        fields(root["fingerprints"], "", "teacher tokenizer data")
        need(len(root["fingerprints"]) > 0, "no fingerprints")
        for digest in root["fingerprints"].values():
            need(type(digest) is str and re.fullmatch("[0-9a-f]{64}", digest), f"fingerprint {digest}")
    need(("forced" in root) == ("forced" in found), "forced without its stream, or none")
    if "forced" in root:
        tokens = root["forced"]
        need(all(type(token) is int and 0 <= token < root["gives"]["classes"] for token in tokens), "forced")
        need(1 <= len({*tokens}) == len(tokens) <= 4096, "forced: none, too many or one of them twice")
        need(found["forced"]["log_prob"] == [len(tokens)], "log_prob of another shape")

def tokens_of(found: dict[str, Any], item: int) -> Any:
    """Return the tokens of an item of what `read` gave, int32, or None where rows are missing: section 9."""
    length, views = int(found["length"][item]), found["view"][found["item"] == item]
    need(length >= 0 and (length == 0) == (found["first_token"][item] == -1), f"sequence {item}: first token")
    need(views.max(initial=-1) < max(length - 1, 0), f"sequence {item}: a row behind its last")
    if len(views) < length - 1:  # which may be a lie: no memory for it
        return None
    first = found["first_token"][item:item + min(length, 1)]
    tokens = np.concatenate([first, found["token"][found["item"] == item]])
    low, high = (int(half) & 0xFFFFFFFF for half in found["token_hash"][item])
    need(xxh64(tokens.astype("<i4").tobytes()) == low | high << 32, f"sequence {item}: other tokens")
    return tokens
