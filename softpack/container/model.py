"""The model in a file: the tensors of its codecs as safetensors, with or without their encoders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from softpack.codecs.abc import CodeArray, Codec
from softpack.codecs.registry import make_codec, setting_kinds, setting_names
from softpack.container.correcting import full_precision
from softpack.container.file import SpkFile
from softpack.container.tiles import Tables
from softpack.container.viewpoint import ViewBasis, has_viewpoints, n_functions
from softpack.entropy.tables import table_name
from softpack.errors import CodecError, CorruptError, UnsupportedError
from softpack.format.layout import BlockType, ModelPart
from softpack.format.streams import ArraySpec, code_stream
from softpack.records import LabelSpec

PROTOTYPE_CODEC = "klt"
BASIS = "weight"  # the tensor of a ViewBasis
MAX_TENSORS = 4096
NAME = re.compile(r"[A-Za-z0-9_.]{1,128}")
SPELLED = {
    "int": (int,),
    "float": (int, str),
    "bool": (bool,),
    "str": (str,),
}  # settings in a header, by their type


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
    if "__metadata__" in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]):
        raise CorruptError(f"{where}: the model has __metadata__; expected tensors alone")
    if len(tensors) > MAX_TENSORS or not all(NAME.fullmatch(name) for name in tensors):
        raise CorruptError(
            f"{where}: a model has at most {MAX_TENSORS} tensors, named in A-Z, a-z, 0-9, _ and ."
        )
    return tensors


@dataclass(frozen=True)
class Model:
    """What all rows of a file share.

    Args:
        codec: of the rows.
        prototypes: codec of the items' prototypes, which are logits; None where the rows take no context.
        tables: frequencies of codes for the entropy coder, by `<stream>.<array>`.
        basis: functions that each item has a prototype for; None where it has one prototype.
    """

    codec: Codec
    prototypes: Codec | None = None
    tables: Tables = field(default_factory=dict)
    basis: ViewBasis | None = None

    def __post_init__(self) -> None:
        if self.codec.takes_context == (self.prototypes is None):
            raise CodecError(
                f"codec {self.codec.codec_id} {'needs' if self.codec.takes_context else 'takes no'} context; "
                "give a codec for the prototypes if and only if rows are coded given them"
            )
        if self.basis is not None and self.prototypes is None:
            raise CodecError(
                "there are functions to weigh prototypes by, but no codec for prototypes; give both"
            )

    @property
    def can_encode(self) -> bool:
        """Whether the encoders are here."""
        return self.codec.can_encode and (self.prototypes is None or self.prototypes.can_encode)

    @property
    def minor(self) -> int:
        """Least minor version of the format that knows all of it."""
        return max(self.codec.minor, int(bool(self.tables)), 0 if self.basis is None else 2)

    @property
    def n_prototypes(self) -> int:
        """How many an item has."""
        return 1 if self.basis is None else len(self.basis)

    @property
    def degree(self) -> int:
        """Of the functions of the viewpoint that prototypes are weighted by; 0 where an item has one prototype."""
        return 0 if self.basis is None else self.basis.degree

    @property
    def prototype_arrays(self) -> tuple[CodeArray, ...]:
        """The arrays of an item's prototypes."""
        return () if self.prototypes is None else arrays_of_item(self.prototypes, self.n_prototypes)

    def first_stages(self, n: int) -> Model:
        """Return the model of the first `n` stages of the codes."""
        later = tuple(table_name(code_stream(stage), "") for stage in range(n + 1, self.codec.n_stages + 1))
        tables = {name: table for name, table in self.tables.items() if not name.startswith(later)}
        return Model(self.codec.first_stages(n), self.prototypes, tables, self.basis)

    @property
    def parts(self) -> dict[ModelPart, dict[str, Tensor]]:
        """The tensors of each part that has some."""
        parts = {ModelPart.DECODER: self.codec.state(), ModelPart.ENCODER: self.codec.encoder_state()}
        if self.prototypes is not None:
            parts[ModelPart.PROTOTYPES] = self.prototypes.state()
            parts[ModelPart.PROTOTYPE_ENCODER] = self.prototypes.encoder_state()
        if self.basis is not None:
            parts[ModelPart.VIEW_BASIS] = {BASIS: torch.from_numpy(self.basis.weight_PF)}
        return {part: tensors for part, tensors in parts.items() if tensors}


def as_model(given: Codec | Model) -> Model:
    """Return a codec that needs no prototypes as a model; a model as it is."""
    return given if isinstance(given, Model) else Model(given)


def arrays_of_item(codec: Codec, n: int) -> tuple[CodeArray, ...]:
    """Return the arrays of an item that has `n` prototypes."""
    return tuple(replace(array, shape=(n, *array.shape)) if n > 1 else array for array in codec.codes)


def fit_prototype_codec(rows_NC: Tensor, bits: float, seed: int = 0) -> Codec:
    """Return a codec for prototypes, logits [N, C], that costs about `bits` for each of them.

    They are taken off in logits, so that squared error counts: no search for KL.
    """
    codec = make_codec(PROTOTYPE_CODEC, LabelSpec(rows_NC.shape[1]), {"search": 0}, target_bits=bits)
    with full_precision(rows_NC.device):
        return codec.fit([rows_NC], seed=seed, n_rows=len(rows_NC))


