"""The process in which a pickle is read: it has little memory and time, writes no file, and says what it found.

It is asked by lines of JSON on stdin, and answers each with a line of JSON and the bytes of the arrays; see `pool`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
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
        name, locate = json.loads(line)
        path = Path(name)
        arrays: list[np.ndarray] = []
        try:
            _limit_memory(path)
            answer: dict[str, Any] = {"tree": _tree(unpickled(path, locate), arrays)}
        except DataError as error:
            answer, arrays = {"error": str(error)}, []
        except (MemoryError, RecursionError) as error:
            answer, arrays = {"error": f"{path}: takes more memory than a file of its size may: {error!r}"}, []
        except OSError as error:
            answer, arrays = {"error": f"{path}: cannot be read: {error.strerror}"}, []
        answer["arrays"] = [[array.dtype.str, array.shape] for array in arrays]
        _say(answer, arrays, sys.stdout.buffer)


def _limit_memory(path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    held = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else SPARE_BYTES
    limit = held + SPARE_BYTES + TIMES_FILE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def _tree(node: Any, arrays: list[np.ndarray]) -> Any:
    """Return a node as JSON has it: arrays by their numbers, dictionaries as pairs."""
    if isinstance(node, np.ndarray):
        arrays.append(np.ascontiguousarray(node).reshape(node.shape))
        return {"array": len(arrays) - 1}
    if isinstance(node, Located):
        return {"located": [node.dtype, node.shape, node.offset]}
    if isinstance(node, list):
        return [_tree(part, arrays) for part in node]
    if isinstance(node, dict):
        return {"pairs": [[key, _tree(part, arrays)] for key, part in node.items()]}
    return node


def _say(answer: dict[str, Any], arrays: list[np.ndarray], out: BinaryIO) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    for array in arrays:
        out.write(array.reshape(-1).view(np.uint8).data)
    out.flush()
