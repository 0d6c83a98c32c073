"""How many stages of a file's codes fit a rate. No torch."""

from __future__ import annotations

import numpy as np

from softpack.container.file import SpkFile
from softpack.container.ledger import ledger_of
from softpack.format.layout import BLOCK, BlockType, padded

SHARE_BITS = 8  # of `mix_share`, in a row


def bits_at_stages(file: SpkFile, replay: bool = True) -> list[float]:
    """Return the marginal bits a label of a file with its first stage alone, with two, and so on to all of it.

    Args:
        file: whose codes have stages.
        replay: keep the replay columns; without them who is mixed is kept beside the codes, at a bit more at most.
    """
    streams = file.header.code_streams
    of_stage = [_bits_of(file, number) for number in streams]
    found = file.header.stream("correction")
    if found is not None and len(of_stage) > 1:  # they go with the last stage, for they were made for all
        of_stage[-1] += _bits_of(file, found[0])
    left_out = np.cumsum([0, *reversed(of_stage[1:])])[::-1]
    account, n_rows = ledger_of(file), max(file.commit.n_rows, 1)
    whole = account.total_bits - account.bits_of("model", "replay")
    if not replay and file.header.context is not None:
        mix = sum(entry.n_bits for entry in account.entries if entry.what == "replay: mix_item")
        whole += mix + SHARE_BITS * file.commit.n_rows if mix else 0
    return [(whole - int(bits)) / n_rows for bits in left_out]


def _bits_of(file: SpkFile, stream: int) -> int:
    """Return the bits of the tiles of a stream, their headers and padding included."""
    is_of_it = (file.blocks["type"] == BlockType.TILE) & (file.blocks["stream"] == stream)
    return 8 * sum(BLOCK.size + padded(int(length)) for length in file.blocks["stored_len"][is_of_it])


def stages_within(file: SpkFile, target_bits: float, replay: bool = True) -> int | None:
    """Return the most stages that cost at most `target_bits` a label; None where the first costs more."""
    fitting = [n for n, bits in enumerate(bits_at_stages(file, replay), 1) if bits <= target_bits]
    return max(fitting) if fitting else None
