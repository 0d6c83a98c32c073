"""What a long run leaves when it is stopped, and that only one is at work on a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from softpack.container.blockfile import PARTIAL, refuse_existing
from softpack.container.recover import recover
from softpack.errors import DataError, FormatError, UnsupportedError

UNFINISHED, LOCK = ".unfinished", ".lock"


def unfinished_of(out: Path) -> Path:
    """Return where the coded rows so far are."""
    return out.with_name(out.name + UNFINISHED)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs away from the same files.

    Raises:
        DataError: one is at work.
    """
    path = out.with_name(out.name + LOCK)
    try:
        file = path.open("ab")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}; take another folder") from None
    with file:
        if not _is_locked(file, path):
            raise DataError(f"{out}: another run is writing it; wait for it, or take another name")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_locked(file: IO[bytes], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    try:  # another run may have taken the name away since it was opened
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def make_way(out: Path, unfinished: Path, force: bool) -> None:
    """Refuse an output that is there, before any work is done.

    What is left of it where there are unfinished rows is taken for that run's own: `clear_way` takes it away.

    Raises:
        DataError: it is a folder.
        ExistsError: it is there, and `force` is not given.
    """
    if out.is_dir():
        raise DataError(f"{out}: is a folder; expected the name of a file to write")
    if not unfinished.exists() or out.exists():
        refuse_existing(out, force)


def clear_way(out: Path) -> None:
    """Take away what this run left of its output when it was stopped while it wrote that: all of it is there still."""
    out.with_name(out.name + PARTIAL).unlink(missing_ok=True)


def make_whole(path: Path, restart: bool, spelt: str = "restart=True (--restart)") -> None:
    """Make a file whole that a stopped run left, or take it away.

    Args:
        path: of its rows so far.
        restart: take it away.
        spelt: how the caller's user asks for that.

    Raises:
        DataError: it is no such file, or is damaged.
        UnsupportedError: a later softpack wrote it.
    """
    partial = path.with_name(path.name + PARTIAL)
    if restart:
        partial.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    if partial.exists():
        try:
            recover(partial)
        except UnsupportedError:
            raise
        except FormatError:  # it was never committed
            partial.unlink()
    if path.exists():
        try:
            recover(path)
        except UnsupportedError:
            raise
        except FormatError as error:
            raise DataError(
                f"{path}: was not left by an interrupted run, or is damaged: {error}. Move it away, or say {spelt} to "
                "throw it away"
            ) from error
