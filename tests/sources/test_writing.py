from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from softpack.errors import DataError, ExistsError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays

SUFFIXES = ("npy", "npz", "h5", "safetensors", "pt", "parquet")


def make(n: int = 6, classes: int = 3) -> RowBlock:
    labels = np.arange(n * classes, dtype=np.float32).reshape(n, classes)
    return RowBlock(labels, *np.divmod(np.arange(n), 2), {"flip": np.arange(n) % 2 == 0})


def split(rows: RowBlock, step: int) -> Iterator[RowBlock]:
    return (rows.take(slice(start, start + step)) for start in range(0, len(rows), step))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


CONTENTS = Contents(LabelSpec(3), 6, (3, 2), "float32", ("flip",))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_overwritten_without_force(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(ExistsError, match=rf"x\.{suffix} is there already; give force=True to overwrite"):
        write_arrays(path, CONTENTS, [make()])
    assert path.read_bytes() == b"mine"
    write_arrays(path, CONTENTS, [make()], force=True)
    assert open_source(path).n_rows == 6
    assert names_in(tmp_path) == [path.name]


def test_a_file_that_came_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"

    def blocks() -> Iterator[RowBlock]:
        path.write_bytes(b"mine")
        yield make()

    with pytest.raises(ExistsError, match=r"x\.npz is there already"):
        write_arrays(path, CONTENTS, blocks())
    assert path.read_bytes() == b"mine"
    assert names_in(tmp_path) == ["x.npz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"mine")

    def blocks() -> Iterator[RowBlock]:
        yield make().take(slice(0, 3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_arrays(path, CONTENTS, blocks(), force=True)
    assert path.read_bytes() == b"mine"
    assert names_in(tmp_path) == [path.name]


FULL_DISK = """
import resource, sys
import numpy as np
from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, write_arrays
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rows = RowBlock(np.random.default_rng(0).random((1000, 500), np.float32), np.arange(1000), np.zeros(1000, np.int64))
blocks = (rows.take(slice(start, start + 10)) for start in range(0, 1000, 10))
try:
    write_arrays(sys.argv[1], Contents(LabelSpec(500), 1000), blocks)
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    says = "cannot be written: File too large; nothing was left behind; make room or write elsewhere"
    assert result.stdout == f"{path}: {says}\n"
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_others_may_read_the_file_as_any_other(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "any").write_bytes(b"")
    write_arrays(tmp_path / f"x.{suffix}", CONTENTS, [make()])
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", f"x.{suffix}")}
    assert len(modes) == 1


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.txt: ends in \.txt; expected one of \.npy, \.npz, \.h5"):
        write_arrays(tmp_path / "x.txt", CONTENTS, [make()])
    with pytest.raises(DataError, match=r"there is no folder .*none; make it first"):
        write_arrays(tmp_path / "none" / "x.npy", CONTENTS, [make()])
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DataError, match=r"folder\.npy: is a folder; expected the path of a file"):
        write_arrays(tmp_path / "folder.npy", CONTENTS, [make()], force=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("contents", "rows", "message"),
    [
        (CONTENTS, make(4), r"got 4 rows to write; expected 6"),
        (CONTENTS, make(8), r"got rows 6 to 8 of \(3,\) classes; expected at most 6 rows of 3"),
        (CONTENTS, make(6, 4), r"got rows 0 to 2 of \(4,\) classes"),
        (CONTENTS, make().take(np.arange(6)[::-1]), r"rows 0 to 2 are not in the order of \(item, view\)"),
        (Contents(LabelSpec(3), 5, (3, 2)), make(), r"a grid of \(3, 2\) was to have 5 rows"),
        (Contents(LabelSpec(3), 6, None, "float32", ("mix_item",)), make(), r"rows 0 to 2 lack mix_item"),
    ],
)
def test_rows_that_are_not_as_announced(
    tmp_path: Path, suffix: str, contents: Contents, rows: RowBlock, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_arrays(tmp_path / f"x.{suffix}", contents, split(rows, 2))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_kind_may_be_said_where_the_name_does_not(tmp_path: Path, suffix: str) -> None:
    write_arrays(tmp_path / "x", CONTENTS, [make()], kind=suffix)
    source = open_source(tmp_path / "x", kind=suffix)
    assert (source.items, source.views, source.spec) == (3, 2, LabelSpec(3))
    assert CONTENTS.dropped("x", suffix) == (("flip",) if suffix == "npy" else ())


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    import h5py
    from safetensors import safe_open

    rows = make()
    for suffix in SUFFIXES:
        write_arrays(tmp_path / f"x.{suffix}", CONTENTS, split(rows, 4))
    labels, flips = rows.labels_BC.reshape(3, 2, 3), rows.replay["flip"].reshape(3, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), labels)
    with np.load(tmp_path / "x.npz") as stored:
        np.testing.assert_array_equal(stored["logits"], labels)
        np.testing.assert_array_equal(stored["flip"], flips)
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["logits"][:], labels)
        assert file["flip"].dtype == bool
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as tensors:
        np.testing.assert_array_equal(tensors.get_tensor("logits"), labels)
        np.testing.assert_array_equal(tensors.get_tensor("flip"), flips)
