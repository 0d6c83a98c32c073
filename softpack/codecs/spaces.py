"""From one space of labels to another: logits, log-probabilities and probabilities at any temperature.

Logits are only known up to a constant in each row, which no softmax sees.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softpack.errors import CodecError
from softpack.records import LabelSpec

PROB_FLOOR = 1e-8  # below the smallest fp16 number, 6e-8: what a stored zero can stand for


def to_logits(rows_BC: Tensor, spec: LabelSpec) -> Tensor:
    """Return rows of any space as logits: what softmax(logits / T) gives the rows' distribution at T."""
    if spec.space == "logits":
        return rows_BC
    logs_BC = rows_BC if spec.space == "log_probs" else torch.log(rows_BC)
    return logs_BC * spec.temperature


def convert(rows_BC: Tensor, source: LabelSpec, target: LabelSpec) -> Tensor:
    """Return rows of `source` as rows of `target`, float32.

    Zeros among probabilities become -inf among logits and log-probabilities, and zeros again.
    """
    if source == target:
        return rows_BC.float()
    logits_BC = to_logits(rows_BC.float(), source)
    if target.space == "logits":
        return logits_BC
    log_probs_BC = torch.log_softmax(logits_BC / target.temperature, dim=-1)
    return log_probs_BC if target.space == "log_probs" else log_probs_BC.exp()


def log_domain(spec: LabelSpec) -> LabelSpec:
    """Return the space in which codecs model rows of `spec`: probabilities by their logarithms."""
    if spec.space == "probs":
        return LabelSpec(spec.classes, "log_probs", spec.temperature)
    return spec


def to_log_domain(rows_BC: Tensor, spec: LabelSpec) -> Tensor:
    """Return finite float32 rows of `log_domain(spec)`.

    A probability of zero becomes the row's least other one, or `PROB_FLOOR` if that is less. All others stay
    as they are: a confident teacher's tail lies far below the floor at T=1, and is seen again at T=20.

    Raises:
        CodecError: logits are -inf, for classes that were not kept: at T=20 the floor would be much of a row.
    """
    rows_BC = rows_BC.float()
    if spec.space == "logits":
        if bool((rows_BC == -torch.inf).any()):
            raise CodecError(
                "logits are -inf for the classes that were not kept, and the codec would give these a probability, "
                "which at T=20 is no small one; take --codec topk --set k=K --set tail=zero, where K classes are kept "
                "of each row, or --codec raw"
            )
        return rows_BC
    logs_BC = rows_BC.log() if spec.space == "probs" else rows_BC
    least_B1 = torch.where(logs_BC == -torch.inf, torch.inf, logs_BC).amin(dim=-1, keepdim=True)
    return torch.maximum(logs_BC, least_B1.clamp_max(math.log(PROB_FLOOR)))


def centred_logits(rows_BC: Tensor, spec: LabelSpec) -> Tensor:
    """Return rows of `spec` as finite logits whose mean is zero: what rows of all spaces have in common."""
    logits_BC = to_logits(to_log_domain(rows_BC, spec), log_domain(spec))
    return logits_BC - logits_BC.mean(dim=-1, keepdim=True)
