"""The valid vectors of version 1.5: codecs for language models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vectors_valid import grid, logits, plain

import softpack
from softpack.codecs.head import Head
from softpack.codecs.head.matrix import DTYPES
from softpack.codecs.registry import make_codec
from softpack.container.model import Model
from softpack.container.tables import fit_tables
from softpack.container.tile_writer import code_arrays
from softpack.records import LabelSpec

WIDE = 300  # classes, so that gaps have several bits
HIDDEN_NUMBERS, TOKENS = 16, 40


def sampled(path: Path) -> None:
    """Write draws whose codes are entropy-coded."""
    item, view = grid(20, 30)
    rows = torch.from_numpy(logits(len(item), WIDE) * 2)
    codec = make_codec("sample", LabelSpec(WIDE), {"draws": 20, "common": 100, "draw_seed": 3}).fit([rows])
    tables = fit_tables(codec.codes, code_arrays(codec.encode(rows)), 1 << 20, "codes")
    with softpack.create(path, Model(codec, None, tables), items=20, views=30) as w:
        w.append(rows, item=item, view=view)


def hidden(
    path: Path,
    matrix_dtype: str = "bf16",
    named: bool = False,
    tables: bool = False,
    max_kl: float | None = None,
    **settings: Any,
) -> None:
    """Write hidden states of 16 numbers, and the output matrix of 40 tokens in or beside the file."""
    item, view = grid(6, 10)
    rows = torch.from_numpy(logits(len(item), HIDDEN_NUMBERS)) * torch.arange(HIDDEN_NUMBERS, 0, -1) / 8
    matrix = torch.from_numpy(logits(TOKENS, HIDDEN_NUMBERS, seed=1) / 4).to(DTYPES[matrix_dtype])
    codec = Head.of_matrix(matrix, named=named, **settings).fit([rows])
    arrays = code_arrays(codec.encode(rows))
    model = Model(codec, None, fit_tables(codec.codes, arrays, 1 << 20, "codes") if tables else {})
    with softpack.create(path, model, items=6, views=10, max_kl=max_kl) as w:
        w.append(rows, item=item, view=view)
    if named:
        save_file(
            {"model.norm.weight": matrix[0].clone(), "lm_head.weight": matrix}, path.with_suffix(".safetensors")
        )


VALID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "sample": ("draws and the classes that are common", lambda path: plain(path, "sample", draws=6, common=5)),
    "sample_bare_log_probs_t4": ("draws at T=2 of log-probabilities at T=4, no tensor", lambda path: plain(
        path, "sample", "log_probs", 4.0, draws=3, sampled_at=2.0, common=0)),
    "sample_more_draws_than_classes": ("ranks of all classes, and more draws", lambda path: plain(
        path, "sample", draws=40)),
    "sample_tables": ("draws of 300 classes, entropy-coded", sampled),
    "polyk": ("curves over ranks, and what is left in equal shares", lambda path: plain(
        path, "polyk", k=9, exact_k=3, terms="0,1,sqrt", tail="uniform")),
    "polyk_exact_alone": ("no curve", lambda path: plain(path, "polyk", k=4, exact_k=4, exact_value="fp32")),
    "polyk_curve_alone_probs_t4": ("curves from the first rank on, whose coefficients are in fp16", lambda path: plain(
        path, "polyk", "probs", 4.0, k=8, exact_k=0, terms="exp,0,2", term_value="fp16", solved_in="fp64")),
    "head": ("hidden states, with the output matrix in bf16", lambda path: hidden(path, bits=20.0)),
    "head_fp16": ("an output matrix in fp16, and axes of one width", lambda path: hidden(
        path, "fp16", rank=3, step=0.5, search=0)),
    "head_fp32_tables": ("an output matrix in fp32; levels entropy-coded", lambda path: hidden(
        path, "fp32", tables=True, bits=40.0, search=1)),
    "head_named": ("an output matrix that is not in the file but in the .safetensors beside it", lambda path: hidden(
        path, named=True, bits=20.0)),
    "head_corrected": ("logits that are moved, of more classes than a hidden state has numbers", lambda path: hidden(
        path, bits=12.0, max_kl=0.05)),
    "head_temperatures": ("levels chosen for two temperatures", lambda path: hidden(
        path, bits=20.0, temperatures="1,2")),
}  # fmt: skip
