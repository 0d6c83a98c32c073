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
import time
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
from softpack.sources.pickles.unpickler import Located, Member

SECONDS = 30.0  # for a file, and one more for each of these bytes
BYTES_A_SECOND = 4 << 20
LOOK_EVERY_S = 0.2  # for files that take too long
SPARE_ANSWER, TIMES_FILE = 16 << 20, 4  # bytes of an answer at most, besides so many times those of its file
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


class _Watch:
    """Kills processes that take too long; one thread for all of them, as files are many and small."""

    def __init__(self) -> None:
        self._deadlines: dict[subprocess.Popen[bytes], float] = {}
        self._pid = 0

    def until(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        """Let a process work until then, in seconds of `time.monotonic`."""
        self._deadlines[process] = deadline
        if self._pid != os.getpid():  # a forked child has no threads of its parent's
            self._pid = os.getpid()
            threading.Thread(target=self._look, daemon=True).start()

    def no_more(self, process: subprocess.Popen[bytes]) -> None:
        """Let a process wait as long as it likes."""
        self._deadlines.pop(process, None)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            for process, deadline in list(self._deadlines.items()):
                if now > deadline:
                    process.kill()


_watch = _Watch()


class _Worker:
    """One process, begun anew where it had to be stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        self._n_asked = 0

    @classmethod
    def spare(cls) -> _Worker:
        """Return one that a pool has left, or a new one."""
        while _spare:
            worker = _spare.pop()
            if worker._pid == os.getpid():  # a forked child must not share the parent's
                return worker
        return cls()

    def read(self, path: Path, locate: bool) -> Any:
        is_used = self._process is not None
        answer = self._answered(path, locate)
        if answer is None and is_used:  # it may have died of something else since the last file
            answer = self._answered(path, locate)
        if answer is None:
            raise DataError(
                f"{path}: the process that read it had to be stopped: it took more than {_seconds(path):.0f} s, or "
                "more memory than a file of its size may; it is not what torch.save makes of labels"
            )
        return answer[0]

    def _answered(self, path: Path, locate: bool) -> tuple[Any] | None:
        """Return what is in a file; None where the process did not say it, and had to be stopped."""
        process = self._begun()
        _watch.until(process, time.monotonic() + _seconds(path))
        try:
            return (self._asked(process, path, locate),)
        except DataError:
            raise
        except (EOFError, OSError, ValueError, KeyError, MemoryError):
            self.stop()
            return None
        except BaseException:  # an interrupt: no answer may be left for the next file
            self.stop()
            raise
        finally:
            _watch.no_more(process)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _begun(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._process

    def _asked(self, process: subprocess.Popen[bytes], path: Path, locate: bool) -> Any:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        self._n_asked += 1
        name = os.path.abspath(path)  # noqa: PTH100  # it stands in another folder; links stay links
        process.stdin.write(json.dumps([self._n_asked, name, locate, _seconds(path)]).encode() + b"\n")
        process.stdin.flush()
        most = SPARE_ANSWER + TIMES_FILE * (path.stat().st_size if path.exists() else 0)
        line = process.stdout.readline(most)
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        shapes = [(np.dtype(dtype), tuple(shape)) for dtype, shape in answer["arrays"]]
        if answer["request"] != self._n_asked or sum(d.itemsize * prod(shape) for d, shape in shapes) > most:
            raise EOFError
        arrays = []
        for dtype, shape in shapes:
            array = np.empty(prod(shape), dtype)
            if process.stdout.readinto(array.view(np.uint8).data) < array.nbytes:  # type: ignore[attr-defined]
                raise EOFError
            arrays.append(array.reshape(shape))
        if "error" in answer:
            raise DataError(str(answer["error"]).replace(name, str(path), 1))
        return _whole(answer["tree"], arrays)


def _seconds(path: Path) -> float:
    return SECONDS + path.stat().st_size / BYTES_A_SECOND if path.exists() else SECONDS


def _whole(node: Any, arrays: list[np.ndarray]) -> Any:
    """Return a tree with its arrays and dictionaries in their places."""
    if isinstance(node, list):
        return [_whole(part, arrays) for part in node]
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "located" in node:
        dtype, shape, offset, member = node["located"]
        return Located(dtype, tuple(shape), offset, Member(*member))
    return {key: _whole(part, arrays) for key, part in node["pairs"]}
