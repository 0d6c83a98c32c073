"""Labels as DistillKit's trainer reads them, in its present layout with the settings that it recommends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softpack.sources.encoding import Counted
from softpack.sources.files.arrow import import_pyarrow
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.distillkit import BYTES, IDS, TOKENS
from softpack.sources.peers.distillkit_config import CONFIG, Config
from softpack.sources.peers.distillkit_rows import bytes_of, id_bytes_of
from softpack.sources.peers.to_folder import label_folder
from softpack.sources.peers.to_sequences import Sequence, Sequences

FILES = rf"data_\d+\.parquet|{CONFIG.replace('.', '[.]')}"
TERMS = (0, 1, 2, 3, 4, "sqrt")
EXACT_K = 16
GROUP_BYTES = 8 << 20  # of labels in a row group, which Parquet takes ten times the memory for
FILE_BYTES = 256 << 20  # in a file


def recommended(classes: int, k: int) -> Config:
    """Return the settings that DistillKit recommends, for k tokens; of a few, all are exact."""
    exact_k = k if k <= EXACT_K + len(TERMS) else EXACT_K
    return Config(classes, k, exact_k, "bfloat16", TERMS if exact_k < k else (), "float32", delta=False)


def write_distillkit(
    path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None
) -> None:
    """Write the labels of an `.spk` file as a set of DistillKit, which appears whole or not at all.

    Args:
        path: of the `.spk` file, which says the tokens of its sequences.
        out: of the folder.
        asked: how many tokens are kept of a row.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: the file does not say what the layout needs.
        ExistsError: `out` is there, and `force` is not given.
    """
    sequences = Sequences.of(path, asked.k, True, counted, asked.matrix)
    config = recommended(sequences.labels.spec.classes, sequences.k)
    with label_folder(path, out, force, FILES) as folder:
        (folder / CONFIG).write_text(_yaml(config), encoding="utf-8")
        with _Files(folder) as files:
            waiting, n_bytes = list[_Stored](), 0
            for sequence in sequences:
                waiting.append(_stored(sequence, config, str(path)))
                n_bytes += sum(part.nbytes for part in waiting[-1])
                if n_bytes >= GROUP_BYTES:
                    files.write(_table(waiting), n_bytes)
                    waiting, n_bytes = [], 0
            if waiting:
                files.write(_table(waiting), n_bytes)


class _Files:
    """Files of row groups, the next of which begins where one is large enough."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._n_files, self._n_bytes = folder, 0, 0
        self._writer: Any = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *raised: object) -> None:
        self._close()

    def write(self, table: Any, n_bytes: int) -> None:
        """Write a row group of so many bytes."""
        if self._writer is None:
            path = self._folder / f"data_{self._n_files}.parquet"
            self._writer = import_pyarrow().parquet.ParquetWriter(path, table.schema)
        self._writer.write_table(table, row_group_size=len(table))
        self._n_bytes += n_bytes
        if self._n_bytes >= FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._n_files, self._n_bytes = None, self._n_files + 1, 0


class _Stored(NamedTuple):
    """A sequence as it is stored: its tokens, and the bytes of its rows."""

    tokens: np.ndarray
    log_probs_RY: np.ndarray
    ids_RY: np.ndarray


def _stored(sequence: Sequence, config: Config, where: str) -> _Stored:
    sequence.check_full(where)
    assert sequence.tokens is not None
    tokens = sequence.tokens.astype(np.uint64)
    return _Stored(tokens, bytes_of(sequence.log_probs_Rk, config), id_bytes_of(sequence.ids_Rk, config))


def _table(sequences: list[_Stored]) -> Any:
    """Return sequences as a table of DistillKit's schema."""
    pa = import_pyarrow()
    tokens, log_probs_RY, ids_RY = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    counts = np.array([len(s.ids_RY) for s in sequences])
    schema = pa.schema(
        [
            (TOKENS, pa.list_(pa.uint64())),
            (BYTES, pa.list_(pa.list_(pa.uint8()))),
            (IDS, pa.list_(pa.list_(pa.uint8()))),
        ]
    )
    return pa.Table.from_arrays(
        [
            _lists(pa.array(tokens), np.array([len(s.tokens) for s in sequences])),
            _rows(log_probs_RY, counts),
            _rows(ids_RY, counts),
        ],
        schema=schema,
    )


def _rows(bytes_RY: np.ndarray, counts: np.ndarray) -> Any:
    pa = import_pyarrow()
    rows = _lists(pa.array(bytes_RY.reshape(-1)), np.full(len(bytes_RY), bytes_RY.shape[1]))
    return _lists(rows, counts)


def _lists(values: Any, lengths: np.ndarray) -> Any:
    pa = import_pyarrow()
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values
    )


def _yaml(config: Config) -> str:
    """Return the configuration as DistillKit's program of sampling leaves it."""
    terms = "".join(f"\n- {term}" for term in config.terms) or " []"
    return (
        f"d: {config.classes}\ndelta_encoding: false\nerror_diffusion: false\nexact_dtype: {config.exact_dtype}\n"
        f"exact_k: {config.exact_k}\nk: {config.k}\nnormalize_t: false\npolynomial_terms:{terms}\nresidual_bins: []\n"
        f"term_dtype: {config.term_dtype}\n"
    )
