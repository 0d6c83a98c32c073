"""Find a codec by its id: softpack's own, then those of installed packages. No torch until one is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from softpack.errors import CodecError, UnsupportedError
from softpack.records import HIDDEN, LabelSpec

if TYPE_CHECKING:
    from softpack.codecs.abc import Codec

ENTRY_POINTS = "softpack.codecs"
BUILT_IN = {
    "raw": "softpack.codecs.raw:Raw",
    "quantize": "softpack.codecs.quantize:Quantize",
    "topk": "softpack.codecs.topk:TopK",
    "lowrank": "softpack.codecs.lowrank:LowRank",
    "vqae": "softpack.codecs.vqae:VQAE",
    "klt": "softpack.codecs.klt:KLT",
    "head": "softpack.codecs.head:Head",
    "sample": "softpack.codecs.sample:Sample",
    "polyk": "softpack.codecs.polyk:PolyK",
}


def codec_ids() -> list[str]:
    """Return the ids of all codecs that can be used here."""
    return [*BUILT_IN, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))]


def check_codec_id(codec_id: str) -> None:
    """Check that there is a codec of that id.

    Raises:
        UnsupportedError: none is installed.
    """
    if codec_id not in BUILT_IN and codec_id not in codec_ids():
        raise UnsupportedError(
            f"codec {codec_id!r} is not known here; found {', '.join(codec_ids())}. "
            f"Install the package that brings it (entry-point group {ENTRY_POINTS}), or a later softpack"
        )


def codec_class(codec_id: str) -> type[Codec]:
    """Return the class of a codec.

    Raises:
        UnsupportedError: no codec of that id is installed.
    """
    check_codec_id(codec_id)
    if codec_id in BUILT_IN:
        module, name = BUILT_IN[codec_id].split(":")
        return _checked(getattr(importlib.import_module(module), name), codec_id)
    (entry, *_) = entry_points(group=ENTRY_POINTS, name=codec_id)
    return _checked(entry.load(), codec_id)


def make_codec(
    codec_id: str, spec: LabelSpec, config: Mapping[str, Any], target_bits: float | None = None
) -> Codec:
    """Return a codec from its settings, as `get_config` gave them or as text.

    Args:
        codec_id: of the codec.
        spec: what the rows are that it takes.
        config: settings by name; text becomes the number that the setting is.
        target_bits: bits a label at most; chooses the settings that `config` leaves open.

    Raises:
        UnsupportedError: no codec of that id is installed.
        CodecError: a setting is unknown or out of range, or the target cannot be met.
    """
    cls = codec_class(codec_id)
    settings = typed_settings(codec_id, config)
    if spec.space == HIDDEN not in cls.spaces:
        raise CodecError(
            f"codec {codec_id} takes rows of {', '.join(cls.spaces)}; these are hidden states of a language model, of "
            "which codec head makes logits; take --codec head"
        )
    if target_bits is None:
        return cls(spec, **settings)
    return cls.at_bits(spec, target_bits, **settings)


def codec_of_matrix(
    codec_id: str,
    matrix_VH: Any,
    width: int | None,
    config: Mapping[str, Any],
    target_bits: float | None = None,
    *,
    inside: bool = True,
    where: str,
) -> Codec:
    """Return a codec of hidden states for a teacher's output matrix.

    Args:
        codec_id: of the codec; "head" alone has a use for a matrix.
        matrix_VH: a tensor [tokens, numbers of a hidden state].
        width: numbers of a row, where that is known.
        config: settings by name, numbers may be text.
        target_bits: bits a label at most.
        inside: store the matrix in the file. Else the file names it by its hash.
        where: for messages.

    Raises:
        CodecError: the codec has no use for one, or it is not a matrix of the rows' width.
    """
    if codec_id != "head":
        raise CodecError(
            f"{where}: codec {codec_id} has no use for an output matrix; leave matrix= out, or take head"
        )
    from softpack.codecs.head import Head

    shape = tuple(getattr(matrix_VH, "shape", ()))
    if len(shape) != 2 or width not in (None, shape[1]):
        found = list(shape) or type(matrix_VH).__name__
        raise CodecError(
            f"{where}: the output matrix is {found}; expected a tensor [tokens, {width or 'width of the rows'}]"
        )
    settings = typed_settings(codec_id, config)
    if target_bits is not None:
        settings = {"bits": float(target_bits), **settings}
    return Head.of_matrix(matrix_VH, named=not inside, **settings)


def typed_settings(codec_id: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose text has become the numbers that they are.

    Raises:
        UnsupportedError: no codec of that id is installed.
        CodecError: a setting is unknown, or is no number where it should be.
    """
    types = setting_kinds(codec_id)
    unknown = [name for name in config if name not in types]
    if unknown:
        raise CodecError(
            f"codec {codec_id} has no setting {', '.join(unknown)}; its settings are {', '.join(types) or 'none'}"
        )
    return {name: _typed(codec_id, name, value, types[name]) for name, value in config.items()}


def setting_names(codec_id: str) -> dict[str, bool]:
    """Return the names of a codec's settings, and whether each must be said."""
    return {f.name: "later" not in f.metadata for f in codec_class(codec_id).setting_fields()}


def setting_kinds(codec_id: str) -> dict[str, str]:
    """Return the names of a codec's settings, and the type that each declares, such as "int"."""
    fields = codec_class(codec_id).setting_fields()
    return {f.name: f.type if isinstance(f.type, str) else f.type.__name__ for f in fields}


def _typed(codec_id: str, name: str, value: Any, kind: str) -> Any:
    """Return a setting as the type that its field declares: files and the command line hold text."""
    if not isinstance(value, str) or kind not in ("int", "float", "bool"):
        return value
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return int(value) if kind == "int" else float(value)
    except (ValueError, KeyError):
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false"}[kind]
        raise CodecError(f"codec {codec_id}: {name} is {value!r}; expected {expected}") from None


def _checked(cls: Any, codec_id: str) -> type[Codec]:
    from softpack.codecs.abc import Codec

    if not (isinstance(cls, type) and issubclass(cls, Codec)) or cls.codec_id != codec_id:
        raise CodecError(
            f"entry point {codec_id!r} gives {cls!r}; expected a softpack Codec with that codec_id"
        )
    return cls
