"""The model in a file: a codec's tensors as safetensors, with or without its encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from softpack.codecs.abc import Codec
from softpack.codecs.registry import make_codec, setting_names
from softpack.container.file import SpkFile
from softpack.errors import CodecError, CorruptError, UnsupportedError
from softpack.format.layout import BlockType, ModelPart

MAX_TENSORS = 4096
NAME = re.compile(r"[A-Za-z0-9_.]{1,128}")


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as safetensors without metadata, whose bytes are the same every time."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )


def unpack_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        CorruptError: they are not valid, too many, or of odd names.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise CorruptError(f"{where}: the model is not valid safetensors: {error}") from None
    if len(tensors) > MAX_TENSORS or not all(NAME.fullmatch(name) for name in tensors):
        raise CorruptError(
            f"{where}: a model has at most {MAX_TENSORS} tensors, named in A-Z, a-z, 0-9, _ and ."
        )
    return tensors


def load_codec(file: SpkFile) -> Codec:
    """Return the codec of a file with its tensors; with its encoder where the file has one.

    Raises:
        UnsupportedError: the codec is not installed.
        CorruptError: settings, tensors and header do not fit together.
    """
    header = file.header
    where = f"{file.name}, codec {header.codec_id}"
    _check_settings(header.codec_id, header.config, where)
    tensors = model_tensors(file, ModelPart.DECODER)
    encoder = model_tensors(file, ModelPart.ENCODER)
    if tensors.keys() & encoder.keys():
        raise CorruptError(
            f"{where}: {', '.join(sorted(tensors.keys() & encoder.keys()))} stand in both models"
        )
    try:
        codec = make_codec(header.codec_id, header.takes, header.config).load_state(tensors | encoder)
    except CodecError as error:
        raise CorruptError(f"{where}: {error}") from None
    declared = tuple((a.name, a.shape, a.kind, a.bits, a.levels) for a in header.streams[0].arrays)
    expected = tuple((a.name, a.shape, "uint", a.bits, a.levels) for a in codec.codes)
    if declared != expected or codec.gives != header.gives:
        raise CorruptError(f"{where}: the file declares the codes {declared}, but its settings make {expected}")
    return codec


def _check_settings(codec_id: str, config: Mapping[str, Any], where: str) -> None:
    """Check that a file says all settings of its codec: what a default is may differ elsewhere."""
    try:
        known = setting_names(codec_id)
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from None
    unknown, missing = config.keys() - {*known}, {*known} - config.keys()
    if unknown:
        raise UnsupportedError(
            f"{where}: the setting {', '.join(sorted(unknown))} is not known here; install a later softpack"
        )
    if missing:
        raise CorruptError(f"{where}: lacks the setting {', '.join(sorted(missing))}")


def model_tensors(file: SpkFile, part: ModelPart) -> dict[str, Tensor]:
    """Return the tensors of one part of the model, {} where the file has none."""
    tensors: dict[str, Tensor] = {}
    of_part = (file.blocks["type"] == BlockType.MODEL) & (file.blocks["stream"] == part)
    for number in of_part.nonzero()[0].tolist():
        found = unpack_tensors(file.payload(number), f"{file.name}, block {number}")
        if tensors.keys() & found.keys():
            raise CorruptError(f"{file.name}, block {number}: a tensor stands twice")
        tensors |= found
    return tensors
