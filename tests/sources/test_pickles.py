"""Pickles of others are data: what they hold comes back, and nothing that they name is run."""

from __future__ import annotations

import io
import os
import pickle
import resource
import time
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.sources.pickles import pool as pools
from softpack.sources.pickles.pool import PicklePool
from softpack.sources.pickles.unpickler import unpickled

X = torch.arange(24).reshape(4, 6)
BATCH = [
    torch.rand(5, 4), torch.rand(5) > 0.5, torch.randperm(5), 0.3, [np.int64(n) for n in (1, 2, 30, 40)],
    torch.randn(5, 10).half(),
]  # fmt: skip
FKD = [
    np.random.default_rng(0).random((50, 4), np.float32), np.arange(50) % 2 == 0,
    np.random.default_rng(1).random((50, 2, 5)).astype(np.float16),
]  # fmt: skip
KINDS = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    return value


@pytest.fixture(params=[True, False], ids=["zip", "streams"])
def saved(request, tmp_path):
    def save(value) -> Path:
        torch.save(value, tmp_path / "a.tar", _use_new_zipfile_serialization=request.param)
        return tmp_path / "a.tar"

    return save


@pytest.fixture(scope="module")
def pool():
    with PicklePool(2) as pool:
        yield pool


# -- what comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        BATCH,
        FKD,
        [X.t(), X[1:3, 2:5], X[None, :, ::2], torch.tensor(3), torch.zeros(0, 3), X, X],
        [X.to(getattr(torch, kind)) for kind in KINDS],
        [
            FKD[0][:0],
            np.asfortranarray(FKD[0]),
            np.array(7, ">i4"),
            FKD[0].astype(">f4"),
            None,
            "text",
            -(2**40),
        ],
    ],
    ids=["sre2l", "fkd", "views of tensors", "kinds of numbers", "kinds of arrays"],
)
def test_what_torch_saves_comes_back(saved, pool, values):
    path = saved(values)
    for found in (unpickled(path), pool.read(path)):
        assert len(found) == len(values)
        for mine, theirs in zip(found, values, strict=True):
            np.testing.assert_array_equal(mine, plain(theirs))
            assert getattr(mine, "shape", ()) == tuple(getattr(theirs, "shape", ()))


def test_dictionaries_come_back(saved, pool):
    path = saved(OrderedDict(one=X, deep={"a": [1, (2.5, None)], 3: True}))
    for found in (unpickled(path), pool.read(path)):
        np.testing.assert_array_equal(found["one"], X.numpy())
        assert found["deep"] == {"a": [1, [2.5, None]], 3: True}


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_comes_back(tmp_path, protocol):
    row = (7, [{"params": [None, (1, 2, 3, 4), True], "prob": ([0.5, 0.25], [1, 2])}])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(row, protocol))
    assert unpickled(tmp_path / "a.pkl") == [
        7,
        [{"params": [None, [1, 2, 3, 4], True], "prob": [[0.5, 0.25], [1, 2]]}],
    ]


def test_what_joblib_compresses_comes_back(tmp_path, pool):
    views = [
        {"params": [None, (1, 2, 3, number)], "cutmix": (0.25, (np.int64(number), 2))} for number in range(9)
    ]
    joblib.dump((7, views), tmp_path / "a.tar", compress=True)
    for found in (unpickled(tmp_path / "a.tar"), pool.read(tmp_path / "a.tar")):
        assert found[0] == 7
        assert found[1][8] == {"params": [None, [1, 2, 3, 8]], "cutmix": [0.25, [8, 2]]}


# -- what is refused -----------------------------------------------------------------------------------


class Payload:
    """Would leave a file behind."""

    def __init__(self, call, *given) -> None:
        self.does = call, given

    def __reduce__(self):
        return self.does


@pytest.mark.parametrize("name", ["os.system", "eval", "torch.load", "numpy.load", "softpack open"])
def test_nothing_that_a_pickle_names_is_run(saved, pool, tmp_path, name):
    import softpack

    left = tmp_path / "left behind"
    payloads = {
        "os.system": Payload(os.system, f"touch '{left}'"),
        "eval": Payload(eval, f"open({str(left)!r}, 'w')"),
        "torch.load": Payload(torch.load, str(left)),
        "numpy.load": Payload(np.load, str(left)),
        "softpack open": Payload(softpack.create, str(left)),
    }
    path = saved([X, payloads[name]])
    for read in (unpickled, pool.read):
        with pytest.raises(DataError, match=r"a\.tar: names \S+, which is no tensor .* softpack runs nothing"):
            read(path)
    assert not left.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array(["text"]), "numbers of type 'U4'; expected plain"),
        (np.array([object()], object), "numbers of type 'O8'; expected plain"),
        (Payload(np.dtype, "f4"), "holds a _NumpyType; expected tensors"),
        (torch.nn.Linear(2, 2), r"names 'torch\S+Linear', which"),
        (X.to_sparse(), r"names 'torch\S+', which"),
        (1j, "names 'builtins.complex'|names '__builtin__.complex'"),
    ],
    ids=["text", "objects", "a dtype", "a module", "sparse", "complex"],
)
def test_what_is_no_number_is_refused(saved, value, says):
    with pytest.raises(DataError, match=says):
        unpickled(saved([value]))


