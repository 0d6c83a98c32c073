"""JSON lines of vLLM's prompt log-probabilities; see `vllm`.

Shapes in names: R rows of a sequence, K tokens of each, at most.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.files.shards import shards_of
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.row_files import leaving_out
from softpack.sources.peers.sequences import (
    PartRows,
    Parts,
    Runs,
    SequenceColumns,
    SequenceSource,
    check_tokens,
    token_columns,
)
from softpack.sources.peers.settled import Tally, settled

MAX_LINE = 1 << 30
NONE_VALUE = -9999.0  # what the server has in place of -inf


class _Line(NamedTuple):
    """A sequence, and where it stands."""

    path: Path
    number: int
    offset: int
    size: int
    n_rows: int


class _Sequence(NamedTuple):
    """What a line says: tokens of each row with their log-probabilities, and those of the prompt, if it has them."""

    rows: list[dict[int, float]]
    tokens: np.ndarray | None


def open_json_lines(path: Path, given: Given) -> SequenceSource:
    """Open JSON lines. Each is read to count its rows, and once more for these.

    Raises:
        DataError: they are none, or do not say how many tokens there are and nobody does.
    """
    need(path, {"how many tokens the vocabulary has (--classes C)": given.classes is None})
    assert given.classes is not None
    files = shards_of(path, ".jsonl")
    lines, columns, have_tokens, fewest = list[_Line](), SequenceColumns(), True, given.classes
    left_out: dict[str, str] = {}
    for file in files:
        with file.open("rb") as opened:
            number = offset = 0
            while line := opened.readline(MAX_LINE):
                if line.strip():
                    name = f"{file}: line {number + 1}"
                    with leaving_out(Path(name), given.skip_bad, left_out):
                        found = _parsed(line, name, given.classes)
                        lines.append(_Line(file, number + 1, offset, len(line), len(found.rows)))
                        fewest = min([fewest, *map(len, found.rows)])
                        have_tokens = have_tokens and found.tokens is not None
                        if found.tokens is not None:
                            columns.add(found.tokens)
                number, offset = number + 1, offset + len(line)
    n_N = np.array([line.n_rows for line in lines], np.int64)
    if not n_N.sum():
        raise DataError(next(iter(left_out.values()), f"{path}: holds no sequences; expected one a line"))
    runs = Runs.of_lengths(n_N)
    are_wanted = have_tokens and given.replay
    return SequenceSource(
        path=path,
        spec=LabelSpec(given.classes, "log_probs", given.temperature or 1.0),
        items=len(lines),
        views=runs.n_views,
        n_rows=int(n_N.sum()),
        columns=token_columns(are_wanted),
        item_columns=columns.columns() if are_wanted and not given.skip_bad else {},
        ignored=(),
        runs=runs,
        part_starts=runs.starts,
        parts_of=partial(_Parts, [line for line in lines if line.n_rows], given.classes),
        n_kept=fewest,
        n_stored_bytes=sum(file.stat().st_size for file in files),
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _parsed(line: bytes, name: str, classes: int) -> _Sequence:
    """Return what a line says.

    Raises:
        DataError: it is no sequence of log-probabilities.
    """
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is no JSON: {str(error)[:200]}") from None
    entries, tokens = _entries(said)
    if entries == tokens == []:
        return _Sequence([], np.empty(0, np.int64))
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"{name}: holds no list of prompt_logprobs; expected null and then an object for each token"
        )
    rows_said = entries if entries[0] else entries[1:]
    rows = [
        _row(entry, f"{name}, position {len(entries) - len(rows_said) + n}")
        for n, entry in enumerate(rows_said)
    ]
    if tokens is None:
        return _Sequence(rows, None)
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise DataError(f"{name}: has prompt_token_ids that are no list of whole numbers")
    found = np.array(tokens, np.int64)
    check_tokens(found, classes, name)
    if len(found) != len(rows) + 1:
        raise DataError(
            f"{name}: has {len(found)} prompt_token_ids and {len(rows)} positions that say something; expected one "
            "less: of the first token nothing is said, and its entry is null"
        )
    return _Sequence(rows, found)


def _entries(said: Any) -> tuple[Any, Any]:
    """Return the entries and the tokens that a line has, as it is or as a server answers."""
    if isinstance(said, list):
        return said, None
    if not isinstance(said, dict):
        return None, None
    choices = said.get("choices")
    inner = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    both = inner | said
    return both.get("prompt_logprobs"), both.get("prompt_token_ids")


def _row(entry: Any, name: str) -> dict[int, float]:
    if not isinstance(entry, dict) or not entry:
        raise DataError(
            f"{name}: is {str(entry)[:40]}; expected an object of tokens and their log-probabilities"
        )
    try:
        return {
            int(token): float(value["logprob"] if isinstance(value, dict) else value)
            for token, value in entry.items()
        }
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f'{name}: is {str(entry)[:80]}; expected {{"TOKEN": LOGPROB}} or {{"TOKEN": {{"logprob": LOGPROB}}}}'
        ) from None


class _Parts(Parts):
    """Lines."""

    def __init__(self, lines: list[_Line], classes: int, tally: Tally) -> None:
        self._lines, self._classes, self._tally = lines, classes, tally
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def name(self, number: int) -> str:
        """Return which line of which file it is."""
        line = self._lines[number]
        return f"{line.path}: line {line.number}"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._path = None, None

    def read(self, number: int) -> PartRows:
        """Return the rows of a sequence."""
        line = self._lines[number]
        if self._file is None or line.path != self._path:
            self.close()
            self._file, self._path = line.path.open("rb"), line.path
        self._file.seek(line.offset)
        found = _parsed(self._file.read(line.size), self.name(number), self._classes)
        n_R = np.array([len(row) for row in found.rows])
        shape = len(n_R), int(n_R.max(initial=1))
        is_class_RK = np.arange(shape[1]) < n_R[:, None]
        ids_RK, values_RK = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        try:
            ids_RK[is_class_RK] = [token for row in found.rows for token in row]
        except OverflowError:
            raise DataError(f"{self.name(number)}: has a token of more than 64 bits; it is damaged") from None
        values_RK[is_class_RK] = [value for row in found.rows for value in row.values()]
        is_none_RK = values_RK <= NONE_VALUE
        ids_RK[is_none_RK], values_RK[is_none_RK] = -1, -np.inf
        ids_RK = np.where(np.abs(ids_RK) > self._classes, self._classes, ids_RK)  # is refused, and fits 32 bits
        tokens_R = None if found.tokens is None else found.tokens[1:].astype(np.int32)
        return PartRows(settled(ids_RK, values_RK, self._tally), tokens_R)
