"""The process in which a pickle is read: it has little memory and time, writes no file, and says what it found.

It is asked by lines of JSON on stdin, and answers each with a line of JSON and the bytes of the arrays; see `pool`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from softpack.errors import DataError
from softpack.sources.pickles.unpickler import Located, unpickled

SPARE_BYTES = 1 << 30  # besides what a file of its size may need
TIMES_FILE = 8


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        request, name, locate, seconds = json.loads(line)
        arrays: list[np.ndarray] = []
        try:
            _limit(Path(name), seconds)
            answer: dict[str, Any] = {"tree": _Tree(arrays).of(unpickled(Path(name), locate))}
        except DataError as error:
            answer, arrays = {"error": str(error)}, []
        except (MemoryError, RecursionError) as error:
            answer, arrays = {"error": f"{name}: takes more memory than a file of its size may: {error!r}"}, []
        except OSError as error:
            answer, arrays = {"error": f"{name}: cannot be read: {error.strerror}"}, []
        answer |= {"request": request, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
        _say(answer, arrays, sys.stdout.buffer)


def _limit(path: Path, seconds: float) -> None:
    """Hold the next file to memory and time; the time also where nobody is left to wait."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    held = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else SPARE_BYTES
    limit = held + SPARE_BYTES + TIMES_FILE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard < 0 else min(until, hard), hard))


class _Tree:
    """What a file holds as JSON has it: arrays by their numbers, each once however often it is named.

    Args:
        arrays: gets them.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays, self._numbers = arrays, dict[int, int]()

    def of(self, node: Any) -> Any:
        """Return a node."""
        if isinstance(node, np.ndarray):
            if id(node) not in self._numbers:
                self._numbers[id(node)] = len(self._arrays)
                self._arrays.append(np.ascontiguousarray(node).reshape(node.shape))
            return {"array": self._numbers[id(node)]}
        if isinstance(node, Located):
            return {"located": [node.dtype, node.shape, node.offset, node.member]}
        if isinstance(node, list):
            return [self.of(part) for part in node]
        if isinstance(node, dict):
            return {"pairs": [[key, self.of(part)] for key, part in node.items()]}
        return node


def _say(answer: dict[str, Any], arrays: list[np.ndarray], out: BinaryIO) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    for array in arrays:
        out.write(array.reshape(-1).view(np.uint8).data)
    out.flush()
