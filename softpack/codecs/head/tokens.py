"""The tokens that a search looks at, of a vocabulary of a quarter of a million, and what the teacher says of them.

Shapes: B rows, H numbers of a hidden state, R axes, T temperatures, V tokens, U likely in any row, M in one, A = U + M.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

OWN = 512  # of a row's likeliest tokens that are not among those likely in any row
CHUNK = 1 << 25  # logits at a time
ROWS, VECTORS = 256, 1 << 27  # searched together at most, and numbers in the vectors of their own tokens


@dataclass(frozen=True)
class Tokens:
    """The vocabulary as a search sees it.

    Args:
        matrix_VH: float32.
        likely_U: int64, the tokens with most mass in all rows together.
        synthesis_RH: what a coefficient adds to a hidden state.
        tail_TH: mean of the vectors of tokens beyond each row's likeliest, as they come, at each temperature.
        temperatures: at which KL * T^2 counts, averaged.
    """

    matrix_VH: Tensor
    likely_U: Tensor
    synthesis_RH: Tensor
    tail_TH: Tensor
    temperatures: tuple[float, ...]

    @cached_property
    def T(self) -> Tensor:
        """The temperatures, [T, 1]."""
        return torch.tensor(self.temperatures, device=self.matrix_VH.device)[:, None]

    @cached_property
    def likely_UH(self) -> Tensor:
        """The vectors of the likely tokens."""
        return self.matrix_VH[self.likely_U]

    @cached_property
    def moves_RU(self) -> Tensor:
        """What a coefficient of 1 adds to the logits of the likely tokens."""
        return self.synthesis_RH @ self.likely_UH.T

    def said_of(self, hidden_BH: Tensor) -> Iterator[Said]:
        """Yield what the teacher says of rows that are searched together, in their order."""
        n_rows = max(1, min(ROWS, VECTORS // (OWN * hidden_BH.shape[1])))
        return (self._said(some_BH) for some_BH in torch.split(hidden_BH, n_rows) if len(some_BH))

    def _said(self, hidden_BH: Tensor) -> Said:
        n_tokens, parts = len(self.matrix_VH), []
        for some_BH in torch.split(hidden_BH, max(1, CHUNK // n_tokens)):
            rows_BV = some_BH @ self.matrix_VH.T
            level_TB1 = torch.stack(
                [over(rows_BV, T).logsumexp(dim=1, keepdim=True) for T in self.temperatures]
            )
            likely_BU = rows_BV[:, self.likely_U]
            own_BM = rows_BV.index_fill_(1, self.likely_U, -torch.inf).topk(
                min(OWN, n_tokens - len(self.likely_U)), dim=1
            )
            seen_BA = torch.cat([likely_BU, own_BM.values], dim=1)
            parts.append((seen_BA / self.T[:, None] - level_TB1, own_BM.indices))
        log_probs, ids = zip(*parts, strict=True)
        return Said(torch.cat(log_probs, dim=1), torch.cat(ids))


@dataclass(frozen=True)
class Said:
    """What the teacher says of some rows: of tokens that are likely in any row, and of more that are likely in each.

    Of the mass of all other tokens it is taken for granted that the decoder keeps it: at T=2 it is a sixth of all, but
    estimating how it moves made no difference.

    Args:
        log_probs_TBA: of these A = U + M tokens at each temperature.
        own_BM: int64, each row's own.
    """

    log_probs_TBA: Tensor
    own_BM: Tensor

    def __len__(self) -> int:
        return len(self.own_BM)


def over(rows_BC: Tensor, temperature: float) -> Tensor:
    """Return rows over a temperature; the same where that is 1."""
    return rows_BC if temperature == 1 else rows_BC / temperature
