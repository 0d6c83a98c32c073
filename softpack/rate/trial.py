"""Fit a model and measure it on a sample of rows: what a file of it would weigh, and how far its labels would be.

Shapes in names: B rows of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from softpack.codecs.abc import Progress
from softpack.codecs.registry import codec_class, make_codec
from softpack.codecs.spaces import centred_logits
from softpack.container.context import Prototypes
from softpack.container.correcting import correct_by_list, full_precision
from softpack.container.corrections import CORRECTION_STREAM, Corrections, stored_arrays
from softpack.container.mixing import mix_columns, mixing_of
from softpack.container.model import Model, pack_tensors
from softpack.container.promise import find_corrections
from softpack.container.tables import bits_per_row
from softpack.container.tile_writer import MIX_STREAM, choose_tile, code_arrays, make_streams, most_rows
from softpack.container.tiles import encode_tile
from softpack.container.viewpoint import has_viewpoints, n_functions
from softpack.entropy.arrays import DESCRIPTOR
from softpack.entropy.tables import pack_tables
from softpack.entropy.zstd import shrink_model
from softpack.eval.fidelity import FidelityMeter
from softpack.format.header import CorrectionSpec
from softpack.format.layout import ModelPart
from softpack.format.streams import StreamSpec, column_array
from softpack.records import COLUMNS, RowBlock
from softpack.sources.base import Source
from softpack.sources.encoding import fit_model
from softpack.sources.learning import Learned, learn

MEASURED_ROWS = 4096
DEGREES = (0, 1, 2)
VIEWS_A_FUNCTION = 8  # labels an item for each function, below which its prototypes cost more than they say
FIXED_BYTES = 1800  # superblock, header, index, commit and checksums of a small file
CONTEXT_BYTES = 800  # more of them where there are prototypes, in so few arrays
FEW_ARRAYS, ARRAY_BYTES = 4, 90  # and of each array more: what the header says of it
RECIPE_BYTES = 600  # more of them where views are drawn: the recipe, and how a few images look
BLOCK_BYTES = 140  # of a block: its header, checksum, padding and entry in the index
BY_TILE = 1.01  # times what columns take in the sample: tiles are compressed one by one


@dataclass(frozen=True)
class Plan:
    """A codec and its settings, not yet fitted.

    Args:
        codec_id: of the codec.
        settings: of the codec, `context` among them.
        bits: of a label's codes, at most; None where the settings say it all.
        item_bits: of an item's prototypes, spread over its labels; None takes the usual.
        degree: of the functions of where views look that an item has a prototype for each of; 0: one prototype.
    """

    codec_id: str
    settings: dict[str, Any]
    bits: float | None = None
    item_bits: float | None = None
    degree: int = 0

    @property
    def takes_context(self) -> bool:
        """Whether rows are coded given their items' prototypes."""
        return bool(self.settings.get("context"))

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.settings.items() if value is not False)
        by_crop = f"prototypes by crop, degree {self.degree}" if self.degree else ""
        return " ".join(part for part in (self.codec_id, said, by_crop) if part)


@dataclass(frozen=True)
class Trial:
    """What a fitted plan would give.

    Args:
        plan: that was tried.
        model: fitted.
        marginal_bits: a label, of all but model and replay.
        n_bytes: of the whole file.
        kl: mean KL * T**2 by temperature.
    """

    plan: Plan
    model: Model
    marginal_bits: float
    n_bytes: float
    kl: dict[float, float]

    @property
    def loss(self) -> float:
        """One number to compare by: the mean of the divergences at all temperatures."""
        return sum(self.kl.values()) / len(self.kl)


class _Tiles(NamedTuple):
    rows: int  # of a tile
    n_bytes: int  # that all but the first say of themselves


