from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, Source, open_source, write_arrays

SUFFIXES = ("npy", "npz", "h5", "hdf5", "safetensors", "pt", "pth", "parquet")
KINDS = ("npz", "pt", "parquet", "datasets", "webdataset")  # of outputs whose names need not say it
ALL_COLUMNS = ("crop_xywh", "flip", "mix_item", "mix_lam", "mix_box_xyxy", "patch_order", "cutout", "aug_seed")


def whole(source: Source, n_rows: int = 1 << 20) -> RowBlock:
    return joined(list(source.blocks(n_rows)))


def joined(blocks: list[RowBlock]) -> RowBlock:
    return RowBlock(
        np.concatenate([block.labels_BC for block in blocks]),
        np.concatenate([block.item_B for block in blocks]),
        np.concatenate([block.view_B for block in blocks]),
        {name: np.concatenate([block.replay[name] for block in blocks]) for name in blocks[0].replay},
    )


def split(rows: RowBlock, step: int) -> Iterator[RowBlock]:
    return (rows.take(slice(start, start + step)) for start in range(0, len(rows), step))


def assert_same(got: RowBlock, expected: RowBlock) -> None:
    np.testing.assert_array_equal(got.labels_BC, expected.labels_BC)
    np.testing.assert_array_equal(got.item_B, expected.item_B)
    np.testing.assert_array_equal(got.view_B, expected.view_B)
    assert list(got.replay) == list(expected.replay)
    for name, values in expected.replay.items():
        assert got.replay[name].dtype == values.dtype
        np.testing.assert_array_equal(got.replay[name], values, name)


def make_rows(items: int, views: int, classes: int, dtype: str, fractions: bool, seed: int = 0) -> RowBlock:
    """Rows of every (item, view), with every column; odd rows are mixed."""
    rng = np.random.default_rng(seed)
    n = items * views
    item_B, view_B = np.divmod(np.arange(n), views)
    mixed_B = np.arange(n) % 2 == 1
    if fractions:
        crop = {"crop_xywh_fraction": rng.uniform(0.1, 0.5, (n, 4)).astype(np.float32)}
    else:
        crop = {"crop_xywh": rng.integers(1, 100, (n, 4)).astype(np.int32)}
    return RowBlock(
        rng.normal(size=(n, classes)).astype(dtype),
        item_B,
        view_B,
        crop
        | {
            "flip": rng.random(n) < 0.5,
            "mix_item": np.where(mixed_B, rng.integers(items, size=n), -1).astype(np.int32),
            "mix_lam": np.where(mixed_B, rng.random(n), 1).astype(np.float32),
            "mix_box_xyxy": np.where(mixed_B[:, None], [3, 4, 30, 40], -1).astype(np.int32),
            "patch_order": np.where(mixed_B[:, None], [0x1201, 0x110], 0).astype(np.int32),
            "cutout": np.where(mixed_B[:, None], rng.random((n, 7)), -1).astype(np.float32),
            "aug_seed": rng.integers(-(1 << 31) + 1, 1 << 31, n).astype(np.int32),
        },
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("fractions", [True, False])
def test_a_grid_comes_back_in_three_dimensions(
    tmp_path: Path, suffix: str, dtype: str, fractions: bool
) -> None:
    rows = make_rows(5, 3, 7, dtype, fractions)
    item_columns = {"target": np.array([4, 3, 2, 1, 0], np.int32)}
    if not fractions:
        item_columns["source_hw"] = np.full((5, 2), 200, np.int32)
    contents = Contents(LabelSpec(7), 15, (5, 3), dtype, tuple(rows.replay), item_columns)
    path = tmp_path / f"labels.{suffix}"
    write_arrays(path, contents, split(rows, 4))
    source = open_source(path)
    assert (source.items, source.views, source.n_rows, source.ignored) == (5, 3, 15, ())
    assert source.spec == contents.spec
    got = whole(source, 4)
    if suffix == "npy":
        assert contents.dropped(path)[0] == "crop_xywh"
        rows, item_columns = RowBlock(rows.labels_BC, rows.item_B, rows.view_B), {}
    else:
        assert contents.dropped(path) == ()
    assert_same(got, rows)
    assert got.labels_BC.dtype == dtype
    assert source.columns == tuple(rows.replay)
    assert list(source.item_columns) == list(item_columns)
    for name, values in item_columns.items():
        np.testing.assert_array_equal(source.item_columns[name], values)


@pytest.mark.parametrize("suffix", SUFFIXES[1:-1])  # a table does not know items of which it has no row
@pytest.mark.parametrize("fractions", [True, False])
def test_ragged_rows_come_back_with_their_index(tmp_path: Path, suffix: str, fractions: bool) -> None:
    rows = make_rows(6, 4, 5, "float16", fractions).take(np.array([0, 2, 3, 4, 9, 10, 11, 17, 19]))
    item_columns = {"target": np.arange(6, dtype=np.int32), "source_hw": np.full((6, 2), 210, np.int32)}
    if fractions:
        del item_columns["source_hw"]
    path = tmp_path / f"labels.{suffix}"
    write_arrays(
        path, Contents(LabelSpec(5), 9, None, "float16", tuple(rows.replay), item_columns), split(rows, 2)
    )
    source = open_source(path)
    assert (source.items, source.views, source.n_rows) == (6, 4, 9)
    assert_same(whole(source, 2), rows)
    np.testing.assert_array_equal(source.item_columns["target"], np.arange(6))


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize("space", ["probs", "log_probs"])
def test_space_and_temperature_come_back(tmp_path: Path, suffix: str, space: str) -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(6), 8).astype(np.float32)
    labels = probs if space == "probs" else np.log(probs)
    rows = RowBlock(labels, np.arange(8), np.zeros(8, np.int64))
    spec = LabelSpec(6, space, 2.5)
    path = tmp_path / f"labels.{suffix}"
    write_arrays(path, Contents(spec, 8, (8, 1)), [rows])
    source = open_source(path)
    assert source.spec == spec
    assert source.ignored == ()
    assert_same(whole(source), rows)


