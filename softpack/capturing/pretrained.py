"""Models and tokenizers of transformers, which is imported when one is asked for, and which not everybody has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from softpack.errors import DataError
from softpack.extras import imported
from softpack.relabelling.teacher import load_teacher


def import_transformers() -> Any:
    """Return transformers.

    Raises:
        DataError: it cannot be imported.
    """
    return imported("transformers", "language models take transformers", "language")


def is_named(model: str) -> bool:
    """Return whether a text names a Python function that gives the model, not a folder of it."""
    return ":" in model and not Path(model).exists()


def load_model(model: str, dtype: str = "auto") -> Any:
    """Return a causal language model.

    Args:
        model: folder or name that transformers knows, or MODULE:NAME of a function that returns one.
        dtype: that it computes in; "auto" for that of the checkpoint.

    Raises:
        DataError: there is none, or transformers is missing.
    """
    if is_named(model):
        return load_teacher(model)
    transformers = import_transformers()
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().exists():
        raise DataError(
            f"{model}: there is no such folder; expected one of a model (config.json and its weights), or a name that "
            "transformers knows"
        )
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{model}: is no causal language model that transformers can load: {_first_line(error)}"
        ) from None


def load_tokenizer(tokenizer: str | None, model: str, data: str) -> Any:
    """Return the tokenizer of a model, or another; None where there is none and `data` may be ids.

    Raises:
        DataError: there is none, and it was asked for, or transformers is missing.
    """
    if tokenizer is None and is_named(model):
        return None
    transformers = import_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(tokenizer or model)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if tokenizer is None and Path(data).suffix.lower() != ".txt":
            return None  # where texts come, they are refused
        raise DataError(
            f"{tokenizer or model}: holds no tokenizer that transformers can load: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