@dataclass
class Bench:
    """Tries plans on one source.

    Args:
        source: whose labels are to be encoded.
        temperatures: to measure at.
        replay: whether the file will keep the replay columns.
        promised: what rows are held to by corrections; None if they stay as they decode.
        seed: of samples and fits.
        device: to fit and encode on.
        n_rows: labels of the file, where the source is the first of them; those of the source by default.
    """

    source: Source
    temperatures: tuple[float, ...]
    replay: bool = True
    promised: CorrectionSpec | None = None
    seed: int = 0
    device: str = "cpu"
    n_rows: int = 0

    _learned: dict[int, Learned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.n_rows = self.n_rows or self.source.n_rows

    @property
    def views(self) -> float:
        """Labels an item in the file."""
        return self.n_rows / self.source.items

    def learned(self, degree: int = 0) -> Learned:
        """Return the prototypes of the source's items; kept."""
        if degree not in self._learned:
            self._learned[degree] = learn(self.source, degree)
        return self._learned[degree]

    @cached_property
    def sample(self) -> list[RowBlock]:
        """The rows that are measured."""
        return list(self.source.sample(MEASURED_ROWS, self.seed + 1))

    @property
    def _columns(self) -> tuple[str, ...]:
        """The replay columns that the file would hold."""
        return self.source.columns if self.replay and self.source.recipe is None else ()

    @cached_property
    def replay_bytes(self) -> float:
        """Bytes that the replay columns would take in the file, by what they take in the sample."""
        if not self._columns:
            return 0.0
        columns = tuple(column_array(COLUMNS[name]) for name in self._columns)
        n_sampled = sum(map(len, self.sample))
        values = {
            array.name: np.concatenate([block.replay[array.name] for block in self.sample]) for array in columns
        }
        payload, _ = encode_tile(StreamSpec("replay", "row", "replay", columns), values)
        return BY_TILE * len(payload) * self.n_rows / max(n_sampled, 1)

    def fixed_bytes(self, takes_context: bool) -> int:
        """Return the bytes of the file that do not depend on its rows, without model and replay columns."""
        fixed = FIXED_BYTES + CONTEXT_BYTES * takes_context
        if self.replay and self.source.recipe is not None:
            return fixed + RECIPE_BYTES
        stored = [self.source.columns, tuple(self.source.item_columns)] if self.replay else []
        if takes_context and self._keeps_mix:
            stored.append(tuple(array.name for array in MIX_STREAM.arrays))
        said = ARRAY_BYTES + DESCRIPTOR.size
        return fixed + sum(BLOCK_BYTES + said * len(names) for names in stored if names)

    @property
    def _keeps_mix(self) -> bool:
        """Whether files with context say who is mixed, as the replay columns do not."""
        return not self.replay and "mix_item" in self.source.columns

    def _tiles(self, model: Model) -> _Tiles:
        """Return how the file will be cut."""
        source = self.source
        keeps_mix = model.prototypes is not None and self._keeps_mix
        streams = make_streams(model, self._columns, (), keeps_mix, self.promised is not None)
        items = -(-source.items * self.n_rows // source.n_rows)
        tile_items, tile_views = choose_tile(
            streams, most_rows(streams, source.spec.classes), items, source.views
        )
        n_tiles = -(-items // tile_items) * -(-source.views // tile_views)
        stored = [stream for stream in streams if stream.per != "item"]
        # The first is among what is fixed. What codes say of themselves is counted with them.
        arrays = sum(len(stream.arrays) for stream in stored) - len(model.codec.codes)
        more = (n_tiles - 1) * (BLOCK_BYTES * len(stored) + DESCRIPTOR.size * arrays)
        return _Tiles(tile_items * tile_views, more)

    def settled(self, plan: Plan) -> tuple[Any, ...]:
        """Return what a fit of a plan follows from: plans of a few bits more or less may come to the same settings."""
        codec = make_codec(plan.codec_id, self.source.spec, _known(plan), plan.bits)
        return plan.codec_id, tuple(sorted(codec.get_config().items())), plan.item_bits, plan.degree

    def run(self, plan: Plan, progress: Progress | None = None) -> Trial:
        """Fit and measure a plan."""
        if progress is not None:
            progress(0, 1, "")  # trials before it are not of its time
        model = fit_model(
            self.source,
            plan.codec_id,
            _known(plan),
            target_bits=plan.bits,
            learned=self.learned(plan.degree) if plan.takes_context else None,
            item_bits=plan.item_bits,
            n_rows=self.n_rows,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        return self.measure(plan, model)

    def measure(self, plan: Plan, model: Model) -> Trial:
        """Return what a fitted model gives on the sample."""
        prototypes = None
        if model.prototypes is not None:
            prototypes = self.learned(model.degree).prototypes(model.prototypes, self.device)
        codes, meter, corrections = self._coded(model, prototypes)
        tiles = self._tiles(model)
        row_bits = bits_per_row(model.codec.codes, codes, model.tables, "codes", tiles.rows)
        row_bits += self._correction_bits(corrections)
        item_bits = 0.0
        if prototypes is not None:
            item_codes = code_arrays(prototypes.codes)
            item_bits = bits_per_row(model.prototype_arrays, item_codes, model.tables, "prototype")
            n_more = max(len(model.prototype_arrays) - FEW_ARRAYS, 0)
            item_bits += 8 * ARRAY_BYTES * n_more / self.source.items
            row_bits += self._mix_bits()
        n_rows, fixed = self.n_rows, self.fixed_bytes(prototypes is not None)
        marginal = row_bits + (item_bits * self.source.items + 8 * (fixed + tiles.n_bytes)) / n_rows
        n_bytes = marginal * n_rows / 8 + _model_bytes(model) + self.replay_bytes
        found = meter.result()
        return Trial(
            plan, model, marginal, n_bytes, {T: found.temperatures[T].kl_mean for T in self.temperatures}
        )

    def _coded(
        self, model: Model, prototypes: Prototypes | None
    ) -> tuple[dict[str, np.ndarray], FidelityMeter, Corrections]:
        meter, parts, corrections, n_rows = FidelityMeter(self.temperatures), [], [], 0
        for block in self.sample:
            rows_BC = torch.from_numpy(block.labels_BC).to(self.device).float()
            context_BC = (
                None if prototypes is None else self.learned(model.degree).context_of(block, prototypes)
            )
            with full_precision(rows_BC.device):
                codes = model.codec.encode(rows_BC, context_BC)
                decoded_BC = model.codec.decode(codes, context_BC)
            if self.promised is not None:
                spec, gives = self.source.spec, model.codec.gives
                found = find_corrections(rows_BC, decoded_BC, spec, gives, self.promised)
                decoded_BC = correct_by_list(decoded_BC, found, gives, self.promised.step)
                corrections.append(replace(found, row_E=found.row_E + n_rows))
                n_rows += len(block)
            meter.update(
                centred_logits(rows_BC, self.source.spec), centred_logits(decoded_BC, model.codec.gives)
            )
            parts.append(code_arrays(codes))
        codes_of_all = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return codes_of_all, meter, Corrections.join(corrections)

    def _correction_bits(self, corrections: Corrections) -> float:
        """Return the bits a label of the corrections of the sample."""
        if not len(corrections):
            return 0.0
        payload, _ = encode_tile(CORRECTION_STREAM, stored_arrays(corrections, self.source.spec.classes))
        return 8 * len(payload) / max(sum(map(len, self.sample)), 1)

    def _mix_bits(self) -> float:
        """Return the bits a label that say who is mixed, where the replay columns do not."""
        if not self._keeps_mix:
            return 0.0
        n_rows, n_bytes = 0, 0
        for block in self.sample:
            columns = mix_columns(mixing_of(block.replay, self.learned().mix_wh, len(block)))
            n_bytes += len(encode_tile(MIX_STREAM, columns)[0])
            n_rows += len(block)
        return 8 * n_bytes / max(n_rows, 1)


def degrees_worth(source: Source, replay: bool = True) -> tuple[int, ...]:
    """Return the degrees of functions of crops that are worth a trial: an item has a prototype for each function.

    Args:
        source: whose labels are to be encoded.
        replay: whether the file will keep the replay columns, which say the crops.
    """
    says = replay and has_viewpoints(source.columns, source.item_columns.keys())
    views = source.n_rows / source.items
    return tuple(d for d in DEGREES if not d or (says and views >= VIEWS_A_FUNCTION * n_functions(d)))


def _known(plan: Plan) -> dict[str, Any]:
    """Return the settings that the codec has: context=False is what all others have."""
    names = {setting.name for setting in codec_class(plan.codec_id).setting_fields()}
    return {name: value for name, value in plan.settings.items() if name in names or value is not False}


def _model_bytes(model: Model) -> int:
    kept = (ModelPart.DECODER, ModelPart.PROTOTYPES, ModelPart.VIEW_BASIS)
    packed = [pack_tensors(tensors) for part, tensors in model.parts.items() if part in kept]
    if model.tables:
        packed.append(pack_tables(model.tables))
    return sum(len(shrink_model(data) or data) + 128 for data in packed)
