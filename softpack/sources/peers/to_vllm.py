"""Labels as vLLM's prompt log-probabilities are kept: JSON lines, or arrays in a `.npz`; see `vllm`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from softpack.errors import DataError
from softpack.sequences import NO_TOKEN
from softpack.sources.encoding import Counted
from softpack.sources.files.plans import ArrayPlan
from softpack.sources.files.sinks import npz_sink
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.to_sequences import Sequence, Sequences
from softpack.sources.peers.vllm import FIRST, IDS, LENGTHS, TOKENS, VALUES
from softpack.sources.replacing import replacing


def write_vllm(
    path: Path, out: Path, asked: Asked, force: bool = False, counted: Counted | None = None
) -> None:
    """Write the labels of an `.spk` file as JSON lines or arrays, as the name of the output says.

    Args:
        path: of the `.spk` file.
        out: of the file, which ends in .jsonl or .npz.
        asked: how many tokens are kept of a row.
        force: replace `out` if it is there.
        counted: is told (rows done, rows in all).

    Raises:
        DataError: `out` is of neither kind, or the labels cannot be written so.
        ExistsError: `out` is there, and `force` is not given.
    """
    if out.suffix not in (".jsonl", ".npz"):
        raise DataError(
            f"{out}: ends in {out.suffix or 'nothing'}; expected .jsonl, for JSON lines, or .npz, for arrays"
        )
    sequences = Sequences.of(path, asked.k, False, counted, asked.matrix)
    with replacing(out, force) as temporary:
        if out.suffix == ".npz":
            _write_arrays(temporary, sequences)
            return
        with temporary.open("w", encoding="ascii") as file:
            for sequence in sequences:
                file.write(_line(sequence) + "\n")


def _line(sequence: Sequence) -> str:
    entries = [
        {
            str(token): {"logprob": float(f"{value:.9g}"), "rank": rank}
            for rank, (token, value) in enumerate(zip(ids, values, strict=True), 1)
            if token >= 0
        }
        for ids, values in zip(sequence.ids_Rk.tolist(), sequence.log_probs_Rk.tolist(), strict=True)
    ]
    said = {} if sequence.tokens is None else {"prompt_token_ids": sequence.tokens.tolist()}
    is_empty = sequence.tokens is not None and not len(sequence.tokens)  # no first token, which has no entry
    return json.dumps({**said, "prompt_logprobs": [] if is_empty else [None, *entries]}, separators=(",", ":"))


def _write_arrays(file: Path, sequences: Sequences) -> None:
    n_rows, lengths = sequences.labels.n_rows, sequences.n_rows_N
    plans = {
        IDS: ArrayPlan((n_rows, sequences.k), "int32", 1),
        VALUES: ArrayPlan((n_rows, sequences.k), "float32", 1),
        LENGTHS: ArrayPlan((len(lengths),), "int64", 1),
    }
    first = next(iter(sequences))
    if first.tokens is not None:
        plans |= {TOKENS: ArrayPlan((n_rows,), "int32", 1), FIRST: ArrayPlan((len(lengths),), "int32", 1)}
    with npz_sink(file, plans, None) as append:
        append({LENGTHS: lengths.astype(np.int64)})
        for sequence in sequences:
            append({IDS: sequence.ids_Rk, VALUES: sequence.log_probs_Rk})
            if sequence.tokens is not None:
                first_1 = sequence.tokens[:1] if len(sequence.tokens) else np.array([NO_TOKEN])
                append({TOKENS: sequence.tokens[1:], FIRST: first_1})
