"""Find a codec by its id: softpack's own, then those of installed packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from softpack.codecs.abc import Codec
from softpack.errors import CodecError, UnsupportedError
from softpack.records import LabelSpec

ENTRY_POINTS = "softpack.codecs"
BUILT_IN = {
    "raw": "softpack.codecs.raw:Raw",
    "quantize": "softpack.codecs.quantize:Quantize",
    "topk": "softpack.codecs.topk:TopK",
    "lowrank": "softpack.codecs.lowrank:LowRank",
    "vqae": "softpack.codecs.vqae:VQAE",
}


def codec_ids() -> list[str]:
    """Return the ids of all codecs that can be used here."""
    return [*BUILT_IN, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))]


def codec_class(codec_id: str) -> type[Codec]:
    """Return the class of a codec.

    Raises:
        UnsupportedError: no codec of that id is installed.
    """
    if codec_id in BUILT_IN:
        module, name = BUILT_IN[codec_id].split(":")
        return getattr(importlib.import_module(module), name)
    for entry in entry_points(group=ENTRY_POINTS, name=codec_id):
        return _checked(entry.load(), codec_id)
    raise UnsupportedError(
        f"codec {codec_id!r} is not known here; found {', '.join(codec_ids())}. "
        f"Install the package that brings it (entry-point group {ENTRY_POINTS}), or a later softpack"
    )


def make_codec(codec_id: str, spec: LabelSpec, config: Mapping[str, Any]) -> Codec:
    """Return a codec from the settings that `get_config` gave.

    Raises:
        UnsupportedError: no codec of that id is installed.
        CodecError: a setting is unknown or out of range.
    """
    cls = codec_class(codec_id)
    try:
        return cls(spec, **config)
    except TypeError as error:
        known = [name for name in cls.__dataclass_fields__ if name not in ("spec", "tensors")]
        raise CodecError(
            f"codec {codec_id}: {error}; its settings are {', '.join(known) or 'none'}"
        ) from None


def _checked(cls: Any, codec_id: str) -> type[Codec]:
    if not (isinstance(cls, type) and issubclass(cls, Codec)) or cls.codec_id != codec_id:
        raise CodecError(f"entry point {codec_id!r} gives {cls!r}; expected a softpack Codec with that codec_id")
    return cls
