"""Small causal models, with and without parts, and sequences."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

V, H = 40, 8


class Body(nn.Module):
    """A causal model as small as can be: each state is a running mean of what came before, and where it stands."""

    def __init__(self, seed: int = 0, vocabulary: int = V) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens, self.mix = nn.Embedding(vocabulary, H), nn.Linear(H, H)
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        self.calls.append(tuple(input_ids.shape))
        counts = torch.arange(1, input_ids.shape[1] + 1)[:, None]
        states = self.tokens(input_ids).cumsum(1) / counts + self.tokens(input_ids)
        return SimpleNamespace(last_hidden_state=torch.tanh(self.mix(states)) * 3)


class Model(nn.Module):
    """The same with output embeddings, built as the models of transformers are."""

    base_model_prefix = "model"

    def __init__(self, seed: int = 0, vocabulary: int = V, bias: bool = False) -> None:
        super().__init__()
        self.model = Body(seed, vocabulary)
        self.lm_head = nn.Linear(H, vocabulary, bias=bias)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids, attention_mask).last_hidden_state))


class Capped(Model):
    """The same, with logits that are capped softly."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = super().forward(input_ids, attention_mask).logits
        return SimpleNamespace(logits=torch.tanh(logits / 2) * 2)


class Telling:
    """Its logits say where it stands and what it saw last: class `position` has 50, class 20 + token has 30."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = torch.zeros(*input_ids.shape, V)
        logits.scatter_(2, torch.arange(input_ids.shape[1]).expand(input_ids.shape)[..., None], 50.0)
        return logits.scatter_(2, 20 + input_ids[..., None] % 20, 30.0)


def make_sequences(n: int = 12, longest: int = 18, seed: int = 0) -> list[np.ndarray]:
    """Return sequences of all lengths, one of them empty and one of a single token."""
    random = np.random.default_rng(seed)
    lengths = [*random.integers(2, longest + 1, n - 2).tolist(), 0, 1]
    return [random.integers(0, V, length) for length in random.permutation(lengths)]


def asked(model: nn.Module, tokens: np.ndarray) -> Tensor:
    """Return the logits [L - 1, V] of one sequence, asked alone."""
    tokens_1L = torch.from_numpy(np.asarray(tokens, np.int64))[None]
    with torch.inference_mode():
        given = model(input_ids=tokens_1L, attention_mask=torch.ones_like(tokens_1L))
    return getattr(given, "logits", given)[0, :-1].float()
