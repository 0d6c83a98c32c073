"""Append blocks to a file and commit them: temporary file, fsync, rename. Knows nothing of labels. No torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from softpack.entropy.zstd import shrink, shrink_model
from softpack.errors import DataError, ExistsError
from softpack.format import layout
from softpack.format.blocks import Block, make_file_id, pack_superblock, payload_hash
from softpack.format.index import MAX_STORED, Commit
from softpack.format.layout import BlockType, Coding

PARTIAL = ".partial"


def refuse_existing(path: str | os.PathLike[str], force: bool, spelt: str = "force=True") -> None:
    """Refuse to overwrite, before any work is done.

    Args:
        path: of what is to be written.
        force: overwrite it.
        spelt: how the caller's user asks for that.

    Raises:
        ExistsError: the file, or what a stopped writer left of it, is there and `force` is not given.
    """
    if force:
        return
    path = Path(path)
    if path.exists():
        raise ExistsError(f"{path} is there already; give {spelt} to overwrite it, or take another name")
    partial = _partial_of(path)
    if partial.exists():
        _refuse_partial(partial, partial.stat().st_size, spelt)


def _partial_of(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _refuse_partial(partial: Path, size: int, spelt: str = "force=True") -> None:
    if size:
        raise ExistsError(
            f"{partial} is there already ({size:,} bytes): its writer was stopped, or is still writing. "
            f"`softpack recover {partial}` gives back what it had written; {spelt} begins anew"
        )


class BlockFile:
    """A file that is being written; locked, so that nobody else writes it.

    A new file grows under `<path>.partial` and takes its name when it is closed. An existing one grows at its end:
    who has it open reads on as before, who opens it before the next commit is told that it is not whole.

    Args:
        path: of the finished file.
        force: overwrite an existing file, and what a killed writer left.

    Raises:
        ExistsError: the file, or a partial one, is there already.
        DataError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], force: bool = False) -> None:
        self.path = Path(path)
        self.partial: Path | None = _partial_of(self.path)
        self.name = str(path)
        if self.path.is_dir():
            raise DataError(f"{self.name}: is a folder, expected the name of a file")
        if self.path.exists():
            refuse_existing(path, force)
        self._fd = _open_locked(self.partial, os.O_RDWR | os.O_CREAT, self.name)
        try:
            if not force:
                _refuse_partial(self.partial, os.fstat(self._fd).st_size)
        except ExistsError:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        self.length = 0
        self._start()

    @classmethod
    def reopen(cls, path: Path) -> BlockFile:
        """Return an existing file, locked; read now where its blocks end, and `resume` there.

        Raises:
            DataError: it cannot be written, or another process is writing it.
        """
        file = cls.__new__(cls)
        file.path, file.partial, file.name = path, None, str(path)
        file._fd = _open_locked(path, os.O_RDWR, str(path))
        file.length = os.fstat(file._fd).st_size
        file._start()
        return file

    def _start(self) -> None:
        self.headers: list[bytes] = []
        self.file_id = b""
        self.commits = 0
        self.keep_commits = False  # even if the writer fails later
        self.committed_len = self.length

    def resume(self, file_id: bytes, headers: list[bytes], length: int, commits: int) -> None:
        """Make ready to grow after `length` bytes; what lies behind them is cut off."""
        self.headers, self.file_id, self.commits = list(headers), file_id, commits
        self.length = self.committed_len = length
        with self._writing():
            os.ftruncate(self._fd, length)

    def begin(self, header: bytes, minor: int = 0) -> None:
        """Write the superblock and the header, which give the file its id."""
        self.file_id = make_file_id(header)
        self._write(pack_superblock(self.file_id, minor))
        self.write(Block(BlockType.HEADER), header)

    def write(self, block: Block, payload: bytes, raw_len: int | None = None) -> None:
        """Append one block; its lengths, hash and place are filled in.

        Args:
            block: type, stream and, for a tile, which rows.
            payload: as it is to be stored, except a MODEL and an INDEX, which zstd makes smaller where it can.
            raw_len: bytes before compression, where the payload holds compressed arrays.
        """
        coding, stored = Coding.STORED, payload
        if block.type in (BlockType.MODEL, BlockType.INDEX):
            frame = (shrink_model if block.type == BlockType.MODEL else shrink)(payload)
            if frame is not None:
                coding, stored = Coding.ZSTD, frame
        most = MAX_STORED[BlockType(block.type)]
        if max(len(stored), raw_len or len(payload)) > most:
            raise DataError(
                f"{self.name}: a block of {len(payload):,} bytes; at most {most:,} fit: use smaller tiles"
            )
        sealed = replace(
            block,
            coding=int(coding),
            seq=len(self.headers),
            stored_len=len(stored),
            raw_len=len(payload) if raw_len is None else raw_len,
            payload_hash=payload_hash(stored),
        ).to_bytes(self.file_id)
        self._write(sealed + stored + bytes(-len(stored) % layout.ALIGN))
        self.headers.append(sealed)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of an existing file; for `recover`."""
        return os.pread(self._fd, length, offset)

    def overwrite(self, offset: int, data: bytes) -> None:
        """Change bytes of an existing file; for `recover` alone."""
        with self._writing():
            os.pwrite(self._fd, data, offset)

    def commit(self, items: int, views: int, n_rows: int) -> None:
        """Write an index of all blocks and a commit, and see both safely on the disk; once is enough."""
        self._check_open()
        if self.headers and self.headers[-1][4] == BlockType.COMMIT:
            return
        index_offset = self.length
        self.write(Block(BlockType.INDEX), b"".join(self.headers))
        end = self.length + layout.COMMIT_BLOCK_LEN
        commit = Commit(index_offset, end, self.commits, items, views, n_rows)
        self.write(Block(BlockType.COMMIT), commit.to_bytes())
        with self._writing():
            os.fsync(self._fd)
        self.commits += 1
        self.committed_len = self.length

    def close(self) -> None:
        """Give a new file its name; call it after the last commit."""
        if self._fd < 0:
            return
        with self._writing():
            if self.partial is not None:
                self.partial.replace(self.path)
                _sync_folder(self.path.parent)
        self._release()

    def abandon(self) -> None:
        """Leave nothing behind: remove a new file, cut an existing one back to its last commit.

        A new file whose commits were asked for stays under its partial name, for `recover`.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if self.partial is not None and not self.keep_commits:
                self.partial.unlink()
            else:
                os.ftruncate(self._fd, self.committed_len)
        self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _check_open(self) -> None:
        if self._fd < 0:
            raise DataError(f"{self.name}: its writer is closed, or was stopped by an error; make a new one")

    def _write(self, data: bytes) -> None:
        self._check_open()
        view = memoryview(data)
        with self._writing():
            while view:
                written = os.pwrite(self._fd, view, self.length)
                self.length += written
                view = view[written:]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = (
                "make room or write to another disk" if full else "check the disk and the folder's permissions"
            )
            raise DataError(f"{self.name}: could not be written: {error.strerror}; {remedy}") from None


def _open_locked(path: Path, flags: int, name: str) -> int:
    try:
        fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise DataError(f"{name}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(fd), path.stat())  # its writer may have renamed it in between
    except (BlockingIOError, FileNotFoundError):
        ours = False
    except OSError:  # a file system without locks
        ours = True
    if not ours:
        os.close(fd)
        raise DataError(f"{name}: another process is writing it; wait for it to end")
    return fd


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot; the rename is then as safe as they make it
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
