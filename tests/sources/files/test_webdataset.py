"""WebDataset's shards in and out: what samples may look like, what is refused, and that the library reads them."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays
from softpack.sources.files import sample_parts, to_webdataset, webdataset
from softpack.sources.peers.row_files import joined

N, V, C = 6, 4, 5
LOGITS = np.random.default_rng(0).normal(size=(N, V, C)).astype(np.float16)
Members = dict[str, Any]  # of a sample: by suffix, bytes, arrays, or what becomes JSON


def bytes_of(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        np.save(file := io.BytesIO(), value)
        return file.getvalue()
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def write_tar(path: Path, samples: dict[str, Members], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for key, members in samples.items():
            for suffix, value in members.items():
                data = bytes_of(value)
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def samples(**more: Any) -> dict[str, Members]:
    """A sample for each item; `more` gives further members by item."""
    return {
        f"{item:04d}": {"logits.npy": LOGITS[item]} | {name: values(item) for name, values in more.items()}
        for item in range(N)
    }


def whole(source: Any, n_rows: int = 5) -> RowBlock:
    return joined(list(source.blocks(n_rows)))


def refuses(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(path, kind="webdataset").blocks(5))
    assert str(caught.value).startswith(str(path))


# -- what samples may look like ------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 3, 100])
def test_a_sample_holds_the_views_of_an_item(tmp_path: Path, n_rows: int) -> None:
    crop = np.arange(N * V * 4).reshape(N, V, 4) % 9 + 1
    path = write_tar(
        tmp_path / "a.tar",
        samples(
            **{
                "jpg": lambda item: b"pixels",
                "flip.npy": lambda item: np.arange(V) == item,
                "cls": lambda item: str(item * 2).encode(),
                "json": lambda item: {
                    "crop_xywh": crop[item].tolist(),
                    "source_hw": [90, 80],
                    "caption": "a photo",
                },
            }
        ),
    )
    source = open_source(path)
    assert (source.items, source.views, source.n_rows) == (N, V, N * V)
    assert (source.columns, source.ignored) == (("crop_xywh", "flip"), ("jpg",))
    assert source.item_columns["target"].tolist() == [0, 2, 4, 6, 8, 10]
    assert source.item_columns["source_hw"].tolist() == [[90, 80]] * N
    rows = whole(source, n_rows)
    np.testing.assert_array_equal(rows.labels_BC, LOGITS.reshape(-1, C))
    np.testing.assert_array_equal(rows.item_B, np.repeat(np.arange(N), V))
    np.testing.assert_array_equal(rows.view_B, np.tile(np.arange(V), N))
    np.testing.assert_array_equal(rows.replay["crop_xywh"], crop.reshape(-1, 4))
    np.testing.assert_array_equal(rows.replay["flip"], (np.arange(V) == np.arange(N)[:, None]).reshape(-1))
    drawn = np.concatenate([block.labels_BC for block in source.sample(7, 0)])
    assert len(drawn) == 7


def test_a_sample_may_be_a_single_label(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"x/{row}": {"npy": LOGITS[row, 0]} for row in range(N)})
    source = open_source(path)
    assert (source.items, source.views, source.spec) == (N, 1, LabelSpec(C))
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS[:, 0])
    probs = write_tar(tmp_path / "b.tar", {f"{row}": {"npy": np.full(4, 0.25)} for row in range(N)})
    assert open_source(probs, space="probs", temperature=4).spec == LabelSpec(4, "probs", 4.0)


def test_samples_say_their_item_and_views(tmp_path: Path) -> None:
    made = {
        f"{key}.b.c": {"json": {"item": item, "view": views, "target": item}, "LOGITS.NPY": LOGITS[item, views]}
        for key, (item, views) in enumerate([(4, [0, 3]), (1, [2]), (4, [1])])
    }
    source = open_source(write_tar(tmp_path / "a.tar", {key.partition(".")[0]: made[key] for key in made}))
    rows = whole(source)
    assert rows.item_B.tolist() == [4, 4, 1, 4]
    assert rows.view_B.tolist() == [0, 3, 2, 1]
    assert source.item_columns["target"].tolist() == [-1, 1, -1, -1, 4]
    np.testing.assert_array_equal(rows.labels_BC, LOGITS[[4, 4, 1, 4], [0, 3, 2, 1]])


def test_numbers_of_samples_go_on_from_shard_to_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_OPEN", 2)
    all_of_them = list(samples().items())
    (tmp_path / "set").mkdir()
    for shard in range(N):  # shard 5 would come after 10 by its letters
        write_tar(tmp_path / "set" / f"shard-{5 + shard}.tar", dict([all_of_them[shard]]))
    (tmp_path / "set" / "README.md").write_text("")
    source = open_source(tmp_path / "set")
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS.reshape(-1, C))
    assert source.n_bytes == sum(file.stat().st_size for file in (tmp_path / "set").glob("*.tar"))
    np.testing.assert_array_equal(
        whole(open_source(tmp_path / "set", kind="webdataset"), 100).item_B, np.repeat(range(N), V)
    )


def test_shards_may_be_named_by_a_range_of_numbers(tmp_path: Path) -> None:
    for shard, (key, members) in enumerate(samples().items()):
        write_tar(tmp_path / f"train-{shard + 7:03d}.tar", {key: members})
    write_tar(tmp_path / "val-000.tar", {"x": {"logits.npy": LOGITS[0, 0]}})
    source = open_source(tmp_path / "train-{008..011}.tar")
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS[1:5].reshape(-1, C))
    assert source.n_bytes == 4 * (tmp_path / "train-008.tar").stat().st_size
    refuses(
        tmp_path / "train-{008..013}.tar",
        r"names train-013\.tar, which is not there; copy it, or name those that",
    )
    refuses(tmp_path / "train-{009..008}.tar", "names no file; expected a range that goes up")
    with pytest.raises(DataError, match=r"x-\{0\.\.1\}\.npy: cannot be read: FileNotFoundError"):
        open_source(tmp_path / "x-{0..1}.npy")


def test_long_names_folders_and_what_belongs_to_no_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("some.folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for item in range(N):
            name = f"some.folder/{'long' * 60}{item}ü"
            for suffix, data in ((".logits.npy", bytes_of(LOGITS[item])), ("", b"no dot")):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.tar")).labels_BC, LOGITS.reshape(-1, C))


def test_temperature_is_said_by_every_sample_alike(tmp_path: Path) -> None:
    made = {f"{row}": {"probs.npy": np.full((1, 2), 0.5), "json": {"temperature": 4.0}} for row in range(3)}
    assert open_source(write_tar(tmp_path / "a.tar", made)).spec == LabelSpec(2, "probs", 4.0)
    made["1"]["json"] = {"temperature": 20.0}
    refuses(
        write_tar(tmp_path / "b.tar", made), "has samples of temperatures 4 and 20; expected one of all labels"
    )


# -- samples that are refused --------------------------------------------------------------------------


def changed(**members: Any) -> dict[str, Members]:
    """Samples of which the third has other members; None takes one out."""
    made = samples(json=lambda item: {"item": item})
    third = made["0002"] | {name.replace("_npy", ".npy"): value for name, value in members.items()}
    made["0002"] = {name: value for name, value in third.items() if value is not None}
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            changed(logits_npy=None),
            r"0002 has no labels, but json; expected 0002\.logits\.npy, \.log_probs\.npy",
        ),
        (
            changed(logits_npy=None, pyd=b"\x80\x04."),
            r"0002\.pyd is a pickle, which could run code and is not read; expected 0002\.logits\.npy, .*: np\.save",
        ),
        (changed(probs_npy=LOGITS[2]), "0002 has logits and probs; expected one of them"),
        (changed(json=None), "0002 has logits; expected item, logits, as the first sample has"),
        (
            changed(json={"item": 2, "flip": [0, 0, 0, 1]}),
            "0002 has flip, item, logits; expected item, logits, as the",
        ),
        (
            changed(json={"item": [2]}),
            r"item of 0002 has shape \(1,\) of int64; expected \(\) of int64, to fit the first",
        ),
        (changed(json={"item": 2.5}), r"item of 0002 has shape \(\) of float64; expected \(\) of int64"),
        (changed(json={"item": "two"}), r"0002\.json has 'two' as item; expected numbers, or lists of them"),
        (changed(json={"item": [[1], []]}), r"0002\.json has lists of several lengths as item"),
        (changed(json={"item": 10**30}), r"0002\.json has '10{30}' as item; expected numbers"),
        (changed(json={"item": -1}), "item of row 8 is -1; expected 0 to"),
        (changed(json=b"{"), r"0002\.json is no JSON: .*; make it again"),
        (changed(json=[1]), r"0002\.json holds no JSON object; expected one"),
        (changed(item_npy=np.array(2)), r"0002 says item twice, once in 0002\.item\.npy; expected it once"),
        (
            changed(logits_npy=LOGITS[2, :, :4]),
            r"logits of 0002 has shape \(4, 4\) of float16; expected \(4, 5\) of float16",
        ),
        (
            changed(logits_npy=LOGITS[2].astype(np.float32)),
            "logits of 0002 has shape .* of float32; expected .* of float16",
        ),
        (
            changed(logits_npy=LOGITS),
            r"0002 has labels of shape \(6, 4, 5\); expected \[classes\] or \[views, classes\]",
        ),
        (changed(logits_npy=LOGITS[2, :0]), r"0002 has labels of shape \(0, 5\)"),
        (
            changed(logits_npy=LOGITS[2].T.copy().T),
            r"0002\.logits\.npy is stored in Fortran order; expected C order",
        ),
        (changed(logits_npy=np.array([{}])), r"0002\.logits\.npy holds pickled objects, which could run code"),
        (changed(logits_npy=b"\x93NUMPY"), r"a\.tar: (0002\.logits\.npy|cannot be read)"),
        (
            changed(logits_npy=bytes_of(LOGITS[2]) + b"1"),
            r"0002\.logits\.npy declares shape \(4, 5\) of float16, 168 bytes",
        ),
        (
            changed(logits_npy=np.where(np.arange(C) == 2, np.float16("nan"), LOGITS[2])),
            r"logits, class 2, of row 8 \(item 2, view 0\) \(and 1 more of the 5 rows read with it\) is nan",
        ),
        ({}, r"a\.tar: is empty; expected samples with KEY\.logits\.npy"),
        ({"a": {"txt": b""}}, "a has no labels, but txt"),
    ],
)
def test_samples_that_are_not_as_the_others(tmp_path: Path, made: dict[str, Members], message: str) -> None:
    refuses(write_tar(tmp_path / "a.tar", made), message)


def test_columns_of_another_shape(tmp_path: Path) -> None:
    made = samples(**{"flip.npy": lambda item: np.zeros(V if item != 3 else 2, bool)})
    refuses(
        write_tar(tmp_path / "a.tar", made), r"flip of 0003 has shape \(2,\) of bool; expected \(4,\) of bool"
    )
    made = samples(
        json=lambda item: {"flip": [True] * V} if item != 3 else {}, **{"flip.npy": lambda item: None}
    )
    made = {key: {n: v for n, v in one.items() if v is not None} for key, one in made.items()}
    made["0003"] |= {"flip.npy": np.zeros(V, bool)}
    refuses(
        write_tar(tmp_path / "b.tar", made),
        "flip of 0003 is in a .npy; expected it in the JSON, as the first sample",
    )


def test_members_of_a_sample_must_stand_together(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": {"logits.npy": LOGITS[0]}, "b": {"logits.npy": LOGITS[1]}})
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    refuses(path, "has the sample a in two places; expected its members after each other: sort them by name")
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.json"))
    refuses(path, r"has a\.json twice; expected it once")


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", samples(json=lambda item: {"flip": [0] * V}))
    monkeypatch.setattr(webdataset, "MAX_ITEM_BYTES", 100)
    refuses(path, r"flip of 0003 is in JSON, which is held; expected less than .*; give it as \.npy")
    monkeypatch.setattr(sample_parts, "MAX_SMALL_BYTES", 5)
    refuses(path, r"0000\.json has 22 bytes; expected at most 5")


# -- files that are damaged, or something else ---------------------------------------------------------


def test_files_that_are_no_plain_tar(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "batch_0.tar")
    says = r"batch_0\.tar: is no tar archive but a file of torch\.save; SRe2L, FKD and others let those end in \.tar"
    refuses(tmp_path / "batch_0.tar", says)
    torch.save([torch.zeros(3)], tmp_path / "batch_0.tar", _use_new_zipfile_serialization=False)
    refuses(tmp_path / "batch_0.tar", says)
    path = write_tar(tmp_path / "a.tar", samples())
    (tmp_path / "b.tar").write_bytes(gzip.compress(path.read_bytes()))
    refuses(
        tmp_path / "b.tar",
        r"b\.tar: is compressed by gzip; labels are read in place, which takes a plain \.tar",
    )
    (tmp_path / "c.tar").write_bytes(b"hello, world " * 90)
    refuses(tmp_path / "c.tar", r"c\.tar: cannot be read: ReadError")
    (tmp_path / "d.tar").write_bytes(path.read_bytes() * 2)
    refuses(tmp_path / "d.tar", r"d\.tar: is damaged at byte \d+, or several archives were joined")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples())
    data = path.read_bytes()
    n_used = len(data.rstrip(b"\0"))
    for size in [*range(0, n_used + 1024, 256), n_used - 1]:
        path.write_bytes(data[:size])
        refuses(
            path,
            r"a\.tar: (is empty|cannot be read|declares|ends at byte \d+ without the mark of its end|is damaged)",
        )


def test_flipped_bits_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(json=lambda item: {"item": item}))
    rng, data, n_refused = np.random.default_rng(0), path.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            list(open_source(path).blocks(5))
        except DataError:
            n_refused += 1
    assert n_refused > 50


def test_members_that_are_no_ordinary_files_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples())
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("0009.logits.npy")
        link.type, link.linkname = tarfile.SYMTYPE, os.devnull
        archive.addfile(link)
    assert open_source(path).items == N


# -- writing -------------------------------------------------------------------------------------------


def write(path: Path, keep: np.ndarray | None = None, **said: Any) -> Path:
    rows = RowBlock(
        LOGITS.reshape(-1, C), *np.divmod(np.arange(N * V), V), {"crop_xywh": np.full((N * V, 4), 3, np.int32)}
    )
    rows = rows if keep is None else rows.take(keep)
    columns = {"target": np.arange(N, dtype=np.int32), "source_hw": np.full((N, 2), 90, np.int32)}
    grid = (N, V) if keep is None else None
    contents = Contents(LabelSpec(C), len(rows), grid, "float16", ("crop_xywh",), columns)
    write_arrays(path, contents, [rows.take(slice(0, 6)), rows.take(slice(6, None))], kind="webdataset", **said)
    return path


def test_shards_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_webdataset, "SHARD_ITEMS", 4)
    path = write(tmp_path / "set")
    assert sorted(file.name for file in path.iterdir()) == ["labels-000000.tar", "labels-000001.tar"]
    np.testing.assert_array_equal(whole(open_source(path)).labels_BC, LOGITS.reshape(-1, C))
    monkeypatch.setattr(to_webdataset, "SHARD_BYTES", 1)
    assert len(list(write(path, force=True).iterdir())) == N
    (path / "mine").write_text("")
    with pytest.raises(DataError, match="holds 'mine', which is no part of a label set and would be lost"):
        write(path, force=True)


def test_items_without_rows_have_no_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "set", np.array([0, 2, 9, 20]))
    with tarfile.open(path / "labels-000000.tar") as archive:
        assert sorted({name[:9] for name in archive.getnames()}) == ["000000000", "000000002", "000000005"]
    rows = whole(open_source(path))
    assert rows.item_B.tolist() == [0, 0, 2, 5]
    assert rows.view_B.tolist() == [0, 2, 1, 0]


def test_rows_must_come_by_item(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows of item 0 come after those of item 1; expected them by item"):
        write(tmp_path / "set", np.array([4, 0]))
    assert list(tmp_path.iterdir()) == []


def test_nobody_and_no_time_is_in_a_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    with tarfile.open(path / "labels-000000.tar") as archive:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in archive} == {(0, 0, 0, "")}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    path = write(tmp_path / "set")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves files open
        read = list(library.WebDataset(str(path / "labels-{000000..000000}.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == [f"{item:09d}" for item in range(N)]
    for item, sample in enumerate(read):
        np.testing.assert_array_equal(sample["logits.npy"], LOGITS[item])
        np.testing.assert_array_equal(sample["view.npy"], np.arange(V))
        assert sample["cls"] == item
        assert sample["json"] == {"item": item, "source_hw": [90, 90]}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    with library.TarWriter(str(tmp_path / "a.tar")) as sink:
        for item in range(N):
            sink.write(
                {
                    "__key__": f"{item:03d}",
                    "logits.npy": LOGITS[item],
                    "json": {"item": N - 1 - item},
                    "cls": item,
                }
            )
    source = open_source(tmp_path / "a.tar")
    np.testing.assert_array_equal(whole(source).labels_BC, LOGITS.reshape(-1, C))
    assert source.item_columns["target"].tolist() == [5, 4, 3, 2, 1, 0]
