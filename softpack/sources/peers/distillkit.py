"""DistillKit's sets of a teacher's log-probabilities: `data_N.parquet`, and `compression_config.yaml` beside them.

A row of a file is a sequence. Row v of its labels is what the teacher says after its tokens 0 to v. Its columns:

    input_ids            list of tokens, one more than labels; as many in sets that were packed, which took the last
                         token of each document away
    compressed_logprobs  a list of bytes for each label, and
    bytepacked_indices   the same of its ids; see `distillkit_rows`
    attention_mask       in packed sets: the number of the document that a token is of, from 1; not used

A label of the last token in a packed row is left out, as no file says which token it is about; that of the last one of
a document in it stays, beside the first token of the next.

Legacy sets have `packed_indices`, `exact_values` and `coeffs` instead. Files do not say how bytes are to be read: their
configuration does, and two that differ may take as many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec, SparseLabels
from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.files.parquet import opened_file
from softpack.sources.files.parquet_pages import check_declared
from softpack.sources.files.shards import shards_of
from softpack.sources.files.stored import reading
from softpack.sources.peers.distillkit_config import CONFIG, Config, read_config
from softpack.sources.peers.distillkit_rows import (
    ids_of,
    legacy_ids_of,
    legacy_log_probs_of,
    legacy_words,
    log_probs_of,
)
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.lists import lists_of, matrix_of
from softpack.sources.peers.numbered import numbered
from softpack.sources.peers.row_files import leaving_out, refuse_missing
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
from softpack.sources.peers.settled import Tally, renormalised, settled

TOKENS = "input_ids"
BYTES, IDS = "compressed_logprobs", "bytepacked_indices"
LEGACY_IDS, LEGACY_EXACT, LEGACY_TERMS = "packed_indices", "exact_values", "coeffs"
LABEL_TYPES = ("log_probs", "logits")


def looks_like(names: set[str]) -> bool:
    """Return whether names in a folder are those of the layout."""
    return CONFIG in names and any(name.endswith(".parquet") for name in names)


@dataclass(frozen=True)
class _Part:
    """A few sequences of a row group, one after another.

    Args:
        path: of the file.
        group: number of the row group.
        number: of the part in the group.
        each: sequences of a part of the group.
        first: number of its first sequence in the file.
        n_rows: labels of each that are taken.
        n_stored: labels of each that there are, one more where the set was packed.
    """

    path: Path
    group: int
    number: int
    each: int
    first: int
    n_rows: tuple[int, ...]
    n_stored: tuple[int, ...]

    @property
    def is_taken_R(self) -> np.ndarray:  # it carries its shape
        """Which of the labels that there are are taken."""
        pairs = zip(self.n_stored, self.n_rows, strict=True)
        return np.concatenate([np.arange(stored) < taken for stored, taken in pairs])


def open_distillkit(path: Path, given: Given) -> SequenceSource:
    """Open a set of DistillKit: a folder of its files, or one of them.

    Raises:
        DataError: it is none, or does not say how its bytes are to be read and nobody does.
    """
    files = shards_of(path, ".parquet")
    beside = (path if path.is_dir() else path.parent) / CONFIG
    at = given.config or (beside if beside.is_file() else None)
    config = None if at is None else read_config(at)
    is_legacy = config is not None and config.is_legacy
    need(
        path,
        {
            f"how their bytes are to be read, as there is no {CONFIG} (--config YAML, of the run that made them)": (
                config is None
            ),
            "what the legacy values are (--label-type log_probs, as of sets that vLLM was asked for, or logits)": (
                is_legacy and given.label_type is None
            ),
        },
    )
    assert config is not None
    if given.label_type not in (None, *LABEL_TYPES):
        raise DataError(
            f"{path}: DistillKit has no label type {given.label_type}; expected {' or '.join(LABEL_TYPES)}"
        )
    if given.classes not in (None, config.classes):
        raise DataError(
            f"{at}: says there are {config.classes} tokens, and --classes {given.classes}; leave that out"
        )
    are_logits = given.label_type == "logits"
    numbers, _ = numbered((file.name for file in files), "data_", ".parquet")
    n_files = 1 + max(numbers) if len(numbers) == len(files) > 1 else 0  # others may be named otherwise
    lost = [path / f"data_{n}.parquet" for n in range(n_files) if n not in numbers]
    left_out, columns, parts, n_N = (
        refuse_missing(path, lost, given.skip_bad),
        SequenceColumns(),
        list[_Part](),
        list[int](),
    )
    for file in files:
        with leaving_out(file, given.skip_bad, left_out):
            found = list(_scanned(file, config))
            for part, tokens_n in found:
                parts.append(part)
                for tokens, n_rows in zip(tokens_n, part.n_rows, strict=True):
                    columns.add(tokens)
                    n_N.append(n_rows)
    parts, runs = [part for part in parts if sum(part.n_rows)], Runs.of_lengths(np.array(n_N, np.int64))
    if not parts:
        raise DataError(
            next(iter(left_out.values()), f"{path}: holds no labels; it is none of DistillKit's sets")
        )
    part_starts = np.concatenate([[0], np.cumsum([sum(part.n_rows) for part in parts])]).astype(np.int64)
    said: tuple[str, ...] = ()
    if len(set(parts[0].n_stored) - set(parts[0].n_rows)):
        said += (
            "the set was packed: the last label of each row of files was left out, as its token is not said",
        )
    if are_logits:
        said += (
            "labels are logits of some tokens alone: of all others nobody knows anything, and they get nothing",
        )
    return SequenceSource(
        path=path,
        spec=LabelSpec(config.classes, "log_probs", given.temperature or 1.0),
        items=len(n_N),
        views=runs.n_views,
        n_rows=int(part_starts[-1]),
        columns=token_columns(given.replay),
        item_columns=columns.columns() if given.replay and not given.skip_bad else {},
        ignored=(),
        runs=runs,
        part_starts=part_starts,
        parts_of=partial(_Parts, parts, config, are_logits),
        n_kept=config.k,
        n_stored_bytes=sum(file.stat().st_size for file in files),
        said=said,
        before_P=np.array([part.number for part in parts]),
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _label_columns(config: Config) -> tuple[str, ...]:
    return (LEGACY_IDS, LEGACY_EXACT, LEGACY_TERMS) if config.is_legacy else (IDS, BYTES)


def _scanned(file: Path, config: Config) -> Iterator[tuple[_Part, list[np.ndarray]]]:
    """Yield the parts of a file, each with the tokens of its sequences. Of labels, those of the first alone are read.

    Raises:
        DataError: it is none of DistillKit's files.
    """
    with reading(file):
        import_pyarrow()
        names = _label_columns(config)
        check_declared(file, (TOKENS, *names))
        with opened_file(file) as parquet:
            missing = [name for name in (TOKENS, *names) if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(
                    f"has no column {missing[0]}; expected {TOKENS}, {' and '.join(names)}, as the configuration says"
                )
            spare = _spare(parquet, names[0])
            first = 0
            for group in range(parquet.metadata.num_row_groups):
                tokens_n = [
                    tokens
                    for batch in parquet.iter_batches(256, [group], [TOKENS], use_threads=False)
                    for tokens in lists_of(batch.column(0), TOKENS)
                ]
                for number, tokens in enumerate(tokens_n):
                    check_tokens(tokens, config.classes, f"sequence {first + number}")
                n_rows = [max(0, len(tokens) - 1) for tokens in tokens_n]
                n_stored = [max(0, len(tokens) - spare) for tokens in tokens_n]
                each = max(1, PART_ROWS // max([1, *n_rows]))
                for part, start in enumerate(range(0, len(n_rows), each)):
                    here = slice(start, start + each)
                    rows = tuple(n_rows[here]), tuple(n_stored[here])
                    yield _Part(file, group, part, each, first + start, *rows), tokens_n[here]
                first += len(n_rows)


def _spare(parquet: Any, name: str) -> int:
    """Return how many tokens more than labels a sequence has, as the first one that has two tokens says it."""
    for batch in parquet.iter_batches(1, columns=[TOKENS, name], use_threads=False):
        n_tokens, n_rows = (len(batch.column(which)[0]) for which in (TOKENS, name))
        if n_tokens > 1:
            if n_tokens - n_rows not in (0, 1):
                raise DataError(
                    f"has {n_tokens} tokens and {n_rows} labels in its first sequence; expected one label less, or as "
                    "many where it was packed"
                )
            return int(n_tokens - n_rows)
    return 1


class _Parts(Parts):
    """Row groups, read from front to back."""

    def __init__(self, parts: list[_Part], config: Config, are_logits: bool, tally: Tally) -> None:
        self._parts, self._config, self._are_logits, self._tally = parts, config, are_logits, tally
        self._file: Any = None
        self._batches: Iterator[Any] = iter(())
        self._at: tuple[Path, int, int] | None = None  # of the next batch

    def name(self, number: int) -> str:
        """Return which sequences of which file it is."""
        part = self._parts[number]
        return f"{part.path}: sequences {part.first} to {part.first + len(part.n_rows) - 1}"

    def read(self, number: int) -> PartRows:
        """Return the rows of some sequences."""
        part = self._parts[number]
        with reading(part.path):
            try:
                batch = self._batch(part)
                if len(batch) != len(part.n_rows):
                    raise DataError(
                        f"has {len(batch)} sequences in a part of {len(part.n_rows)}; it has changed"
                    )
                return self._rows(batch, part)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._at = None, None

    def _batch(self, part: _Part) -> Any:
        """Return the sequences of a part as they are stored."""
        here = self._at is not None and self._at[:2] == (part.path, part.group) and self._at[2] <= part.number
        if not here:
            self.close()
            self._file = opened_file(part.path)
            names = [TOKENS, *_label_columns(self._config)]
            self._batches = self._file.iter_batches(part.each, [part.group], names, use_threads=False)
            self._at = (part.path, part.group, 0)
        assert self._at is not None
        for _ in range(part.number - self._at[2]):
            next(self._batches)
        self._at = (part.path, part.group, part.number + 1)
        return next(self._batches)

    def _rows(self, batch: Any, part: _Part) -> PartRows:
        config = self._config

        def matrix(name: str, width: int) -> np.ndarray:
            return matrix_of(batch.column(name), name, width, part.n_stored, part.first)

        if config.is_legacy:
            words_RW = matrix(LEGACY_IDS, legacy_words(config))
            exact_Rk = matrix(LEGACY_EXACT, config.exact_k)
            terms_RX = matrix(LEGACY_TERMS, len(config.terms) if config.exact_k < config.k else 0)
            ids_RK = legacy_ids_of(words_RW.astype(np.uint64, copy=False), config)
            values_RK = legacy_log_probs_of(exact_Rk, terms_RX, config)
        else:
            ids_RK = ids_of(matrix(IDS, config.id_bytes).astype(np.uint8, copy=False), config)
            values_RK = log_probs_of(matrix(BYTES, config.row_bytes).astype(np.uint8, copy=False), config)
        if part.n_stored != part.n_rows:
            ids_RK, values_RK = ids_RK[part.is_taken_R], values_RK[part.is_taken_R]
        tokens = [tokens[1:] for tokens in lists_of(batch.column(TOKENS), TOKENS)]
        return PartRows(self._labels(ids_RK, values_RK), np.concatenate(tokens).astype(np.int32))

    def _labels(self, ids_RK: np.ndarray, values_RK: np.ndarray) -> SparseLabels:
        """Return rows, none of whose tokens is likelier than one before it, of which the polynomial takes no care."""
        values_RK = np.minimum.accumulate(values_RK, axis=1)
        is_none_RK = values_RK == -np.inf
        if is_none_RK.any():
            ids_RK = np.where(is_none_RK, -1, ids_RK)
        if self._are_logits:
            return renormalised(ids_RK, values_RK)
        return settled(ids_RK, values_RK, self._tally, self._config.exact_k)
