"""A temperature that falls with the epochs."""

from __future__ import annotations

from softpack.errors import DataError


def temperature(epoch: int, start: float, factor: float = 1.0, every: int = 1, least: float = 1.0) -> float:
    """Return a temperature that is multiplied by `factor` after every so many epochs, down to `least`.

    LPQLD (arXiv:2604.18135) trains with start=20, factor=0.7 and every=30 epochs of 300.

    Raises:
        DataError: one of them is out of range.
    """
    if epoch < 0 or every < 1 or not (start > 0 and 0 < factor <= 1 and least > 0):
        raise DataError(
            f"temperature: epoch is {epoch}, start {start}, factor {factor}, every {every}, least {least}; expected an "
            "epoch from 0, positive temperatures, a factor above 0 and up to 1, and 1 epoch or more"
        )
    return max(start * factor ** (epoch // every), min(least, start))
