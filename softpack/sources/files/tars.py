"""Samples of a tar archive as WebDataset has them: members that follow one another and share a key.

The key is a member's path up to the first dot of its name; what comes after the dot says which part of the sample it
is.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softpack.errors import DataError

KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
END_BYTES = 1024  # of zeros at least, after the last member
CHUNK = 1 << 20
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
PICKLES = (b"PK\x03\x04", b"\x80\x02")  # as files of torch.save begin


@dataclass(frozen=True)
class Span:
    """Where the bytes of a member are in the archive."""

    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """The members of a sample.

    Args:
        key: that they share.
        members: by what their names have after it, in lower case.
    """

    key: str
    members: dict[str, Span]


def samples_of(path: Path) -> Iterator[Sample]:
    """Yield the samples of an archive in order. Headers alone are read.

    Raises:
        DataError: it is no tar archive, is compressed or damaged, or a sample is there twice.
    """
    _check_begin(path)
    sample, keys = Sample("", {}), set[str]()
    for name, span in members_of(path):
        found = KEY.fullmatch(name)
        if found is None:
            continue
        key, part = found[1], found[2].lower()
        if key != sample.key:
            if sample.members:
                yield sample
            if key in keys:
                raise DataError(
                    f"has the sample {key} in two places; expected its members after each other: sort them by name"
                )
            keys.add(key)
            sample = Sample(key, {})
        if part in sample.members:
            raise DataError(f"has {key}.{part} twice; expected it once")
        sample.members[part] = span
    if sample.members:
        yield sample


def _check_begin(path: Path) -> None:
    with open(path, "rb") as file:
        begin = file.read(8)
    if not begin.strip(b"\0"):
        raise DataError("is empty; expected samples with KEY.logits.npy")
    if begin.startswith(PICKLES):
        raise DataError(
            "is no tar archive but a file of torch.save; SRe2L, FKD and others let those end in .tar: give the folder "
            "of the whole label set, and --from sre2l, lpld, gvbsm or fkd"
        )
    for magic, what in COMPRESSED.items():
        if begin.startswith(magic):
            raise DataError(
                f"is compressed by {what}; labels are read in place, which takes a plain .tar: decompress it"
            )


def members_of(path: Path) -> Iterator[tuple[str, Span]]:
    """Yield the ordinary files of an archive by name.

    Raises:
        DataError: it does not end as an archive does, or a member reaches beyond its end.
    """
    size, end = path.stat().st_size, 0
    with tarfile.open(path, "r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
            if info.size < 0 or info.offset_data + info.size > size or archive.offset <= end:
                raise DataError(
                    f"declares {info.size} bytes of {info.name[:80]!r} at {info.offset_data}, and has {size}; it is "
                    "cut off or damaged: copy it or make it again"
                )
            end = archive.offset
            if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.sparse:
                yield info.name, Span(info.offset_data, info.size)
        end = archive.offset
    with open(path, "rb") as file:
        file.seek(end)
        n_zeros = 0
        while chunk := file.read(CHUNK):
            if chunk.count(0) < len(chunk):
                raise DataError(
                    f"is damaged at byte {end}, or several archives were joined; expected zeros alone after the last "
                    "member: copy it or make it again"
                )
            n_zeros += len(chunk)
    if n_zeros < END_BYTES:
        raise DataError(
            f"ends at byte {size} without the mark of its end; it is cut off: copy it or make it again"
        )
