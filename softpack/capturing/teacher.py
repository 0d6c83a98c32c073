"""The teacher: a causal language model, asked for the logits after every token of a batch.

Shapes in names: B sequences of a batch, L tokens of the longest, N positions, H numbers of a hidden state, V tokens of
the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softpack.codecs.head.matrix import changes_in
from softpack.errors import DataError
from softpack.relabelling.teacher import at_work

PROBED = 16  # tokens that tell how a model is built
FULL = 1e-4  # of the largest logit, by which those of two ways may differ in float32,
HALF = 3e-2  # and in half precision


@dataclass(frozen=True)
class Parts:
    """A model in two: what gives hidden states after the final norm, and what makes logits of them.

    Args:
        body: gives `last_hidden_state` [B, L, H].
        head: gives logits [N, V] of states [N, H].
    """

    body: Callable[..., Any]
    head: nn.Module


class LanguageTeacher:
    """Asks a model in eval mode and without gradients.

    Args:
        model: a causal language model of transformers, or anything that is called as
            `model(input_ids=..., attention_mask=...)`, int64 [B, L] each, and gives logits [B, L, V], or something that
            has them as `logits`. Sequences are padded on the right.
        device: where it is moved to; None leaves it where it is.

    Raises:
        DataError: it cannot be called.
    """

    def __init__(self, model: Any, device: torch.device | str | None = None) -> None:
        if not callable(model):
            raise DataError(
                f"the teacher is a {type(model).__name__}; expected a causal language model, called as "
                "model(input_ids=..., attention_mask=...)"
            )
        self.model = model
        if isinstance(model, nn.Module) and device is not None:
            model.to(device)
        first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
        self.device = torch.device(device or "cpu") if first is None else first.device
        self.parts: Parts | None = None
        self.classes = 0

    def at_work(self) -> AbstractContextManager[None]:
        """Put the model into eval mode, and back when it is done."""
        return at_work([self.model]) if isinstance(self.model, nn.Module) else nullcontext()

    @property
    def n_inputs(self) -> int:
        """Tokens that the model knows."""
        find = getattr(self.model, "get_input_embeddings", None)
        embedding = find() if callable(find) else None
        return int(getattr(embedding, "num_embeddings", self.classes))

    @property
    def longest(self) -> int | None:
        """Tokens of a sequence that the model has positions for; None where it does not say."""
        found = getattr(_text_config_of(self.model), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def probe(self, tokens_L: np.ndarray) -> Tensor:
        """Find out how the model is built, by some tokens of a sequence; return its logits [L, V] of them.

        Raises:
            DataError: it gives no logits of each token.
        """
        tokens_1L = torch.from_numpy(tokens_L[:PROBED].astype(np.int64))[None].to(self.device)
        mask_1L = torch.ones_like(tokens_1L)
        with torch.inference_mode():
            logits_LV = self._whole(tokens_1L, mask_1L)[0].float()
            self.classes = logits_LV.shape[1]
            self.parts = _parts_of(self.model)
            if self.parts is not None:
                try:
                    found_LV = self.parts.head(self.states(tokens_1L, mask_1L)[0])
                except (TypeError, AttributeError, RuntimeError):  # it is built otherwise
                    found_LV = torch.empty(0)
                if not _is_close(found_LV.float().to(logits_LV.device), logits_LV, found_LV.dtype):
                    self.parts = None  # something follows the matrix
        return logits_LV

    def matrix(self, tokens_L: np.ndarray) -> Tensor:
        """Return the matrix [V, H] that makes logits of hidden states, all that makes them.

        Raises:
            DataError: more than a matrix does.
        """
        logits_LV = self.probe(tokens_L)
        changes = _changes_of(self.model)
        weight_VH = None if self.parts is None else getattr(self.parts.head, "weight", None)
        fault = "its hidden states and its output embeddings cannot be told apart, or something follows these"
        if changes:
            fault = f"its logits are changed after the matrix ({', '.join(changes)})"
        elif self.parts is not None and getattr(self.parts.head, "bias", None) is not None:
            fault = "its output embeddings have a bias"
        elif self.parts is not None and isinstance(weight_VH, Tensor):
            tokens_1L = torch.from_numpy(tokens_L[:PROBED].astype(np.int64))[None].to(self.device)
            with torch.inference_mode():
                states_LH = self.states(tokens_1L, torch.ones_like(tokens_1L))[0]
                found_LV = states_LH.to(weight_VH.device).float() @ weight_VH.float().T
                if _is_close(found_LV.to(logits_LV.device), logits_LV, states_LH.dtype):
                    return weight_VH.detach()
            fault = "its logits are not its last hidden states times its output embeddings"
        raise DataError(
            f"the teacher {type(self.model).__name__} does not suit codec head: {fault}; take --codec klt or topk, "
            "which code the logits themselves"
        )

    def states(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return what `logits` makes logits of: hidden states [B, L, H], or the logits themselves [B, L, V]."""
        if self.parts is None:
            return self._whole(tokens_BL, mask_BL)
        found: Tensor = _called(self.parts.body, self.model, tokens_BL, mask_BL).last_hidden_state
        return found

    def logits(self, states_NX: Tensor) -> Tensor:
        """Return logits float32 [N, V] of some states."""
        return (states_NX if self.parts is None else self.parts.head(states_NX)).float()

    def _whole(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        given = _called(self.model, self.model, tokens_BL, mask_BL)
        logits_BLV = getattr(given, "logits", given)
        shape = tuple(tokens_BL.shape)
        if not isinstance(logits_BLV, Tensor) or logits_BLV.ndim != 3 or logits_BLV.shape[:2] != shape:
            found = list(logits_BLV.shape) if isinstance(logits_BLV, Tensor) else type(given).__name__
            raise DataError(
                f"the teacher gives {found} for tokens of shape {list(shape)}; expected logits of every token, "
                f"[{shape[0]}, {shape[1]}, vocabulary]"
            )
        return logits_BLV


def _called(part: Callable[..., Any], model: Any, tokens_BL: Tensor, mask_BL: Tensor) -> Any:
    # Models of transformers would keep keys and values.
    more = {"use_cache": False} if hasattr(model, "config") and _takes(part, "use_cache") else {}
    return part(input_ids=tokens_BL, attention_mask=mask_BL, **more)


def _takes(part: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(part.forward if isinstance(part, nn.Module) else part).parameters
    except (TypeError, ValueError):  # it does not say
        return False
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _parts_of(model: Any) -> Parts | None:
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    body = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if head is None or body is None or body is model or _changes_of(model):
        return None
    return Parts(body, head)


def _changes_of(model: Any) -> list[str]:
    configs = {id(config): config for config in (getattr(model, "config", None), _text_config_of(model))}
    return [change for c in configs.values() for change in changes_in(lambda name: getattr(c, name, None))]  # noqa: B023


def _text_config_of(model: Any) -> Any:
    """Return the configuration of a model, or of the part of it that knows language."""
    config = getattr(model, "config", None)
    of_text = getattr(config, "get_text_config", None)
    return of_text() if callable(of_text) else config


def _is_close(found_LV: Tensor, expected_LV: Tensor, dtype: torch.dtype) -> bool:
    if found_LV.shape != expected_LV.shape:
        return False
    known = torch.isfinite(expected_LV)
    if not torch.equal(torch.isfinite(found_LV), known):
        return False
    tolerance = FULL if dtype == torch.float32 else HALF
    off = torch.where(known, found_LV - expected_LV, 0).abs().max()
    return bool(off <= tolerance * torch.where(known, expected_LV, 0).abs().max())
