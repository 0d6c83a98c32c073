from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.records import LabelSpec, RowBlock
from softpack.sources import Contents, open_source, write_arrays

LOGITS = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float16)


def refuses(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(path).blocks(5))
    assert str(caught.value).startswith(str(path))


def npy_bytes(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def described(descr: Any = "<f2", shape: Any = (2, 3), fortran: bool = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape})


# -- any path ------------------------------------------------------------------------------------------


def test_paths_that_are_no_sources(tmp_path: Path) -> None:
    understood = r"expected a file that ends in \.npy, \.npz, \.h5, \.hdf5, \.safetensors"
    refuses(tmp_path / "none.npy", rf"none\.npy: is not there; {understood}")
    refuses(tmp_path / "*.tar", rf"\*\.tar: is not there; {understood}.*; name the folder that holds them")
    refuses(tmp_path, r": is a folder; expected a file, or the layout of a label set that is known")
    (tmp_path / "x.pkl").write_bytes(b"")
    refuses(
        tmp_path / "x.pkl",
        rf"x\.pkl: ends in \.pkl, as pickles do; {understood}.*unpickles nothing but tensors",
    )
    (tmp_path / "x.txt").write_bytes(b"")
    refuses(tmp_path / "x.txt", rf"x\.txt: ends in \.txt; {understood}")
    (tmp_path / "labels").write_bytes(b"")
    refuses(tmp_path / "labels", rf"labels: has no suffix; {understood}")
    os.mkfifo(tmp_path / "pipe.npy")
    refuses(tmp_path / "pipe.npy", rf"pipe\.npy: is no ordinary file; {understood}")


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "safetensors"])
@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 300, b"PK\x03\x04", b"hello, world " * 9])
def test_files_that_are_something_else(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    refuses(path, rf"x\.{suffix}: ")


def _whole_files(folder: Path) -> list[Path]:
    n = LOGITS.shape[0] * LOGITS.shape[1]
    rows = RowBlock(LOGITS.reshape(n, 8), *np.divmod(np.arange(n), 4), {"flip": np.arange(n) % 2 == 0})
    contents = Contents(LabelSpec(8), n, (6, 4), "float16", ("flip",), {"target": np.arange(6, dtype="i4")})
    paths = [folder / f"x.{suffix}" for suffix in ("npy", "npz", "h5", "safetensors")]
    for path in paths:
        write_arrays(path, contents, [rows])
    np.savez_compressed(folder / "deflated.npz", logits=LOGITS, flip=rows.replay["flip"].reshape(6, 4))
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("logits", data=LOGITS, chunks=(2, 2, 8), compression="gzip", fletcher32=True)
    return [*paths, folder / "deflated.npz", folder / "chunked.h5"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for path in _whole_files(tmp_path):
        data = path.read_bytes()
        for size in sorted({*range(0, len(data), 1 + len(data) // 150), len(data) - 1}):
            path.write_bytes(data[:size])
            refuses(path, r"\.\w+: .*;")


def test_flipped_bits_raise_nothing_but_softpack_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in _whole_files(tmp_path):
        data = path.read_bytes()
        n_read = 0
        for _ in range(150):
            broken = bytearray(data)
            # Heads and tails, where the structure is, are hit as often as all else.
            place = int(rng.choice([rng.integers(len(data)), rng.integers(200), -rng.integers(1, 200)]))
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with contextlib.suppress(DataError):
                list(open_source(path).blocks(5))
                n_read += 1
        assert n_read < 130


# -- .npy and .npz -------------------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return print, ("unpickled",)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = np.array([_Bomb(), _Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", objects)
    np.savez(tmp_path / "x.npz", logits=objects)
    message = "holds pickled objects, which could run code; softpack never unpickles"
    refuses(tmp_path / "x.npy", rf"x\.npy: the array {message}")
    refuses(tmp_path / "x.npz", rf"x\.npz: logits\.npy {message}")
    (tmp_path / "y.npy").write_bytes(pickle.dumps(_Bomb()))
    refuses(tmp_path / "y.npy", r"begins with .*; expected b'\\x93NUMPY' as np\.save writes it")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy_bytes(described(shape=(1 << 40, 1000))), r"declares shape \(1099511627776, 1000\) of float16"),
        (
            npy_bytes(described(), b"\0" * 11),
            r"declares shape \(2, 3\) of float16, \d+ bytes .* but \d+ are there",
        ),
        (npy_bytes(described(), b"\0" * 13), r"declares shape \(2, 3\)"),
        (npy_bytes(described(shape=(-2, -3)), b"\0" * 12), r"has shape \(-2, -3\); expected sizes from 0 on"),
        (npy_bytes(described(shape=[2, 3]), b"\0" * 12), r"has shape \[2, 3\]; expected"),
        (npy_bytes(described([("a", "<f2")]), b"\0" * 12), r"has dtype .*; expected floats, integers or bool"),
        (npy_bytes(described("<c8"), b"\0" * 48), r"has dtype '<c8'; expected floats"),
        (npy_bytes(described("<U3"), b"\0" * 72), r"has dtype '<U3'; expected floats"),
        (npy_bytes("{'descr': '<f2'}"), r"has a header that cannot be parsed"),
        (npy_bytes("__import__('os').abort()"), r"has a header that cannot be parsed"),
        (npy_bytes("[" * 5000), r"has a header that cannot be parsed"),
        (npy_bytes(" " * 20_000), r"has a header of 20000 bytes; expected at most 10000"),
        (npy_bytes(described(), b"\0" * 12, version=3), r"has a header of version 3; expected 1 or 2"),
    ],
)
def test_npy_headers_that_lie(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    refuses(tmp_path / "x.npy", rf"x\.npy: the array {message}")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", data)
    refuses(tmp_path / "x.npz", rf"x\.npz: logits\.npy {message}")


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "safetensors"])
def test_what_torch_saves_is_refused_under_any_name(tmp_path: Path, suffix: str) -> None:
    torch.save({"logits": torch.zeros(2, 3)}, tmp_path / f"x.{suffix}")
    says = {"npz": r"is what torch\.save writes; let its name end in \.pt"}
    refuses(tmp_path / f"x.{suffix}", rf"x\.{suffix}: {says.get(suffix, '')}")


def test_zip_members_of_another_making(tmp_path: Path) -> None:
    data = npy_bytes(described(), b"\0" * 12)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("logits.npy", data)
    refuses(path, r"logits\.npy is compressed with zip method 12; expected stored or deflated")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", data)
        archive.writestr("logits", data)
    refuses(path, r"holds several members of one name")


def test_a_zip_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    n = 1 << 40
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", npy_bytes(described(shape=(n, 1000))))
    data = bytearray(path.read_bytes())
    size_at = data.rindex(b"PK\x01\x02") + 24
    data[size_at : size_at + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)
    refuses(path, r"logits\.npy declares 4294967280 bytes; expected at most \d+ of the \d+ that are there")


def test_damaged_numbers_of_a_stored_member_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, logits=LOGITS)
    data = bytearray(path.read_bytes())
    data[data.index(LOGITS.tobytes()[:32]) + 3] ^= 1
    path.write_bytes(data)
    refuses(path, r"x\.npz: cannot be read: ValueError: the checksum of an array does not fit its bytes")


