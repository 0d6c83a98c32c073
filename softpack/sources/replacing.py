"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softpack.errors import DataError, ExistsError


@contextmanager
def replacing(path: Path, force: bool) -> Iterator[Path]:
    """Give a temporary file beside `path` that takes its place at the end, and is removed on any error.

    Raises:
        ExistsError: `path` is there, and `force` is not given.
        DataError: the file cannot be written; a full disk, for example.
    """
    _check_absent(path, force)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        # Not by tempfile, whose files nobody else may read.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _sync(temporary)
        _check_absent(path, force)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> DataError:
    """Return what to raise where the disk refuses, in the words of the system; libraries put theirs around them."""
    said = re.search(r"error message = '(.+?)'", str(error))  # of HDF5
    cause = said[1] if said else os.strerror(error.errno) if error.errno else error
    return DataError(
        f"{path}: cannot be written: {cause}; nothing was left behind; make room or write elsewhere"
    )


def _check_absent(path: Path, force: bool) -> None:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected the path of a file to write; name a file in it")
    if not path.parent.is_dir():
        raise DataError(f"{path}: cannot be written, as there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise ExistsError(f"{path} is there already; give force=True to overwrite it, or take another name")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing_folder(path: Path, force: bool, files: str) -> Iterator[Path]:
    """Give a new folder beside `path` that takes its place at the end, and is removed on any error.

    Args:
        path: of the folder.
        force: replace it if it is there.
        files: a regular expression of the names in it that may be lost.

    Raises:
        ExistsError: `path` is there, and `force` is not given.
        DataError: it cannot be written, or holds something else.
    """
    path = path.resolve()  # of a link, what it leads to
    _check_absent_folder(path, force, files)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    try:
        temporary.mkdir()
        yield temporary
        _check_absent_folder(path, force, files)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _check_absent_folder(path: Path, force: bool, files: str) -> None:
    if not path.parent.is_dir():
        raise DataError(f"{path}: cannot be written, as there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; expected the name of a folder to write")
    if path.exists() and not force:
        raise ExistsError(f"{path} is there already; give force=True to overwrite it, or take another name")
    others = [e.name for e in os.scandir(path) if not re.fullmatch(files, e.name)] if path.exists() else []
    if others:
        raise DataError(
            f"{path}: holds {others[0]!r}, which is no part of a label set and would be lost; take another folder"
        )
