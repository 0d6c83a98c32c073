"""What tests of many rooms need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from softpack.records import LabelSpec
from softpack.testing import random_rows

# A loaded machine is no failure.
settings.register_profile("softpack", deadline=None, max_examples=50)
settings.load_profile("softpack")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real label sets; the test skips where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no label sets at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def spec() -> LabelSpec:
    """Logits of 100 classes."""
    return LabelSpec(classes=100)


@pytest.fixture(name="logits_BC")
def logits(spec: LabelSpec) -> Tensor:
    """64 rows [64, 100] with the spectrum of a classifier's, rounded to fp16 as teachers' are."""
    return random_rows(spec, n_rows=64).half().to(torch.float32)


def views_of_items(
    items: int = 30, views: int = 8, classes: int = 12, mixed: float = 0.0, seed: int = 0, side: int = 32
) -> dict[str, np.ndarray]:
    """Return what `np.savez` makes a source of: logits [N, V, C] of views that are near their item's mean.

    A share `mixed` of the views is CutMix of two items, in pictures of `side` pixels; their rows are sums of both
    items' by area.
    """
    random = np.random.default_rng(seed)
    factors_FC = random.normal(size=(6, classes))
    means_N1C = 1.5 * random.normal(size=(items, 1, 6)) @ factors_FC
    logits_NVC = means_N1C + 0.5 * random.normal(size=(items, views, 6)) @ factors_FC
    logits_NVC += 0.1 * random.normal(size=logits_NVC.shape)
    arrays = {"logits": logits_NVC.astype("f2")}
    if mixed:
        is_mixed_NV = random.random((items, views)) < mixed
        partner_NV = np.where(is_mixed_NV, random.integers(0, items, (items, views)), -1)
        corner_NV2 = random.integers(0, side // 2, (items, views, 2))
        size_NV2 = random.integers(side // 4, side // 2 + 1, (items, views, 2))
        boxes_NV4 = np.concatenate([corner_NV2, corner_NV2 + size_NV2], 2)
        boxes_NV4[..., 2:][boxes_NV4[..., 2:] > 3 * side // 4] = side
        share_NV1 = np.where(is_mixed_NV, np.prod(boxes_NV4[..., 2:] - boxes_NV4[..., :2], 2) / side**2, 0)[
            ..., None
        ]
        other_NVC = logits_NVC[np.maximum(partner_NV, 0), np.arange(views)]
        arrays["logits"] = ((1 - share_NV1) * logits_NVC + share_NV1 * other_NVC).astype("f2")
        arrays["mix_item"] = partner_NV.astype("i4")
        arrays["mix_box_xyxy"] = np.where(is_mixed_NV[..., None], boxes_NV4, -1).astype("i4")
    return arrays


@pytest.fixture(scope="session", name="views_of_items")
def views_of_items_() -> Callable[..., dict[str, np.ndarray]]:
    """`views_of_items(items, views, classes, mixed, seed, side)`: the arrays of a source."""
    return views_of_items
