"""A small teacher and small images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from relabelling_helpers import Images, make_teacher


@pytest.fixture
def teacher() -> nn.Module:
    return make_teacher()


@pytest.fixture
def images() -> Images:
    return Images()
