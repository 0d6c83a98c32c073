"""Fingerprints of what labels of language come from: the teacher and its tokenizer. `formats/spk.md` defines them.

No torch is imported before there is a teacher.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from softpack.errors import DataError

OF_A_CALL = ("truncation", "padding")  # of a tokenizer: how it was last called, not what it is


def teacher_fingerprint(teacher: Any, counted: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Return SHA-256 over the names, shapes, dtypes and bytes of a module's state dict, in the order of names.

    Args:
        teacher: torch module.
        counted: is told (bytes done, bytes in all).
    """
    import torch

    state = {name: tensor for name, tensor in teacher.state_dict().items() if isinstance(tensor, torch.Tensor)}
    total, done = sum(tensor.nbytes for tensor in state.values()), 0
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{dtype}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        done += tensor.nbytes
        counted(done, total)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return SHA-256 over what a Hugging Face tokenizer is: its vocabulary, its merges and its special tokens.

    Of a fast one that is the JSON of its backend, keys sorted, without truncation and padding, which calls change. Of
    any other it is the vocabulary, by id, and the special tokens.

    Raises:
        DataError: it is no tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        found = {name: part for name, part in json.loads(backend.to_str()).items() if name not in OF_A_CALL}
    elif hasattr(tokenizer, "get_vocab"):
        by_id = sorted((number, token) for token, number in tokenizer.get_vocab().items())
        found = {"vocabulary": by_id, "special": dict(getattr(tokenizer, "special_tokens_map", {}))}
    else:
        raise DataError(
            f"a {type(tokenizer).__name__} is no tokenizer; expected one of transformers or tokenizers"
        )
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
