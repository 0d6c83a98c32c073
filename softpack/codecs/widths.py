"""Axes by the bits that their levels take: the setting `widths` of transform codecs, such as "5x2,3x10"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from softpack.codecs.abc import CodeArray
from softpack.errors import CodecError

MOST_WIDTH = 12
WIDTHS = re.compile(r"[1-9][0-9]?x[1-9][0-9]{0,7}(,[1-9][0-9]?x[1-9][0-9]{0,7})*")


@dataclass(frozen=True)
class Group:
    """The axes whose levels take the same bits.

    Args:
        bits: of a coefficient.
        axes: numbers of the axes in the basis.
    """

    bits: int
    axes: slice

    @property
    def n_axes(self) -> int:
        """How many they are."""
        return int(self.axes.stop - self.axes.start)

    @property
    def name(self) -> str:
        """Of their array of codes."""
        return f"levels_{self.bits}"

    @property
    def array(self) -> CodeArray:
        """Their array of codes."""
        return CodeArray(self.name, (self.n_axes,), self.bits, 1 << self.bits)


def groups_of(widths: str, codec_id: str = "klt") -> tuple[Group, ...]:
    """Return the groups that "5x2,3x10" stands for: two axes of 5 bits, then ten of 3 bits.

    Raises:
        CodecError: it is not written so, or widths do not fall.
    """
    pairs = [part.split("x") for part in widths.split(",")] if WIDTHS.fullmatch(widths) else []
    groups: list[Group] = []
    for bits, n_axes in pairs:
        start = groups[-1].axes.stop if groups else 0
        groups.append(Group(int(bits), slice(start, start + int(n_axes))))
    bits_of_groups = [group.bits for group in groups]
    falling = bits_of_groups == sorted(set(bits_of_groups), reverse=True)
    if widths and not (groups and falling and bits_of_groups[0] <= MOST_WIDTH):
        raise CodecError(
            f"{codec_id}: widths is {widths!r}; expected falling widths from {MOST_WIDTH} to 1 bits, each with its "
            'number of axes, such as "5x2,3x10", or nothing before the fit'
        )
    return tuple(groups)


def arrays_of(groups: Sequence[Group], bits: float) -> tuple[CodeArray, ...]:
    """Return for each width one array, the levels of the axes of that width.

    Before the fit there are none yet, and an array of single bits stands for as many as are asked for.
    """
    if not groups:
        return (CodeArray("levels_1", (max(1, int(bits)),), 1, 2),)
    return tuple(group.array for group in groups)


def widths_of(bits_of_axes: Sequence[int]) -> str:
    """Return the setting for axes of these bits, falling."""
    return ",".join(f"{bits}x{len([*run])}" for bits, run in groupby(bits_of_axes))


def check_asked(codec_id: str, bits: float, target_bits: float) -> None:
    """Refuse a setting `bits` of more than the bits a label that were asked for."""
    if bits > target_bits:
        raise CodecError(
            f"{codec_id}: bits is {bits:g}, but {target_bits:g} bits a label were asked for; leave bits out, or ask "
            "for as many"
        )