# -- .safetensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"logits": {"dtype": "F8_E4M3", "shape": [3, 4], "data_offsets": [0, 12]}},
            "has dtype F8_E4M3; expected",
        ),
        (
            {"logits": {"dtype": "F16", "shape": [1 << 40, 4], "data_offsets": [0, 12]}},
            "cannot be read: Safetensor",
        ),
        (
            {"logits": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 1 << 60]}},
            "cannot be read: Safetensor",
        ),
        ({"logits": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}, "cannot be read: Safetensor"),
        ({"logits": 3}, "cannot be read: Safetensor"),
        ([1, 2], "has a header that is no JSON object"),
        (
            {
                "__metadata__": {"temperature": "warm"},
                "probs": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]},
            },
            "metadata temperature is 'warm'; expected a number",
        ),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: Any, message: str) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 12)
    refuses(path, rf"x\.safetensors: (logits )?{message}")


def test_a_safetensors_header_that_claims_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    refuses(path, r"declares a header of 4611686018427387904 bytes; expected at most")


# -- .h5 -----------------------------------------------------------------------------------------------


def _external_link(file: h5py.File, folder: Path) -> None:
    file["logits"] = h5py.ExternalLink(str(folder / "other.h5"), "/logits")


def _soft_link(file: h5py.File, folder: Path) -> None:
    file["elsewhere"] = LOGITS
    file["logits"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File, folder: Path) -> None:
    secret = folder / "secret.txt"
    secret.write_bytes(b"a secret of 24 bytes ...")
    file.create_dataset("logits", (3, 4), np.float16, external=[(str(secret), 0, 24)])


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((6, 4, 8), np.float16)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "logits", (6, 4, 8))
    file.create_virtual_dataset("logits", layout)


