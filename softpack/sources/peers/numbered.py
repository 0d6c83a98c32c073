"""Files and folders whose names are numbers: `epoch_0`, `batch_0.tar` and so on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from softpack.errors import DataError

SPARE_NUMBERS = 1000  # that files may be numbered beyond their count


def numbered(names: Iterable[str], before: str, after: str = "") -> tuple[dict[int, str], list[str]]:
    """Return the names that are a number between two texts, by these numbers ascending, and all other names."""
    found, others = {}, []
    for name in names:
        number = name[len(before) : len(name) - len(after)]
        is_one = name.startswith(before) and name.endswith(after) and number.isascii() and number.isdigit()
        if is_one and str(int(number)) == number:
            found[int(number)] = name
        else:
            others.append(name)
    return dict(sorted(found.items())), sorted(others)


def numbered_in(folder: Path, before: str, after: str = "") -> tuple[dict[int, str], list[str]]:
    """Return the same of what lies in a folder.

    Raises:
        DataError: it is no folder, or so few files cannot have such numbers; lists of as many would be made.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: is a file; expected a folder of {before}0{after}, {before}1{after} and so on"
        )
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    found, others = numbered(names, before, after)
    most = max(found, default=0)
    if most > 2 * len(found) + SPARE_NUMBERS:
        raise DataError(
            f"{folder}: has a {before}{most}{after}, and {len(found)} in all; expected them to be numbered from 0 on"
        )
    return found, others
