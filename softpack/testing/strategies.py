"""Hypothesis strategies for rows. hypothesis is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softpack.codecs.spaces import convert
from softpack.records import SPACES, TEMPERATURES, LabelSpec

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

STEP = 1 / 8  # logits are multiples of it, so that rows hold equal numbers, as fp16 rows do


def label_rows(
    spaces: Sequence[str] = SPACES,
    max_classes: int = 40,
    max_rows: int = 5,
    max_logit: float = 50.0,
) -> SearchStrategy[tuple[LabelSpec, Tensor]]:
    """Return a strategy for a spec and float32 rows [0 to max_rows, 2 to max_classes] of it.

    Equal numbers, constant rows and rows of one certain class come up. Probabilities are rounded to fp16, as
    files hold them, so that some are zero; among log-probabilities those are -inf.

    Args:
        spaces: of the rows.
        max_classes: most classes, at least 2.
        max_rows: most rows.
        max_logit: largest size of a logit at T=1.
    """
    from hypothesis import strategies as st

    most = int(max_logit / STEP)

    @st.composite
    def strategy(draw: st.DrawFn) -> tuple[LabelSpec, Tensor]:
        space = draw(st.sampled_from(list(spaces)))
        temperature = 1.0 if space == "logits" else draw(st.sampled_from(TEMPERATURES))
        spec = LabelSpec(draw(st.integers(2, max_classes)), space, temperature)
        row = st.lists(st.integers(-most, most), min_size=spec.classes, max_size=spec.classes)
        drawn = draw(st.lists(row, max_size=max_rows))
        logits_BC = torch.tensor(drawn, dtype=torch.float32).reshape(len(drawn), spec.classes) * STEP
        return spec, _as_stored(convert(logits_BC, LabelSpec(spec.classes), spec), spec)

    return strategy()


def _as_stored(rows_BC: Tensor, spec: LabelSpec) -> Tensor:
    if spec.space == "logits":
        return rows_BC
    probs_BC = rows_BC if spec.space == "probs" else rows_BC.exp()
    probs_BC = probs_BC.half().float()
    return probs_BC if spec.space == "probs" else probs_BC.log()
