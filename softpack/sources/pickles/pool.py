"""Pickles read in processes that have little memory and time, several at once.

What comes back over a pipe is JSON and the bytes of arrays: nothing is unpickled in the process that asks.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.pickles.unpickler import Located

SECONDS = 30.0  # for a file, and one more for each of these bytes
BYTES_A_SECOND = 4 << 20
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from softpack.sources.pickles.worker import main; main()"
)


class PicklePool:
    """Reads pickles in a few processes, which the next pool takes over.

    Args:
        n: processes; each begins when it is first needed.
    """

    def __init__(self, n: int = 2) -> None:
        self._n = n
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker.spare() for _ in range(n)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(n)

    def __enter__(self) -> PicklePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        _spare.extend(self._workers)

    def read(self, path: Path, locate: bool = False) -> Any:
        """Return what is in a file; see `unpickled`.

        Raises:
            DataError: what `unpickled` raises, or the file takes too much memory or time.
        """
        worker = self._idle.get()
        try:
            return worker.read(path, locate)
        finally:
            self._idle.put(worker)

    def each(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Any]]:
        """Yield every path with what is in it, or with its DataError, in order; a few files are read ahead."""
        ahead: deque[tuple[Path, Future[Any]]] = deque()
        for path in paths:
            ahead.append((path, self._threads.submit(self.read, path)))
            if len(ahead) > self._n:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())


def _result(path: Path, future: Future[Any]) -> tuple[Path, Any]:
    try:
        return path, future.result()
    except DataError as error:
        return path, error


_spare: list[_Worker] = []  # that no pool has; they end with this process


@atexit.register
def _stop_spare() -> None:
    for worker in _spare:
        if worker._pid == os.getpid():
            worker.stop()


class _Worker:
    """One process, begun anew where it had to be stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()

    @classmethod
    def spare(cls) -> _Worker:
        """Return one that a pool has left, or a new one."""
        while _spare:
            worker = _spare.pop()
            if worker._pid == os.getpid():  # a forked child must not share the parent's
                return worker
        return cls()

    def read(self, path: Path, locate: bool) -> Any:
        process = self._begun()
        seconds = SECONDS + path.stat().st_size / BYTES_A_SECOND if path.exists() else SECONDS
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            return self._asked(process, path, locate)
        except (BrokenPipeError, EOFError):
            self.stop()
            raise DataError(
                f"{path}: the process that read it had to be stopped: it took more than {seconds:.0f} s, or more "
                "memory than a file of its size may; it is not what torch.save makes of labels"
            ) from None
        finally:
            timer.cancel()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _begun(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._process

    def _asked(self, process: subprocess.Popen[bytes], path: Path, locate: bool) -> Any:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdin.write(json.dumps([str(path), locate]).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        arrays = []
        for dtype, shape in answer["arrays"]:
            array = np.empty(prod(shape), np.dtype(dtype))
            if process.stdout.readinto(array.view(np.uint8).data) < array.nbytes:  # type: ignore[attr-defined]
                raise EOFError
            arrays.append(array.reshape(shape))
        if "error" in answer:
            raise DataError(answer["error"])
        return _whole(answer["tree"], arrays)


def _whole(node: Any, arrays: list[np.ndarray]) -> Any:
    """Return a tree with its arrays and dictionaries in their places."""
    if isinstance(node, list):
        return [_whole(part, arrays) for part in node]
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "located" in node:
        dtype, shape, offset = node["located"]
        return Located(dtype, tuple(shape), offset)
    return {tuple(key) if isinstance(key, list) else key: _whole(part, arrays) for key, part in node["pairs"]}
