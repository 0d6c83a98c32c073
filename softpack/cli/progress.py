"""How far long work is: a bar on a terminal, and a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

import click
from tqdm import tqdm

LINE_EVERY_S = 15.0


class Bar:
    """Shows how much of something is done, how fast and how long it will take.

    Where stderr is no terminal, work that is done within `LINE_EVERY_S` shows nothing.

    Args:
        what: is being done.
        unit: that is counted.
        clock: seconds that go on.
    """

    def __init__(self, what: str, unit: str = "row", clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._unit, self._clock = what, unit, clock
        self._begun = self._said = clock()
        self._bar = tqdm(
            desc=what, unit=f" {unit}s", unit_scale=True, file=sys.stderr, leave=False,
            disable=None, dynamic_ncols=True, mininterval=0.2,
        )  # fmt: skip

    def __call__(self, done: int, total: int, seen: str = "") -> None:
        """Show that `done` of `total` are done; 0 begins, or begins anew."""
        if not done:
            self._begun = self._clock()
            self._bar.reset(total)
        if self._bar.disable:
            self._say_line(done, total, seen)
            return
        if self._bar.total != total:
            self._bar.total = total
        if seen:
            self._bar.set_postfix_str(seen, refresh=False)
        self._bar.update(done - self._bar.n)

    def write(self, text: str) -> None:
        """Say a line on stderr that stays, above the bar."""
        if self._bar.disable:
            click.echo(text, err=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bar.close()

    def _say_line(self, done: int, total: int, seen: str) -> None:
        now = self._clock()
        if now - self._said < LINE_EVERY_S or not 0 < done < total:
            return
        self._said = now
        per_s = done / (now - self._begun)
        speed = f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.2g}"
        left = tqdm.format_interval((total - done) / per_s)
        facts = [f"{done:,} of {total:,} {self._unit}s", f"{speed} {self._unit}s/s", f"{left} left"]
        click.echo(f"softpack: {self._what}: {', '.join([*facts, seen] if seen else facts)}", err=True)
