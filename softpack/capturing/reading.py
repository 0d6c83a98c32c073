"""Sequences as people have them -> tokens: lists of ids, texts, and files of either.

Texts are tokenized as the tokenizer does it by itself, its special tokens included. Every text, line or row is one
sequence, which ends after `max_length` tokens; what is behind that is left out. So item n is the n-th of them, and a
student's data set finds its labels by that number. Only a `.txt` is one long text, which is cut into sequences of
`max_length` tokens that follow one another; each begins with the token that begins the text, where that is a special
one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sequences import Sequences, as_tokens
from softpack.sources.files.arrow import import_pyarrow

AT_ONCE = 256  # texts that a tokenizer gets
KINDS = ".txt, .jsonl, .npz, .npy, .parquet"


def read_sequences(given: Any, tokenizer: Any = None, max_length: int | None = None) -> Sequences:
    """Return the tokens of sequences.

    Args:
        given: lists, arrays or tensors of ids, or texts, or dictionaries with `input_ids` or `text`, as many as there
            are sequences; or the path of a file of them.
        tokenizer: of texts.
        max_length: tokens of a sequence at most.

    Raises:
        DataError: it is nothing of that, or there is no tokenizer for texts.
    """
    if max_length is not None and (type(max_length) is not int or max_length < 2):
        raise DataError(
            f"max_length is {max_length!r}; expected a whole number from 2: a row needs a next token"
        )
    if isinstance(given, Sequences):
        return given if max_length is None else Sequences.of(given[i][:max_length] for i in range(len(given)))
    if isinstance(given, (str, os.PathLike)):
        return _read_file(Path(given), tokenizer, max_length)
    return _sequences(_examples(given), tokenizer, max_length, "sequence")


def _examples(given: Any) -> Any:
    """Return examples; of what has them field by field, as tokenizers give them, one after the other."""
    if not hasattr(given, "keys"):
        return given
    fields = {name: given[name] for name in ("input_ids", "attention_mask", "length", "text") if name in given}
    lengths = {_n_entries(values, name in ("input_ids", "attention_mask")) for name, values in fields.items()}
    if not fields.keys() & {"input_ids", "text"} or len(lengths) > 1 or None in lengths:
        raise DataError(
            f"the sequences are a dictionary of {', '.join(map(str, given)) or 'nothing'}; expected input_ids (and an "
            "attention_mask) or text, each with as many entries as there are sequences"
        )
    return [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]


def _n_entries(values: Any, are_lists: bool) -> int | None:
    """Return how many entries a field has; None where it is one text or number, or has no lists where it should."""
    if isinstance(values, str) or not hasattr(values, "__len__"):
        return None
    first = next(iter(values), ())
    is_number = not hasattr(first, "__len__") or getattr(first, "ndim", 1) == 0
    return None if are_lists and is_number else len(values)


def _read_file(path: Path, tokenizer: Any, max_length: int | None) -> Sequences:
    if not path.is_file():
        raise DataError(f"{path}: is no file; expected one of {KINDS}, or a list of sequences")
    suffix = path.suffix.lower()
    try:
        if suffix == ".txt":
            return _pieces(
                _tokenized([path.read_text(encoding="utf-8")], tokenizer, str(path))[0], tokenizer, max_length
            )
        if suffix == ".jsonl":
            return _sequences(_lines(path), tokenizer, max_length, f"{path}, line", first=1)
        if suffix in (".npz", ".npy"):
            return _sequences(_arrays(path), tokenizer, max_length, f"{path}, row")
        if suffix == ".parquet":
            return _sequences(_table(path), tokenizer, max_length, f"{path}, row")
    except (UnicodeDecodeError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    raise DataError(f"{path}: ends in {suffix or 'nothing'}; expected one of {KINDS}")


def _sequences(
    given: Iterable[Any], tokenizer: Any, max_length: int | None, where: str, first: int = 0
) -> Sequences:
    """Return the tokens of examples, which messages count from `first`."""

    def tokens() -> Iterator[Any]:
        examples, done = iter(given), first
        while some := list(islice(examples, AT_ONCE)):
            texts = [
                (n, found)
                for n, example in enumerate(some)
                if isinstance(found := _of_example(example, f"{where} {done + n}"), str)
            ]
            ids = dict(
                zip(
                    (n for n, _ in texts),
                    _tokenized([text for _, text in texts], tokenizer, where),
                    strict=True,
                )
            )
            for n, example in enumerate(some):
                found = ids[n] if n in ids else _of_example(example, f"{where} {done + n}")
                yield as_tokens(found, f"{where} {done + n}")[:max_length]
            done += len(some)

    return Sequences.of(tokens())


def _of_example(example: Any, where: str) -> Any:
    """Return the ids or the text of an example; ids that a mask hides are padding."""
    if not hasattr(example, "keys"):
        return example
    if "input_ids" in example:
        if "attention_mask" in example:
            return _shown(_array(example["input_ids"]), _array(example["attention_mask"]).astype(bool), where)
        return (
            _cut(example["input_ids"], example["length"], where)
            if "length" in example
            else example["input_ids"]
        )
    if "text" in example:
        return example["text"]
    raise DataError(f"{where}: has the fields {', '.join(map(str, example))}; expected input_ids or text")


def _shown(ids_L: np.ndarray, is_token_L: np.ndarray, where: str) -> np.ndarray:
    """Return the ids that a mask shows."""
    if ids_L.shape != is_token_L.shape:
        raise DataError(
            f"{where}: has {ids_L.size} input_ids and {is_token_L.size} numbers of attention_mask; expected as many"
        )
    shown_L: np.ndarray = ids_L[is_token_L]
    return shown_L


def _cut(ids: Any, length: Any, where: str) -> Any:
    """Return the first ids, of which there are so many."""
    found, n = _array(ids), _array(length)
    if n.size != 1 or n.dtype.kind not in "iu" or found.ndim != 1 or not 0 <= int(n.item()) <= len(found):
        raise DataError(
            f"{where}: has length {length} and {found.size} input_ids; expected a whole number, at most that"
        )
    return found[: int(n.item())]


def _array(given: Any) -> np.ndarray:
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def _tokenized(texts: list[str], tokenizer: Any, where: str) -> list[list[int]]:
    if not texts:
        return []
    if tokenizer is None:
        raise DataError(
            f"{where}: is text, and there is no tokenizer; give tokenizer= (--tokenizer), the teacher's own"
        )
    if hasattr(tokenizer, "encode_batch"):  # of the package tokenizers
        return [list(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    ids: list[list[int]] = tokenizer(texts)["input_ids"]
    return ids


def _pieces(ids: list[int], tokenizer: Any, max_length: int | None) -> Sequences:
    """Return a long text in pieces that follow one another."""
    special = getattr(tokenizer, "bos_token_id", None)
    head = ids[:1] if ids and special is not None and ids[0] == special else []
    body, n = ids[len(head) :], (max_length or len(ids)) - len(head)
    return Sequences.of([*head, *body[start : start + n]] for start in range(0, max(len(body), 1), max(n, 1)))


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                example = json.loads(line)
            except ValueError:
                raise DataError(
                    f"{path}, line {number}: is no JSON; expected an object with text or input_ids"
                ) from None
            if not isinstance(example, dict):
                raise DataError(
                    f"{path}, line {number}: is {str(example)[:40]}; expected an object with text or input_ids"
                )
            yield example


def _arrays(path: Path) -> Iterator[Any]:
    """Yield the ids of each sequence of `input_ids` [N, L], or of [T] with `length` [N]."""
    found = np.load(path, allow_pickle=False)
    arrays = {name: found[name] for name in found.files} if hasattr(found, "files") else {"input_ids": found}
    ids, length_N = arrays.get("input_ids"), arrays.get("length")
    if ids is None or (ids.ndim, length_N is None) not in ((2, True), (2, False), (1, False)):
        said = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise DataError(f"{path}: holds {said or 'nothing'}; expected input_ids [N, L], or [T] with length [N]")
    if length_N is None:
        yield from ids
    elif ids.ndim == 2:
        if len(length_N) != len(ids) or (length_N < 0).any() or (length_N > ids.shape[1]).any():
            raise DataError(
                f"{path}: length does not fit input_ids of shape {list(ids.shape)}; expected one for each row"
            )
        yield from (row_L[:n] for row_L, n in zip(ids, length_N, strict=True))
    else:
        if (length_N < 0).any() or length_N.sum() != len(ids):
            raise DataError(
                f"{path}: length sums to {length_N.sum()}; expected the {len(ids)} tokens of input_ids"
            )
        yield from np.split(ids, np.cumsum(length_N)[:-1])


def _table(path: Path) -> Iterator[Any]:
    pyarrow = import_pyarrow()
    table = pyarrow.parquet.ParquetFile(path)
    names = [
        name for name in ("input_ids", "attention_mask", "length", "text") if name in table.schema_arrow.names
    ]
    for batch in table.iter_batches(AT_ONCE, columns=names):
        yield from batch.to_pylist()
