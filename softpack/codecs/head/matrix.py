"""The output matrix of a language model: logits are hidden states times it. It is in the file, or named by its hash.

Shapes: V tokens, H numbers of a hidden state.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softpack.errors import CodecError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HASHED_BYTES = 1 << 24  # at a time
# How output matrices are named in checkpoints; the last two are embeddings, which make logits where nothing else does.
ENDINGS = ("lm_head.weight", "embed_out.weight", "embed_tokens.weight", "wte.weight")
# What models of transformers do to logits after the matrix, by its name in their configuration; 1 and null do nothing.
CHANGES = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier",
)  # fmt: skip


def matrix_hash(matrix_VH: Tensor) -> str:
    """Return the SHA-256 of a matrix: of its numbers in C order, little-endian, in their own dtype."""
    digest = hashlib.sha256()
    bytes_ = matrix_VH.detach().cpu().contiguous().view(torch.uint8).reshape(-1)
    for start in range(0, len(bytes_), HASHED_BYTES):
        digest.update(bytes_[start : start + HASHED_BYTES].numpy().data)
    return digest.hexdigest()


def find_matrix(
    given: Tensor | str | os.PathLike[str], dtype: str, shape: tuple[int, int], sha256: str, where: str
) -> Tensor:
    """Return the matrix that a file names, from a tensor or from safetensors: a file, or a folder of them.

    Raises:
        CodecError: it is not there; the message says what is.
    """
    if not isinstance(given, (Tensor, str, os.PathLike)):
        raise CodecError(
            f"{where}: the output matrix is {type(given).__name__}; expected a tensor, or a path to safetensors"
        )
    found = []
    for name, matrix_VH in (
        [("the tensor", given)] if isinstance(given, Tensor) else _tensors_of(Path(given), shape)
    ):
        is_like = tuple(matrix_VH.shape) == shape and matrix_VH.dtype in NAMES
        said = f"{name}, {NAMES.get(matrix_VH.dtype, matrix_VH.dtype)} {list(matrix_VH.shape)}"
        if is_like:  # models are loaded in other dtypes than their checkpoint's
            as_named_VH = matrix_VH.to(DTYPES[dtype])
            found_sha256 = matrix_hash(as_named_VH)
            if found_sha256 == sha256:
                return as_named_VH
            said += f"{'' if as_named_VH is matrix_VH else f', as {dtype}'} of {found_sha256[:16]}..."
        found.append(said)
    raise CodecError(
        f"{where}: needs the output matrix {dtype} {list(shape)} of SHA-256 {sha256[:16]}..., and found "
        f"{'; '.join(found[:4]) or f'no tensor of that shape in {given}'}; give the checkpoint of the teacher that the "
        "labels are of"
    )


def read_matrix(path: str | os.PathLike[str], width: int) -> Tensor:
    """Return the output matrix [V, H] of a checkpoint, found by its name, for hidden states of `width` numbers.

    Args:
        path: of a safetensors file, or of a folder of them; a config.json beside them is looked at.
        width: H.

    Raises:
        CodecError: there is none, it cannot be told which one it is, or it is not all that makes logits.
    """
    _check_plain(Path(path))
    shapes = {name: shape for name, shape, _ in _entries_of(Path(path))}
    likely = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == width]
    named = [name for ending in ENDINGS for name in likely if name.endswith(ending)]
    chosen = named[0] if named else likely[0] if len(likely) == 1 else ""
    if not chosen:
        found = ", ".join(f"{name} {list(shapes[name])}" for name in likely[:4])
        raise CodecError(
            f"{path}: which tensor is the output matrix [tokens, {width}] is not to be seen; found "
            f"{found or f'none with {width} columns'}; give safetensors with a tensor lm_head.weight"
        )
    if (bias := chosen.removesuffix("weight") + "bias") in shapes:
        raise CodecError(
            f"{path}: logits are {chosen} times hidden states and {bias} besides, and codec head knows of no bias; "
            "encode logits by --codec klt"
        )
    return next(load() for name, _, load in _entries_of(Path(path)) if name == chosen)


def changes_in(setting: Callable[[str], Any]) -> list[str]:
    """Return which settings of a model's configuration change logits after the matrix, or states before it."""
    changes = [name for name in CHANGES if setting(name) not in (None, 1)]
    if setting("dim_model_base") not in (None, setting("hidden_size")):  # MiniCPM divides states by their ratio
        changes.append("dim_model_base")
    return changes


def _check_plain(path: Path) -> None:
    """Refuse a model whose configuration says that something follows the matrix."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError):  # a checkpoint alone does not say
        return
    parts = [config, config.get("text_config")] if isinstance(config, dict) else []
    changes = [change for part in parts if isinstance(part, dict) for change in changes_in(part.get)]
    if changes:
        raise CodecError(
            f"{file}: logits are changed after the output matrix ({', '.join(changes)}), and codec head decodes by the "
            "matrix alone; encode logits by --codec klt or topk"
        )


def _tensors_of(path: Path, shape: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a shape that safetensors hold."""
    for name, found, load in _entries_of(path):
        if found == shape:
            yield name, load()


def _entries_of(path: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Yield name and shape of all tensors in safetensors, and what reads each while it is the one that was yielded."""
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dict
                    yield name, tuple(tensors.get_slice(name).get_shape()), partial(tensors.get_tensor, name)
        except (SafetensorError, OSError) as error:
            raise CodecError(f"{file}: is no safetensors file: {error}") from None
