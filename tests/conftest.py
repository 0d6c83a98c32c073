"""What tests of many rooms need."""

from __future__ import annotations

from pathlib import Path

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
