"""What a Parquet file declares, checked before anything of it is unpacked.

pyarrow takes memory for a page as the page asks for it, and ends the process over some footers that are damaged.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from softpack.errors import DataError
from softpack.records import MAX_CLASSES
from softpack.sources.files.thrift import Compact

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 32 << 20
MAX_PAGE_BYTES = 256 << 20
HEADER_BYTES = 256  # of most pages
MAX_HEADER_BYTES = 1 << 20
# Numbers of fields in the structs of Parquet's specification.
ROW_GROUPS = 4
COLUMNS, N_ROWS = 1, 3
ELSEWHERE, META = 1, 3
NAMES, N_VALUES, PACKED_BYTES, DATA_OFFSET, DICTIONARY_OFFSET = 3, 5, 7, 9, 11
UNPACKED_PAGE, PACKED_PAGE = 2, 3


def check_declared(path: Path, names: Collection[str]) -> None:
    """Refuse a file whose columns of some names declare what cannot be there, or pages too great to unpack.

    Raises:
        DataError: it does, or has no footer.
        EOFError: it ends within a footer or a header.
    """
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        footer = Compact(_footer(file, size)).struct()
        for number, group in enumerate(footer.get(ROW_GROUPS, [])):
            for column in group.get(COLUMNS, []):
                meta = column.get(META, {})
                name = b".".join(meta.get(NAMES, [])).decode(errors="replace")
                if name.partition(".")[0] in names and group.get(N_ROWS):
                    what = f"row group {number} declares column {name}"
                    if column.get(ELSEWHERE):
                        raise DataError(f"{what} in another file; expected it in the file itself")
                    _check_column(file, size, meta, group[N_ROWS], what)


def _footer(file: Any, size: int) -> bytes:
    file.seek(max(0, size - 8))
    end = file.read(8)
    n_bytes = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC or n_bytes > min(size - 12, MAX_FOOTER_BYTES):
        raise DataError(
            f"ends in {end!r}; expected the size of a footer, and {MAGIC!r}; it is cut off or no plain Parquet file: "
            "copy it or make it again"
        )
    file.seek(size - 8 - n_bytes)
    return bytes(file.read(n_bytes))


def _check_column(file: BinaryIO, size: int, meta: dict[int, Any], n_rows: int, what: str) -> None:
    start = min(meta.get(DATA_OFFSET, -1), meta.get(DICTIONARY_OFFSET) or size)  # 0 is none
    stop = start + meta.get(PACKED_BYTES, -1)
    if not 0 <= start <= stop <= size:
        raise DataError(f"{what} at bytes {start} to {stop}, and the file has {size}; copy it or make it again")
    if not 0 <= meta.get(N_VALUES, -1) <= n_rows * MAX_CLASSES:
        raise DataError(
            f"{what} of {meta.get(N_VALUES)} values in {n_rows} rows; expected {MAX_CLASSES} a row at most"
        )
    while start < stop:
        header, n_bytes = _header(file, start)
        unpacked, packed = header.get(UNPACKED_PAGE, -1), header.get(PACKED_PAGE, -1)
        if not (0 <= unpacked <= MAX_PAGE_BYTES and 0 <= packed <= stop - start - n_bytes):
            raise DataError(
                f"{what} with a page of {packed} bytes at {start}, {unpacked} unpacked; expected at most "
                f"{stop - start - n_bytes} and {MAX_PAGE_BYTES}; it is damaged: make it again, with smaller pages"
            )
        start += n_bytes + packed


def _header(file: BinaryIO, start: int) -> tuple[dict[int, Any], int]:
    """Return the header of a page, and its bytes."""
    for n_bytes in (HEADER_BYTES, MAX_HEADER_BYTES):
        file.seek(start)
        header = Compact(file.read(n_bytes))
        try:
            return header.struct(), header.at
        except EOFError:
            continue
    raise DataError(f"has a page at {start} whose header does not end; it is damaged: copy it or make it again")
