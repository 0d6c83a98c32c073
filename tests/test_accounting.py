from __future__ import annotations

import csv
import io
import json
import re

import pytest

from softpack.accounting import FORMATS, Entry, Ledger, grid, render, size

LEDGER = Ledger(
    "a_b.spk",
    (
        Entry("header (JSON)", 8_000, "header"),
        Entry("decoder", 16_000, "model"),
        Entry("codes: values", 40_000, "codes"),
        Entry("replay: mix_lam", 15_200, "replay"),
        Entry("padding of blocks", 800, "padding"),
    ),
    file_bytes=10_000,
    n_rows=1_000,
    classes=100,
)
WITH_IMAGES = Ledger("b.spk", LEDGER.entries, 10_000, 1_000, 100, image_bytes=3 << 20)
EMPTY = Ledger("empty.spk", (Entry("superblock", 448, "header"),), 56, 0, 10)


def test_sums():
    assert LEDGER.total_bits == 8 * LEDGER.file_bytes == 80_000
    assert LEDGER.bits_of("header", "padding") == 8_800
    assert LEDGER.bits_of("ids") == 0
    assert LEDGER.all_in_bits_per_label == 80
    assert LEDGER.marginal_bits_per_label == 80 - 16 - 15.2
    assert LEDGER.ratio_vs(16) == 20
    assert LEDGER.ratio_vs(32) == 40


def test_a_file_without_rows_divides_by_nothing():
    assert (EMPTY.marginal_bits_per_label, EMPTY.all_in_bits_per_label, EMPTY.ratio_vs(16)) == (0, 0, 0)
    for form in FORMATS:
        assert "448" in render([EMPTY], form)


def test_a_table_is_aligned():
    lines = render([LEDGER], "table").splitlines()
    table = lines[2:-3]

    assert lines[0] == "a_b.spk: 10,000 bytes (9.77 KiB), 1,000 labels of 100 classes"
    assert len({len(line) for line in table}) == 1
    assert table[0].split() == ["what", "scope", "bits", "bits/label", "share"]
    columns = [match.end() for match in re.finditer(r"-+", table[1])]
    for line in table[2:]:
        ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", line)]
        assert set(ends[-3:]) == set(columns[-3:]), line
    assert table[-1].split() == ["the", "file", "80,000", "80.000", "100.00%"]
    assert lines[-2] == "marginal 48.80 bits a label (neither model nor replay), all-in 80.00"
    assert lines[-1] == "20.0 times smaller than fp16, 40.0 than fp32 (whole file)"


def test_markdown_is_aligned_and_valid():
    table = [line for line in render([LEDGER], "markdown").splitlines() if line.startswith("|")]

    assert len({len(line) for line in table}) == 1
    assert len({line.count("|") for line in table}) == 1
    rule = [cell.strip() for cell in table[1].strip("|").split("|")]
    assert [bool(re.fullmatch("-+", rule[0])), *(bool(re.fullmatch("-+:", cell)) for cell in rule[1:])] == [
        True
    ] * 5


def test_markdown_of_narrow_columns_is_valid():
    assert grid([("a", "b"), ("1", "2")], "markdown").splitlines()[1] == "| -- | -: |"


def test_latex_is_escaped():
    text = render([LEDGER], "latex")

    assert r"replay: mix\_lam & replay & 15,200 & 15.200 & 19.00\% \\" in text.splitlines()
    assert text.startswith(r"\begin{tabular}{lrrrr}")
    assert text.endswith(r"\end{tabular}")
    assert len({line.count("&") for line in text.splitlines() if line.endswith(r"\\")}) == 1
    every = grid([("what",), (r"a_b%c&d#e$f{g}h\i^j~k",)], "latex").splitlines()[4]
    expected = r"a\_b\%c\&d\#e\$f\{g\}h\textbackslash{}i\textasciicircum{}j\textasciitilde{}k \\"
    assert every == expected


def test_csv_has_a_line_for_each_entry():
    rows = list(csv.DictReader(io.StringIO(render([LEDGER, WITH_IMAGES], "csv"))))

    assert len(rows) == 11
    assert sum(int(row["bits"]) for row in rows if row["file"] == "a_b.spk") == LEDGER.total_bits
    assert rows[-1] == {
        "file": "b.spk",
        "what": "images",
        "scope": "images",
        "bits": str(24 << 20),
        "labels": "1000",
    }


def test_json_is_one_object_or_a_list():
    one, two = json.loads(render([LEDGER], "json")), json.loads(render([LEDGER, WITH_IMAGES], "json"))

    assert one["total_bits"] == 8 * one["file_bytes"] == sum(entry["bits"] for entry in one["entries"])
    assert one["entries"][0] == {"what": "header (JSON)", "bits": 8000, "scope": "header"}
    assert one["image_bytes"] is None
    assert [document["file"] for document in two] == ["a_b.spk", "b.spk"]
    assert two[1]["image_bytes"] == 3 << 20


def test_images_stand_beside_the_file():
    text = render([WITH_IMAGES], "table")

    assert "images 3,145,728 bytes (3.00 MiB); images and labels 3,155,728 bytes (3.01 MiB)" in text
    assert "images" not in render([LEDGER], "table")


def test_several_ledgers_stand_apart():
    assert render([LEDGER, EMPTY], "table") == render([LEDGER], "table") + "\n\n" + render([EMPTY], "table")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1,024 bytes (1.00 KiB)"),
        (5 << 30, "5,368,709,120 bytes (5.00 GiB)"),
    ],
)
def test_sizes(n_bytes, text):
    assert size(n_bytes) == text
