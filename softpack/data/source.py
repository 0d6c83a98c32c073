"""Labels that a dataset can be made of: read from the file as they are asked for, or held in memory."""

from __future__ import annotations

from typing import TypeAlias

from softpack.container.reader import Labels
from softpack.container.resident import ResidentLabels

LabelSource: TypeAlias = Labels | ResidentLabels
