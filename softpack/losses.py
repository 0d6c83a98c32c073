"""Losses between a student's logits and soft labels, as the recipes of the field have them.

    loss = softpack.losses.kl(student_BC, label_BC, temperature=20)

Labels are float32 [B, C] as `labels.read` and `SoftLabelDataset` give them: logits, or rows of the space that
`spec=labels.spec` says. All is computed in float32, under `torch.autocast` too, and is the mean over rows in nats.

Shapes in names: B rows, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from softpack.codecs.spaces import to_logits
from softpack.errors import DataError
from softpack.records import LabelSpec


def kl(
    student_BC: Tensor,
    label_BC: Tensor,
    temperature: float = 1.0,
    *,
    squared: bool = True,
    spec: LabelSpec | None = None,
) -> Tensor:
    """Return KL(label || student) at a temperature (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531).

    SRe2L, CDA and RDED train by it at T = 20, without the factor T^2.

    Args:
        student_BC: logits of the student.
        label_BC: soft labels.
        temperature: T, by which the logits of both are divided.
        squared: times T^2, so that gradients keep their size whatever T is.
        spec: of the labels; logits by default.

    Raises:
        DataError: shapes differ, or the temperature is not above 0.
    """
    target_BC, student_BC = _log_probs(student_BC, label_BC, temperature, spec)
    terms_BC = target_BC.exp() * (target_BC - student_BC)
    terms_BC = terms_BC.masked_fill(target_BC == -torch.inf, 0.0)  # a class without mass says nothing
    return terms_BC.sum(1).mean() * (temperature**2 if squared else 1.0)


def temperature(epoch: int, start: float, factor: float = 1.0, every: int = 1, least: float = 1.0) -> float:
    """Return a temperature that is multiplied by `factor` after every so many epochs, down to `least`.

    LPQLD (arXiv:2604.18135) trains with start=20, factor=0.7 and every=30 epochs of 300.

    Raises:
        DataError: one of them is out of range.
    """
    if epoch < 0 or every < 1 or not (start > 0 and 0 < factor <= 1 and least > 0):
        raise DataError(
            f"temperature: epoch is {epoch}, start {start}, factor {factor}, every {every}, least {least}; expected an "
            "epoch from 0, positive temperatures, a factor above 0 and up to 1, and 1 epoch or more"
        )
    return max(start * factor ** (epoch // every), min(least, start))


def soft_cross_entropy(
    student_BC: Tensor,
    label_BC: Tensor,
    temperature: float = 1.0,
    *,
    squared: bool = False,
    spec: LabelSpec | None = None,
) -> Tensor:
    """Return the cross-entropy of the student under the labels: `kl` and the labels' own entropy, as FKD trains.

    The arguments and errors are those of `kl`.
    """
    target_BC, student_BC = _log_probs(student_BC, label_BC, temperature, spec)
    return -(target_BC.exp() * student_BC).sum(1).mean() * (temperature**2 if squared else 1.0)


def logits_mse(
    student_BC: Tensor,
    label_BC: Tensor,
    target_B: Tensor | None = None,
    hard: float = 0.0,
    *,
    spec: LabelSpec | None = None,
) -> Tensor:
    """Return the squared error of logits, the mean over classes, and `hard` times the cross-entropy of hard labels.

    So train G-VBSM (arXiv:2311.17950) and EDC (arXiv:2404.13733). Logits are taken less their mean over the classes:
    the constant of a row, which codecs do not keep and no softmax sees, does not count.

    Args:
        student_BC: logits of the student.
        label_BC: soft labels.
        target_B: int64 classes; needed where `hard` is not 0.
        hard: weight of the hard labels.
        spec: of the labels; logits by default.

    Raises:
        DataError: shapes differ, hard labels are missing, or a label has a class without mass.
    """
    _check_shapes(student_BC, label_BC)
    with torch.autocast(student_BC.device.type, enabled=False):
        student_BC, label_BC = student_BC.float(), to_logits(label_BC.float(), spec or _logits(label_BC))
        if not bool(torch.isfinite(label_BC).all()):
            raise DataError(
                "logits_mse: a label gives a class no mass at all, which is a logit of -inf; take kl, or "
                "soft_cross_entropy"
            )
        loss = F.mse_loss(_centred(student_BC), _centred(label_BC))
        if not hard:
            return loss
        if target_B is None:
            raise DataError(f"logits_mse: hard is {hard:g}, but there are no hard labels; give target_B")
        return loss + hard * F.cross_entropy(student_BC, target_B)


def _log_probs(
    student_BC: Tensor, label_BC: Tensor, temperature: float, spec: LabelSpec | None
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities at a temperature, of labels and of the student."""
    _check_shapes(student_BC, label_BC)
    if not temperature > 0:
        raise DataError(f"the temperature is {temperature}; expected a number above 0")
    with torch.autocast(student_BC.device.type, enabled=False):
        label_BC = to_logits(label_BC.float(), spec or _logits(label_BC))
        return tuple(  # type: ignore[return-value]
            torch.log_softmax(rows_BC / temperature, 1) for rows_BC in (label_BC, student_BC.float())
        )


def _check_shapes(student_BC: Tensor, label_BC: Tensor) -> None:
    if student_BC.ndim != 2 or student_BC.shape != label_BC.shape:
        raise DataError(
            f"the student gives {list(student_BC.shape)} and the labels are {list(label_BC.shape)}; expected the same "
            "[rows, classes] of both"
        )


def _logits(label_BC: Tensor) -> LabelSpec:
    return LabelSpec(label_BC.shape[1])


def _centred(logits_BC: Tensor) -> Tensor:
    return logits_BC - logits_BC.mean(1, keepdim=True)
