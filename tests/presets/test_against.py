"""A file beside methods: whose settings are meant, and what is said where they differ."""

from __future__ import annotations

import csv
import io
import json

import pytest

from softpack.accounting import FORMATS, Entry, Ledger
from softpack.errors import DataError
from softpack.presets.against import compare, render
from softpack.presets.registry import PRESETS, budget

FILE = Ledger("a.spk", (Entry("codes", 800_000, "codes"),), 100_000, 2_800, 50, items=100, views=28)
ODD = Ledger("odd.spk", (Entry("codes", 800_000, "codes"),), 100_000, 570, 1000, items=19, views=30)
EMPTY = Ledger("empty.spk", (Entry("superblock", 448, "header"),), 56, 0, 10)


def test_what_is_not_said_is_the_files():
    (file, row) = compare(FILE, ["sre2l"]).rows()

    assert row["settings"] == {
        "classes": 50, "ipc": 2, "items": 100, "epochs": 28, "size": 224, "batch": 1024, "dtype": "fp16",
        "mix": "cutmix",
    }  # fmt: skip
    assert row["differs"] == []
    assert row["label_bytes"] == budget("sre2l:classes=50,ipc=2,epochs=28").label_bytes
    assert row["times"] == row["label_bytes"] / 100_000
    assert file["bits_per_label"] == file["bits_per_view"] == 800_000 / 2_800


def test_views_have_the_name_that_a_method_gives_them():
    for spec, name in (("fkd", "crops"), ("ml-dr", "samples"), ("tinyvit", "epochs")):
        (_, row) = compare(FILE, [spec]).rows()
        assert (row["settings"]["items"], row["settings"][name], row["differs"]) == (100, 28, [])


def test_images_that_are_not_so_many_a_class():
    (_, sre2l, infer) = compare(ODD, ["sre2l", "infer"]).rows()

    assert sre2l["settings"]["items"] == 19
    assert "ipc" not in sre2l["settings"]
    assert infer["differs"] == ["ipc=10, the file has 0.019"]


def test_what_is_said_goes_before_the_file_and_is_told():
    (_, given, other) = compare(FILE, ["sre2l:ipc=10", "lpld:classes=1000,epochs=300,items=100,prune=5"]).rows()

    assert given["settings"]["items"] == 500
    assert given["differs"] == ["items=500, the file has 100"]
    assert other["differs"] == ["classes=1000, the file has 50", "epochs=300, the file has 28"]
    assert "sre2l:ipc=10: items=500, the file has 100" in render([compare(FILE, ["sre2l:ipc=10"])], "table")


def test_bits_a_view_count_labels_that_are_shown_again():
    (_, full, pruned) = compare(FILE, ["sre2l:batch=10", "lpld:prune=10,batch=10"]).rows()

    assert pruned["labels"] == full["labels"] / 10
    assert pruned["bits_per_view"] == pytest.approx(full["bits_per_view"] / 10, rel=0.05)
    assert pruned["bits_per_label"] == pytest.approx(full["bits_per_label"], rel=0.05)


def test_every_method_stands_beside_every_file():
    specs = [
        name + {"d3m": ":tokens=1", "lpld": ":prune=3", "lpqld": ":prune=3"}.get(name, "") for name in PRESETS
    ]

    for ledger in (FILE, ODD, EMPTY):
        rows = compare(ledger, specs).rows()
        assert [row["what"] for row in rows[1:]] == specs
        for form in FORMATS:
            assert "sre2l" in render([compare(ledger, specs)], form)


def test_methods_without_labels_are_no_times_of_a_file():
    (_, row) = compare(FILE, ["d3m:tokens=1"]).rows()

    assert (row["label_bytes"], row["times"], row["bits_per_view"]) == (0, None, None)


def test_one_file_is_an_object_and_several_are_a_list():
    one = json.loads(render([compare(FILE, ["sre2l"])], "json"))
    both = json.loads(render([compare(FILE, ["sre2l"]), compare(ODD, ["sre2l"])], "json"))

    assert one["file"] == "a.spk"
    assert [row["what"] for row in one["rows"]] == ["a.spk", "sre2l"]
    assert [found["file"] for found in both] == ["a.spk", "odd.spk"]


def test_as_csv():
    rows = list(csv.DictReader(io.StringIO(render([compare(FILE, ["sre2l"])], "csv"))))

    assert [row["what"] for row in rows] == ["a.spk", "sre2l"]
    assert (rows[0]["image_bytes"], rows[0]["label_bytes"]) == ("", "100000")


def test_what_is_refused_is_what_presets_refuse():
    with pytest.raises(DataError, match="there is no preset 'nosuch'"):
        compare(FILE, ["nosuch"])
    with pytest.raises(DataError, match="preset lpld: prune=40 keeps none of 28 batches of 100 rows"):
        compare(FILE, ["lpld"])


def test_a_vocabulary_and_its_labels_are_the_files():
    (_, kit, tron) = compare(ODD, ["distillkit", "megatron:vocabulary=2000"]).rows()

    assert (kit["settings"]["vocabulary"], kit["settings"]["tokens"], kit["differs"]) == (1000, 570, [])
    assert tron["differs"] == ["vocabulary=2000, the file has 1,000"]


def test_a_vocabulary_that_a_method_has_no_room_for_is_its_own():
    large = Ledger("a.spk", (Entry("codes", 800, "codes"),), 100, 2_800, 262_144, items=100, views=28)

    (_, row) = compare(large, ["megatron"]).rows()

    assert row["settings"]["vocabulary"] == 131_072
    assert row["differs"] == ["vocabulary=131072, the file has 262,144"]
