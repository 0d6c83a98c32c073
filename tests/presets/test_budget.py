"""Formulas beside the sizes that the authors published, as they wrote them."""

from __future__ import annotations

import pytest

from softpack.presets.budget import BLOCK, IMAGES
from softpack.presets.registry import PRESETS, budget

GIB, MIB, MB = 1 << 30, 1 << 20, 10**6
TINY = "classes=200,size=64,epochs=100,batch=64,mix=none"
IN_21K = "classes=10450,batch=32,mix=cutout"
IN_22K = "classes=21841,items=14197122,epochs=90,k=100,key=15"

ROUNDS_TO = [  # the formula rounds to what was written: spec, what of it, the size, its unit
    ("sre2l:ipc=10", "labels", "5.67", GIB),
    ("sre2l:ipc=20", "labels", "11.33", GIB),
    ("sre2l:ipc=50", "labels", "28.33", GIB),
    ("sre2l:ipc=100", "labels", "56.66", GIB),
    ("lpld:ipc=10", "labels", "0.14", GIB),
    ("lpld:ipc=20", "labels", "0.29", GIB),
    ("lpld:ipc=50", "labels", "0.71", GIB),
    ("lpld:ipc=100", "labels", "1.43", GIB),
    ("lpld:ipc=10", "images", "0.15", GIB),
    ("lpld:ipc=20", "images", "0.30", GIB),
    ("lpld:ipc=50", "images", "0.75", GIB),
    ("lpld:ipc=100", "images", "1.49", GIB),
    ("lpld:ipc=200", "images", "2.98", GIB),
    (f"lpld:{TINY},ipc=50", "images", "21", MB),
    (f"lpld:{TINY},ipc=50", "labels", "11", MB),
    (f"lpld:{TINY},ipc=100", "labels", "22", MB),
    *((f"lpqld:ipc={ipc},k={k}", "labels", size, GIB) for ipc, sizes in {
        10: ("0.13", "0.07", "0.03"), 20: ("0.25", "0.15", "0.06"), 50: ("0.63", "0.37", "0.14"),
        100: ("1.27", "0.73", "0.29"), 200: ("2.54", "1.47", "0.58")}.items()
      for k, size in zip((100, 50, 10), sizes, strict=True)),
    ("tinyvit", "labels and seeds", "16", GIB),
    (f"tinyvit:{IN_22K}", "labels and seeds", "481", GIB),
    (f"tinyvit:{IN_22K}", "names of images", "18", GIB),
    ("nrr-dd:ipc=200", "labels", "0.2", GIB),
    ("score:ipc=50", "labels", "1.9", GIB),
    ("distillkit:tokens=1,vocabulary=50257,config=budget", "labels", "114", 1),
    ("se-kd3x:tokens=1,slots=12", "labels", "37", 1),
    ("fkd", "labels", str(39_305 * 1_281_167), 1),
    ("fkd:dtype=fp16", "labels", str(19_529 * 1_281_167), 1),
    ("ml-dr:samples=100,k=5", "labels", "4.7", GIB),
]  # fmt: skip
MISSES = [  # and where it does not: how far it is off, and why
    # Twenty times the unrounded size at ipc=10 is 113.33; the formula has 195 batches an epoch and a short one.
    ("sre2l:ipc=200", "labels", "113.33", GIB, (-0.0001, 0)),
    # An archive, in which tar and gzip take a little more or less than the files.
    ("lpld:ipc=200", "labels", "2.85", GIB, (0, 0.002)),
    # Twice what ipc=50 takes, though its epochs have 312 files and a short one, not 313 whole ones.
    (f"sre2l:{TINY},ipc=50", "labels", "449", MB, (-0.002, 0)),
    (f"sre2l:{TINY},ipc=100", "labels", "898", MB, (-0.003, 0)),
    (f"lpld:{TINY},ipc=100", "images", "40", MB, (0.02, 0.04)),
    # 104,500 images x 300 epochs x 20,900 bytes are 610 GiB: how the authors came to more is not known.
    (f"sre2l:{IN_21K},ipc=10", "labels", "643", GIB, (-0.045, -0.04)),
    (f"sre2l:{IN_21K},ipc=20", "labels", "1286", GIB, (-0.045, -0.04)),
    (f"lpld:{IN_21K},ipc=10", "labels", "16", GIB, (-0.045, -0.04)),
    (f"lpld:{IN_21K},ipc=20", "labels", "32", GIB, (-0.045, -0.04)),
    # These images are less smooth than those of ImageNet-1K, whose rate the formula has.
    (f"lpld:{IN_21K},ipc=10", "images", "3", GIB, (-0.5, -0.45)),
    (f"lpld:{IN_21K},ipc=20", "images", "5", GIB, (-0.4, -0.35)),
    # The abstract says 285M, and does not say of what.
    ("hald", "soft labels alone", "285", MIB, (0, 0.005)),
    # The file has a little beside the weights.
    ("rded", "the teacher", "44.7", MIB, (-0.002, 0)),
    # Archives of pickles: the formula has the numbers alone, and not that each image has a file.
    ("ml-dr", "labels", "33.4", GIB, (-0.02, 0)),
    ("ml-dr:samples=50", "labels", "4.4", GIB, (-0.07, 0)),
]
ROUNDED_UP = [  # by du -h
    (f"lpqld:{IN_21K},ipc=10,prune=20,k=200", "1.6"),
    (f"lpqld:{IN_21K},ipc=20,prune=40,k=400", "2.7"),
]


