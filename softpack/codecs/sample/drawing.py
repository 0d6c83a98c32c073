"""Draw classes from the distribution of a row, by random numbers that are hashes of that distribution.

No generator has a place that depends on what was drawn before, so a row is drawn alike in a batch of any size. Sums
are of integers: on any device and in any order they are exact, where float32 forgets a tail of 262,144 classes.

Shapes in names: B rows, C classes, D draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from softpack.chance import uniform
from softpack.codecs.spaces import to_logits
from softpack.errors import CodecError
from softpack.records import LabelSpec

CHUNK_VALUES = 1 << 20  # numbers of rows that are drawn from at once: few enough for a cache
TOTAL_BITS = 62  # of the sum of a row's weights at most


def draw(rows_BC: Tensor, spec: LabelSpec, temperature: float, n_draws: int, seed: int) -> Tensor:
    """Return classes that are drawn with replacement: int64 [B, D], in the order of the draws.

    Random numbers are hashes of the seed, the number of the draw and two sums over the row's weights, so rows of
    the same distribution draw the same classes, and all others draw independently.

    Args:
        rows_BC: of `spec`.
        spec: what the rows are.
        temperature: at which each class has the probability that it is drawn with.
        n_draws: of each row.
        seed: any int64.

    Raises:
        CodecError: a row holds nan or +inf, or is -inf (or 0, of probabilities) everywhere.
    """
    drawn = [rows_BC.new_empty((0, n_draws), dtype=torch.int64)]
    for weights_BC in weights(rows_BC, spec, temperature):
        sums_BC = weights_BC.cumsum_(dim=1)
        total_B1 = sums_BC[:, -1:].contiguous()
        key_B1 = sums_BC.sum(dim=1, keepdim=True)  # weighs each class by its place; wraps around
        share_BD = uniform(seed, total_B1.cpu().numpy(), key_B1.cpu().numpy(), np.arange(n_draws))
        place_BD = (torch.from_numpy(share_BD).to(rows_BC.device) * total_B1).long()
        # A share just below 1 may be rounded up to the whole.
        drawn.append(torch.searchsorted(sums_BC, torch.minimum(place_BD, total_B1 - 1), right=True))
    return torch.cat(drawn)


def weights(rows_BC: Tensor, spec: LabelSpec, temperature: float) -> Iterator[Tensor]:
    """Yield integers [B, C], in proportion to the probabilities of some rows after the other, in bounded memory.

    The likeliest class has 2**44 of 262,144 classes: what is less likely than 2**-44 of it is never drawn.

    Raises:
        CodecError: as `draw`.
    """
    classes = rows_BC.shape[1]
    most = 2.0 ** (TOTAL_BITS - (classes - 1).bit_length())
    step = max(1, CHUNK_VALUES // classes)
    for start in range(0, len(rows_BC), step):
        logits_BC = to_logits(rows_BC[start : start + step].float().contiguous(), spec)
        most_B1 = logits_BC.amax(dim=1, keepdim=True)
        if not bool(torch.isfinite(most_B1).all()):
            raise CodecError(
                f"sample: a row of {spec.space} holds nan, +inf or no probability at all; "
                "expected a distribution; leave such rows out"
            )
        yield (((logits_BC - most_B1) / temperature).exp_() * most).long()  # a power of two: exact