def names(*words: str) -> bytes:
    """Return a pickle that calls a name with what follows."""
    module, name, *rest = words
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + "".join(rest).encode("latin1") + b"."


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (names("_codecs", "encode", "(X\x03\0\0\0abcX\x05\0\0\0rot13tR"), "text in 'rot13'; expected latin1"),
        (names("numpy", "ndarray", "(J\xff\xff\xff\x7ftR"), "TypeError"),
        (names("torch", "Size", "}X\x05\0\0\0_callK\x01sb"), "AttributeError|TypeError"),
        (b"\x80\x04N\x94r\xff\xff\xff\x7f.", "MemoryError|UnpicklingError|EOFError"),  # a memo of gigabytes
        (b"\x80\x05\x96" + (1 << 42).to_bytes(8, "little") + b".", "MemoryError|UnpicklingError|EOFError"),
        (b"\x80\x04\x82\x01.", "ValueError"),  # a number of the registry of extensions
        (b"", "EOFError"),
        (b"\x80\x02]", "EOFError"),
        (b"PK\x03\x04", "BadZipFile"),
        (b"{}", "UnpicklingError"),
    ],
)  # fmt: skip
def test_a_pickle_that_is_none_of_labels_is_refused(tmp_path, pool, data, says):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match=says):
        pool.read(tmp_path / "a.tar")


def test_few_bytes_cannot_name_very_many_values(tmp_path, pool):
    doubling = b"".join(b"]\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(30))
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04]\x94" + doubling + b".")
    with pytest.raises(DataError, match=r"holds more than [\d,]+ values, or lists 32 deep"):
        pool.read(tmp_path / "a.pkl")


def test_few_compressed_bytes_cannot_hold_very_many(tmp_path, pool):
    held = pickle.dumps(list(range(1000)), 4)
    for data, says in (
        (
            zlib.compress(held + bytes(100 << 20)),
            r"holds more than \d+ bytes in \d+ compressed ones, or is cut off",
        ),
        (zlib.compress(held)[:-10], "holds more than .* or is cut off; copy it again"),
        (zlib.compress(held)[:50] + b"damaged", r"cannot be read: error: Error -3|or is cut off"),
        (zlib.compress(names("os", "system", "(X\x01\0\0\0atR")), "names 'os.system', which is no tensor"),
    ):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(DataError, match=rf"a\.tar: {says}"):
            pool.read(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(zlib.compress(held))
    with pytest.raises(DataError, match="is compressed, so that no tensor of it can be read in place"):
        unpickled(tmp_path / "a.tar", locate=True)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5, 6), (6, 1)), (20, (6,), (1,)), (0, (5,), (7,)), (0, (-1,), (1,)),
     (-1, (2,), (1,))],
)  # fmt: skip
def test_a_tensor_beyond_its_numbers_is_refused(tmp_path, offset, shape, strides):
    storage = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            return ("storage", torch.LongStorage, "0", "cpu", 24) if found is storage else None

    view = Payload(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict())
    Pickler(made := io.BytesIO(), 2).dump([view])
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a/data.pkl", made.getvalue())
        archive.writestr("a/data/0", X.numpy().tobytes())
    with pytest.raises(DataError, match="found a tensor"):
        unpickled(tmp_path / "a.tar")


@pytest.mark.parametrize("cut", [1, 100, 2000])
def test_a_file_that_was_cut_off_is_refused(saved, pool, cut):
    path = saved([torch.randn(20, 30)])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"a\.tar: (cannot be read|ends \d+ bytes before)"):
        pool.read(path)


def test_a_flipped_bit_of_an_archive_is_found(tmp_path):
    torch.save([X], path := tmp_path / "a.tar")
    data = bytearray(path.read_bytes())
    data[data.index(X.numpy().tobytes()) + 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match="Bad CRC-32"):
        unpickled(path)


# -- processes -----------------------------------------------------------------------------------------


