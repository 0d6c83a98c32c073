from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources import open_source

LOGITS = np.arange(24, dtype=np.float16).reshape(2, 3, 4)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("stored", "given"),
    [("<f2", "float16"), (">f2", "float16"), ("<f4", "float32"), (">f4", "float32"), (">f8", "float32")],
)
def test_labels_come_as_float16_or_float32(tmp_path: Path, stored: str, given: str) -> None:
    np.save(tmp_path / "x.npy", LOGITS.astype(stored))
    (block,) = open_source(tmp_path / "x.npy").blocks(100)
    assert block.labels_BC.dtype == given
    np.testing.assert_array_equal(block.labels_BC, LOGITS.reshape(6, 4))


def test_bfloat16_comes_as_float32(tmp_path: Path) -> None:
    import json

    values = np.array([[1.0, -2.5], [3.0e38, 0.0078125]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"logits": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    (block,) = open_source(path).blocks(10)
    assert block.labels_BC.dtype == np.float32
    np.testing.assert_array_equal(block.labels_BC, (bits.astype(np.uint32) << 16).view(np.float32))


def test_a_small_fortran_array_is_read_and_a_large_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(LOGITS))
    (block,) = open_source(path).blocks(10)
    np.testing.assert_array_equal(block.labels_BC, LOGITS.reshape(6, 4))
    monkeypatch.setattr("softpack.sources.files.stored.MAX_HELD_BYTES", 40)
    with pytest.raises(DataError, match=r"x\.npy.*Fortran order.*48 bytes.*ascontiguousarray"):
        open_source(path)


def test_two_dimensions_without_an_index_are_items_with_one_view(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "x.npz", logits=LOGITS[0], target=[3, 2, 1]))
    assert (source.items, source.views, source.n_rows) == (3, 1, 3)
    (block,) = source.blocks(10)
    np.testing.assert_array_equal(block.item_B, [0, 1, 2])
    np.testing.assert_array_equal(block.view_B, [0, 0, 0])


def test_items_without_rows_are_counted_where_item_columns_tell_of_them(tmp_path: Path) -> None:
    arrays = {"logits": LOGITS[0], "item": [0, 4, 1], "view": np.array([0, 0, 2], np.uint8)}
    source = open_source(save(tmp_path / "x.npz", **arrays))
    assert (source.items, source.views) == (5, 3)
    source = open_source(save(tmp_path / "y.npz", **arrays, target=np.zeros(9, np.int64)))
    assert (source.items, source.views) == (9, 3)
    assert source.item_columns["target"].dtype == np.int32


def test_what_is_not_understood_is_named(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "x.npz", logits=LOGITS, lam=1, notes=np.array({}, dtype=object)))
    assert source.ignored == ("lam", "notes")


def test_whole_pixels_are_made_of_fractions_where_sizes_are_known(tmp_path: Path) -> None:
    pixels = np.array([[3, 5, 300, 200], [0, 0, 500, 375], [499, 374, 1, 1]])
    hw = np.array([[375, 500]] * 3, np.int16)
    fractions = (pixels / [500, 375, 500, 375]).astype(np.float32)
    path = save(tmp_path / "x.npz", logits=LOGITS[0], crop_xywh=fractions, source_hw=hw)
    source = open_source(path)
    assert source.columns == ("crop_xywh",)
    (block,) = source.blocks(10)
    assert block.replay["crop_xywh"].dtype == np.int32
    np.testing.assert_array_equal(block.replay["crop_xywh"], pixels)


def test_temperature_of_the_file_and_of_the_caller(tmp_path: Path) -> None:
    probs = np.full((2, 4), 0.25, np.float32)
    said = save(tmp_path / "said.npz", probs=probs, temperature=4)
    silent = save(tmp_path / "silent.npz", probs=probs)
    assert open_source(said).spec == LabelSpec(4, "probs", 4.0)
    assert open_source(said, space="probs", temperature=4.0).spec.temperature == 4.0
    assert open_source(silent).spec.temperature == 1.0
    assert open_source(silent, temperature=20).spec.temperature == 20
    with pytest.raises(DataError, match=r"said\.npz: says temperature 4, but 2 was given"):
        open_source(said, temperature=2)


@pytest.mark.parametrize("space", ["probs", "log_probs"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rounding_of_stored_distributions_is_tolerated(tmp_path: Path, space: str, dtype: str) -> None:
    uniform = np.full((1, 50_000), 1 / 50_000)
    peaked = np.random.default_rng(0).dirichlet(np.full(50_000, 0.01), 2) + 1e-300
    rows = np.concatenate([uniform, peaked])
    rows = rows if space == "probs" else np.log(rows)
    (block,) = open_source(save(tmp_path / "x.npz", **{space: rows.astype(dtype)})).blocks(10)
    assert len(block) == 3


def test_minus_infinity_is_a_log_probability(tmp_path: Path) -> None:
    rows = np.array([[0, -np.inf], [-np.inf, 0]], np.float16)
    (block,) = open_source(save(tmp_path / "x.npz", log_probs=rows)).blocks(10)
    assert np.isneginf(block.labels_BC).sum() == 2


def test_opening_needs_neither_torch_nor_the_libraries_of_other_formats(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", LOGITS)
    program = (
        "import sys; from softpack.sources import open_source; "
        f"list(open_source({str(tmp_path / 'x.npy')!r}).blocks(9)); "
        "sys.exit(' '.join({'torch', 'h5py', 'safetensors'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


PEAK = """
import resource, sys
import numpy as np
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays
path, n, views, classes = sys.argv[1], int(sys.argv[2]), 10, 1000
labels = np.random.default_rng(0).normal(size=(1000, classes)).astype(np.float16)
def blocks():
    for start in range(0, n, 1000):
        rows = np.arange(start, start + 1000)
        yield RowBlock(labels, rows // views, rows % views, {"flip": rows % 2 == 0})
write_arrays(path, Contents(LabelSpec(classes), n, (n // views, views), "float16", ("flip",)), blocks())
assert sum(len(block) for block in open_source(path).blocks(1000)) == n
assert sum(len(block) for block in open_source(path).sample(500, 0)) == 500
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "safetensors", "pt", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for n_rows in (5_000, 40_000):
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"{n_rows}.{suffix}"), str(n_rows)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.stderr == ""
        peaks.append(int(result.stdout))
    # 35,000 rows more are 67 MiB.
    assert peaks[1] - peaks[0] < 12 << 10
