"""Append blocks to a file and commit them: temporary file, fsync, rename. Knows nothing of labels. No torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from softpack.entropy.zstd import shrink
from softpack.errors import DataError, ExistsError
from softpack.format import layout
from softpack.format.blocks import Block, make_file_id, pack_superblock, payload_hash
from softpack.format.index import Commit
from softpack.format.layout import BlockType, Coding

PARTIAL = ".partial"
MODEL_LEVEL = 19  # a model is written once


def refuse_existing(path: str | os.PathLike[str], force: bool) -> None:
    """Refuse to overwrite, before any work is done.

    Raises:
        ExistsError: the file is there and `force` is not given.
    """
    if Path(path).exists() and not force:
        raise ExistsError(f"{path} is there already; give --force (force=True) to overwrite it")


class BlockFile:
    """A file that is being written; locked, so that nobody else writes it.

    A new file grows under `<path>.partial` and takes its name when it is closed; an existing one grows at its end,
    where readers do not look before the next commit.

    Args:
        path: of the finished file.
        force: overwrite an existing file, and what a killed writer left.

    Raises:
        ExistsError: the file, or a partial one, is there already.
        DataError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], force: bool = False) -> None:
        self.path = Path(path)
        self.partial: Path | None = self.path.with_name(self.path.name + PARTIAL)
        self.name = str(path)
        refuse_existing(path, force)
        self._fd = _open_locked(self.partial, os.O_RDWR | os.O_CREAT, self.name)
        left = os.fstat(self._fd).st_size
        if left and not force:
            os.close(self._fd)
            raise ExistsError(
                f"{self.partial} is there already ({left:,} bytes): a writer of {self.name} was stopped. "
                f"`softpack recover {self.partial}` gives back what it had written; --force begins anew"
            )
        os.ftruncate(self._fd, 0)
        self.headers: list[bytes] = []
        self.file_id = b""
        self.commits = 0
        self.length = 0
        self.committed_len = 0

    @classmethod
    def reopen(
        cls, path: Path, file_id: bytes, headers: list[bytes], length: int, commits: int, committed_len: int
    ) -> BlockFile:
        """Return an existing file ready to grow after `length` bytes; what lies behind them is cut off."""
        file = cls.__new__(cls)
        file.path, file.partial, file.name = path, None, str(path)
        file._fd = _open_locked(path, os.O_RDWR, str(path))
        file.headers, file.file_id, file.commits = list(headers), file_id, commits
        file.length, file.committed_len = length, committed_len
        os.ftruncate(file._fd, length)
        return file

    def begin(self, header: bytes) -> None:
        """Write the superblock and the header, which give the file its id."""
        self.file_id = make_file_id(header)
        self._write(pack_superblock(self.file_id))
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
            frame = shrink(payload, MODEL_LEVEL if block.type == BlockType.MODEL else 3)
            if frame is not None:
                coding, stored = Coding.ZSTD, frame
        most = layout.MAX_TILE if block.type == BlockType.TILE else layout.MAX_MODEL
        if max(len(stored), raw_len or len(payload)) > most:
            raise DataError(
                f"{self.name}: a block of {len(payload):,} bytes; at most {most:,} fit: use smaller tiles"
            )
        sealed = Block(
            **{
                **vars(block),
                "coding": int(coding),
                "seq": len(self.headers),
                "stored_len": len(stored),
                "raw_len": len(payload) if raw_len is None else raw_len,
                "payload_hash": payload_hash(stored),
            }
        ).to_bytes(self.file_id)
        self._write(sealed + stored + bytes(-len(stored) % layout.ALIGN))
        self.headers.append(sealed)

    def commit(self, items: int, views: int, n_rows: int) -> None:
        """Write an index of all blocks and a commit, and see both safely on the disk."""
        index_offset = self.length
        self.write(Block(BlockType.INDEX), b"".join(self.headers))
        end = self.length + layout.COMMIT_BLOCK_LEN
        commit = Commit(index_offset, end, self.commits, items, views, n_rows)
        self.write(Block(BlockType.COMMIT), commit.to_bytes())
        with _writing(self.name):
            os.fsync(self._fd)
        self.commits += 1
        self.committed_len = self.length

    def close(self) -> None:
        """Give a new file its name; call it after the last commit."""
        if self._fd < 0:
            return
        with _writing(self.name):
            if self.partial is not None:
                self.partial.replace(self.path)
                _sync_folder(self.path.parent)
        self._release()

    def abandon(self) -> None:
        """Leave nothing behind: remove a new file, cut an existing one back to its last commit."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if self.partial is not None:
                self.partial.unlink()
            else:
                os.ftruncate(self._fd, self.committed_len)
        self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with _writing(self.name):
            while view:
                written = os.pwrite(self._fd, view, self.length)
                self.length += written
                view = view[written:]


def _open_locked(path: Path, flags: int, name: str) -> int:
    try:
        fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise DataError(f"{name}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise DataError(f"{name}: another process is writing it; wait for it to end") from None
    return fd


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room or write to another disk" if full else "check the disk and the folder's permissions"
        raise DataError(f"{name}: could not be written: {error.strerror}; {remedy}") from None


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot; the rename is then as safe as they make it
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
