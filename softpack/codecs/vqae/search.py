"""Choose codes by what the decoder makes of them.

The nearest codeword is the best one for a linear decoder and squared error. For KL and hidden units it is not:
here each slot in turn tries the codewords near its point, and keeps the one whose decoded row has the least loss.
Rows that are still told badly, most of them unlike those of the fit, are searched again among many more.

Shapes as in `nets`; M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softpack.codecs.vqae import nets

SWEEPS = 2  # over the slots; a third changes hardly a code
BAD = 0.4  # nats of KL * T^2 averaged over temperatures, above which a row is searched again, among more codewords
WIDER = 8  # times as many
CHUNK_ENTRIES = 1 << 19  # numbers of decoded candidates at a time: what a cache holds


@dataclass(frozen=True)
class Loss:
    """KL(rows || decoded) * T^2 averaged over temperatures, but for a constant of each row.

    Args:
        temperatures: T.
        pull_BC: sum over T of T * softmax(rows / T).
        top_B1: about the largest logit of each row, so that exponentials stay in range.
        least_B: what rows that are told exactly have.
    """

    temperatures: tuple[float, ...]
    pull_BC: Tensor
    top_B1: Tensor
    least_B: Tensor

    @classmethod
    def of(cls, logits_BC: Tensor, temperatures: tuple[float, ...]) -> Loss:
        """Return the loss against these rows."""
        pull_BC = torch.zeros_like(logits_BC)
        for temperature in temperatures:
            pull_BC.add_(torch.softmax(logits_BC / temperature, 1), alpha=temperature)
        top_B1 = logits_BC.amax(1, keepdim=True)
        loss = cls(temperatures, pull_BC, top_B1, top_B1[:, 0])
        exact_B1C = (logits_BC - top_B1).unsqueeze(1)
        return replace(loss, least_B=loss(exact_B1C, torch.empty_like(exact_B1C))[:, 0])

    def rows(self, which: slice | Tensor) -> Loss:
        """Return the loss of some of the rows."""
        return Loss(self.temperatures, self.pull_BC[which], self.top_B1[which], self.least_B[which])

    def __call__(self, decoded_BMC: Tensor, scratch_BMC: Tensor) -> Tensor:
        """Return the loss of each candidate, [B, M].

        Args:
            decoded_BMC: less `top_B1`.
            scratch_BMC: memory of the same shape, since to take new memory costs as much as the sums.
        """
        loss_BM = torch.bmm(decoded_BMC, self.pull_BC.unsqueeze(-1)).squeeze(-1).neg_()
        for temperature in self.temperatures:
            torch.mul(decoded_BMC, 1 / temperature, out=scratch_BMC)
            loss_BM += temperature**2 * scratch_BMC.exp_().sum(-1).log_().clamp_max_(1e30)
        return loss_BM


@dataclass(frozen=True)
class Rows:
    """Rows whose codes are looked for.

    Args:
        points_SBD: the encoder's latents, which candidates are near to.
        earlier_BL: sum of the decoder's codewords of the stages before; None in the first.
        context_BC: of the rows.
        loss: against them.
    """

    points_SBD: Tensor
    earlier_BL: Tensor | None
    context_BC: Tensor | None
    loss: Loss

    def some(self, which_B: Tensor) -> Rows:
        """Return some of them."""
        earlier_BL, context_BC = (
            None if of_rows is None else of_rows[which_B] for of_rows in (self.earlier_BL, self.context_BC)
        )
        return Rows(self.points_SBD[:, which_B], earlier_BL, context_BC, self.loss.rows(which_B))


@torch.no_grad()
def refined(
    tensors: nets.Tensors, stage: int, index_BS: Tensor, rows: Rows, n_candidates: int, again: bool
) -> Tensor:
    """Return better indices of one stage, int64 [B, S].

    Args:
        tensors: of encoder and decoder.
        stage: from 0.
        index_BS: where to begin.
        rows: that they are of.
        n_candidates: M, beside the codeword chosen so far.
        again: search again for rows that are told badly.
    """
    index_BS = index_BS.clone()
    all_B, classes = torch.arange(len(index_BS), device=index_BS.device), tensors["last_layer"].shape[1]
    for some_B in _chunks(all_B, n_candidates * classes):
        index_BS[some_B], above_B = _refined_chunk(
            tensors, stage, index_BS[some_B], rows.some(some_B), n_candidates
        )
        all_bad_B = some_B[above_B > BAD] if again else some_B[:0]
        for bad_B in _chunks(all_bad_B, WIDER * n_candidates * classes):
            index_BS[bad_B], _ = _refined_chunk(
                tensors, stage, index_BS[bad_B], rows.some(bad_B), WIDER * n_candidates
            )
    return index_BS


def _chunks(rows_B: Tensor, entries: int) -> tuple[Tensor, ...]:
    """Return rows, so many at a time that their decoded candidates, `entries` of a row, stay in a cache."""
    return torch.split(rows_B, max(1, CHUNK_ENTRIES // entries)) if len(rows_B) else ()


def _refined_chunk(
    tensors: nets.Tensors, stage: int, index_BS: Tensor, rows: Rows, n_candidates: int
) -> tuple[Tensor, Tensor]:
    """Return better indices, and the mean KL * T^2 of the rows that they decode to, [B]."""
    loss, context_BC = rows.loss, rows.context_BC
    codebooks_SKD = tensors["codebooks"][stage]
    slots, _, d_c = codebooks_SKD.shape
    last_YC, latent = tensors["last_layer"], slots * d_c
    near_SBM = _nearest(rows.points_SBD, tensors["encoder_codebooks"][stage], n_candidates)
    words_BL = nets.codewords(codebooks_SKD, index_BS)
    if rows.earlier_BL is not None:
        words_BL = words_BL + rows.earlier_BL
    before_BH = nets.before_hidden(tensors, words_BL, nets.features(tensors, context_BC))
    linear_BC = torch.addmm(last_YC[-1], words_BL, last_YC[:latent])
    if context_BC is not None:
        linear_BC += context_BC
    linear_BC -= loss.top_B1
    n_tried = near_SBM.shape[2] + 1
    decoded_BMC, scratch_BMC = linear_BC.new_empty(2, len(index_BS), n_tried, linear_BC.shape[1])
    least_B = loss.least_B
    for _ in range(SWEEPS):
        for slot in range(slots):
            own = slice(slot * d_c, (slot + 1) * d_c)
            tried_BM = torch.cat([index_BS[:, slot, None], near_SBM[slot]], 1)
            moves_BMD = codebooks_SKD[slot][tried_BM]
            moves_BMD = moves_BMD - moves_BMD[:, :1]
            hidden_BMH = torch.relu(before_BH.unsqueeze(1) + moves_BMD @ tensors["hidden_weight"][own])
            units_BMY = torch.cat([moves_BMD, hidden_BMH], -1)
            layer_YC = torch.cat([last_YC[own], last_YC[latent:-1]])
            torch.mm(units_BMY.flatten(0, 1), layer_YC, out=decoded_BMC.view(-1, linear_BC.shape[1]))
            least_B, best_B = loss(decoded_BMC.add_(linear_BC.unsqueeze(1)), scratch_BMC).min(1)
            best_B1 = best_B.unsqueeze(1)
            index_BS[:, slot] = tried_BM.gather(1, best_B1)[:, 0]
            move_BD = moves_BMD.take_along_dim(best_B1.unsqueeze(2), 1)[:, 0]
            before_BH += move_BD @ tensors["hidden_weight"][own]
            linear_BC += move_BD @ last_YC[own]
    return index_BS, (least_B - loss.least_B) / len(loss.temperatures)


def _nearest(points_SBD: Tensor, codebooks_SKD: Tensor, n: int) -> Tensor:
    """Return the `n` codewords nearest to each point, int64 [S, B, n]."""
    halves_S1K = codebooks_SKD.square().sum(-1).mul(0.5).unsqueeze(1)
    distances_SBK = torch.baddbmm(halves_S1K, points_SBD, codebooks_SKD.mT, alpha=-1)
    return distances_SBK.topk(min(n, codebooks_SKD.shape[1]), dim=-1, largest=False).indices
