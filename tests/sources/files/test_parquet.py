"""Parquet in and out: what tables may look like, what is refused, and what is declared against what is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, Source, open_source, write_arrays
from softpack.sources.files import parquet_pages
from softpack.sources.files.parquet import _RowGroups
from softpack.sources.peers.row_files import joined

N, V, C = 6, 4, 5
LOGITS = np.random.default_rng(0).normal(size=(N * V, C)).astype(np.float16)
ITEM, VIEW = np.divmod(np.arange(N * V), V)


def lists(values: np.ndarray, kind: Any = None) -> pa.Array:
    """Rows of numbers as lists of one length, or as another type."""
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return array if kind is None else array.cast(kind)


def save(path: Path, metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=7)
    return path


def whole(source: Source, n_rows: int = 5) -> RowBlock:
    return joined(list(source.blocks(n_rows)))


def refuses(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(path).blocks(5))
    assert str(caught.value).startswith(str(path))


# -- what tables may look like -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, C)])
def test_rows_of_any_kind_of_list(tmp_path: Path, dtype: Any, make: Any) -> None:
    source = open_source(save(tmp_path / "a.parquet", logits=lists(LOGITS, make(dtype)), item=ITEM, view=VIEW))
    assert (source.items, source.views, source.n_rows, source.spec) == (N, V, N * V, LabelSpec(C))
    rows = whole(source)
    assert rows.labels_BC.dtype == (np.float16 if dtype == pa.float16() else np.float32)
    np.testing.assert_array_equal(rows.labels_BC, LOGITS)
    np.testing.assert_array_equal(rows.item_B, ITEM)
    np.testing.assert_array_equal(rows.view_B, VIEW)


def test_without_items_a_row_is_an_item_of_one_view(tmp_path: Path) -> None:
    target = np.arange(N * V, dtype=np.int64) % 3
    source = open_source(
        save(tmp_path / "a.parquet", logits=lists(LOGITS), target=target, text=["x"] * (N * V))
    )
    assert (source.items, source.views, source.ignored) == (N * V, 1, ("text",))
    np.testing.assert_array_equal(source.item_columns["target"], target)
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS)


def nested(values: np.ndarray, kind: str) -> pa.Array:
    if kind == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    array = pa.array(values.tolist(), pa.list_(pa.list_(pa.from_numpy_dtype(values.dtype))))
    return (
        array
        if kind == "list"
        else array.cast(pa.list_(pa.list_(array.type.value_type.value_type, values.shape[2])))
    )


@pytest.mark.parametrize("kind", ["list", "fixed", "tensor"])
def test_a_row_may_hold_all_views_of_an_item(tmp_path: Path, kind: str) -> None:
    flip = np.arange(N * V).reshape(N, V) % 3 == 0
    path = save(
        tmp_path / "a.parquet",
        logits=nested(LOGITS.astype(np.float32).reshape(N, V, C), kind),
        crop_xywh=nested(np.full((N, V, 4), 9), kind),
        flip=pa.array(flip.tolist()),
        target=np.arange(N),
        source_hw=lists(np.full((N, 2), 99)),
    )
    source = open_source(path)
    assert (source.items, source.views, source.columns) == (N, V, ("crop_xywh", "flip"))
    for n_rows in (1, 3, 7, 100):  # blocks begin in the middle of a row of the table
        rows = whole(source, n_rows)
        np.testing.assert_array_equal(rows.labels_BC, LOGITS.astype(np.float32))
        np.testing.assert_array_equal(rows.view_B, VIEW)
        np.testing.assert_array_equal(rows.replay["flip"], flip.reshape(-1))
    assert source.item_columns["source_hw"].tolist() == [[99, 99]] * N


def test_extension_types_that_nobody_registered_are_what_they_are_stored_as(tmp_path: Path) -> None:
    array = nested(LOGITS.reshape(N, V, C).astype(np.float32), "list")
    said = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": "[]",
    }
    schema = pa.schema([pa.field("logits", array.type, metadata=said)])
    pq.write_table(pa.Table.from_arrays([array], schema=schema), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").views == V


def test_temperature_is_said_by_the_schema_or_the_caller(tmp_path: Path) -> None:
    probs = lists(np.full((4, 2), 0.5))
    said = save(tmp_path / "said.parquet", {"temperature": "4"}, probs=probs)
    assert open_source(said).spec == LabelSpec(2, "probs", 4.0)
    assert open_source(save(tmp_path / "a.parquet", probs=probs), temperature=20).spec.temperature == 20
    refuses(
        save(tmp_path / "b.parquet", {"temperature": "hot"}, probs=probs),
        "metadata temperature is b'hot'; expected a",
    )
    column = save(tmp_path / "c.parquet", probs=probs, temperature=np.full(4, 4.0))
    refuses(
        column,
        "has a column temperature; expected it in the metadata of the schema, or by --source-temperature",
    )


def test_what_items_have_one_of_stands_in_each_of_their_rows(tmp_path: Path) -> None:
    rows = np.array([0, 1, 5, 6, 20])  # of items 0, 1 and 5
    columns = {"logits": lists(LOGITS[rows]), "item": ITEM[rows], "view": VIEW[rows], "target": ITEM[rows] * 2}
    source = open_source(save(tmp_path / "a.parquet", **columns))
    assert source.items == 6
    assert source.item_columns["target"].tolist() == [0, 2, -1, -1, -1, 10]
    columns["target"] = np.array([0, 0, 2, 3, 4])
    refuses(
        save(tmp_path / "b.parquet", **columns),
        "target of row 3 is 3, and 2 in another row of item 1; expected one for each",
    )
    columns |= {"target": ITEM[rows].astype(float)}
    refuses(save(tmp_path / "c.parquet", **columns), "target has dtype float64; expected integers")
    columns |= {"target": ITEM[rows], "item": ITEM[rows].astype(float)}
    refuses(save(tmp_path / "f.parquet", **columns), "item has dtype float64; expected integers")
    columns |= {"item": np.array([0, 1, 2, 3, 2**31 - 2])}
    refuses(
        save(tmp_path / "d.parquet", **columns), "target is of 2147483647 items; expected less than 1 GiB of it"
    )


# -- folders of shards ---------------------------------------------------------------------------------


def save_shards(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for name, rows in zip(names, np.array_split(np.arange(N * V), len(names)), strict=True):
        save(path / name, logits=lists(LOGITS[rows]), item=ITEM[rows], view=VIEW[rows])
    return path


def test_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = save_shards(tmp_path / "set", [f"part-{number}.parquet" for number in range(12)])
    (path / "README.md").write_text("about")
    (path / ".cache").mkdir()
    source = open_source(path)
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS)
    assert source.n_bytes == sum(file.stat().st_size for file in path.glob("*.parquet"))
    assert whole(open_source(path, kind="parquet")).item_B.tolist() == ITEM.tolist()


def test_folders_that_are_no_set_of_shards(tmp_path: Path) -> None:
    two = save_shards(tmp_path / "two", ["train-0.parquet", "train-1.parquet", "test-0.parquet"])
    refuses(
        two,
        r"holds shards of several sets: test-N\.parquet, train-N\.parquet; expected names that differ in numbers",
    )
    lacks = save_shards(tmp_path / "lacks", ["a-00000-of-00003.parquet", "a-00002-of-00003.parquet"])
    refuses(lacks, "holds 2 shards of 3, by their names; expected all of one set; copy those that are missing")
    other = save_shards(tmp_path / "other", ["a0.parquet", "a1.parquet"])
    save(other / "a1.parquet", logits=lists(LOGITS.astype(np.float32)), item=ITEM, view=VIEW)
    refuses(
        other,
        r"a1\.parquet: has item \(int64\), logits \(lists of float\), .*; expected .* \(lists of halffloat\), .*",
    )
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"none: holds no file that ends in \.parquet"):
        open_source(tmp_path / "none", kind="parquet")
    (two / "images").mkdir()
    with pytest.raises(
        DataError, match="is a folder; expected a file, or the layout of a label set that is known"
    ):
        open_source(two)


# -- rows that are refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (9, None, "logits of row 9 is null, or holds one; expected numbers in every row"),
        (9, [1, 2, None, 4, 5], "logits of row 9 is null, or holds one"),
        (9, [1, 2, 3, 4], "logits of row 9 holds 4 values; expected 5 as in row 0"),
        (9, [], "logits of row 9 holds 0 values; expected 5"),
        (0, None, "logits of row 0 is null or empty; expected numbers in every row"),
        (0, [], "rows have 0 classes; expected 2"),
        (
            9,
            [1, 2, float("nan"), 4, 5],
            r"logits, class 2, of row 9 \(item 2, view 1\) is nan; expected finite",
        ),
    ],
)
def test_rows_that_are_not_whole_are_named(tmp_path: Path, row: int, value: Any, message: str) -> None:
    rows = LOGITS.astype(np.float32).tolist()
    rows[row] = value
    refuses(save(tmp_path / "a.parquet", logits=pa.array(rows), item=ITEM, view=VIEW), message)


def test_a_row_of_a_shard_is_named_with_its_file(tmp_path: Path) -> None:
    path = save_shards(tmp_path / "set", ["a0.parquet", "a1.parquet"])
    save(path / "a0.parquet", logits=lists(LOGITS[:12].astype(np.float32)), item=ITEM[:12], view=VIEW[:12])
    rows = LOGITS[12:].tolist()
    logits = pa.array([*rows[:8], None, *rows[9:]], pa.list_(pa.float32()))  # another kind of list
    save(path / "a1.parquet", logits=logits, item=ITEM[12:], view=VIEW[12:])
    refuses(path, r"set: logits of row 20 \(row 8 of a1\.parquet\) is null")


def test_rows_of_views_that_are_not_whole_are_named(tmp_path: Path) -> None:
    rows = LOGITS.reshape(N, V, C).astype(np.float32).tolist()
    rows[4] = rows[4][:2]
    refuses(
        save(tmp_path / "a.parquet", logits=pa.array(rows)),
        "logits of row 4 holds 2 values; expected 4 as in row 0",
    )
    rows[4] = [[1.0, 2.0, 3.0, 4.0, 5.0]] * 3 + [[1.0]]
    refuses(
        save(tmp_path / "b.parquet", logits=pa.array(rows)),
        "logits of row 4 holds 1 values; expected 5 as in row 0",
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": lists(LOGITS)}, "has none of the arrays logits, log_probs, probs; .* it holds scores"),
        ({"logits": lists(LOGITS), "probs": lists(LOGITS)}, "has logits and probs of the arrays"),
        ({"logits": pa.array(["a"] * 24)}, "logits is a column of string; expected numbers, or lists of them"),
        ({"logits": pa.array([["a"]] * 24)}, r"logits is a column of list<.*string>; expected numbers"),
        ({"logits": lists(LOGITS.astype(np.int32))}, "logits has dtype int32; expected float16"),
        (
            {"logits": LOGITS[:, 0]},
            r"logits has shape \(24,\); expected \[items, views, classes\] or \[rows, classes\]",
        ),
        ({"logits": lists(LOGITS), "item": ITEM}, "has item alone; expected both item and view"),
        ({"logits": lists(LOGITS), "item": -ITEM, "view": VIEW}, "item of row 4 is -1; expected 0 to"),
        ({"logits": lists(LOGITS), "flip": ["a"] * 24}, "flip is a column of string"),
        (
            {"logits": lists(LOGITS), "crop_xywh": lists(LOGITS)},
            r"crop_xywh has shape \(24, 5\); expected \(24, 4\)",
        ),
        ({"logits": lists(LOGITS), "mix_lam": LOGITS[:, 0]}, "has mix_lam but no mix_item"),
        ({"logits": lists(LOGITS[:0])}, "holds no rows; expected a row for each label"),
    ],
)
def test_columns_that_are_no_labels(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    refuses(save(tmp_path / "a.parquet", **columns), message)


def test_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([lists(LOGITS), lists(LOGITS)], ["logits", "logits"])
    pq.write_table(table, tmp_path / "a.parquet")
    refuses(tmp_path / "a.parquet", "has several columns of one name: logits, logits; expected each once")


def test_permuted_tensors(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), [V, C], permutation=[1, 0])
    array = pa.ExtensionArray.from_storage(kind, lists(LOGITS.reshape(N, V * C).astype(np.float32)))
    refuses(
        save(tmp_path / "a.parquet", logits=array),
        "logits holds tensors whose axes are permuted; expected them in C",
    )


# -- files that are damaged, or not what they declare --------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "a.parquet", logits=lists(LOGITS), item=ITEM, view=VIEW, flip=ITEM % 2 == 0)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"hello, world " * 9, b"PAR1" + bytes(50) + b"PAR1"]
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    refuses(tmp_path / "a.parquet", r"a\.parquet: ")


def test_every_truncation_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for size in sorted({*range(0, len(data), 61), len(data) - 1}):
        file.write_bytes(data[:size])
        refuses(file, r"a\.parquet: (ends in .*; it is cut off|.*Error)")


def test_flipped_bits_raise_nothing_but_data_errors(file: Path) -> None:
    rng, data, n_read = np.random.default_rng(0), file.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(data)
        place = int(rng.choice([rng.integers(len(data)), -rng.integers(1, 1500)]))
        broken[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        try:
            list(open_source(file).blocks(5))
            n_read += 1
        except DataError:
            pass
    assert n_read < 120


def test_pages_are_refused_before_they_are_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 60)
    refuses(
        file,
        r"row group 0 declares column logits\.list\.element with a page of \d+ bytes at \d+, \d+ unpacked; expected at "
        r"most \d+ and 60; it is damaged: make it again, with smaller pages",
    )


def test_what_a_column_declares_is_checked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_CLASSES", 4)
    refuses(
        file,
        r"row group 0 declares column logits\.list\.element of 35 values in 7 rows; expected 4 a row at most",
    )
    monkeypatch.setattr(parquet_pages, "MAX_FOOTER_BYTES", 10)
    refuses(
        file,
        r"ends in b'.*PAR1'; expected the size of a footer, and b'PAR1'; it is cut off or no plain Parquet file",
    )


def test_a_file_that_changes_while_it_is_open_is_refused(file: Path) -> None:
    source = open_source(file)
    save(file, logits=lists(LOGITS[:4]), item=ITEM[:4], view=VIEW[:4], flip=ITEM[:4] == 0)
    with pytest.raises(DataError, match=r"a\.parquet: has changed since it was opened; open it again"):
        list(source.blocks(100))


def test_without_pyarrow_one_is_told_what_to_install(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuses(
        file, r"a\.parquet: takes pyarrow, which cannot be imported \(.*\): pip install 'softpack\[parquet\]'"
    )
    rows = RowBlock(LOGITS, ITEM, VIEW)
    for kind in ("parquet", "datasets"):
        with pytest.raises(DataError, match=r"b: takes pyarrow, which cannot be imported"):
            write_arrays(tmp_path / "b", Contents(LabelSpec(C), N * V), [rows], kind=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


# -- reading a part ------------------------------------------------------------------------------------


def test_a_sample_reads_some_row_groups_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(4000, dtype=np.float32).reshape(2000, 2)
    pq.write_table(pa.table({"logits": lists(values)}), tmp_path / "a.parquet", row_group_size=10)
    source = open_source(tmp_path / "a.parquet")
    touched = set()
    pieces = _RowGroups.pieces
    monkeypatch.setattr(
        _RowGroups, "pieces", lambda self, chunk, *rest: touched.add(chunk) or pieces(self, chunk, *rest)
    )
    drawn = whole_sample(source, 50)
    assert len(drawn) == 50
    assert len(touched) <= 64
    np.testing.assert_array_equal(drawn, whole_sample(source, 50))
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert len(whole_sample(source, 5000)) == 2000


def whole_sample(source: Source, n_rows: int) -> np.ndarray:
    return np.concatenate([block.labels_BC for block in source.sample(n_rows, 0)])


ONE_GROUP = """
import sys
import numpy as np, pyarrow as pa
from softpack.sources import open_source
source = open_source(sys.argv[1])
assert sum(len(block) for block in source.blocks(500)) == source.n_rows
print(pa.default_memory_pool().max_memory())
"""


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 1000)).astype(np.float16)
    pq.write_table(pa.table({"logits": lists(values)}), tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    command = [sys.executable, "-c", ONE_GROUP, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 << 20  # of 38 MiB


# -- writing -------------------------------------------------------------------------------------------


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    contents = Contents(
        LabelSpec(C, "log_probs", 4.0), N * V, (N, V), "float32", ("flip",), {"target": np.arange(N)}
    )
    rows = RowBlock(LOGITS.astype(np.float32), ITEM, VIEW, {"flip": ITEM % 2 == 0})
    write_arrays(tmp_path / "a.parquet", contents, [rows])
    table = pq.read_table(tmp_path / "a.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("log_probs", "fixed_size_list<element: float>[5]"), ("item", "int32"), ("view", "int32"), ("flip", "bool"),
        ("target", "int32"),
    ]  # fmt: skip
    assert table.schema.metadata[b"temperature"] == b"4.0"
    np.testing.assert_array_equal(table["target"], ITEM)
    np.testing.assert_array_equal(
        table["log_probs"].combine_chunks().flatten(), LOGITS.astype(np.float32).reshape(-1)
    )
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    assert (column.compression, "BYTE_STREAM_SPLIT" in column.encodings) == ("ZSTD", True)


def test_row_groups_are_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpack.sources.files.to_parquet.GROUP_BYTES", 200)
    rows = RowBlock(LOGITS, ITEM, VIEW)  # of 18 bytes with item and view
    write_arrays(tmp_path / "a.parquet", Contents(LabelSpec(C), N * V, (N, V), "float16"), [rows])
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [11, 11, 2]
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.parquet")).labels_BC, LOGITS)
