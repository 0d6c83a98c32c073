"""A torch.save file as lists, dictionaries, numbers and numpy arrays. No torch.

A pickle is a program. This one may call what tensors, numpy arrays and numpy scalars of plain numbers are put together
by, in versions of our own that do nothing else; any other name in it is refused before it is looked up. Numbers are
views of bytes that stand in the file, so that no array is larger than the file.

Kinds of file: torch's zip archive, the streams of torch before 1.6, and a plain pickle, which joblib may have
compressed.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from softpack.errors import DataError

# Lists, dictionaries, numbers, arrays and letters in a file at most, besides so many for each of its bytes: two of a
# pickle name a key again, however long it is.
SPARE_NODES, NODES_A_BYTE = 1000, 2
MAX_DEPTH = 32
MAX_INT = 1 << 64
MAX_MESSAGE = 1000
# Bytes of a compressed pickle at most, besides so many times those that it takes.
SPARE_INFLATED, TIMES_DEFLATED = 1 << 20, 32
LOCAL_HEADER, LOCAL_NAMES = (
    30,
    26,
)  # bytes of a member's header in a zip, and where the lengths of its names stand
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# Names of torch's storages -> numpy's dtype; bfloat16, which numpy has not, comes as float32.
STORAGES = {
    "HalfStorage": "float16", "FloatStorage": "float32", "DoubleStorage": "float64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "BFloat16Storage": "bfloat16",
}  # fmt: skip
NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}  # numpy's
# What torch saves as bytes of which a dtype is said beside: numbers that older versions had not.
UNTYPED = ("uint16", "uint32", "uint64")
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2


class Member(NamedTuple):
    """A run of bytes in the file, and their checksum, where the file has one."""

    start: int
    size: int
    crc32: int | None


@dataclass(frozen=True)
class Located:
    """Where the numbers of a tensor stand in the file, one after another.

    Args:
        dtype: numpy's name of them, or "bfloat16".
        shape: of the tensor.
        offset: of the first byte, in those of its storage.
        member: the bytes of its storage.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    member: Member


def unpickled(path: Path, locate: bool = False) -> Any:
    """Return what torch.save wrote into a file: lists, dictionaries, strings, numbers, None and arrays.

    Args:
        path: of the file.
        locate: give `Located` in place of tensors, and read none of their numbers.

    Raises:
        DataError: it is no such file, is damaged, or names anything but tensors and arrays; where they are to be
            located, a tensor's numbers do not stand one after another.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            is_deflated = head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0
            stream = io.BytesIO(_inflated(file)) if is_deflated else file
            plain = _Plain(SPARE_NODES + NODES_A_BYTE * stream.seek(0, io.SEEK_END))
            stream.seek(0)
            held = _Archive(file) if head == b"PK\x03\x04" else _Streams(stream)
            if locate and is_deflated:
                raise DataError(
                    "is compressed, so that no tensor of it can be read in place; save it with torch.save"
                )
            if locate:
                return plain.of(held.tree, lambda tensor: tensor.located(held.member_of(tensor.storage)))
            return plain.of(held.tree, lambda tensor: tensor.of(held.bytes_of(tensor.storage)))
    except DataError as error:
        raise DataError(f"{path}: {str(error)[:MAX_MESSAGE]}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(
            f"{path}: cannot be read: {type(error).__name__}: {str(error)[:MAX_MESSAGE]}; expected a whole file as "
            "torch.save writes it; "
            "copy it or make it again"
        ) from None


# -- what a pickle may call ----------------------------------------------------------------------------


class _Inert:
    """A name that a pickle may use: called, it does what it is for; nothing of it can be changed."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *given: Any) -> Any:
        return self._call(*given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class _Storage(NamedTuple):
    """Numbers that stand elsewhere in the file. A tuple: no pickle can change it."""

    dtype: str
    key: str
    n: int

    @property
    def numbers(self) -> np.dtype:
        native: np.dtype = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)
        little: np.dtype = native.newbyteorder("<")
        return little

    @property
    def n_bytes(self) -> int:
        return self.n * self.numbers.itemsize


