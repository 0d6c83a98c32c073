"""The valid vectors of version 1.5: a setting of klt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vectors_valid_1_1 import Labels


def weighted_klt(path: Path) -> None:
    """Write rows by klt, fitted and searched for errors that count by the mass of their class."""
    labels = Labels()
    labels.write(path, labels.model("klt", bits=20.0, temperatures="1", weighted=True)[0])


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "klt_weighted": ("klt whose errors count by the mass of their class", weighted_klt),
}
