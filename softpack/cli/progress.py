"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Bar:
    """Shows how much of something is done, how fast and how long it will take.

    Args:
        what: is being done.
        unit: that is counted.
    """

    def __init__(self, what: str, unit: str = "row") -> None:
        self._bar = tqdm(
            desc=what, unit=f" {unit}s", unit_scale=True, file=sys.stderr, leave=False,
            disable=None, dynamic_ncols=True, mininterval=0.2,
        )  # fmt: skip

    def __call__(self, done: int, total: int, seen: str = "") -> None:
        """Show that `done` of `total` are done."""
        if self._bar.total != total:
            self._bar.total = total
        if seen:
            self._bar.set_postfix_str(seen, refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bar.close()
