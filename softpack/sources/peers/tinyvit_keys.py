"""TinyViT's keys: a text beside each file of records, with a line for each that says which image it is of.

Shapes in names: R records, N images.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softpack.checks import MOST
from softpack.errors import DataError
from softpack.folder import ImageFolder
from softpack.sources.files.stored import reading
from softpack.sources.peers.given import Given
from softpack.sources.peers.row_files import leaving_out

MAX_BYTES = 255  # of a key: as long as a file's name may be
NUMBER_BYTES = len(str(MOST))
SHOWN_BYTES = 40


@dataclass(frozen=True, eq=False)
class Keys:
    """Which items keys are of.

    Args:
        how: it is known, for people.
        n_items: items; None where only the greatest key says it.
        names_N: ascending names as bytes; None where keys are the items' numbers.
        item_N: of each name.
    """

    how: str
    n_items: int | None
    names_N: np.ndarray | None = None
    item_N: np.ndarray | None = None

    def items(self, path: Path, n: int) -> np.ndarray:
        """Return the items of a file's keys, int64 [R].

        Args:
            path: of the file.
            n: records beside it.

        Raises:
            DataError: there are not as many keys, or one is of no item.
        """
        keys_R = _read(path, n)
        if _are_numbers(keys_R, path) != (self.names_N is None):
            others = "numbers" if self.names_N is None else "names"
            raise DataError(
                f"{path}: line 1 is {_shown(keys_R[0])}, and the first file holds {others}; they are of two sets"
            )
        if self.names_N is None or self.item_N is None:
            item_R = keys_R.astype(np.int64)
            good_R = item_R < (MOST + 1 if self.n_items is None else self.n_items)
        else:
            place_R = _places(self.names_N, keys_R)
            good_R, item_R = self.names_N[place_R] == keys_R, self.item_N[place_R]
        if not good_R.all():
            line = int(np.argmin(good_R))
            raise DataError(
                f"{path}: line {line + 1} is {_shown(keys_R[line])}, which is none of {self.n_items or MOST + 1} "
                "images; give the images that were labelled"
            )
        return item_R


def keys_of(n_records: dict[Path, int], given: Given, left_out: dict[str, str]) -> Keys:
    """Return what keys are: numbers or names, as those of the first file.

    Args:
        n_records: of each file of keys, how many records are beside it.
        given: images, and whether bad files are left out.
        left_out: gets what is wrong with those.

    Raises:
        DataError: a file holds no such keys, or images have no names of their own.
    """
    are_numbers, names_N = None, np.empty(0, "S1")
    for path, n in n_records.items():
        with leaving_out(path, given.skip_bad, left_out):
            keys_R = _read(path, n)
            is_of_numbers = _are_numbers(keys_R, path)
            are_numbers = is_of_numbers if are_numbers is None else are_numbers
            if are_numbers or given.folder is not None:
                break
            if not is_of_numbers:
                names_N = _united(names_N, keys_R)
    if given.folder is None:
        if are_numbers:
            return Keys("keys, which are numbers of images", None)
        how = "keys, which are names; items are in the order of these, sorted"
        return Keys(how, len(names_N), names_N, np.arange(len(names_N)))
    n_items = len(given.folder)
    if are_numbers:
        return Keys("keys, which are numbers of the images that were given", n_items)
    names_N = np.array([os.fsencode(name) for name in names_of(given.folder)])
    item_N = np.argsort(names_N)
    return Keys("keys, which are names of the images that were given", n_items, names_N[item_N], item_N)


def names_of(folder: ImageFolder) -> list[str]:
    """Return the names of images without their suffixes.

    Raises:
        DataError: several images have one.
    """
    names = [Path(image).stem for image, _ in folder.samples]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(
            f"{folder.folder}: has several images that are called {twice[0]!r} but for folder and suffix; TinyViT's "
            "keys are such names, and nobody can tell which image one is of"
        )
    return names


def is_key(name: str) -> bool:
    """Return whether a name can be a line of keys, and is none of a number."""
    n_bytes = len(os.fsencode(name))
    is_line = 0 < n_bytes <= MAX_BYTES and name == name.strip() and len(name.splitlines()) == 1
    return is_line and not (name.isascii() and name.isdigit() and name == str(int(name)))


def _read(path: Path, n: int) -> np.ndarray:
    """Return keys as bytes [R], all as wide as the longest."""
    with reading(path):
        n_bytes, most = path.stat().st_size, n * (MAX_BYTES + 2)
        if n_bytes > most:
            raise DataError(f"has {n_bytes} bytes; expected at most {most}, of {n} keys")
        text = path.read_bytes().replace(b"\r\n", b"\n").removesuffix(b"\n")
        lines = text.split(b"\n")
        if len(lines) != n:
            raise DataError(
                f"has {len(lines)} lines, and {n} records are beside it; expected as many; one of the files may be cut "
                "off, or of another run"
            )
        n_bytes_R = np.fromiter(map(len, lines), np.int64, n)
        if b"\0" in text or not n_bytes_R.all() or n_bytes_R.max() > MAX_BYTES:
            bad = next(row for row, line in enumerate(lines) if not 0 < len(line) <= MAX_BYTES or b"\0" in line)
            raise DataError(
                f"line {bad + 1} is {_shown(lines[bad])}, of {len(lines[bad])} bytes; expected the number of an image "
                f"or its name, of 1 to {MAX_BYTES}"
            )
        return np.array(lines)


def _are_numbers(keys_R: np.ndarray, path: Path) -> bool:
    """Return whether keys are numbers as Python writes them; refuse those of which some are."""
    are_R = np.char.isdigit(keys_R) & ((keys_R == b"0") | ~np.char.startswith(keys_R, b"0"))
    are_R &= np.char.str_len(keys_R) <= NUMBER_BYTES
    if are_R.any() and not are_R.all():
        line = int(np.argmin(are_R))
        raise DataError(
            f"{path}: line {line + 1} is {_shown(keys_R[line])}, and other lines are numbers; expected numbers of "
            "images alone, or their names"
        )
    return bool(are_R.all())


def _united(names_N: np.ndarray, keys_R: np.ndarray) -> np.ndarray:
    """Return ascending names with those of more keys."""
    new_R = keys_R[names_N[_places(names_N, keys_R)] != keys_R] if len(names_N) else keys_R
    return np.union1d(names_N, new_R) if len(new_R) else names_N


def _places(names_N: np.ndarray, keys_R: np.ndarray) -> np.ndarray:
    """Return where keys are among ascending names, if they are."""
    return np.searchsorted(names_N, keys_R).clip(max=len(names_N) - 1)


def _shown(key: bytes) -> str:
    return repr(key[:SHOWN_BYTES].decode("utf-8", "replace"))
