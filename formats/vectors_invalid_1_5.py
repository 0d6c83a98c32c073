"""The invalid vectors of version 1.5: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import zstandard
from drafts import Draft
from spoil import DESCRIPTOR, Change, header, tensors

from softpack.bits import pack, unpack

# fmt: off
C, U = "CorruptError", "UnsupportedError"
SAMPLE, BARE, POLYK = "1.5_sample", "1.5_sample_bare_log_probs_t4", "1.5_polyk"
HEAD, HEAD16, NAMED = "1.5_head", "1.5_head_fp16", "1.5_head_named"


def codes(number: int, change: Callable[[np.ndarray], object]) -> Change:
    """Change the numbers [numbers of a row, rows] of an array of codes, which is stored as planes then."""
    def apply(draft: Draft) -> None:
        block, start = draft.tile(1), 0
        payload = block.payload or b""
        for _ in range(number):
            start += 16 + DESCRIPTOR.unpack(payload[start:start + 16])[3]
        coding, width, _, length, base = DESCRIPTOR.unpack(payload[start:start + 16])
        stored = payload[start + 16:start + 16 + length]
        planes = zstandard.decompress(stored) if coding else stored
        shape = json.loads(draft.blocks[0].content)["streams"][0]["arrays"][number]["shape"]
        n_rows = block.fields["n_rows"]
        per_row = shape[0] if shape else 1
        values = unpack(planes, width, per_row * n_rows).reshape(per_row, n_rows)
        change(values)
        planes = pack(values, width)
        facts = DESCRIPTOR.pack(0, width, 0, len(planes), base)
        block.payload = payload[:start] + facts + planes + payload[start + 16 + length:]

    return apply


def setting(**values: int | str | bool) -> Change:
    """Change settings of the codec."""
    return header(lambda h: h["codec"]["config"].update(values))


DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    "sample_begins_with_a_repeat": (C, SAMPLE, "a first draw that repeats the one before it",
     codes(0, lambda n: n[0].__setitem__(3, 0))),
    "sample_beyond_the_classes": (C, SAMPLE, "gaps that end behind the last class", codes(0, lambda n: n.fill(4))),
    "sample_more_bits_than_bytes": (C, "1.5_sample_more_draws_than_classes",
     "gaps of more bits than the bytes hold", codes(0, lambda n: n.fill(4))),
    "sample_lengths_beyond_levels": (C, SAMPLE, "a gap longer than there are classes", codes(0, lambda n: n.fill(7))),
    "sample_order_twice": (C, SAMPLE, "a class that has two ranks", tensors(lambda t: t["order"].fill(3))),
    "sample_order_outside": (C, SAMPLE, "a class that is not there",
     tensors(lambda t: t["order"].__setitem__(0, 12))),
    "sample_order_negative": (C, SAMPLE, "a class below 0", tensors(lambda t: t["order"].__setitem__(0, -1))),
    "sample_order_short": (C, SAMPLE, "fewer ranks than the settings say",
     tensors(lambda t: t.update(order=t["order"][:-1]))),
    "sample_at_another_temperature": (C, SAMPLE, "labels at another temperature than the draws",
     setting(sampled_at="2.0")),
    "sample_of_no_draws": (C, BARE, "no draws", setting(draws=0)),
    "sample_of_more_draws": (C, BARE, "more draws than there are codes", setting(draws=4)),
    "sample_seed_negative": (C, BARE, "a seed below 0", setting(draw_seed=-1)),
    "sample_unknown_setting": (U, BARE, "a setting of a later version", setting(replacement=False)),
    "polyk_class_twice": (C, POLYK, "a class that has two ranks", codes(0, lambda n: n.__setitem__(1, n[0]))),
    "polyk_exact_nan": (C, POLYK, "NaN among the exact numbers", codes(1, lambda n: n.fill(0xFFFF))),
    "polyk_exact_of_more_than_k": (C, "1.5_polyk_exact_alone", "more exact numbers than classes",
     setting(exact_k=5)),
    "polyk_terms_twice": (C, POLYK, "a term twice", setting(terms="0,1,1")),
    "polyk_term_unknown": (C, POLYK, "a term that there is not", setting(terms="0,1,log")),
    "polyk_tail_unknown": (C, POLYK, "a tail that there is not", setting(tail="bucket")),
    "head_widths_rise": (C, HEAD, "widths that rise", setting(widths="3x2,4x1", rank=3)),
    "head_widths_of_fewer_axes": (C, HEAD, "widths of fewer axes than the rank",
     header(lambda h: h["codec"]["config"].update(rank=h["codec"]["config"]["rank"] + 1))),
    "head_rank_above_the_hidden_numbers": (C, HEAD, "more axes than a hidden state has numbers",
     setting(rank=17, widths="4x17")),
    "head_axes_short": (C, HEAD16, "axes of fewer numbers than a hidden state",
     tensors(lambda t: t.update(axes=t["axes"][:, :-1]))),
    "head_axes_of_bytes": (C, HEAD16, "axes of another dtype",
     tensors(lambda t: t.update(axes=t["axes"].astype("i1")))),
    "head_mean_nan": (C, HEAD16, "a mean that is not finite", tensors(lambda t: t["mean"].__setitem__(0, np.nan))),
    "head_without_matrix": (C, HEAD16, "a matrix that is said to be inside and is not",
     tensors(lambda t: t.pop("matrix"))),
    "head_matrix_of_fewer_tokens": (C, HEAD16, "a matrix of fewer tokens than the vocabulary",
     tensors(lambda t: t.update(matrix=t["matrix"][:-1]))),
    "head_matrix_of_another_dtype": (C, HEAD16, "a matrix in another dtype than is said",
     setting(matrix_dtype="fp32")),
    "head_matrix_infinite": (C, HEAD16, "a matrix that is not finite",
     tensors(lambda t: t["matrix"].__setitem__((3, 2), np.inf))),
    "head_named_and_inside": (C, HEAD16, "a matrix that is named and in the file", setting(matrix="0" * 64)),
    "head_hash_short": (C, NAMED, "a hash of 63 digits", header(lambda h: h["codec"]["config"].update(
        matrix=h["codec"]["config"]["matrix"][1:]))),
    "head_hash_uppercase": (C, NAMED, "a hash in capitals", setting(matrix="A" * 64)),
    "head_matrix_dtype_unknown": (C, NAMED, "a matrix in a dtype that there is not", setting(matrix_dtype="fp8")),
    "head_step_zero": (C, HEAD, "levels without a distance", setting(step="0.0")),
    "head_vocabulary_of_another": (C, HEAD, "another vocabulary than decoded rows have", setting(vocabulary=41)),
    "head_of_logits": (C, HEAD, "rows that are logits before encoding",
     header(lambda h: h["takes"].update(space="logits"))),
    "hidden_of_raw": (C, "1.0_raw_fp32", "hidden states of another codec",
     header(lambda h: [h[name].update(space="hidden") for name in ("takes", "gives")])),
    "hidden_of_topk": (C, "1.0_topk_zero", "hidden states that give log-probabilities",
     header(lambda h: h["takes"].update(space="hidden"))),
    "head_unknown_setting": (U, HEAD, "a setting of a later version", setting(bias=True)),
    "head_widths_of_integer": (C, HEAD, "widths that are a number", setting(widths=2)),
    "polyk_terms_of_integer": (C, POLYK, "terms that are a number", setting(terms=1)),
    "sample_seed_of_text": (C, BARE, "a seed in text", setting(draw_seed="1")),
    "polyk_fewer_terms": (C, POLYK, "fewer terms than coefficients", setting(terms="0,1")),
    "hidden_of_sample": (C, SAMPLE, "hidden states that draws are made of",
     header(lambda h: h["takes"].update(space="hidden"))),
    "hidden_of_polyk": (C, POLYK, "hidden states that curves are made of",
     header(lambda h: h["takes"].update(space="hidden"))),
    "raw_in_steps": (C, "1.0_raw_fp32", "numbers in what only topk has", setting(dtype="steps")),
    "polyk_in_steps": (C, POLYK, "log-probabilities in what only topk has", setting(exact_value="steps")),
    "sample_at_no_end": (C, BARE, "draws at an infinite temperature", setting(sampled_at="1e999")),
    "sample_draws_of_text": (C, BARE, "a number of draws in text", setting(draws="3")),
    "head_of_no_bits": (C, HEAD, "a fit to no bits", setting(bits="0")),
    "head_search_101": (C, HEAD, "more rounds of a search than there may be", setting(search=101)),
    "head_temperatures_17": (C, HEAD, "too many temperatures", setting(temperatures=",".join(["1"] * 17))),
}
