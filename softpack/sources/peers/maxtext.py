"""MaxText's sets of a teacher's logits: `teacher_top_k_part_P_host_H.array_record`, a tf.Example for each sequence.

    inputs          L tokens
    top_k_logits    L x k floats, of the k largest logits after each token
    top_k_indices   L x k integers, their tokens
    targets         L tokens, in most sets: the one after each, that of padding where there is none

They are logits without their sum over all tokens: what the others have nobody knows. How many tokens there are no file
says. Records of a part and host follow one another, so that items of several hosts are not in the order of the data.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.extras import imported
from softpack.records import LabelSpec
from softpack.sources.files.stored import reading
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.row_files import leaving_out
from softpack.sources.peers.sequences import PartRows, Parts, Runs, SequenceSource, token_columns
from softpack.sources.peers.settled import Tally, renormalised
from softpack.sources.peers.tf_example import arrays_of

SUFFIX = ".array_record"
NUMBERS = re.compile(r"(\d+)")
SAID = "labels are logits of some tokens alone: of all others nobody knows anything, and they get nothing"


def import_array_record() -> Any:
    """Return the module that reads and writes ArrayRecord.

    Raises:
        DataError: it cannot be imported.
    """
    return imported("array_record.python.array_record_module", "takes array_record", "language")


def looks_like(names: set[str]) -> bool:
    """Return whether names in a folder are those of the layout."""
    return any(name.endswith(SUFFIX) for name in names)


def open_maxtext(path: Path, given: Given) -> SequenceSource:
    """Open a set of MaxText: a folder of its files, or one of them.

    Raises:
        DataError: it is none, or does not say how many tokens there are and nobody does.
    """
    names = [path.name] if path.is_file() else [e.name for e in path.iterdir() if e.name.endswith(SUFFIX)]
    folder = path.parent if path.is_file() else path
    names.sort(key=lambda name: [int(n) for n in NUMBERS.findall(name)])
    if not names:
        raise DataError(
            f"{path}: has no file that ends in {SUFFIX}; expected teacher_top_k_part_00000_host_000{SUFFIX}"
        )
    need(path, {"how many tokens the vocabulary has (--classes C)": given.classes is None})
    assert given.classes is not None
    left_out, records, sizes = dict[str, str](), list[tuple[Path, int]](), set[tuple[int, int, bool]]()
    for name in names:
        file = folder / name
        with leaving_out(file, given.skip_bad, left_out), reading(file):
            reader = import_array_record().ArrayRecordReader(str(file))
            n = reader.num_records()
            if n:
                sizes.add(_size(arrays_of(reader.read([0])[0])))
            records += [(file, number) for number in range(n)]
            reader.close()
    if not records:
        raise DataError(next(iter(left_out.values()), f"{path}: its files hold no records"))
    if len(sizes) > 1:
        raise DataError(f"{path}: has sequences of {sorted(sizes)} tokens and k; expected files of one run")
    length, k, has_targets = sizes.pop()
    n_N = np.full(len(records), length)
    runs = Runs.of_lengths(n_N)
    return SequenceSource(
        path=path,
        spec=LabelSpec(given.classes, "log_probs", given.temperature or 1.0),
        items=len(records),
        views=length,
        n_rows=length * len(records),
        columns=token_columns(given.replay and has_targets),
        item_columns={},
        ignored=(),
        runs=runs,
        part_starts=runs.starts,
        parts_of=partial(_Parts, records, length, k),
        n_kept=k,
        n_stored_bytes=sum((folder / name).stat().st_size for name in names),
        said=(SAID,),
        skip_bad=given.skip_bad,
        left_out=left_out,
    )


def _size(example: dict[str, np.ndarray]) -> tuple[int, int, bool]:
    """Return the tokens of a sequence, those known of each row, and whether it says which tokens come next."""
    missing = [name for name in ("inputs", "top_k_logits", "top_k_indices") if name not in example]
    if missing:
        raise DataError(f"has no {missing[0]} in a record; expected inputs, top_k_logits and top_k_indices")
    length, n = len(example["inputs"]), len(example["top_k_logits"])
    if not length or not n or n % length or len(example["top_k_indices"]) != n:
        raise DataError(
            f"has {length} tokens, {n} logits and {len(example['top_k_indices'])} ids in a record; expected k of "
            "both for each token"
        )
    return length, n // length, "targets" in example


class _Parts(Parts):
    """Records."""

    def __init__(self, records: list[tuple[Path, int]], length: int, k: int, tally: Tally) -> None:
        self._records, self._length, self._k = records, length, k
        self._path: Path | None = None
        self._reader: Any = None

    def name(self, number: int) -> str:
        """Return which record of which file it is."""
        path, record = self._records[number]
        return f"{path}: record {record}"

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._path = None, None

    def read(self, number: int) -> PartRows:
        """Return the rows of a sequence."""
        path, record = self._records[number]
        name = self.name(number)
        with reading(path):
            if path != self._path:
                self.close()
                self._reader, self._path = import_array_record().ArrayRecordReader(str(path)), path
            raw = self._reader.read([record])[0]
        try:
            example = arrays_of(raw)
            found = _size(example)[:2]
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        if found != (self._length, self._k):
            raise DataError(
                f"{name}: has {found[0]} tokens of k={found[1]}; expected {self._length} of {self._k}"
            )
        tokens = example.get("targets")
        if tokens is not None and len(tokens) != self._length:
            raise DataError(
                f"{name}: has {len(tokens)} targets; expected one for each of {self._length} tokens"
            )
        ids_RK = example["top_k_indices"].reshape(self._length, self._k)
        logits_RK = example["top_k_logits"].reshape(self._length, self._k)
        ids_RK = np.where(logits_RK == -np.inf, -1, ids_RK)
        return PartRows(renormalised(ids_RK, logits_RK), None if tokens is None else tokens.astype(np.int32))
