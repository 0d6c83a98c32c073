"""Budgets as tables, and as programs read them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from softpack.presets.registry import PRESETS, budget
from softpack.presets.report import listing, render, spelled


def test_a_table_has_the_columns_of_a_files_ledger():
    lines = render([budget("sre2l")], "table").splitlines()

    assert lines[0] == "SRe2L: logits of every view, in torch pickles"
    assert lines[3].split() == ["what", "scope", "bits", "bits/label", "share"]
    assert lines[5].startswith("images, JPEG of 16,000 bytes as LPLD's  images  ")
    assert lines[5].split()[-3:] == ["1,280,000,000", "426.667", "2.56%"]
    assert "all  " in lines[11]
    assert lines[-3] == "on a disk of 4 KiB blocks the labels take 6,085,017,600 bytes (5.67 GiB)"
    assert lines[-2].startswith(
        "published: labels: 5.67 GB (of 2**30 bytes); the formula gives 6,085,017,600 bytes"
    )
    assert lines[-1] == "source: arXiv 2306.13092; by formula from its code"


def test_what_is_not_stored_is_not_divided_by():
    said = render([budget("rded")], "table")

    assert "124.79 bits a label of the 3,000,000 that a student sees" in said
    assert "bits a label of the 0" not in said


def test_images_of_a_data_set():
    assert "; images are those of the data set, and not counted" in render([budget("fkd")], "table")


@pytest.mark.parametrize("name", PRESETS)
def test_the_second_line_is_the_preset_again(name):
    one = budget(name if name != "d3m" else "d3m:tokens=2")

    assert render([one], "table").splitlines()[1] == spelled(one)
    assert budget(spelled(one)) == one


def test_json_is_an_object_or_a_list():
    one = json.loads(render([budget("sre2l")], "json"))
    both = json.loads(render([budget("sre2l"), budget("dq")], "json"))

    assert one == budget("sre2l").to_json()
    assert [said["preset"] for said in both] == ["sre2l", "dq"]
    assert both[1]["settings"]["drop"] == 0.2


def test_csv_and_the_forms_of_papers():
    rows = list(csv.DictReader(io.StringIO(render([budget("sre2l"), budget("cda")], "csv"))))

    assert {row["preset"].partition(":")[0] for row in rows} == {"sre2l", "cda"}
    assert sum(int(row["bits"]) for row in rows if row["scope"] != "images") == sum(
        budget(name).label_bits for name in ("sre2l", "cda")
    )
    assert render([budget("sre2l")], "latex").startswith(r"\begin{tabular}")
    assert "| what " in render([budget("sre2l")], "markdown")


def test_the_list_has_a_line_for_each():
    lines = listing("table").splitlines()

    assert [line.split()[0] for line in lines[: len(PRESETS)]] == list(PRESETS)
    assert max(map(len, lines)) <= 110
    listed = json.loads(listing("json"))["presets"]
    assert [one["preset"] for one in listed] == list(PRESETS)
    assert listed[0]["settings"]["epochs"] == 300


def test_neither_torch_nor_numpy_is_imported():
    code = "import sys, softpack; print(softpack.budget('lpld').label_bytes, *{'torch', 'numpy'} & set(sys.modules))"

    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert said == f"{budget('lpld').label_bytes}\n"
