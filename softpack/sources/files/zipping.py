"""Members of a zip archive that are written side by side."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import IO

import numpy as np

from softpack.sources.files.plans import Plans


@contextmanager
def side_by_side(
    archive: zipfile.ZipFile, folder: Path, names: Sequence[str], member_of: Callable[[str], zipfile.ZipInfo]
) -> Iterator[dict[str, IO[bytes]]]:
    """Give a file for each member that is to be written, by name.

    Members follow one another in an archive. The first goes straight into it; the others, which are small beside
    it, wait in nameless files in a folder.

    Args:
        archive: open for writing.
        folder: where members wait.
        names: of the members, in order.
        member_of: says what a member is, when its turn to be written has come.
    """
    first, *rest = names
    with ExitStack() as stack:
        waiting = {name: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for name in rest}
        with archive.open(member_of(first), "w", force_zip64=True) as member:
            yield {first: member, **waiting}
        for name, file in waiting.items():
            file.seek(0)
            with archive.open(member_of(name), "w", force_zip64=True) as member:
                copyfileobj(file, member, 1 << 20)


def append_to(files: Mapping[str, IO[bytes]], plans: Plans, arrays: dict[str, np.ndarray]) -> None:
    """Write rows where the file of each array goes on."""
    for name, rows in arrays.items():
        files[name].write(plans[name].to_bytes(rows))
