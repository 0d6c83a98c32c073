"""A `.pt` that is written a few rows at a time is what torch.save would have written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays

N, V, C = 6, 4, 5
LOGITS = np.random.default_rng(0).normal(size=(N * V, C)).astype(np.float16)
ROWS = RowBlock(
    LOGITS,
    *np.divmod(np.arange(N * V), V),
    {"flip": np.arange(N * V) % 2 == 0, "mix_lam": np.linspace(0, 1, N * V, dtype=np.float32)},
)
TARGET = np.arange(N, dtype=np.int32)


def write(path: Path, rows: RowBlock = ROWS, grid: Any = (N, V), spec: Any = None, **said: Any) -> Path:
    contents = Contents(
        spec or LabelSpec(C), len(rows), grid, "float16", tuple(rows.replay), {"target": TARGET}
    )
    write_arrays(path, contents, [rows.take(slice(0, 7)), rows.take(slice(7, None))], **said)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_is_written(tmp_path: Path, mmap: bool) -> None:
    path = write(tmp_path / "a.pt", spec=LabelSpec(C, "log_probs", 4.0))
    found = torch.load(path, weights_only=True, mmap=mmap)
    assert list(found) == ["temperature", "log_probs", "flip", "mix_lam", "target"]
    assert found["temperature"] == 4.0
    for name, values in {"log_probs": LOGITS, **ROWS.replay}.items():
        assert torch.equal(found[name], torch.from_numpy(values.reshape(N, V, *values.shape[1:])))
        assert found[name].is_contiguous()
    assert torch.equal(found["target"], torch.from_numpy(TARGET))


def test_torch_saves_the_same_tensors_in_the_same_way(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    torch.save(torch.load(path), tmp_path / "b.pt")
    with zipfile.ZipFile(path) as mine, zipfile.ZipFile(tmp_path / "b.pt") as theirs:
        members = {name.partition("/")[2]: theirs.read(name) for name in theirs.namelist()}
        for name in mine.namelist():
            assert mine.read(name) == members[name.removeprefix("archive/")] or name.endswith("data.pkl"), name
        for info in mine.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
        assert mine.testzip() is None


def test_numbers_are_aligned(tmp_path: Path) -> None:
    data = write(tmp_path / "a.pt").read_bytes()
    assert data.index(LOGITS.tobytes()) % 64 == 0
    assert data.index(ROWS.replay["mix_lam"].tobytes()) % 64 == 0


def test_one_tensor_for_dd_ranking(tmp_path: Path) -> None:
    one = ROWS.take(np.arange(0, N * V, V))
    path = write(tmp_path / "labels.pt", one, (N, 1), kind="ddranking")
    found = torch.load(path)
    assert torch.equal(found, torch.from_numpy(one.labels_BC))
    source = open_source(path, kind="ddranking")
    assert (source.items, source.views, source.n_rows) == (N, 1, N)
    contents = Contents(LabelSpec(C, "probs", 4.0), N, (N, 1), columns=("flip",))
    assert contents.dropped("labels.pt", "ddranking") == (
        "flip", "space (encode it with --space probs)", "temperature (--source-temperature 4)",
    )  # fmt: skip


def test_dd_ranking_has_one_label_of_each_image(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"a\.pt: cannot hold 4 views; DD-Ranking has one label of each image: take .* --views 0:1",
    ):
        write(tmp_path / "a.pt", kind="ddranking")
    with pytest.raises(
        DataError, match=r"a\.pt: cannot hold views of which some are missing; .* --items that all"
    ):
        write(tmp_path / "a.pt", ROWS.take(np.arange(9)), None, kind="ddranking")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("held", "found"),
    [
        ({"logits": torch.zeros(3, 4)}, "tensors by name"),
        (torch.zeros(3, 4, 5), r"a tensor of shape \[3, 4, 5\]"),
    ],
)
def test_what_is_not_of_dd_ranking_is_refused(tmp_path: Path, held: Any, found: str) -> None:
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(DataError, match=rf"a\.pt: holds {found}; expected the one tensor \[images, classes\]"):
        open_source(tmp_path / "a.pt", kind="ddranking")
