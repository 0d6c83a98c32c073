"""Formulas of cached labels of data sets beside such files."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np
import pytest
import torch

from softpack.presets.registry import budget


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("crops", [100, 500])
def test_files_of_fkd(tmp_path, dtype, crops):
    random, kind = np.random.default_rng(0), {"fp32": "f4", "fp16": "f2"}[dtype]
    ids = random.integers(0, 1000, (crops, 5)).astype(kind)
    label = np.stack([ids, -np.sort(-random.dirichlet(np.ones(5), crops), 1).astype(kind)], 1)
    path = tmp_path / "x.tar"
    torch.save([random.random((crops, 4)).astype(kind), random.random(crops) < 0.5, label], path)
    one = budget(f"fkd:items=1,crops={crops},dtype={dtype}")

    # How many bytes a number takes as text depends on the numbers, and small files have more of a head.
    assert one.label_bytes == pytest.approx(path.stat().st_size, rel=0.06 if crops == 500 else 0.25)


def test_records_of_tinyvit():
    record = struct.calcsize("<i") + 100 * struct.calcsize("<h") + 100 * struct.calcsize("<e")
    one = budget("tinyvit:items=1000,epochs=3,k=100")
    keys = 3 * sum(len(f"{item}\n") for item in range(1000))

    assert record == 404
    assert one.label_bytes == 3 * 1000 * record + keys
    assert budget("tinyvit:items=1000,epochs=3,k=100,key=15").label_bytes == 3 * 1000 * (record + 15)


@pytest.mark.parametrize(("samples", "k"), [(100, 10), (100, 5)])
def test_archives_of_ml_dr(tmp_path, samples, k):
    random, archive, items = np.random.default_rng(0), io.BytesIO(), 20
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for item in range(items):
            logits = random.normal(size=(samples, 1000)) + 9 * (np.arange(1000) == item)
            probs = np.exp(logits)
            probs = (probs / probs.sum(1, keepdims=True)).astype("f4")
            top = np.argsort(-probs, 1)[:, :k]
            crop = random.integers(0, 400, (samples, 4)).tolist()
            content = [
                {"params": [crop[row], [bool(row % 2)]], "prob": (probs[row, top[row]].tolist(), top[row].tolist())}
                for row in range(samples)
            ]  # fmt: skip
            torch.save((item, content), tmp_path / "x.tar", pickle_protocol=4)
            tar.add(tmp_path / "x.tar", arcname=f"{item}.pth.tar")

    assert budget(f"ml-dr:items={items},samples={samples},k={k}").label_bytes == pytest.approx(
        len(archive.getvalue()), rel=0.15
    )


def test_images_of_a_data_set_are_not_counted():
    for name in ("fkd", "tinyvit", "ml-dr"):
        assert budget(name).image_bytes is None
