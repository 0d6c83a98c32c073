"""What the members of a WebDataset sample say: numbers in `.npy`, JSON, and a class as text. No pickle is read."""

from __future__ import annotations

import json
from math import prod

import numpy as np

from softpack.errors import DataError
from softpack.records import SPACES
from softpack.sources.files.layout import ITEM_COLUMNS, ROW_COLUMNS
from softpack.sources.files.npy import npy_array
from softpack.sources.files.stored import ByteArray, FileBytes
from softpack.sources.files.tars import Sample, Span

OF_SAMPLE = ("item", *ITEM_COLUMNS, "temperature")  # there is one of each; all else has one for each row
NAMES = frozenset((*SPACES, "view", *ROW_COLUMNS, *OF_SAMPLE))
UNNAMED = ""  # labels in `KEY.npy`
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt")
MAX_SMALL_BYTES = 1 << 20  # of JSON, and of what is read when archives are gone through
MAX_IGNORED = 20  # names that are told
HEADER_BYTES = 128  # of nearly all `.npy`

Part = ByteArray | np.ndarray  # of a sample: where its numbers are, or these


class Parts:
    """Finds what the samples of a shard hold.

    Args:
        data: bytes of the shard.
    """

    def __init__(self, data: FileBytes) -> None:
        self._data = data
        self._headers: dict[tuple[bytes, int], ByteArray] = {}  # as most samples have the same
        self.ignored: dict[str, None] = {}

    def of(self, sample: Sample) -> dict[str, Part]:
        """Return the parts of a sample by name.

        Raises:
            DataError: one cannot be read, or is there twice.
        """
        found: dict[str, Part] = {}
        for suffix, span in sample.members.items():
            more = self._of_member(suffix, span, f"{sample.key}.{suffix}")
            if twice := found.keys() & more.keys():
                raise DataError(
                    f"{sample.key} says {twice.pop()} twice, once in {sample.key}.{suffix}; expected it once"
                )
            found |= more
            if not more and len(self.ignored) < MAX_IGNORED:
                self.ignored[suffix] = None
        if not any(name in found for name in (*SPACES, UNNAMED)):
            raise DataError(_no_labels(sample))
        return found

    def _of_member(self, suffix: str, span: Span, where: str) -> dict[str, Part]:
        if suffix == "json":
            return _from_json(self._bytes(span, where), where)
        if suffix == "cls":
            return _from_text(self._bytes(span, where))
        name, dot, ending = suffix.rpartition(".")
        if ending != "npy" or (dot and name not in NAMES):
            return {}
        numbers = self._npy(span, where)
        if name not in OF_SAMPLE:
            return {name: numbers}
        _check_small(span, where)
        return {name: numbers.read(0, prod(numbers.shape), len(numbers.shape)).reshape(numbers.shape)}

    def _bytes(self, span: Span, where: str) -> bytes:
        _check_small(span, where)
        return self._read(span.offset, span.size)

    def _read(self, offset: int, n_bytes: int) -> bytes:
        data = bytearray(n_bytes)
        self._data.read_into(offset, memoryview(data))
        return bytes(data)

    def _npy(self, span: Span, where: str) -> ByteArray:
        """Return where the numbers of a `.npy` are."""
        begin = self._read(span.offset, min(HEADER_BYTES, span.size))
        known = self._headers.get((begin, span.size))
        if known is None:
            array = npy_array(FileBytes(self._data.file, span.offset, span.size), span.size, where)
            if not isinstance(array, ByteArray):
                raise DataError(
                    f"{where} is stored in Fortran order; expected C order; save np.ascontiguousarray of it"
                )
            known = array
            if known.offset <= HEADER_BYTES:
                self._headers[begin, span.size] = known
        return ByteArray(known.shape, known.dtype, known.numbers, self._data, span.offset + known.offset)


def _check_small(span: Span, where: str) -> None:
    if span.size > MAX_SMALL_BYTES:
        raise DataError(f"{where} has {span.size} bytes; expected at most {MAX_SMALL_BYTES}")


def _from_json(data: bytes, where: str) -> dict[str, Part]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {str(error)[:200]}; make it again") from None
    if not isinstance(said, dict):
        raise DataError(f'{where} holds no JSON object; expected one, such as {{"item": 0}}')
    found: dict[str, Part] = {}
    for name in sorted(NAMES.intersection(said).difference(SPACES)):
        try:
            found[name] = values = np.asarray(said[name])
        except ValueError:  # of lists of other lengths
            raise DataError(
                f"{where} has lists of several lengths as {name}; expected numbers, or lists alike"
            ) from None
        if values.dtype.kind not in "bif":
            raise DataError(
                f"{where} has {str(said[name])[:80]!r} as {name}; expected numbers, or lists of them"
            )
    return found


def _from_text(data: bytes) -> dict[str, Part]:
    """Return the number of a class; nothing where it is a name."""
    try:
        return {"target": np.asarray(int(data), np.int64)}
    except (ValueError, OverflowError):
        return {}


def _no_labels(sample: Sample) -> str:
    expected = f"expected {sample.key}.logits.npy, .log_probs.npy, .probs.npy or .npy in every sample"
    pickles = [suffix for suffix in sample.members if suffix.rpartition(".")[2] in PICKLES]
    if pickles:
        return f"{sample.key}.{pickles[0]} is a pickle, which could run code and is not read; {expected}: np.save them"
    return f"{sample.key} has no labels, but {', '.join(sample.members)[:200]}; {expected}"
