"""One student: trained from one set of labels, and measured on real text that it has not seen.

Shapes in names: N sequences, V positions, B a batch, C classes of the student, M rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import LambdaLR

from language.network import Student, autocast

BINS = 15  # of confidence, equally wide
WARM_UP = 0.05  # of the steps


@dataclass(frozen=True)
class Recipe:
    """How every student is trained: AdamW, a cosine to 0.

    Args:
        width: of the network.
        depth: of the network.
        epochs: each shows every sequence once.
        batch: sequences of a step.
        lr: the greatest learning rate.
        decay: of weights.
        dropout: share that is left out.
    """

    width: int = 128
    depth: int = 2
    epochs: int = 12
    batch: int = 4
    lr: float = 3e-3
    decay: float = 0.1
    dropout: float = 0.1


class Targets(Protocol):
    """What a student is to say."""

    def loss(self, logits_MC: Tensor, sequences_B: Tensor) -> Tensor:
        """Return the loss of logits of all positions of some sequences, one sequence after another."""


@dataclass(frozen=True)
class Hard:
    """The tokens themselves.

    Args:
        next_NV: int64, the token after each position.
    """

    next_NV: Tensor

    def loss(self, logits_MC: Tensor, sequences_B: Tensor) -> Tensor:
        """Return the cross-entropy of the tokens."""
        return F.cross_entropy(logits_MC, self.next_NV[sequences_B].flatten())


@dataclass(frozen=True)
class Found:
    """What a student says of held-out text.

    Args:
        cross_entropy: of the next token, in nats a token.
        ece: expected calibration error over `BINS` bins of confidence, equally wide.
        top1: share of tokens that it guesses.
    """

    cross_entropy: float
    ece: float
    top1: float


def trained(tokens_NL: Tensor, targets: Targets, classes: int, how: Recipe, seed: int) -> Student:
    """Return a student of the last epoch.

    Args:
        tokens_NL: int64, of the student's vocabulary.
        targets: for all positions of the sequences but their last.
        classes: of the student's vocabulary.
        how: it is trained.
        seed: of its weights and of the order of sequences.
    """
    n, length = tokens_NL.shape
    student = Student(classes, length - 1, how.width, how.depth, how.dropout, seed)
    grouped = [[p for p in student.parameters() if (p.ndim == 2) == is_matrix] for is_matrix in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": grouped[0], "weight_decay": how.decay}, {"params": grouped[1], "weight_decay": 0.0}],
        how.lr, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    n_steps = how.epochs * (n // how.batch)
    schedule = LambdaLR(optimizer, lambda step: _rate(step / n_steps))
    chance = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of dropout
    student.train()
    for _ in range(how.epochs):
        for sequences_B in torch.randperm(n, generator=chance)[: n - n % how.batch].split(how.batch):
            with autocast():
                logits_BVC = student(tokens_NL[sequences_B, :-1])
            loss = targets.loss(logits_BVC.flatten(0, 1), sequences_B)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return student.eval()


def _rate(done: float) -> float:
    return (
        min(done / WARM_UP, (1 + math.cos(math.pi * done)) / 2)
        if done < WARM_UP
        else (1 + math.cos(math.pi * done)) / 2
    )


@torch.inference_mode()
def measured(student: Student, tokens_NL: Tensor) -> Found:
    """Return what a student says of sequences, the mean over all positions."""
    confidence, right, nats = [], [], []
    for tokens_BL in tokens_NL.split(8):
        next_M = tokens_BL[:, 1:].flatten()
        with autocast():
            logits_BVC = student(tokens_BL[:, :-1])
        log_q_MC = logits_BVC.flatten(0, 1).log_softmax(1)
        nats.append(F.nll_loss(log_q_MC, next_M, reduction="none"))
        highest = log_q_MC.max(1)
        confidence.append(highest.values.exp())
        right.append(highest.indices == next_M)
    right_M = torch.cat(right).double()
    return Found(
        float(torch.cat(nats).double().mean()),
        calibration_error(torch.cat(confidence), right_M),
        float(right_M.mean()),
    )


def calibration_error(confidence_M: Tensor, right_M: Tensor) -> float:
    """Return the expected calibration error (Guo et al., 2017, arXiv:1706.04599).

    Args:
        confidence_M: the probability of the guess.
        right_M: 1 where the guess was right, else 0.
    """
    bin_M = (confidence_M.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gap_S = torch.zeros(BINS, dtype=torch.float64).index_add_(
        0, bin_M, confidence_M.double() - right_M.double()
    )
    return float(gap_S.abs().sum() / len(confidence_M))
