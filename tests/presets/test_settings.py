"""How a preset's settings are written, and what they may be."""

from __future__ import annotations

from fractions import Fraction

import pytest

from softpack.errors import DataError
from softpack.presets.registry import PRESETS, budget
from softpack.presets.settings import Setting, resolve, split


def test_a_name_and_its_settings():
    assert split("sre2l") == ("sre2l", {})
    assert split(" SRe2L:ipc=50, epochs=300 ") == ("sre2l", {"ipc": "50", "epochs": "300"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sre2l:", "found ''; expected KEY=VALUE, such as sre2l:ipc=50"),
        ("sre2l:ipc", "found 'ipc'; expected KEY=VALUE"),
        ("sre2l:ipc=", "found 'ipc='; expected KEY=VALUE"),
        ("sre2l:ipc=1,ipc=2", "ipc is there twice; give it once"),
        ("", "there is no preset ''; there are sre2l, cda"),
        ("sre2", r"there is no preset 'sre2' \(did you mean sre2l\?\); there are sre2l"),
        ("sre2l:ipd=5", r"preset sre2l: there is no setting ipd \(did you mean ipc\?\); there are classes, ipc, items"),
        ("sre2l:k=5", "preset sre2l: there is no setting k; there are classes"),
        ("sre2l:ipc=many", r"ipc=many \(images a class\): expected a whole number from 1 to 1000000000000; write"),
        ("sre2l:ipc=0", "ipc=0 .* expected a whole number from 1"),
        ("sre2l:ipc=-1", "ipc=-1 .* expected a whole number from 1"),
        ("sre2l:ipc=1.5", "ipc=1.5 .* expected a whole number"),
        ("sre2l:ipc=1e3", "ipc=1e3 .* expected a whole number"),
        ("sre2l:ipc=٣", "expected a whole number"),
        ("sre2l:classes=1", "expected a whole number from 2"),
        ("sre2l:ipc=" + "9" * 5000, "expected a whole number"),
        ("lpld:prune=0.5", "prune=0.5 .* expected a number from 1"),
        ("lpqld:batch=257", "expected a whole number from 1 to 256"),
        ("dq:drop=1.5", "drop=1.5 .* expected a number from 0 to 1"),
        ("sre2l:dtype=fp8", r"dtype=fp8 \(of a number\): expected one of fp16, fp32; write sre2l:dtype=VALUE"),
        ("sre2l:mix=3", "expected one of cutmix, mixup, cutout, none"),
        ("sre2l:ipc=10,items=999", "items=999, but classes=1000 times ipc=10 are 10000; give items or ipc"),
        ("d3m", "preset d3m: needs tokens, learned words of a class; write d3m:tokens=VALUE"),
        ("hald:slc=5", "preset hald: slc=5 labels a class are less than one an image, of 10,000 images"),
        ("lpld:prune=40,ipc=1,batch=1000,epochs=30", "prune=40 keeps none of 30 batches of 1,000 rows; expected one"),
    ],
)  # fmt: skip
def test_what_is_refused(spec, message):
    with pytest.raises(DataError, match=message):
        budget(spec)


def test_numbers_may_be_fractions_where_that_means_something():
    setting = Setting("prune", "times fewer", whole=False)

    assert setting.read("2.5", "lpld") == Fraction(5, 2)
    assert setting.read("40", "lpld") == 40
    assert isinstance(setting.read("40", "lpld"), int)


def test_images_are_classes_times_ipc_or_said():
    assert budget("sre2l:classes=10,ipc=5").settings["items"] == 50
    said = budget("sre2l:items=19").settings
    assert (said["items"], said["ipc"]) == (19, None)
    assert budget("sre2l:items=20,classes=10,ipc=2").settings["ipc"] == 2


def test_what_is_given_goes_before_what_a_file_says():
    settings = PRESETS["sre2l"].settings
    of_file = {"classes": 50, "items": 100, "epochs": 28, "crops": 7}

    taken = resolve("sre2l", settings, {}, of_file)
    given = resolve("sre2l", settings, {"ipc": "3", "epochs": "9"}, of_file)

    assert (taken["classes"], taken["items"], taken["epochs"], taken["ipc"]) == (50, 100, 28, None)
    assert (given["classes"], given["items"], given["epochs"], given["ipc"]) == (50, 150, 9, 3)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_defaults_are_allowed(preset):
    for setting in preset.settings:
        assert setting.about
        default = setting.default
        if default is not None:
            text = str(float(default)) if isinstance(default, Fraction) else str(default)
            assert setting.read(text, preset.name) == default
