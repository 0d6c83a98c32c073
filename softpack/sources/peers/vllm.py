"""vLLM's log-probabilities of prompts, as people keep them: JSON lines, or arrays.

JSON lines, `.jsonl`: a sequence a line; the list that vLLM calls prompt_logprobs, or an object that has it, as its
server answers, beside `prompt_token_ids`:

    [null, {"262": {"logprob": -0.51, "rank": 1}, "13": {"logprob": -1.9, "rank": 2}}, {"11": -0.02}, ...]

An entry says how likely tokens are in its own place, so the first is null, and entry v + 1 is row v: what is said after
tokens 0 to v. It has the k likeliest tokens, and the prompt's own token too where that is none of them.

Arrays, in a `.npz` or a folder of `.npy`: token_ids [n, k], logprobs [n, k], -1 and -inf where a row has fewer; where
sequences end, by lengths [sequences], rows of each, or offsets [sequences + 1]; tokens [n], the token in the place of
each row, and first_tokens [sequences], if they are known.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.files.npy import open_npy
from softpack.sources.files.npz import open_npz
from softpack.sources.files.stored import Stored, StoredArray, reading
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.sequences import (
    PART_ROWS,
    PartRows,
    Parts,
    Runs,
    SequenceColumns,
    SequenceSource,
    check_tokens,
    token_columns,
)
from softpack.sources.peers.settled import Tally, settled
from softpack.sources.peers.vllm_json import open_json_lines

IDS, VALUES, LENGTHS, OFFSETS, TOKENS, FIRST = (
    "token_ids", "logprobs", "lengths", "offsets", "tokens", "first_tokens",
)  # fmt: skip
NAMES = frozenset((IDS, VALUES, LENGTHS, OFFSETS, TOKENS, FIRST))


def looks_like(names: set[str]) -> bool:
    """Return whether names in a folder are those of the layout."""
    return {f"{IDS}.npy", f"{VALUES}.npy"} <= names or (
        bool(names) and all(name.endswith(".jsonl") for name in names)
    )


def open_vllm(path: Path, given: Given) -> SequenceSource:
    """Open JSON lines (a file, or a folder of them), a `.npz`, or a folder of `.npy`.

    Raises:
        DataError: it is none of these, or does not say what must be known and nobody does.
    """
    is_arrays = path.suffix == ".npz" or (path / f"{IDS}.npy").is_file()
    return _open_arrays(path, given) if is_arrays else open_json_lines(path, given)


def _opened(path: Path, stack: ExitStack) -> dict[str, StoredArray]:
    """Return the arrays that are there."""
    if path.is_file():
        return stack.enter_context(open_npz(path, NAMES)).arrays
    found: dict[str, StoredArray] = {}
    for name in sorted(NAMES):
        file = path / f"{name}.npy"
        if file.is_file():
            held: Stored = stack.enter_context(open_npy(file, NAMES))
            found[name] = held.arrays["logits"]
    return found


def _open_arrays(path: Path, given: Given) -> SequenceSource:
    with reading(path), ExitStack() as stack:
        arrays = _opened(path, stack)
        if not {IDS, VALUES} <= arrays.keys():
            raise DataError(f"has no {IDS} or no {VALUES}; expected both, [rows, k] each")
        shape = arrays[IDS].shape
        if len(shape) != 2 or arrays[VALUES].shape != shape or 0 in shape:
            raise DataError(
                f"has {IDS} {list(shape)} and {VALUES} {list(arrays[VALUES].shape)}; expected [rows, k] twice"
            )
        if arrays[IDS].kind not in "iu" or arrays[VALUES].kind != "f":
            raise DataError(
                f"has {IDS} of {arrays[IDS].dtype} and {VALUES} of {arrays[VALUES].dtype}; expected integers, floats"
            )
        n_N = _lengths(arrays, given.sequence_length)
        need(
            path,
            {
                "how many tokens the vocabulary has (--classes C)": given.classes is None,
                f"where sequences end, as there is no {LENGTHS} and no {OFFSETS} (--sequence-length N, rows of each)": (
                    n_N is None
                ),
            },
        )
        assert n_N is not None and given.classes is not None  # noqa: PT018
        if n_N.sum() != shape[0]:
            raise DataError(f"has {shape[0]} rows, and sequences of {n_N.sum()} in all; expected as many")
        has_tokens = TOKENS in arrays
        if has_tokens and arrays[TOKENS].shape != shape[:1]:
            raise DataError(
                f"has {TOKENS} {list(arrays[TOKENS].shape)}; expected one for each of {shape[0]} rows"
            )
        item_columns = {}
        if has_tokens and FIRST in arrays and given.replay and not given.skip_bad:
            item_columns = _sequence_columns(arrays, n_N)
        n_bytes = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
    runs = Runs.of_lengths(n_N)
    starts = np.append(np.arange(0, shape[0], PART_ROWS), shape[0])
    return SequenceSource(
        path=path,
        spec=LabelSpec(given.classes, "log_probs", given.temperature or 1.0),
        items=len(n_N),
        views=runs.n_views,
        n_rows=shape[0],
        columns=token_columns(has_tokens and given.replay),
        item_columns=item_columns,
        ignored=(),
        runs=runs,
        part_starts=starts,
        parts_of=partial(_Parts, path, starts, given.classes),
        n_kept=shape[1],
        n_stored_bytes=n_bytes,
        skip_bad=given.skip_bad,
    )


def _sequence_columns(arrays: dict[str, StoredArray], n_N: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is stored of each sequence."""
    columns, start, firsts = SequenceColumns(), 0, _whole(arrays[FIRST])
    if len(firsts) != len(n_N):
        raise DataError(f"has {len(firsts)} {FIRST}; expected one for each of {len(n_N)} sequences")
    for first, n_rows in zip(firsts, n_N.tolist(), strict=True):
        tokens = arrays[TOKENS].read(start, start + n_rows, 1)
        columns.add(np.concatenate([[first], tokens]) if first >= 0 else tokens)
        start += n_rows
    return columns.columns()


