"""Which item each row of an epoch is of, in layouts whose files do not say it.

Shapes in names: N items, R rows of an epoch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.sources.columns import INT32_MAX

MAX_JSON_BYTES = 4 << 30
SPARE_ITEMS, TIMES_ROWS = 1 << 20, 100  # that an index may name beyond the rows that it lists


class Order(ABC):
    """The items of the rows of every epoch.

    Args:
        how: how it is known, for people.
    """

    how: str

    @abstractmethod
    def items(self, epoch: int) -> np.ndarray:
        """Return the items of the rows of an epoch as they were drawn, int64 [R]."""


class SeededOrder(Order):
    """The order of torch's RandomSampler, whose own generator goes on from epoch to epoch.

    Since PyTorch 1.11 an epoch draws two permutations and uses the first; before, it drew one.

    Args:
        seed: of the generator.
        n_items: N.
        is_new: whether PyTorch was 1.11 or later.
    """

    def __init__(self, seed: int, n_items: int, is_new: bool) -> None:
        import torch

        self._n_items, self._draws = n_items, 2 if is_new else 1
        self._states = [torch.Generator().manual_seed(seed).get_state()]
        when = "1.11 and later" if is_new else "before 1.11"
        self.how = f"seed {seed}, of {n_items:,} images, as the sampler of PyTorch {when} draws"
        self.items = lru_cache(maxsize=2)(self.items)  # type: ignore[method-assign]

    def items(self, epoch: int) -> np.ndarray:
        """Return the items of the rows of an epoch."""
        import torch

        generator = torch.Generator()
        for known in range(len(self._states) - 1, epoch):
            generator.set_state(self._states[known])
            for _ in range(self._draws):
                torch.randperm(self._n_items, generator=generator)
            self._states.append(generator.get_state())
        generator.set_state(self._states[epoch])
        return torch.randperm(self._n_items, generator=generator).numpy()


class ListedOrder(Order):
    """An order that a file lists.

    Args:
        path: of the file.
        n_items: N; None where nobody says it.
        lists: of the items of each epoch, where the file is no JSON and has been read.

    Raises:
        DataError: it is no such file, names an item twice in an epoch, or one that is not there.
    """

    def __init__(self, path: Path, n_items: int | None = None, lists: Any = None) -> None:
        self.how = path.name
        listed = _listed(path) if lists is None else _numbered(path, lists)
        self._items = {
            number: _checked(values, f"{path}: {number!r}", n_items) for number, values in listed.items()
        }
        n_rows = sum(map(len, self._items.values()))
        if n_items is None and self.n_items > SPARE_ITEMS + TIMES_ROWS * n_rows:
            raise DataError(
                f"{path}: names item {self.n_items - 1}, and lists {n_rows} rows; give the images that were labelled "
                "(--images DIR), if there are as many"
            )

    @property
    def numbers(self) -> list[int]:
        """Numbers of the epochs that are listed, ascending."""
        return sorted(self._items)

    @property
    def n_items(self) -> int:
        """One more than the greatest item."""
        return 1 + max((int(items_R.max(initial=-1)) for items_R in self._items.values()), default=-1)

    def n_rows(self, number: int) -> int:
        """Return how many rows are listed."""
        return len(self._items.get(number, ()))

    def items(self, epoch: int) -> np.ndarray:
        """Return the items of the rows of an epoch; none where it is not listed."""
        return self._items.get(epoch, np.empty(0, np.int64))


class BatchOrder(Order):
    """An order that lists the items of every batch, and does not say where an epoch ends.

    A batch is of the next epoch where it names an item that its epoch has already: no image is seen twice in one.

    Args:
        path: of the JSON.
        n_items: N; None where nobody says it.

    Raises:
        DataError: it is no such file, names an item twice in a batch, or one that is not there.
    """

    def __init__(self, path: Path, n_items: int | None = None) -> None:
        self._listed = ListedOrder(path, n_items)
        self.how, self.n_items = path.name, self._listed.n_items
        self.batches = self._listed.numbers
        self.epoch_of = dict(zip(self.batches, self._epochs(), strict=True))
        self.n_epochs = 1 + max(self.epoch_of.values(), default=-1)

    def _epochs(self) -> Iterator[int]:
        epoch, last_N = 0, np.full(self.n_items, -1)  # in which each item was seen
        for batch in self.batches:
            items_B = self.items_of(batch)
            epoch += bool((last_N[items_B] == epoch).any())
            last_N[items_B] = epoch
            yield epoch

    def items_of(self, batch: int) -> np.ndarray:
        """Return the items of the rows of a batch."""
        return self._listed.items(batch)

    def groups(self, epoch: int) -> list[np.ndarray]:
        """Return the items of the batches of an epoch, in their order."""
        return [self.items_of(batch) for batch in self.batches if self.epoch_of[batch] == epoch]

    def items(self, epoch: int) -> np.ndarray:
        """Return the items of the rows of an epoch as they were drawn."""
        return np.concatenate([np.empty(0, np.int64), *self.groups(epoch)])


class UnknownOrder(Order):
    """No order: every row is an item of its own, as nobody can tell of which image it is.

    Args:
        n_rows: of an epoch.
    """

    how = "unknown: every row is an item of its own"

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows

    def items(self, epoch: int) -> np.ndarray:
        """Return the items of the rows of an epoch."""
        return np.arange(epoch * self._n_rows, (epoch + 1) * self._n_rows)


def _listed(path: Path) -> dict[int, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes; expected at most {MAX_JSON_BYTES} of an index"
        )
    try:
        listed = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise _no_index(path, error) from None
    return _numbered(path, listed)


def _numbered(path: Path, listed: Any) -> dict[int, Any]:
    """Return lists by their numbers, of a dictionary or of its pairs."""
    try:
        pairs = list(listed.items() if isinstance(listed, dict) else listed)
        numbers = [_whole(number) for number, _ in pairs]
        if len(set(numbers)) < len(numbers):
            raise ValueError("a number is there twice")
        return {number: values for number, (_, values) in zip(numbers, pairs, strict=True)}
    except (ValueError, TypeError, AttributeError) as error:
        raise _no_index(path, error) from None


def _no_index(path: Path, error: Exception) -> DataError:
    return DataError(f'{path}: is no index of items: {error}; expected {{"0": [items], "1": [items]}}')


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and str(int(text)) == text):
        raise ValueError(f"{text[:40]!r} is no number")
    return int(text)


def _checked(values: Any, where: str, n_items: int | None) -> np.ndarray:
    most = INT32_MAX if n_items is None else n_items
    if not isinstance(values, list) or not all(
        type(value) is int and -1 <= value <= INT32_MAX for value in values
    ):
        raise DataError(f"{where}: is no list of items")
    items_R = np.array(values, np.int64)
    outside = (items_R < 0) | (items_R >= most)
    if outside.any():
        raise DataError(
            f"{where}: names item {items_R[outside][0]}; expected 0 to {most - 1}; give the images that were "
            "labelled"
        )
    order = np.argsort(items_R, kind="stable")
    twice = np.flatnonzero(np.diff(items_R[order]) == 0)
    if len(twice):
        raise DataError(
            f"{where}: names item {items_R[order[twice[0]]]} twice; expected each image once; the labels of two "
            "runs may have been mixed up"
        )
    return items_R