def published(spec, what, text):
    """What a budget says was published of it, and what its formula gives, in bytes."""
    one = budget(spec)
    (found,) = [said for said in one.published() if said.what == what and said.number == text]
    return found, one.bytes_for(found)


@pytest.mark.parametrize(("spec", "what", "text", "unit"), ROUNDS_TO)
def test_formulas_round_to_what_was_published(spec, what, text, unit):
    said, formula = published(spec, what, text)
    decimals = len(text.partition(".")[2])

    assert f"{formula / unit:.{decimals}f}" == text
    assert said.n_bytes == round(float(text) * unit)
    assert abs(formula - said.n_bytes) <= said.last_digit / 2


@pytest.mark.parametrize(("spec", "what", "text", "unit", "off"), MISSES)
def test_formulas_miss_by_what_is_known(spec, what, text, unit, off):
    said, formula = published(spec, what, text)

    assert said.n_bytes == round(float(text) * unit)
    assert off[0] <= formula / said.n_bytes - 1 <= off[1]


@pytest.mark.parametrize(("spec", "text"), ROUNDED_UP)
def test_sizes_of_a_disk_that_are_rounded_up(spec, text):
    _, formula = published(spec, "labels", text)

    assert 0 <= float(text) - formula / GIB < 0.1


def test_every_published_size_is_held_to():
    held = {(spec, what, text) for spec, what, text, *_ in (*ROUNDS_TO, *MISSES)}
    held |= {(spec, "labels", text) for spec, text in ROUNDED_UP}
    of_lpqld = {text for spec, what, text in held if spec.startswith("lpld") and what == "images"}
    sized = [one for preset in PRESETS.values() for one in preset.published if one.number is not None]
    images = [one for one in PRESETS["lpqld"].published if one.what == "images"]

    assert {one.number for one in images} == of_lpqld
    assert len(sized) - len(images) == len(held)


def test_what_is_not_a_number_is_said_of_every_setting():
    for spec in ("hello", "hello:ipc=200", "infer", "d3m:tokens=4", "dq:fraction=0.1", "fred", "ddif"):
        (said,) = budget(spec).published()
        assert (said.n_bytes, said.number) == (None, None)
        assert said.text == said.remark


def test_published_sizes_are_of_their_settings_alone():
    assert [said.what for said in budget("lpld:ipc=10").published()] == ["labels", "images"]
    assert [said.what for said in budget("lpld:ipc=10,prune=20").published()] == ["images"]
    assert [said.what for said in budget("lpld:ipc=10,picture=9000").published()] == ["labels"]
    assert budget("lpld:ipc=11").published() == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_budget_adds_up(name):
    one = budget(name if name != "d3m" else "d3m:tokens=2")
    said = one.to_json()
    bits = sum(entry["bits"] for entry in said["entries"])
    of_images = [entry["bits"] for entry in said["entries"] if entry["scope"] == IMAGES]

    assert said["preset"] == name
    assert {"settings", "published", "bits_per_label"} <= said.keys()
    assert 8 * said["label_bytes"] == bits - sum(of_images)
    assert said["image_bytes"] == (sum(of_images) // 8 if of_images else None)
    assert said["total_bytes"] == said["label_bytes"] + (said["image_bytes"] or 0)
    assert said["source"].startswith(("arXiv ", "code of "))
    if said["labels"]:
        assert said["bits_per_label"] == 8 * said["label_bytes"] / said["labels"]
    else:
        assert said["bits_per_label"] is None
    if said["disk_bytes"] is not None:
        assert said["disk_bytes"] % BLOCK == 0
        assert said["disk_bytes"] >= said["label_bytes"]


def test_published_sizes_say_how_far_the_formula_is():
    (said,) = budget("sre2l").to_json()["published"]

    assert said["what"] == "labels"
    assert said["text"] == "5.67 GB (of 2**30 bytes)"
    assert said["bytes"] == round(5.67 * GIB)
    assert said["off"] == said["formula_bytes"] / said["bytes"] - 1
    assert "README" in said["source"]
