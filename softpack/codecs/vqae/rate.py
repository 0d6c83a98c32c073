"""Which slots, codewords and widths suit a rate and a number of rows."""

from __future__ import annotations

from softpack.errors import CodecError

SLOT_BITS = range(6, 11)  # codebooks of 64 to 1024 words: smaller ones quantise worse, larger ones cost more
BEST_SLOT_BITS = 8  # where nothing else decides: codes are bytes
MAX_SLOT_BITS = 16
LEAST_WIDTH = 48  # latents and hidden units together
MOST_WIDTH = 272  # beside the least; what a reader of 1000 classes decodes at over 100,000 rows a second
MOST_HIDDEN = 96
LATENT_SHARE = 0.7
LATENTS_A_BIT = 1.25  # beyond, a quantiser has no bits for them


def slots_at(target_bits: int, slots: int | None, k: int | None, stages: int = 1) -> tuple[int, int]:
    """Return (slots, k) of each stage that cost the most bits up to `target_bits` in all; what is given stays.

    Raises:
        CodecError: even the cheapest costs more.
    """
    slot_bits = (k - 1).bit_length() if k is not None else None
    least = (slots or 1) * (slot_bits or 1) * stages
    if target_bits < least:
        raise CodecError(
            f"vqae: {target_bits} bits a label were asked for, but the least is {least} with the settings given; "
            "ask for more, or set fewer slots or a smaller k"
        )
    target_bits //= stages
    if slots is None:
        choices = [slot_bits] if slot_bits else [b for b in SLOT_BITS if b <= target_bits] or [target_bits]
        best = max(choices, key=lambda bits: (target_bits // bits * bits, -abs(bits - BEST_SLOT_BITS)))
        return target_bits // best, k or 1 << best
    return slots, k or 1 << min(target_bits // slots, MAX_SLOT_BITS)


def widths_at(n_rows: int, classes: int, rank: int, slots: int, k: int, d_c: int, d_h: int) -> tuple[int, int]:
    """Return (d_c, d_h), chosen where they are 0, so that the decoder weighs little more than the codes.

    The last layer is what weighs: two bytes for each latent or hidden unit and class. Measured on real labels,
    a set of few rows does best with `LEAST_WIDTH` of them, and one more for every two that the codes would pay.

    Args:
        n_rows: rows that the file will hold.
        classes: C.
        rank: linearly independent rows at most; wider latents would be zero.
        slots: codes of a row.
        k: codewords of a slot.
        d_c: as set; 0 = choose.
        d_h: as set; 0 = choose.
    """
    bits = slots * (k - 1).bit_length()
    paid = n_rows * bits / 8 / (2 * classes)
    width = LEAST_WIDTH + min(paid / 2, MOST_WIDTH)
    latents = min(width * LATENT_SHARE, max(bits * LATENTS_A_BIT, slots))
    d_c = d_c or max(1, min(round(latents / slots), -(-rank // slots)))
    hidden = min(width - min(latents, slots * d_c), MOST_HIDDEN)
    return d_c, d_h or max(8, int(hidden) // 8 * 8)
