"""What `Dataset.save_to_disk` of Hugging Face writes, read and written without that package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays
from softpack.sources.files import to_datasets

N, V, C = 6, 4, 5
LOGITS = np.random.default_rng(0).normal(size=(N * V, C)).astype(np.float16)
ITEM, VIEW = np.divmod(np.arange(N * V), V)


def rows_of(**columns: Any) -> pa.Table:
    logits = pa.FixedSizeListArray.from_arrays(pa.array(LOGITS.reshape(-1)), C)
    return pa.table({"logits": logits, "item": ITEM, "view": VIEW, **columns})


def save_to_disk(path: Path, tables: list[pa.Table], batch: int = 5, options: Any = None, **state: Any) -> Path:
    """Write tables as the shards of a dataset."""
    path.mkdir()
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.ipc.new_stream(str(path / name), table.schema, options=options) as writer:
            writer.write_table(table, batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None} | state
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text("{}")
    return path


def labels_of(path: Path, n_rows: int = 7) -> np.ndarray:
    return np.concatenate([block.labels_BC for block in open_source(path).blocks(n_rows)])


def refuses(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(path, kind="datasets").blocks(5))
    assert str(caught.value).startswith(str(path))


def test_shards_in_the_order_that_the_state_says(tmp_path: Path) -> None:
    table = rows_of(image=[b"jpg"] * (N * V))
    path = save_to_disk(tmp_path / "set", [table[10:11], table[:10], table[11:11], table[11:]])
    state = json.loads((path / "state.json").read_text())
    state["_data_files"][:2] = state["_data_files"][1::-1]
    (path / "state.json").write_text(json.dumps(state))
    source = open_source(path)
    assert (source.items, source.views, source.ignored) == (N, V, ("image",))
    assert source.n_bytes == sum(file.stat().st_size for file in path.glob("*.arrow"))
    for n_rows in (1, 6, 100):
        np.testing.assert_array_equal(labels_of(path, n_rows), LOGITS)
    drawn = np.concatenate([block.labels_BC for block in source.sample(9, 3)])
    assert drawn.shape == (9, C)


def test_columns_that_nobody_asks_for_may_differ_between_files(tmp_path: Path) -> None:
    tables = [rows_of(note=["a"] * (N * V))[:9], rows_of(score=np.zeros(N * V), note=[1] * (N * V))[9:]]
    np.testing.assert_array_equal(labels_of(save_to_disk(tmp_path / "set", tables)), LOGITS)
    tables[1] = tables[1].drop_columns(["view"])
    refuses(
        save_to_disk(tmp_path / "b", tables),
        r"data-00001-of-00002\.arrow: has item .*; expected .*view \(int64\) as in",
    )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"_data_files": [{"filename": "../a.arrow"}]},
            r"names the file '\.\./a\.arrow'; expected names of files beside it",
        ),
        ({"_data_files": [{"filename": 3}]}, "names the file '3'; expected names"),
        (
            {"_data_files": [{"filename": "b.arrow"}]},
            r"b\.arrow: is missing, and state\.json names it; copy it",
        ),
        ({"_data_files": [{}]}, "is no state of a dataset: KeyError"),
        ({"_data_files": []}, "holds no rows"),
        ({"_indices_data_files": [{}]}, r"keeps rows in an order of their own; call flatten_indices\(\)"),
    ],
)
def test_states_that_are_refused(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    refuses(save_to_disk(tmp_path / "set", [rows_of()], **state), message)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    refuses(tmp_path / "none", r"has no state\.json; expected a folder that Dataset\.save_to_disk wrote")
    (tmp_path / "splits").mkdir()
    save_to_disk(tmp_path / "splits" / "train", [rows_of()])
    save_to_disk(tmp_path / "splits" / "test", [rows_of()])
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        DataError, match=r"holds splits, a folder for each; name one of them: .*splits/test, .*splits/train"
    ):
        open_source(tmp_path / "splits")
    path = save_to_disk(tmp_path / "set", [rows_of()])
    (path / "state.json").write_text("{")
    refuses(path, r"state\.json: is no state of a dataset: JSONDecodeError")


def test_rows_that_are_not_whole_are_named(tmp_path: Path) -> None:
    rows = LOGITS.astype(np.float32).tolist()
    rows[17] = [1.0]
    table = rows_of().set_column(0, "logits", pa.array(rows))
    refuses(
        save_to_disk(tmp_path / "a", [table[:10], table[10:]]),
        r"logits of row 17 \(row 7 of data-00001-of-00002\.arrow\) holds 1 values; expected 5 as in row 0",
    )
    rows[17] = None
    table = rows_of().set_column(0, "logits", pa.array(rows))
    refuses(save_to_disk(tmp_path / "b", [table]), "logits of row 17 is null, or holds one")


def test_batches_that_are_packed_or_refer_to_others_are_refused(tmp_path: Path) -> None:
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    refuses(
        save_to_disk(tmp_path / "a", [rows_of()], options=packed),
        "holds compressed rows, which datasets does not write",
    )
    words = pa.array(["a"] * (N * V)).dictionary_encode()
    refuses(save_to_disk(tmp_path / "b", [rows_of(word=words)]), "holds a dictionary; expected rows alone")


def test_lists_that_reach_beyond_their_numbers_are_refused(tmp_path: Path) -> None:
    table = rows_of().set_column(0, "logits", pa.array(LOGITS.astype(np.float32).tolist()))
    path = save_to_disk(tmp_path / "a", [table], batch=100)
    (file,) = path.glob("*.arrow")
    offsets = np.arange(0, N * V * C + 1, C, dtype=np.int32)
    assert file.read_bytes().count(offsets.tobytes()) == 1
    file.write_bytes(file.read_bytes().replace(offsets.tobytes(), (offsets + 10**8).tobytes()))
    refuses(path, r"data-00000-of-00001\.arrow: cannot be read: ArrowInvalid: .*offset")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = save_to_disk(tmp_path / "a", [rows_of()])
    (file,) = path.glob("*.arrow")
    data = file.read_bytes()
    for size in sorted({*range(0, len(data), 47), *(len(data) - n for n in (1, 4, 8, 9))}):
        file.write_bytes(data[:size])
        refuses(
            path, r"data-00000-of-00001\.arrow: (cannot be read|ends at byte \d+ without the mark of its end)"
        )


def test_flipped_bits_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    path = save_to_disk(tmp_path / "a", [rows_of()])
    (file,) = path.glob("*.arrow")
    rng, data, n_refused = np.random.default_rng(0), file.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(data)
        broken[int(rng.choice([rng.integers(len(data)), rng.integers(900)]))] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        try:
            list(open_source(path).blocks(5))
        except DataError:
            n_refused += 1
    assert n_refused > 50


def test_a_file_that_begins_with_rows_is_refused(tmp_path: Path) -> None:
    path = save_to_disk(tmp_path / "a", [rows_of()])
    (file,) = path.glob("*.arrow")
    with pa.OSFile(str(file)) as stream:
        pa.ipc.read_message(stream)
        n_schema = stream.tell()
    file.write_bytes(file.read_bytes()[n_schema:])
    refuses(path, r"cannot be read: OSError: Expected IPC message of type schema but got record batch")


def test_a_file_that_changes_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = save_to_disk(tmp_path / "a", [rows_of()])
    source = open_source(path)
    (file,) = path.glob("*.arrow")
    with pa.ipc.new_stream(str(file), rows_of().schema) as writer:
        writer.write_table(rows_of(), 9)
    with pytest.raises(DataError, match=r"has changed since it was opened; open it again"):
        list(source.blocks(5))


# -- writing -------------------------------------------------------------------------------------------


def write(path: Path, dtype: str = "float16", **said: Any) -> Path:
    spec = LabelSpec(C, "log_probs", 4.0)
    contents = Contents(spec, N * V, (N, V), dtype, ("flip",), {"target": np.arange(N, dtype=np.int32)})
    labels = np.log(np.random.default_rng(0).dirichlet(np.ones(C), N * V)).astype(dtype)
    blocks = [RowBlock(labels, ITEM, VIEW, {"flip": ITEM % 2 == 0})]
    write_arrays(path, contents, blocks, kind="datasets", **said)
    return path


def test_shards_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_datasets, "BATCH_ROWS", 3)
    monkeypatch.setattr(to_datasets, "SHARD_BYTES", 160)
    path = write(tmp_path / "set")
    names = sorted(file.name for file in path.iterdir())
    assert names[:4] == [f"data-{number:05d}-of-00004.arrow" for number in range(4)]
    assert names[4:] == ["dataset_info.json", "state.json"]
    source = open_source(path)
    assert (source.items, source.views, source.spec) == (N, V, LabelSpec(C, "log_probs", 4.0))
    assert sum(len(block) for block in source.blocks(5)) == N * V


def test_other_rows_have_another_fingerprint(tmp_path: Path) -> None:
    said = [json.loads((write(tmp_path / name, dtype) / "state.json").read_text())["_fingerprint"]
            for name, dtype in (("a", "float16"), ("b", "float16"), ("c", "float32"))]  # fmt: skip
    assert said[0] == said[1] != said[2]


def test_a_folder_is_replaced_only_if_it_is_a_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    write(path, force=True)
    (path / "mine.txt").write_text("")
    with pytest.raises(
        DataError, match=r"set: holds 'mine\.txt', which is no part of a label set and would be lost"
    ):
        write(path, force=True)


def test_datasets_loads_what_is_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_from_disk(str(write(tmp_path / "set")))
    assert rows.column_names == ["log_probs", "item", "view", "flip", "target"]
    assert rows["item"][:] == ITEM.tolist()
    assert np.exp(rows[3]["log_probs"]).sum() == pytest.approx(1, abs=1e-2)