class _Tensor(NamedTuple):
    """A view of a storage. A tuple: no pickle can change it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def _check(self) -> None:
        whole, n = (*self.shape, *self.strides, self.offset), self.storage.n
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if any(type(number) is not int or number < 0 for number in whole) or prod(self.shape) > n:
            raise DataError(f"found a tensor {self.shape} of strides {self.strides} among {n} numbers")
        if prod(self.shape) and last >= n:
            raise DataError(f"found a tensor that reaches number {last} of {n}; the file is damaged")

    def located(self, member: Member) -> Located:
        """Return where the numbers stand, in the bytes of their storage."""
        self._check()
        in_order = [prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        if any(
            n > 1 and have != want for n, have, want in zip(self.shape, self.strides, in_order, strict=True)
        ):
            raise DataError(
                f"holds a tensor {list(self.shape)} of strides {list(self.strides)}, whose rows do not lie one after "
                "another; save tensor.contiguous()"
            )
        return Located(self.storage.dtype, self.shape, self.offset * self.storage.numbers.itemsize, member)

    def of(self, bytes_: bytes) -> np.ndarray:
        """Return the numbers, from the bytes of the storage."""
        flat = np.frombuffer(bytes_, self.storage.numbers, self.storage.n)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        whole = (*self.shape, *self.strides, self.offset)
        if any(type(number) is not int or number < 0 for number in whole) or prod(self.shape) > len(flat):
            raise DataError(f"found a tensor {self.shape} of strides {self.strides} among {len(flat)} numbers")
        if prod(self.shape) and last >= len(flat):
            raise DataError(f"found a tensor that reaches number {last} of {len(flat)}; the file is damaged")
        strides = [stride * flat.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if self.storage.dtype == "bool":
            return np.not_equal(view.view(np.uint8), 0)  # a bool of any byte but 0 and 1 is no bool
        if self.storage.dtype == "bfloat16":
            wide: np.ndarray = np.left_shift(view, 16, dtype=np.uint32)
            return wide.view(np.float32)
        return np.ascontiguousarray(view).reshape(self.shape)


class _NumpyType:
    """A numpy dtype, whose byte order comes after it."""

    __slots__ = ("dtype",)

    def __init__(self, name: object, *_: object) -> None:
        if name not in NUMBERS:
            raise DataError(
                f"found numbers of type {str(name)[:40]!r}; expected plain integers, floats or bool"
            )
        self.dtype: np.dtype = np.dtype(str(name))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _NumpyArray:
    """A numpy array, whose shape and numbers come after it."""

    __slots__ = ("values",)

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        if type(kind) is not _NumpyType or type(data) is not bytes:
            raise DataError("found an array of something else than plain numbers")
        flat = np.frombuffer(data, np.uint8) != 0 if kind.dtype == bool else np.frombuffer(data, kind.dtype)
        self.values = flat.reshape(shape, order="F" if is_fortran else "C").astype(kind.dtype.newbyteorder("="))


def _scalar(kind: object, data: object) -> Any:
    if type(kind) is not _NumpyType or type(data) is not bytes:
        raise DataError("found a scalar of something else than a plain number")
    return np.frombuffer(data, kind.dtype, 1)[0]


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise DataError(
            f"found bytes as text in {str(encoding)[:40]!r}; expected latin1, as numpy's arrays come"
        )
    return text.encode("latin1")


def _tensor(storage: object, offset: Any, shape: Any, strides: Any, *_: object) -> _Tensor:
    if type(storage) is not _Storage:
        raise DataError("found a tensor without its numbers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _tensor_of_bytes(storage: object, offset: Any, shape: Any, strides: Any, *more: object) -> _Tensor:
    """Return a tensor whose dtype stands beside it, after what says of gradients and hooks."""
    dtype = more[2] if len(more) > 2 else None
    if type(storage) is not _Storage or dtype not in UNTYPED:
        raise DataError(
            f"found bytes as numbers of type {str(dtype)[:40]!r}; expected one of {', '.join(UNTYPED)}"
        )
    typed = _Storage(str(dtype), storage.key, storage.n // np.dtype(str(dtype)).itemsize)
    return _tensor(typed, offset, shape, strides)


def _known() -> dict[tuple[str, str], Any]:
    """Return what a pickle may name; anew for every file, so that none can change what another finds."""
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Inert(dict),
        ("torch._utils", "_rebuild_tensor_v2"): _Inert(_tensor),
        ("torch._utils", "_rebuild_tensor_v3"): _Inert(_tensor_of_bytes),
        ("torch.storage", "UntypedStorage"): "uint8",
        ("torch", "Size"): _Inert(tuple),
        ("numpy", "dtype"): _Inert(_NumpyType),
        ("numpy", "ndarray"): None,  # which only _reconstruct is told, and does not ask
        ("_codecs", "encode"): _Inert(_encoded),
    }
    known |= {(module, "bytes"): _Inert(lambda: b"") for module in ("builtins", "__builtin__")}  # of no array
    known |= {("torch", name): dtype for name, dtype in STORAGES.items()}
    known |= {("torch", dtype): dtype for dtype in UNTYPED}
    known |= {(module, "scalar"): _Inert(_scalar) for module in MULTIARRAY}
    known |= {(module, "_reconstruct"): _Inert(_NumpyArray) for module in MULTIARRAY}
    return known


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; storages are named, not read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._known = _known()
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few names that are known."""
        try:
            return self._known[module, name]
        except KeyError:
            raise DataError(
                f"names {f'{module}.{name}'[:200]!r}, which is no tensor and no array of numbers; softpack runs "
                "nothing that stands in a file; load it where you trust it, and save its tensors alone"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that is named."""
        kind, dtype, key, _, n, *_ = pid
        if kind != "storage" or dtype not in STORAGES.values() or type(n) is not int or n < 0:
            raise DataError("names something that is no storage of numbers")
        return self.storages.setdefault(str(key), _Storage(dtype, str(key), n))


# -- kinds of file -------------------------------------------------------------------------------------


def _inflated(file: BinaryIO) -> bytes:
    """Return what zlib has compressed, as joblib lets it."""
    deflated = file.read()
    most, inflating = SPARE_INFLATED + TIMES_DEFLATED * len(deflated), zlib.decompressobj()
    inflated = inflating.decompress(deflated, most)
    if not inflating.eof:
        raise DataError(
            f"holds more than {most} bytes in {len(deflated)} compressed ones, or is cut off; copy it again"
        )
    return inflated


class _Archive:
    """The zip archive that torch writes.

    Args:
        file: that it is.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._zip = file, zipfile.ZipFile(file)
        self._members = {name.partition("/")[2]: info for name, info in self._zip.NameToInfo.items()}
        if "data.pkl" not in self._members:
            raise DataError("is a zip archive, but none that torch.save wrote; expected data.pkl in it")
        for name, info in self._members.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise DataError(f"has a compressed {name}; torch.save compresses nothing")
        if "byteorder" in self._members and self._zip.read(self._members["byteorder"]) != b"little":
            raise DataError("was written on a big-endian machine; expected little-endian numbers")
        self.tree = _Unpickler(io.BytesIO(self._zip.read(self._members["data.pkl"]))).load()
        self._read: dict[str, bytes] = {}

    def bytes_of(self, storage: _Storage) -> bytes:
        """Return the numbers of a storage, checked."""
        if storage.key not in self._read:
            self._read[storage.key] = self._zip.read(self._info(storage))
        return self._read[storage.key]

    def member_of(self, storage: _Storage) -> Member:
        """Return where in the file the numbers of a storage stand."""
        info = self._info(storage)
        self._file.seek(info.header_offset + LOCAL_NAMES)
        n_name, n_extra = (int.from_bytes(self._file.read(2), "little") for _ in range(2))
        start = info.header_offset + LOCAL_HEADER + n_name + n_extra
        if start < 0 or start + info.file_size > self._file.seek(0, io.SEEK_END):
            raise DataError(f"ends before storage {storage.key} does; copy it again")
        return Member(start, info.file_size, info.CRC)

    def _info(self, storage: _Storage) -> zipfile.ZipInfo:
        info = self._members.get(f"data/{storage.key}")
        if info is None or info.file_size < storage.n_bytes:
            raise DataError(f"lacks numbers: storage {storage.key} should have {storage.n_bytes} bytes")
        return info


class _Streams:
    """Pickles one after another: torch's before 1.6, with its magic number first, or the one that is all there is.

    Args:
        file: that they stand in.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._members, self._read = file, dict[str, Member](), dict[str, bytes]()
        self.tree = _Unpickler(file).load()
        if self.tree != LEGACY_MAGIC or isinstance(self.tree, bool):
            return
        if _Unpickler(file).load() != LEGACY_PROTOCOL:
            raise DataError("is of a torch.save that is not known; load it with torch and save it again")
        system = _Unpickler(file).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DataError("was written on a big-endian machine; expected little-endian numbers")
        unpickler = _Unpickler(file)
        self.tree, keys = unpickler.load(), _Unpickler(file).load()
        for key in map(str, keys):  # each: how many numbers, and these
            storage = unpickler.storages[key]
            if int.from_bytes(file.read(8), "little") != storage.n:
                raise DataError(f"does not say of storage {key} what it said before; the file is damaged")
            self._members[key] = Member(file.tell(), storage.n_bytes, None)
            file.seek(storage.n_bytes, io.SEEK_CUR)
        n_lost = file.tell() - file.seek(0, io.SEEK_END)
        if n_lost > 0:
            raise DataError(f"ends {n_lost} bytes before its numbers do; copy it again")

    def bytes_of(self, storage: _Storage) -> bytes:
        """Return the numbers of a storage."""
        if storage.key not in self._read:
            self._file.seek(self.member_of(storage).start)
            self._read[storage.key] = self._file.read(storage.n_bytes)
        return self._read[storage.key]

    def member_of(self, storage: _Storage) -> Member:
        """Return where in the file the numbers of a storage stand."""
        if storage.key not in self._members:
            raise DataError(f"names storage {storage.key}, but does not hold it")
        return self._members[storage.key]


class _Plain:
    """Makes plain lists, dictionaries and arrays of what a pickle gave.

    Args:
        most: values, of which few bytes can name very many.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._tensors: dict[_Tensor, Any] = {}

    def of(self, node: Any, tensor: Callable[[_Tensor], Any], depth: int = 0) -> Any:
        """Return a node as plain data; `tensor` says what stands for one."""
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise DataError(f"holds more than {self._most} values, or lists {MAX_DEPTH} deep")
        if isinstance(node, _Tensor):
            if node not in self._tensors:  # one that is named often is made once
                self._tensors[node] = tensor(node)
            return self._tensors[node]
        if isinstance(node, _NumpyArray) and node.values is not None:
            return node.values
        if isinstance(node, (list, tuple)) and not isinstance(node, _Storage):
            return [self.of(part, tensor, depth + 1) for part in node]
        if isinstance(node, dict):
            return {self._key(key): self.of(part, tensor, depth + 1) for key, part in node.items()}
        if isinstance(node, np.generic):
            return node.item()
        if isinstance(node, str):
            self._left -= len(node)
            return node
        if node is None or isinstance(node, float) or (isinstance(node, int) and -MAX_INT < node < MAX_INT):
            return node
        raise DataError(
            f"holds a {type(node).__name__}; expected tensors, arrays, numbers, lists and dictionaries"
        )

    def _key(self, key: Any) -> Any:
        if isinstance(key, (str, float)) or (isinstance(key, int) and -MAX_INT < key < MAX_INT):
            return self.of(key, _no_tensor)
        raise DataError(f"has a {type(key).__name__} as a key; expected names and numbers")


def _no_tensor(tensor: _Tensor) -> Any:
    raise DataError("has a tensor as a key; expected names and numbers")