def _other_filter(file: h5py.File, folder: Path) -> None:
    file.create_dataset("logits", data=np.zeros((4, 8), np.float32), scaleoffset=2)


def _never_written(file: h5py.File, folder: Path) -> None:
    file.create_dataset("logits", (1 << 37, 1000), np.float16)


def _partly_written(file: h5py.File, folder: Path) -> None:
    dataset = file.create_dataset("logits", (400, 10), np.float16, chunks=(4, 10), compression="gzip")
    dataset[:200] = np.random.default_rng(0).normal(size=(200, 10))


def _huge_chunks(file: h5py.File, folder: Path) -> None:
    dataset = file.create_dataset("logits", (1 << 18, 1000), np.float16, chunks=(1 << 18, 1000), compression=9)
    dataset.id.write_direct_chunk((0, 0), os.urandom(600_000))


def _group(file: h5py.File, folder: Path) -> None:
    file.create_group("logits")["values"] = LOGITS


def _strings(file: h5py.File, folder: Path) -> None:
    file["logits"] = ["a", "b"]


def _no_space(file: h5py.File, folder: Path) -> None:
    file["logits"] = h5py.Empty("f4")


def _odd_temperature(file: h5py.File, folder: Path) -> None:
    file["probs"] = np.full((2, 2), 0.5)
    file.attrs["temperature"] = "hot"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_external_link, r"logits is a ExternalLink to another place; expected a dataset in the file itself"),
        (_soft_link, r"logits is a SoftLink to another place; expected"),
        (_external_storage, r"logits keeps its numbers in other files; expected them in the file itself"),
        (_virtual, r"logits keeps its numbers in other files; expected"),
        (_other_filter, r"logits is packed with HDF5 filter 6; expected only gzip, shuffle, fletcher32, lzf"),
        (_never_written, r"logits declares 274877906944000 bytes; expected at most 0 of the 0 that are stored"),
        (_partly_written, r"logits has 50 of 100 chunks; expected all"),
        (_huge_chunks, r"logits has chunks of 524288000 bytes; expected at most 268435456"),
        (_group, r"logits is a Group; expected a dataset of the root group"),
        (_strings, r"logits has dtype object; expected floats, integers or bool"),
        (_no_space, r"logits is empty; expected an array"),
        (_odd_temperature, r"attribute temperature has shape \(\) of .*; expected a number"),
    ],
)
def test_hdf5_files_that_are_refused(
    tmp_path: Path, build: Callable[[h5py.File, Path], None], message: str
) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["logits"] = LOGITS
    with h5py.File(tmp_path / "x.h5", "w") as file:
        build(file, tmp_path)
    refuses(tmp_path / "x.h5", rf"x\.h5: {message}")


def test_links_that_are_not_ours_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["logits"] = LOGITS
        file["extra"] = h5py.ExternalLink("/etc/passwd", "/")
        file["group/logits"] = LOGITS
    source = open_source(tmp_path / "x.h5")
    assert source.ignored == ("extra", "group")
    assert sum(len(block) for block in source.blocks(7)) == 24


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_hdf5_filters_that_are_read(tmp_path: Path, compression: str | None) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        options = {"compression": compression, "shuffle": True, "fletcher32": True}
        file.create_dataset("log_probs", data=np.full((30, 4), -np.log(4.0)), chunks=(7, 3), **options)
        file.attrs["temperature"] = np.float32(4)
    source = open_source(tmp_path / "x.h5")
    assert source.spec == LabelSpec(4, "log_probs", 4.0)
    assert [len(block) for block in source.blocks(11)] == [11, 11, 8]
