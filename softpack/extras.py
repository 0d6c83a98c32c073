"""Libraries that not everybody has, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from softpack.errors import DataError


def imported(module: str, takes: str, extra: str) -> Any:
    """Return a module of a library that an extra of softpack installs.

    Args:
        module: its full name.
        takes: what takes which library, to begin the message with.
        extra: of softpack.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{takes}, which cannot be imported ({error}): pip install 'softpack[{extra}]'"
        ) from None
