"""`.npz`: a zip file of `.npy` members, stored or deflated.

Stored members are read from any place. Deflated ones are read from front to back, each through its own
stream, so that several arrays are read side by side without any of them being held.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from softpack.errors import DataError
from softpack.sources.files.npy import npy_array
from softpack.sources.files.stored import ByteReader, FileBytes, Stored, StoredArray

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
PICKLE = re.compile(r"(^|/)data\.pkl$")  # in a file of torch.save
MAX_DEFLATE_RATIO = 1040  # deflate cannot do better than 1032 to 1
SKIP_BYTES = 1 << 20


@dataclass
class MemberStream:
    """The bytes of a deflated member; reading backwards starts over."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    stack: ExitStack
    _stream: IO[bytes] | None = None
    _position: int = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from `offset` on."""
        if self._stream is None or offset < self._position:
            self._stream = self.stack.enter_context(self.archive.open(self.info))
            self._position = 0
        while self._position < offset:
            self._position += len(self._next(self._stream, min(SKIP_BYTES, offset - self._position)))
        while buffer:
            part = self._next(self._stream, min(SKIP_BYTES, len(buffer)))
            buffer[: len(part)] = part
            buffer = buffer[len(part) :]
            self._position += len(part)

    def _next(self, stream: IO[bytes], n_bytes: int) -> bytes:
        part = stream.read(n_bytes)
        if not part:
            raise EOFError(f"{self.info.filename} ends after {self._position} of {self.info.file_size} bytes")
        return part


@contextmanager
def open_npz(path: Path, wanted: frozenset[str]) -> Iterator[Stored]:
    """Open an `.npz`."""
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        archive = stack.enter_context(zipfile.ZipFile(file))
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if any(PICKLE.search(name) for name in members):
            raise DataError(f"{path}: is what torch.save writes; let its name end in .pt, or say --from pt")
        twice = [name for name, n in Counter(archive.namelist()).items() if n > 1]
        if twice or len(members) < len(archive.infolist()):
            raise DataError(f"{path}: holds several members of one name: {twice[:5]}; expected each once")
        arrays = {
            name: _member(path, file, archive, members[name], stack) for name in members if name in wanted
        }
        yield Stored(arrays, tuple(name for name in members if name not in wanted))


def _member(
    path: Path, file: io.BufferedReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo, stack: ExitStack
) -> StoredArray:
    where = f"{path}: {info.filename}"
    if info.flag_bits & 1:
        raise DataError(f"{where} is encrypted; expected members as np.savez writes them")
    source: ByteReader
    if info.compress_type == zipfile.ZIP_STORED:
        source = FileBytes(file, _data_start(file, info, where), info.file_size, info.CRC)
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        source = MemberStream(archive, info, stack)
    else:
        raise DataError(
            f"{where} is compressed with zip method {info.compress_type}; expected stored or deflated, "
            "as np.savez and np.savez_compressed write it"
        )
    _check_sizes(path, info, where)
    return npy_array(source, info.file_size, where)


def _check_sizes(path: Path, info: zipfile.ZipInfo, where: str) -> None:
    """Refuse sizes that the bytes in the file cannot have, before anything is made of that size."""
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else MAX_DEFLATE_RATIO
    at_most = min(info.compress_size, path.stat().st_size - info.header_offset) * ratio
    if info.file_size > at_most:
        raise DataError(
            f"{where} declares {info.file_size} bytes; expected at most {at_most} of the {info.compress_size} "
            "that are there; the file is cut off or not what it says: make it again"
        )


def _data_start(file: io.BufferedReader, info: zipfile.ZipInfo, where: str) -> int:
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise DataError(
            f"{where} has no header at byte {info.header_offset}; the file is damaged: make it again"
        )
    n_name, n_extra = LOCAL_HEADER.unpack(header)[-2:]
    return info.header_offset + LOCAL_HEADER.size + int(n_name) + int(n_extra)
