"""The invalid vectors of version 1.5: one malformation each, as in `vectors_invalid`."""

from __future__ import annotations

from typing import Any

from spoil import Change, arrays, header, safetensors_header, tensors
from vectors_invalid_1_5 import codes

# fmt: off
C, U = "CorruptError", "UnsupportedError"
SET, STEPS, MASS = "1.5_topk_set", "1.5_topk_steps", "1.5_topk_mass"


def setting(**values: Any) -> Change:
    """Change settings of the codec."""
    return header(lambda h: h["codec"]["config"].update(values))


def dropped(name: str) -> Change:
    """Leave a setting out."""
    return header(lambda h: h["codec"]["config"].pop(name))


def array(number: int, **values: Any) -> Change:
    """Change how an array of the codes is declared."""
    return header(lambda h: arrays(h)[number].update(values))


DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    "topk_ids_as_bitmap": (C, SET, "another way to keep ids", setting(ids="bitmap")),
    "topk_orders_for_ranked_ids": (C, STEPS, "orders of classes without sets", setting(orders=2)),
    "topk_no_orders": (C, SET, "a set without orders", dropped("orders")),
    "topk_orders_4097": (C, SET, "more orders than there may be", setting(orders=4097)),
    "topk_listed_13": (C, SET, "lists of more classes than there are", setting(listed=13)),
    "topk_another_order": (C, SET, "orders that the model does not have", setting(orders=3)),
    "topk_gaps_of_one_more": (C, SET, "gaps of more levels than there are places", array(1, levels=16)),
    "topk_common_twice": (C, SET, "a class that is common twice", tensors(lambda t: t["common"].__setitem__(1, 0))),
    "topk_common_beyond": (C, SET, "a common class beyond the last", tensors(lambda t: t["common"].__setitem__(2, 12))),
    "topk_list_before_the_first": (C, SET, "a listed place before the first",
     tensors(lambda t: t["lists"].__setitem__((1, 0), -1))),
    "topk_lists_of_floats": (C, SET, "lists in floats", tensors(lambda t: t.update(lists=t["lists"].astype("<f4")))),
    "topk_lists_missing": (C, SET, "a set without lists", tensors(lambda t: t.pop("lists"))),
    "topk_step_infinite": (C, STEPS, "steps without end", setting(step="1e999")),
    "topk_step_of_floats": (C, STEPS, "values in floats with a step", setting(value="fp16")),
    "topk_steps_uniform": (C, STEPS, "steps, which do not say what is left for a uniform tail",
     setting(tail="uniform")),
    "topk_mass_at_no_temperature": (C, MASS, "masses at no temperature", dropped("tail_temperatures")),
    "topk_mass_at_others_alone": (C, MASS, "masses, of which the first is not at the rows' own temperature",
     setting(tail_temperatures="1,2")),
    "topk_mass_twice": (C, MASS, "two masses at one temperature", setting(tail_temperatures="2,2")),
    "topk_masses_without_mass": (C, MASS, "temperatures of masses for a tail without", setting(tail="zero")),
    "topk_mass_of_one_number": (C, MASS, "fewer masses than temperatures", array(2, shape=[1])),
    "topk_mass_temperatures_of_integer": (C, MASS, "temperatures that are a number", setting(tail_temperatures=2)),
    "topk_steps_of_no_class": (C, STEPS, "rows of no class with a probability", codes(1, lambda n: n.fill(255))),
    "topk_mass_nan": (C, MASS, "NaN among log-probabilities", codes(1, lambda n: n.__setitem__((0, 4), 0x7E00))),
    "topk_bucket_nan": (C, SET, "NaN for what each other class has", codes(3, lambda n: n.fill(0x7E00))),
    "topk_bucket_temperature_of_mass": (C, MASS, "the temperature of a bucket where there is none",
     setting(tail_temperature="2")),
    "model_with_metadata": (C, SET, "metadata beside the tensors of the model",
     safetensors_header(lambda h: h.update(__metadata__={"format": "pt"}))),
    "topk_unknown_setting": (U, MASS, "a setting of a later version", setting(spread="frequency")),
}