def test_a_file_that_takes_too_long_is_given_up(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(pools, "SECONDS", 0.3)
    os.mkfifo(tmp_path / "a.tar")  # nobody will write into it
    begun = time.monotonic()
    with pytest.raises(
        DataError, match=r"a\.tar: the process that read it had to be stopped: it took more than 0 s"
    ):
        pool.read(tmp_path / "a.tar")
    assert time.monotonic() - begun < 20
    monkeypatch.undo()
    torch.save([X], tmp_path / "b.tar")
    np.testing.assert_array_equal(pool.read(tmp_path / "b.tar")[0], X.numpy())  # by a new one


def test_files_come_in_order_and_a_bad_one_stops_none(tmp_path, pool):
    paths = [tmp_path / f"{number}.tar" for number in range(20)]
    for number, path in enumerate(paths):
        torch.save([torch.tensor([number])], path)
    paths[7].write_bytes(b"no pickle")
    paths[9].unlink()
    found = list(pool.each(paths))
    assert [path for path, _ in found] == paths
    assert [number for number, (_, value) in enumerate(found) if isinstance(value, DataError)] == [7, 9]
    assert all(value[0].item() == number for number, (_, value) in enumerate(found) if number not in (7, 9))


def test_an_interrupted_read_leaves_nothing_for_the_next_file(tmp_path, pool, monkeypatch):
    for name in ("slow", "next"):
        torch.save([torch.full((200, 500), float(len(name)))], tmp_path / f"{name}.tar")
    empty = np.empty
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pool.read(tmp_path / "slow.tar")
    assert np.empty is empty
    np.testing.assert_array_equal(pool.read(tmp_path / "next.tar")[0], 4.0)


def test_a_process_that_died_between_files_is_replaced(tmp_path, pool):
    torch.save([X], tmp_path / "a.tar")
    for _ in range(3):
        pool.read(tmp_path / "a.tar")
        for worker in pool._workers:
            if worker._process is not None:
                worker._process.kill()
        np.testing.assert_array_equal(pool.read(tmp_path / "a.tar")[0], X.numpy())


def test_a_relative_path_is_of_the_present_folder(tmp_path, pool, monkeypatch):
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.save([torch.tensor([number])], folder / "a.tar")
        monkeypatch.chdir(folder)
        assert pool.read(Path("a.tar"))[0].tolist() == [number]
    with pytest.raises(DataError, match=r"^nosuch\.tar: cannot be read"):
        pool.read(Path("nosuch.tar"))


def test_what_is_named_often_is_sent_once(tmp_path, pool):
    torch.save([torch.zeros(250_000)] * 900, tmp_path / "a.tar")  # 1 MB, or 900 MB if each were sent
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = pool.read(tmp_path / "a.tar")
    assert len(found) == 900
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(["\u1234" * 20_000] * 4000))
    with pytest.raises(DataError, match="holds more than"):
        pool.read(tmp_path / "b.pkl")


@pytest.mark.parametrize(
    "value",
    [[10**5000], {((1, 2), 3): 4}, {(b"x",): 4}, {b"x": 1}, [b"x"], {None: 1}, [{1, 2}]],
    ids=["long int", "tuple key", "bytes in a key", "bytes key", "bytes", "none key", "set"],
)
def test_what_no_label_set_has_is_refused(tmp_path, pool, value):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=r"a\.pkl: (holds a |has a |names )"):
        pool.read(tmp_path / "a.pkl")


def test_a_tensor_cannot_be_changed_after_it_was_checked(tmp_path, pool):
    storage = object()

    class Changed(Payload):
        def __reduce__(self):
            call, given = self.does
            return call, given, {"shape": (1 << 40, 3), "offset": 0}

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            return ("storage", torch.LongStorage, "0", "cpu", 24) if found is storage else None

    view = Changed(torch._utils._rebuild_tensor_v2, storage, 0, (4, 6), (6, 1), False, OrderedDict())
    Pickler(made := io.BytesIO(), 2).dump([view])
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a/data.pkl", made.getvalue())
        archive.writestr("a/data/0", X.numpy().tobytes())
    for locate in (False, True):
        with pytest.raises(DataError, match="cannot be read: AttributeError"):
            pool.read(tmp_path / "a.tar", locate)


def test_a_message_has_an_end_and_no_control_characters(tmp_path, pool):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02c\x1b[2J" + b"x" * 100_000 + b"\nname\n.")
    with pytest.raises(DataError) as refused:
        pool.read(tmp_path / "a.pkl")
    assert len(str(refused.value)) < 2000
    assert "\x1b" not in str(refused.value)


def test_bool_is_zero_or_one(tmp_path, pool):
    torch.save([torch.tensor([True, False]), np.array([True, False])], path := tmp_path / "a.tar")
    unpacked = path.read_bytes()
    numbers = unpickled(path)
    assert [found.view(np.uint8).max() for found in numbers] == [1, 1]
    assert unpacked.startswith(b"PK")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_numbers_whose_type_stands_beside_their_bytes(tmp_path, dtype):
    values = torch.arange(24).to(dtype).reshape(2, 3, 4)
    torch.save({"a": [values[1:], values.transpose(0, 2)]}, tmp_path / "a.pt")

    found = unpickled(tmp_path / "a.pt")["a"]

    np.testing.assert_array_equal(found[0], values.numpy()[1:])
    np.testing.assert_array_equal(found[1], values.numpy().transpose(2, 1, 0))
    assert found[0].dtype == values.numpy().dtype