def _whole(array: StoredArray) -> np.ndarray:
    return array.read(0, array.shape[0], 1)


def _lengths(arrays: dict[str, StoredArray], each: int | None) -> np.ndarray | None:
    """Return the rows of each sequence; None where nobody says it."""
    n_rows = arrays[IDS].shape[0]
    for name in (LENGTHS, OFFSETS):
        if name in arrays and (len(arrays[name].shape) != 1 or arrays[name].kind not in "iu"):
            raise DataError(
                f"has {name} {list(arrays[name].shape)} of {arrays[name].dtype}; expected a list of integers"
            )
    if LENGTHS in arrays:
        n_N = _whole(arrays[LENGTHS]).astype(np.int64)
    elif OFFSETS in arrays:
        offsets = _whole(arrays[OFFSETS]).astype(np.int64)
        n_N = offsets[1:] - offsets[:-1]
    elif each is not None:
        if n_rows % each:
            raise DataError(f"has {n_rows} rows, which are no whole sequences of {each}, of --sequence-length")
        n_N = np.full(n_rows // each, each)
    else:
        return None
    if len(n_N) and n_N.min() < 0:
        raise DataError(f"has a sequence of {n_N.min()} rows; expected 0 or more; offsets rise")
    return n_N


@dataclass
class _Parts(Parts):
    """Rows of the arrays."""

    path: Path
    starts: np.ndarray
    classes: int
    tally: Tally

    def __post_init__(self) -> None:
        self._stack, self._arrays = ExitStack(), dict[str, StoredArray]()

    def name(self, number: int) -> str:
        """Return which rows it is."""
        return f"{self.path}: rows {self.starts[number]} to {self.starts[number + 1] - 1}"

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
        self._arrays = {}

    def read(self, number: int) -> PartRows:
        """Return some rows."""
        start, stop = int(self.starts[number]), int(self.starts[number + 1])
        with reading(self.path):
            if not self._arrays:
                self._arrays = _opened(self.path, self._stack)
            ids_RK = self._arrays[IDS].read(start, stop, 1).astype(np.int64)
            values_RK = self._arrays[VALUES].read(start, stop, 1).astype(np.float32)
            token_R = None
            if TOKENS in self._arrays:
                token_R = self._arrays[TOKENS].read(start, stop, 1).astype(np.int32)
                check_tokens(token_R, self.classes, self.name(number))
        is_none_RK = (ids_RK == -1) | (values_RK == -np.inf)
        ids_RK = np.where(is_none_RK, -1, ids_RK)
        values_RK = np.where(is_none_RK, np.float32(-np.inf), values_RK)
        return PartRows(settled(ids_RK, values_RK, self.tally), token_R)
