"""DistillKit's own program (arcee-ai/DistillKit, Apache-2.0), where there is a copy of it; nothing of it is here.

Shapes in names: V positions, C tokens of the vocabulary, K kept ones.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softpack.codecs.sparse import SparseRows
from softpack.records import LabelSpec

_folder: Path | None = None


def use(folder: Path | None) -> None:
    """Take the program from a clone of its repository; None for there is none."""
    global _folder
    _folder = folder


def why_not() -> str:
    """Return why it cannot be run, "" where it can."""
    if _folder is None:
        return "give --distillkit DIR, a clone of github.com/arcee-ai/DistillKit"
    try:
        _compressor(2, 1, 1, (0,))
    except ImportError as error:
        return f"{_folder}: {error}"
    return ""


@lru_cache
def _compressor(d: int, k: int, exact_k: int, polynomial_terms: tuple[int | str, ...]) -> Any:
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
    program = importlib.import_module("distillkit.compression")
    config = program.DistributionQuantizationConfig(
        d=d, k=k, exact_k=exact_k, exact_dtype="bfloat16", polynomial_terms=list(polynomial_terms),
        term_dtype="float32", residual_bins=[], delta_encoding=False, error_diffusion=False,
    )  # fmt: skip
    return program.LogprobCompressor(config)


def roundtrip(logits_VC: Tensor, k: int, exact_k: int, polynomial_terms: tuple[int | str, ...]) -> SparseRows:
    """Return what it gives back of rows, and nothing for the tokens that it did not keep."""
    n_classes = logits_VC.shape[1]
    program = _compressor(n_classes, k, exact_k, polynomial_terms)
    ids_VK, log_probs_VK = program.decompress_to_sparse(program.compress(logits_VC.log_softmax(1)))
    nothing_V = torch.full((len(ids_VK),), -torch.inf)
    return SparseRows(LabelSpec(n_classes, "log_probs"), ids_VK.long(), log_probs_VK.float(), fill_B=nothing_V)
