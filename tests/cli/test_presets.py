"""`softpack ledger` of published methods, and of files beside them."""

from __future__ import annotations

import csv
import io

import pytest

from softpack.presets.registry import PRESETS, budget

JSON_KEYS = {
    "preset", "settings", "image_bytes", "label_bytes", "total_bytes", "bits_per_label", "published", "entries",
}  # fmt: skip


def test_a_preset_needs_no_file(run):
    ran = run("ledger --preset sre2l")
    assert ran.err == ""
    assert ran.out.startswith("SRe2L: logits of every view, in torch pickles\nsre2l:classes=1000,ipc=10,")
    assert "published: labels: 5.67 GB" in ran.out


def test_settings_stand_behind_a_colon(run):
    said = run("ledger --preset lpqld:ipc=10,prune=10,k=100 --json").json
    assert said.keys() >= JSON_KEYS
    assert said["label_bytes"] == budget("lpqld:ipc=10,prune=10,k=100").label_bytes
    assert all(entry.keys() == {"what", "bits", "scope"} for entry in said["entries"])
    assert said["published"][0]["text"] == "0.13 GB (of 2**30 bytes)"
    assert run("ledger --preset LPQLD:k=100 --format json").json == said


def test_several_presets(run):
    both = run("ledger --preset sre2l --preset rded:ipc=50 --json").json
    assert [said["preset"] for said in both] == ["sre2l", "rded"]
    rows = list(csv.DictReader(io.StringIO(run("ledger --preset sre2l --preset rded --format csv").out)))
    assert {row["preset"].partition(":")[0] for row in rows} == {"sre2l", "rded"}


@pytest.mark.parametrize(
    ("form", "expected"),
    [("markdown", "| all "), ("latex", r"\begin{tabular}"), ("csv", "preset,what,scope,bits")],
)
def test_forms_of_a_preset(run, form, expected):
    assert expected in run(f"ledger --preset lpld --format {form}").out


@pytest.mark.parametrize("line", ["ledger --preset", "ledger --preset list"])
def test_the_presets_that_there_are(run, line):
    said = run(line).out
    for preset in PRESETS.values():
        assert preset.about in said
    assert [one["preset"] for one in run(f"{line} --json").json["presets"]] == list(PRESETS)


def test_a_file_beside_methods(run, here):
    lines = run("ledger labels.spk --against sre2l --against fkd:k=3").out.splitlines()
    assert lines[0] == "labels.spk: 6 items x 4 views, 24 labels of 10 classes"
    assert [line.split()[0] for line in lines[4:]] == ["labels.spk", "sre2l", "fkd:k=3"]
    said = run("ledger labels.spk --against sre2l --json").json
    assert said["rows"][0]["label_bytes"] == (here / "labels.spk").stat().st_size
    assert said["rows"][1]["settings"].items() >= {"classes": 10, "items": 6, "epochs": 4}.items()


def test_a_file_and_its_images_beside_methods_of_other_sizes(run, here):
    (here / "photos").mkdir()
    (here / "photos" / "one.png").write_bytes(bytes(1000))
    ran = run("ledger labels.spk --images photos --against sre2l:ipc=10")
    assert ran.out.splitlines()[4].split()[:2] == ["labels.spk", "1,000"]
    assert ran.out.endswith("\n\nsre2l:ipc=10: items=100, the file has 6\n")


def test_files_beside_methods(run):
    run("encode logits.npz -o small.spk --codec topk --set k=2")
    both = run("ledger labels.spk small.spk --against sre2l --json").json
    assert [found["file"] for found in both] == ["labels.spk", "small.spk"]
    assert both[0]["rows"][1]["label_bytes"] == both[1]["rows"][1]["label_bytes"]
    assert both[0]["rows"][1]["times"] < both[1]["rows"][1]["times"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ledger", "Missing argument 'FILES...'"),
        ("ledger --against sre2l", "Missing argument 'FILES...'"),
        ("ledger --preset nosuch", "--preset: there is no preset 'nosuch'; there are sre2l, cda, cv-dd"),
        ("ledger --preset labels.spk", "--preset: there is no preset 'labels.spk'"),
        (
            "ledger --preset sre2l:ipd=5",
            "there is no setting ipd (did you mean ipc?); there are classes, ipc, items",
        ),
        ("ledger --preset sre2l:ipc=0", "expected a whole number from 1"),
        ("ledger --preset sre2l:epochs=ten", "epochs=ten"),
        ("ledger --preset d3m", "preset d3m: needs tokens"),
        ("ledger labels.spk --preset sre2l", "--preset stands alone; to set a file beside a method"),
        ("ledger --preset sre2l --against lpld", "--preset stands alone"),
        ("ledger --preset sre2l --images .", "--preset stands alone"),
        ("ledger labels.spk --against nosuch", "--against: there is no preset 'nosuch'"),
        ("ledger labels.spk --against sre2l:ipc=x", "--against: preset sre2l: ipc=x"),
        ("ledger labels.spk --against lpld", "prune=40 keeps none of 4 batches of 6 rows"),
    ],
)
def test_what_is_mistyped(refused, line, message):
    assert message in refused(line, code=2)


def test_a_file_that_is_none_is_refused_as_ever(refused):
    assert "is not an .spk file" in refused("ledger logits.npy --against sre2l")