def load_model_of(file: SpkFile) -> Model:
    """Return the model of a file; with its encoders where the file has them.

    Raises:
        UnsupportedError: a codec is not installed.
        CorruptError: settings, tensors and header do not fit together.
    """
    header = file.header
    codec = _load(file, header.codec_id, header.config, header.takes, (ModelPart.DECODER, ModelPart.ENCODER))
    where = f"{file.name}, codec {header.codec_id}"
    code_streams = [header.streams[number - 1] for number in header.code_streams]
    declared = [(n, *_facts(a)) for n, stream in enumerate(code_streams, 1) for a in stream.arrays]
    expected = sorted(((a.stage, *_facts(a)) for a in codec.codes), key=lambda fact: fact[0])
    if declared != expected or codec.gives != header.gives:
        raise CorruptError(f"{where}: the file declares the codes {declared}, but its settings make {expected}")
    of_prototypes = np.isin(file.blocks["stream"], (ModelPart.PROTOTYPES, ModelPart.PROTOTYPE_ENCODER))
    has_prototypes = bool((of_prototypes & (file.blocks["type"] == BlockType.MODEL)).any())
    if codec.takes_context != (header.context is not None) or (has_prototypes and header.context is None):
        raise CorruptError(
            f"{where}: context is said to be {codec.takes_context} by its settings, {header.context is not None} by "
            f"the header, and {has_prototypes} by the model of prototypes; expected one answer"
        )
    return Model(codec, _load_prototypes(file), file.tables, _load_basis(file))


def _load_prototypes(file: SpkFile) -> Codec | None:
    context, found = file.header.context, file.header.stream("prototype")
    if context is None or found is None:
        return None
    takes = LabelSpec(file.header.takes.classes)
    parts = (ModelPart.PROTOTYPES, ModelPart.PROTOTYPE_ENCODER)
    codec = _load(file, context.codec_id, context.config, takes, parts)
    of_item = arrays_of_item(codec, n_functions(context.degree))
    declared, expected = [[_facts(a) for a in arrays] for arrays in (found[1].arrays, of_item)]
    if declared != expected or codec.takes_context or codec.n_stages > 1 or codec.gives != takes:
        raise CorruptError(
            f"{file.name}, codec {context.codec_id} of the prototypes: makes the codes {expected} in {codec.n_stages} "
            f"stages, {'given' if codec.takes_context else 'without'} context, and gives {codec.gives.space}; expected "
            f"the codes {declared} that the file declares, in one stage, without context, and logits"
        )
    return codec


def _load_basis(file: SpkFile) -> ViewBasis | None:
    tensors = model_tensors(file, ModelPart.VIEW_BASIS)
    degree = 0 if file.header.context is None else file.header.context.degree
    if tensors.keys() != ({BASIS} if degree else set()):
        raise CorruptError(
            f"{file.name}: holds the functions of viewpoints {', '.join(sorted(tensors)) or 'none'}; expected "
            f"{BASIS if degree else 'none'}, as context.degree is {degree}"
        )
    if not degree:
        return None
    columns = {array.name for stream in file.header.streams for array in stream.arrays}
    columns |= {*file.header.replay_columns}
    if file.commit.n_rows and not has_viewpoints(columns, columns):
        raise CorruptError(
            f"{file.name}: prototypes are weighted by the views' crops, but the file has no crop_xywh_fraction, nor "
            "crop_xywh with source_hw"
        )
    return ViewBasis.stored(degree, tensors[BASIS].numpy(), file.name)


def _load(
    file: SpkFile,
    codec_id: str,
    config: Mapping[str, Any],
    takes: LabelSpec,
    parts: tuple[ModelPart, ModelPart],
) -> Codec:
    where = f"{file.name}, codec {codec_id}"
    _check_settings(codec_id, config, where)
    try:
        unloaded = make_codec(codec_id, takes, config)
    except CodecError as error:  # before memory is taken for tensors
        raise CorruptError(f"{where}: {error}") from None
    tensors, encoder = (model_tensors(file, part) for part in parts)
    if tensors.keys() & encoder.keys():
        raise CorruptError(
            f"{where}: {', '.join(sorted(tensors.keys() & encoder.keys()))} stand in both models"
        )
    try:
        codec = unloaded.load_state(tensors | encoder)
    except CodecError as error:
        raise CorruptError(f"{where}: {error}") from None
    if codec.state().keys() != tensors.keys():
        raise CorruptError(
            f"{where}: its decoder has the tensors {', '.join(sorted(tensors)) or 'none'}; expected "
            f"{', '.join(sorted(codec.state())) or 'none'}, and those of the encoder apart"
        )
    return codec


def _facts(array: CodeArray | ArraySpec) -> tuple[str, tuple[int, ...], int, int]:
    return array.name, array.shape, array.bits, array.levels


def _check_settings(codec_id: str, config: Mapping[str, Any], where: str) -> None:
    """Check that a file says all settings of its codec: what a default is may differ elsewhere."""
    try:
        known = setting_names(codec_id)
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from None
    unknown = config.keys() - known.keys()
    missing = {name for name, is_needed in known.items() if is_needed} - config.keys()
    if unknown:
        raise UnsupportedError(
            f"{where}: the setting {', '.join(sorted(unknown))} is not known here; install a later softpack"
        )
    if missing:
        raise CorruptError(f"{where}: lacks the setting {', '.join(sorted(missing))}")
    kinds = setting_kinds(codec_id)
    for name, value in config.items():
        expected = SPELLED.get(kinds[name], (type(value),))
        if type(value) not in expected:
            types = " or ".join(kind.__name__ for kind in expected)
            raise CorruptError(f"{where}: the setting {name} is {value!r:.80}; expected {types}")


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