def test_an_npy_needs_to_be_told_its_space(tmp_path: Path) -> None:
    rows = RowBlock(np.full((4, 2), 0.5, np.float32), np.arange(4), np.zeros(4, np.int64))
    contents = Contents(LabelSpec(2, "probs", 3.0), 4)
    assert contents.dropped("x.npy") == (
        "item", "view", "space (encode it with --space probs)", "temperature (--source-temperature 3)",
    )  # fmt: skip
    write_arrays(tmp_path / "x.npy", contents, [rows])
    assert open_source(tmp_path / "x.npy", space="probs", temperature=3.0).spec == contents.spec
    source = open_source(tmp_path / "x.npy")
    assert (source.spec, source.items, source.views) == (LabelSpec(2), 4, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_rows_make_same_bytes(tmp_path: Path, suffix: str) -> None:
    rows = make_rows(4, 3, 5, "float16", True)
    contents = Contents(LabelSpec(5), 12, (4, 3), "float16", tuple(rows.replay))
    for name, step in (("a", 1), ("b", 5)):
        write_arrays(tmp_path / f"{name}.{suffix}", contents, split(rows, step))
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def _stored_variants(folder: Path, rows: RowBlock, grid: tuple[int, int]) -> list[Path]:
    """Every way in which a file may hold the same grid of rows."""
    import h5py

    contents = Contents(LabelSpec(rows.labels_BC.shape[1]), len(rows), grid, "float16", tuple(rows.replay))
    paths = [folder / f"a.{suffix}" for suffix in ("npz", "h5", "safetensors")]
    for path in paths:
        write_arrays(path, contents, [rows], force=True)
    with np.load(paths[0]) as stored:
        arrays = dict(stored)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    with h5py.File(folder / "chunked.h5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)
    return [*paths, folder / "deflated.npz", folder / "chunked.h5"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.integers(1, 9),
    views=st.integers(1, 7),
    n_rows=st.integers(1, 70),
    n_sampled=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_blocks_and_samples_of_any_size_are_the_stored_rows(
    tmp_path: Path, items: int, views: int, n_rows: int, n_sampled: int, seed: int
) -> None:
    rows = make_rows(items, views, 4, "float16", True, seed)
    for path in _stored_variants(tmp_path, rows, (items, views)):
        source = open_source(path)
        blocks = list(source.blocks(n_rows))
        assert [len(block) for block in blocks[:-1]] == [n_rows] * (len(blocks) - 1)
        assert_same(joined(blocks), rows)
        drawn = joined(list(source.sample(n_sampled, seed)))
        assert len(drawn) == min(n_sampled, len(rows))
        places = drawn.item_B * views + drawn.view_B
        assert (np.diff(places) > 0).all()
        assert_same(drawn, rows.take(places))


def test_a_source_can_be_read_twice_at_once(tmp_path: Path) -> None:
    rows = make_rows(20, 3, 4, "float16", True)
    for path in _stored_variants(tmp_path, rows, (20, 3)):
        source = open_source(path)
        for first, second in zip(source.blocks(7), source.blocks(7), strict=True):
            assert_same(first, second)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["imagenet_lite0.npz", "imagenet_lite0_cutmix.npz"])
def test_real_labels_are_read_as_numpy_reads_them(name: str) -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / name
    if not path.exists():
        pytest.skip("the label sets are not here")
    source = open_source(path)
    assert source.columns == ("crop_xywh_fraction", "flip", "mix_item", "mix_box_xyxy")
    got = joined(list(source.blocks(3000)))
    with np.load(path) as stored:
        np.testing.assert_array_equal(got.labels_BC, stored["logits"])
        np.testing.assert_array_equal(got.item_B, stored["item"])
        np.testing.assert_array_equal(got.view_B, stored["view"])
        np.testing.assert_array_equal(got.replay["crop_xywh_fraction"], stored["crop_xywh"])
        np.testing.assert_array_equal(got.replay["mix_item"], stored["mix_item"])
        np.testing.assert_array_equal(got.replay["mix_box_xyxy"], stored["mix_box_xyxy"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.integers(1, 6),
    views=st.integers(1, 5),
    fractions=st.booleans(),
    dtype=st.sampled_from(["float16", "float32"]),
    kind=st.sampled_from(KINDS),
    data=st.data(),
)
def test_any_kind_of_output_gives_back_what_it_was_given(
    tmp_path: Path, items: int, views: int, fractions: bool, dtype: str, kind: str, data: st.DataObject
) -> None:
    n = items * views
    drawn = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    kept = np.flatnonzero(drawn | (np.arange(n) % views == 0))  # of each item one view at least
    rows = make_rows(items, views, 4, dtype, fractions).take(kept)
    item_columns = {"target": np.arange(items, dtype=np.int32)}
    if not fractions:
        item_columns["source_hw"] = np.full((items, 2), 210, np.int32)
    grid = (items, views) if len(rows) == n else None
    contents = Contents(LabelSpec(4), len(rows), grid, dtype, tuple(rows.replay), item_columns)
    paths = [tmp_path / f"{step}-{kind}" for step in (1, 7)]
    for path, step in zip(paths, (1, 7), strict=True):
        write_arrays(path, contents, split(rows, step), kind=kind, force=True)
    assert bytes_in(paths[0]) == bytes_in(paths[1])
    source = open_source(paths[0], kind=kind)
    assert_same(whole(source, 3), rows)
    assert source.spec == contents.spec
    for name, values in item_columns.items():
        np.testing.assert_array_equal(source.item_columns[name], values)


def bytes_in(path: Path) -> list[tuple[str, bytes]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [("" if file == path else file.name, file.read_bytes()) for file in files]
