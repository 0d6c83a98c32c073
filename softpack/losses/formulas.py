"""Divergences of a student from labels, by the logits of both at one temperature, and their gradients.

Shapes: R rows, M classes (or the classes that are known, and all others as one).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Formula(ABC):
    """A loss of rows of logits, which it leaves as they are. Where 0 is a factor, a class counts for nothing."""

    @abstractmethod
    def rows(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return the loss of each row [R]."""

    @abstractmethod
    def gradient(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return the gradient of each row's own loss with respect to the student's logits [R, M]."""


class ForwardKL(Formula):
    """KL(p || q) of labels p and a student q: the sum of p (ln p - ln q)."""

    def rows(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return it."""
        p_RM, log_q_RM = label_RM.softmax(1), student_RM.log_softmax(1)
        terms_RM = label_RM.log_softmax(1).sub_(log_q_RM).mul_(p_RM)
        return _sum(terms_RM, log_q_RM, p_RM)

    def gradient(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return q - p."""
        return student_RM.softmax(1).sub_(label_RM.softmax(1))


class CrossEntropy(ForwardKL):
    """The sum of -p ln q: what `ForwardKL` is but for the labels' own entropy, so that their gradients are the same."""

    def rows(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return it."""
        p_RM, log_q_RM = label_RM.softmax(1), student_RM.log_softmax(1)
        return _sum(log_q_RM.mul(p_RM), log_q_RM, p_RM).neg_()


class ReverseKL(Formula):
    """KL(q || p): the sum of q (ln q - ln p)."""

    def rows(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return it; inf where the labels give nothing to a class of the student's."""
        return ForwardKL().rows(label_RM, student_RM)

    def gradient(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return q (ln q - ln p - KL)."""
        log_ratio_RM = student_RM.log_softmax(1).sub_(label_RM.log_softmax(1))
        return _centred(student_RM.softmax(1), log_ratio_RM)


@dataclass(frozen=True)
class JensenShannon(Formula):
    """beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q.

    Args:
        beta: weight of the labels, above 0 and below 1.
    """

    beta: float

    def rows(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return it."""
        log_q_RM, log_p_RM = student_RM.log_softmax(1), label_RM.log_softmax(1)
        log_m_RM = self._log_mixture(log_q_RM, log_p_RM)
        of_label_R = _sum(log_p_RM.sub_(log_m_RM).mul_(label_RM.softmax(1)), log_m_RM)
        of_student_R = _sum(log_q_RM.sub_(log_m_RM).mul_(student_RM.softmax(1)), log_m_RM)
        return self.beta * of_label_R + (1 - self.beta) * of_student_R

    def gradient(self, student_RM: Tensor, label_RM: Tensor) -> Tensor:
        """Return (1 - beta) q (ln q - ln m - KL(q || m)): the terms of p drop out."""
        log_q_RM = student_RM.log_softmax(1)
        log_m_RM = self._log_mixture(log_q_RM, label_RM.log_softmax(1))
        return _centred(student_RM.softmax(1), log_q_RM.sub_(log_m_RM)).mul_(1 - self.beta)

    def _log_mixture(self, log_q_RM: Tensor, log_p_RM: Tensor) -> Tensor:
        return torch.logaddexp(log_p_RM + math.log(self.beta), log_q_RM + math.log1p(-self.beta))


def _sum(terms_RM: Tensor, *softmaxes_RM: Tensor) -> Tensor:
    """Return the sum of the terms of each row, of which those that are nan came of 0 times infinity and are nothing.

    A softmax of nan is nan all over its row, and so are the sums of rows in which one of these is. (To look for zeros
    in all classes would take longer than the softmaxes do.)
    """
    sums_R = terms_RM.nansum(1)
    for first_R in (softmax_RM[:, 0] for softmax_RM in softmaxes_RM):
        sums_R = torch.where(first_R.isnan(), first_R, sums_R)
    return sums_R


def _centred(weights_RM: Tensor, values_RM: Tensor) -> Tensor:
    """Return weights (values - the sum of weights values), where 0 times infinity is nothing; both are overwritten."""
    weighted_RM = values_RM.mul_(weights_RM).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return weighted_RM.sub_(weights_RM.mul_(weighted_RM.sum(1, keepdim=True)))
