"""Which slots, codewords and widths suit a rate and a number of rows."""

from __future__ import annotations

from softpack.errors import CodecError

SLOT_BITS = range(6, 11)  # codebooks of 64 to 1024 words: smaller ones quantise worse, larger ones cost more
BEST_SLOT_BITS = 8  # where nothing else decides: codes are bytes
MAX_SLOT_BITS = 16


def slots_at(target_bits: int, slots: int | None, k: int | None) -> tuple[int, int]:
    """Return (slots, k) that cost the most bits up to `target_bits`; what is given stays.

    Raises:
        CodecError: even the cheapest costs more.
    """
    slot_bits = (k - 1).bit_length() if k is not None else None
    least = (slots or 1) * (slot_bits or 1)
    if target_bits < least:
        raise CodecError(
            f"vqae: {target_bits} bits a label were asked for, but the least is {least} with the settings given; "
            "ask for more, or set fewer slots or a smaller k"
        )
    if slots is None:
        choices = [slot_bits] if slot_bits else [b for b in SLOT_BITS if b <= target_bits] or [target_bits]
        best = max(choices, key=lambda bits: (target_bits // bits * bits, -abs(bits - BEST_SLOT_BITS)))
        return target_bits // best, k or 1 << best
    return slots, k or 1 << min(target_bits // slots, MAX_SLOT_BITS)


def widths_at(n_rows: int, classes: int, rank: int, slots: int, k: int, d_c: int, d_h: int) -> tuple[int, int]:
    """Return (d_c, d_h), chosen where they are 0, so that the decoder is not much larger than the codes.

    Latents serve most while they are few; hidden units pay once there are many rows. Neither is wider than
    what a reader of 1000 classes decodes at hundreds of thousands of rows a second on two cores.

    Args:
        n_rows: rows that the file will hold.
        classes: C.
        rank: linearly independent rows at most; wider latents would be zero.
        slots: codes of a row.
        k: codewords of a slot.
        d_c: as set; 0 = choose.
        d_h: as set; 0 = choose.
    """
    code_bytes = n_rows * slots * (k - 1).bit_length() / 8
    affordable = code_bytes / (2 * classes)  # columns of the last layer that weigh as much as the codes
    if not d_c:
        wanted = min(LATENTS_OF_CODES * affordable + MIN_LATENTS, LATENTS_A_BIT * slots * (k - 1).bit_length())
        d_c = max(1, min(round(wanted / slots), -(-rank // slots)))
    if not d_h:
        d_h = int(min(max(HIDDEN_OF_CODES * affordable, MIN_HIDDEN), MAX_HIDDEN))
        d_h = max(MIN_HIDDEN, d_h // 8 * 8)
    return d_c, d_h


LATENTS_OF_CODES = 0.4
LATENTS_A_BIT = 0.75
MIN_LATENTS = 24
HIDDEN_OF_CODES = 0.3
MIN_HIDDEN, MAX_HIDDEN = 8, 128
