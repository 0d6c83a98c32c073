"""Free text as documents: what Debian packages hold, cleaned; the same packages give the same documents."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from packages import debian

FORTUNES = 20  # of a document
PICTURES = ("art", "ascii-art")  # fortunes that are no text
JARGON_CHARACTERS = 4000  # of a document, about


@dataclass(frozen=True)
class Source:
    """Where text comes from.

    Args:
        name: of it.
        licence: of the text.
        packages: of Debian that hold it.
        share: of all sequences.
        documents: gives its documents, from the folders of the packages.
    """

    name: str
    licence: str
    packages: tuple[str, ...]
    share: float
    documents: Callable[..., Iterator[str]]

    def read(self, cache: Path) -> list[str]:
        """Return its documents, fetched into a folder where they are not there."""
        return list(self.documents(*(debian(cache, name) for name in self.packages)))


def fortunes(folder: Path) -> Iterator[str]:
    """Yield fortunes, so many a document; none twice."""
    known: set[str] = set()
    for path in sorted((folder / "usr/share/games/fortunes").iterdir()):
        if path.suffix or path.name in PICTURES or not path.is_file():
            continue
        cookies = [cookie.strip() for cookie in path.read_text(errors="ignore").split("\n%\n")]
        new = [cookie for cookie in cookies if cookie and cookie not in known]
        known.update(new)
        for start in range(0, len(new), FORTUNES):
            yield "\n\n".join(new[start : start + FORTUNES])


def anarchism(folder: Path) -> Iterator[str]:
    """Yield the sections of the Anarchist FAQ, without marks of bold and italics."""
    for path in sorted((folder / "usr/share/doc/anarchism/markdown").glob("*.md.gz")):
        text = gzip.decompress(path.read_bytes()).decode(errors="ignore")
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "")
        yield _unwrapped(re.sub(r"(?<!\w)_|_(?!\w)", "", text))


def jargon(folder: Path) -> Iterator[str]:
    """Yield entries of the Jargon File, some after another."""
    text = gzip.decompress((folder / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()).decode()
    entries = re.split(r"\n   (?=:[^:\n]+:)", text)[1:]  # what is before the first is a table of contents
    document = ""
    for entry in entries:
        document += _unwrapped(re.sub(r"\n {3}", "\n", entry)) + "\n\n"
        if len(document) >= JARGON_CHARACTERS:
            yield document.strip()
            document = ""


def bible(text: Path, program: Path) -> Iterator[str]:
    """Yield the chapters of the King James Version, as the package's own program unpacks them."""
    command = [program / "usr/bin/bible", "-f", "-p", text / "usr/lib", "gen1:1-rev22:21"]
    verses = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for _, chapter in groupby(verses, lambda verse: verse.partition(":")[0]):
        yield " ".join(verse.partition(" ")[2] for verse in chapter)


def _unwrapped(text: str) -> str:
    """Return text whose paragraphs are one line each, but for those that are indented."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


SOURCES = (
    Source("fortunes", "BSD, collected quotations", ("fortunes",), 0.4, fortunes),
    Source("Anarchist FAQ", "GPL-2", ("anarchism",), 0.27, anarchism),
    Source("Jargon File", "public domain", ("jargon-text",), 0.2, jargon),
    Source("King James Version", "public domain", ("bible-kjv-text", "bible-kjv"), 0.13, bible),
)
