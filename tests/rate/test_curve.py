"""A bench run of few cases: what it measures, writes and draws, and how it goes on."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.rate import curve
from softpack.rate.bound import gaussian_bound
from softpack.rate.curve import cases, measure
from softpack.records import LabelSpec
from softpack.sources.opening import open_source

CODECS = ("lowrank", "topk", "quantize", "raw")
AT = (1.0, 4.0)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(curve, "RATES", (16, 40))
    monkeypatch.setattr(curve, "RATES_OF", {})


@pytest.fixture(scope="module")
def source(views_of_items, tmp_path_factory):
    path = tmp_path_factory.mktemp("curve") / "views.npz"
    np.savez(path, **views_of_items(items=20, views=6, classes=15, mixed=0.3))
    return open_source(path)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "RATES", (16, 40))
        patch.setattr(curve, "RATES_OF", {})
        return folder, measure(source, folder, CODECS, AT)


def labels_of(items, views, columns=()):
    spec = LabelSpec(1000)
    return SimpleNamespace(spec=spec, items=items, n_rows=items * views, columns=columns, item_columns={})


def table(folder):
    with (folder / "rd.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_case_is_a_point(made, source):
    _, curves = made
    names = [point["curve"] for point in curves.points]
    assert names.count("lowrank") == 2
    assert {"FKD smoothing, k=5", "LPQLD MR-10", "int4", "int8", "fp16"} <= set(names)
    assert not {"TinyViT top-100", "top-50"} & set(names)  # there are 15 classes
    assert len(names) == len(list(cases(CODECS, source)))


def test_points_are_measured_on_files(made):
    _, curves = made
    points = {(point["curve"], point["asked_bits"]): point for point in curves.points}
    fp16 = points["fp16", ""]
    assert fp16["marginal_bits"] > 16 * 15 * 0.8
    assert fp16["mse"] < 1e-5
    assert fp16["kl_1"] < 1e-4
    assert fp16["top1"] == 1
    assert points["lowrank", "16"]["kl_1"] > points["lowrank", "40"]["kl_1"] > fp16["kl_1"]
    assert points["int8", ""]["mse"] < points["int4", ""]["mse"]
    for point in curves.points:
        assert point["all_in_bits"] > point["marginal_bits"] > 0
        assert point["kl_1"] <= point["kl_1_p99"] <= point["kl_1_max"]


def test_the_table_says_the_same(made):
    folder, curves = made
    rows = table(folder)
    assert [row["curve"] for row in rows] == [point["curve"] for point in curves.points]
    assert [float(row["kl_4"]) for row in rows] == pytest.approx(
        [point["kl_4"] for point in curves.points], rel=1e-5
    )
    assert sorted(path.name for path in folder.iterdir()) == ["rd.csv"]  # no point.spk


def test_the_bound_with_context_is_lower(made):
    _, curves = made
    point = next(p for p in curves.points if p["curve"] == "lowrank")
    rows, given = (gaussian_bound(curves.spectra[d], np.array([point["mse"]]))[0] for d in (None, 0))
    assert 0 < given < 0.8 * rows
    assert point["bound_bits"] == rows


def test_a_second_run_measures_nothing_anew(made, source, tmp_path, monkeypatch):
    folder, curves = made
    shutil.copytree(folder, tmp_path / "rd")
    monkeypatch.setattr(curve, "fit_model", lambda *_, **__: pytest.fail("measured again"))
    again = measure(source, tmp_path / "rd", CODECS, AT)
    assert [p["curve"] for p in again.points] == [p["curve"] for p in curves.points]
    assert [p["kl_1"] for p in again.points] == pytest.approx([p["kl_1"] for p in curves.points], rel=1e-4)


def test_a_run_that_was_stopped_goes_on(made, source, tmp_path):
    folder, curves = made
    lines = (folder / "rd.csv").read_text().splitlines(keepends=True)
    (tmp_path / "rd.csv").write_text("".join(lines[:-2]))
    said = []
    measure(source, tmp_path, CODECS, AT, say=said.append)
    assert [point["curve"] for point in said] == [point["curve"] for point in curves.points[-2:]]
    assert len(table(tmp_path)) == len(curves.points)


def test_more_codecs_are_added_to_a_run(made, source, tmp_path):
    measure(source, tmp_path, ("raw",), AT)
    measure(source, tmp_path, ("quantize",), AT)
    assert [row["curve"] for row in table(tmp_path)] == ["fp16", "int4", "int8"]


def test_the_folder_of_another_source_is_refused(made, source, views_of_items, tmp_path):
    folder, _ = made
    before = (folder / "rd.csv").read_bytes()
    np.savez(tmp_path / "views.npz", **views_of_items(items=21, views=6, classes=15))
    with pytest.raises(
        DataError, match=r"rd\.csv: is of views\.npz: 120 rows of 15, not of views\.npz: 126 rows of 15"
    ):
        measure(open_source(tmp_path / "views.npz"), folder, CODECS, AT)
    assert (folder / "rd.csv").read_bytes() == before


def test_a_run_at_other_temperatures_is_refused(made, source, tmp_path):
    """Its table would have other columns."""
    folder, _ = made
    shutil.copytree(folder, tmp_path / "rd")
    with pytest.raises(DataError, match=r"rd\.csv: .*temperature.*another folder"):
        measure(source, tmp_path / "rd", CODECS, (1.0, 20.0))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "source,curve,codec,asked_bits,kl_1\nx,y,z,w,v\n"])
def test_a_table_that_is_none_is_refused(source, tmp_path, text):
    (tmp_path / "rd.csv").write_text(text)
    with pytest.raises(DataError, match=r"rd\.csv: "):
        measure(source, tmp_path, ("raw",), AT)


def test_a_folder_that_cannot_be_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        measure(source, tmp_path / "file", ("raw",), AT)


def test_trained_codecs_are_measured_with_context_and_without():
    found = list(cases(("vqae",), labels_of(300, 62)))
    assert [(case.curve, case.asked_bits) for case in found] == [
        ("vqae with context", 16), ("vqae with context", 40), ("vqae", 16), ("vqae", 40)
    ]  # fmt: skip
    assert all(case.settings.get("context", False) == bool(case.shared.items) for case in found)
    assert {case.curve for case in cases(("vqae",), labels_of(300, 1))} == {"vqae"}


def test_crops_are_context_where_items_have_views_enough():
    crops = ("crop_xywh_fraction",)
    assert {case.curve for case in cases(("klt",), labels_of(300, 40, crops))} == {
        "klt with context by crop", "klt with context", "klt"
    }  # fmt: skip
    assert {case.degree for case in cases(("klt",), labels_of(300, 40, crops))} == {0, 1}
    assert {case.degree for case in cases(("klt",), labels_of(300, 6, crops))} == {0}


def test_a_codec_that_refuses_is_left_out_and_said(source, tmp_path):
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "RATES", (1, 40))
        curves = measure(source, tmp_path, ("lowrank",), AT, refused=lambda *why: said.append(why))
    assert [point["asked_bits"] for point in curves.points] == ["40"]
    assert [(case.asked, "ask for more" in why or "cheap" in why or "least" in why) for case, why in said] == [
        ("1", True)
    ]


def test_pictures(made, tmp_path):
    pytest.importorskip("matplotlib")
    from softpack.rate.plot import draw

    _, curves = made
    drawn = draw(curves, tmp_path, "Labels of a test")
    assert sorted(path.name for path in drawn) == [
        "rd_all_in.png",
        "rd_all_in.svg",
        "rd_marginal.png",
        "rd_marginal.svg",
    ]
    assert all((tmp_path / "rd_marginal.png").read_bytes()[:4] == b"\x89PNG" for _ in drawn)
    svg = (tmp_path / "rd_marginal.svg").read_text()
    assert "<svg" in svg
    one = replace(curves, points=curves.points[:1])
    assert len(draw(one, tmp_path, "One point")) == 4
