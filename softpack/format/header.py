"""The header: one canonical JSON object that says what the file holds.

What a later version may bring (a field, space, stream, column, kind of array) is refused as unsupported; what no
version allows is refused as corrupt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softpack.errors import CorruptError, DataError, UnsupportedError
from softpack.format.canonical import canonical, parse_canonical, without_floats
from softpack.format.language import check_language, fingerprints_of, forced_of
from softpack.format.layout import (
    MAX_DEGREE,
    MAX_TEMPERATURES,
    MAX_TILE_CELLS,
)
from softpack.format.recipe import images_json, images_of, recipe_json, recipe_of
from softpack.format.streams import (
    COLUMN_MINORS,
    FIRST_STREAMS,
    FORCED,
    StreamSpec,
    code_stream,
    stream_json,
    stream_of,
)
from softpack.format.strict import (
    LaterError,
    check_fields,
    check_unique,
    decimal_of,
    integer_of,
    known_of,
    list_of,
    name_of,
    positive_of,
)
from softpack.recipe import Recipe
from softpack.records import MAX_CLASSES, ROW_SPACES, LabelSpec


@dataclass(frozen=True)
class ContextSpec:
    """How rows are coded given their items' prototypes.

    Args:
        codec_id: of the codec of the prototypes, which are logits.
        config: its settings.
        width: of the pictures in which the boxes of mixed rows lie.
        height: theirs.
        degree: of the functions of the viewpoint that an item has a prototype for each of; 0: one prototype.
    """

    codec_id: str
    config: Mapping[str, Any]
    width: int
    height: int
    degree: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return its fields; a degree of 0 is not said, as it was not before version 1.2."""
        said = {"codec": _codec_json(self.codec_id, self.config), "width": self.width, "height": self.height}
        return said | ({"degree": self.degree} if self.degree else {})


@dataclass(frozen=True)
class CorrectionSpec:
    """What corrections mean, and what they are there for.

    Args:
        max_kl: the promise: no row's KL(teacher || decoded) * T**2, in nats, is above this at any of the
            temperatures.
        step: what corrections are multiples of, in logits.
        temperatures: of the promise.
    """

    max_kl: float
    step: float
    temperatures: tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """What a file holds, apart from how much of it.

    Args:
        codec_id: of the codec.
        config: the codec's settings, flat; floats as strings.
        takes: what the rows were before encoding.
        gives: what they are after decoding.
        tile_items: items in a tile.
        tile_views: views in a tile.
        streams: stream number n of the blocks is `streams[n - 1]`.
        made_by: versions and seed, for people.
        context: where rows are coded given their items' prototypes.
        correction: where some rows may be corrected after decoding.
        recipe: of the replay columns; where there is no stream of them, it draws them.
        images: what some of the labelled images look like, by their items; see `softpack.data.thumbprint`.
        fingerprints: SHA-256 of what the labels come from, by name; see `softpack.fingerprints`.
        forced: classes whose log-probabilities are kept exactly beside the codes.
    """

    codec_id: str
    config: Mapping[str, Any]
    takes: LabelSpec
    gives: LabelSpec
    tile_items: int
    tile_views: int
    streams: tuple[StreamSpec, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    context: ContextSpec | None = None
    correction: CorrectionSpec | None = None
    recipe: Recipe | None = None
    images: Mapping[int, bytes] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    forced: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        document = {
            "codec": _codec_json(self.codec_id, self.config),
            "takes": _spec_json(self.takes),
            "gives": _spec_json(self.gives),
            "tile": {"items": self.tile_items, "views": self.tile_views},
            "streams": [stream_json(stream) for stream in self.streams],
            "made_by": without_floats(dict(self.made_by)),
        }
        if self.context is not None:
            document["context"] = self.context.to_json()
        if self.correction is not None:
            document["correction"] = without_floats(vars(self.correction))
        if self.recipe is not None:
            document["recipe"] = recipe_json(self.recipe)
        if self.images:
            document["images"] = images_json(self.images)
        if self.fingerprints:
            document["fingerprints"] = dict(self.fingerprints)
        if self.forced:
            document["forced"] = list(self.forced)
        return canonical(document)

    @property
    def code_streams(self) -> tuple[int, ...]:
        """Numbers of the streams of codes, stage by stage."""
        return tuple(n for n, stream in enumerate(self.streams, 1) if stream.name.startswith("codes"))

    @property
    def replay_columns(self) -> tuple[str, ...]:
        """Names of the replay columns that each row has, stored or drawn."""
        found = self.stream("replay")
        if found is not None:
            return tuple(array.name for array in found[1].arrays)
        return () if self.recipe is None else self.recipe.columns

    @property
    def minor(self) -> int:
        """The least minor version that has all that the header says."""
        if self.fingerprints or self.forced or self.stream("sequence"):
            return 5
        of_columns = max((COLUMN_MINORS.get(name, 0) for name in self.replay_columns), default=0)
        if self.recipe is not None or self.images or of_columns:
            return max(3, of_columns)
        if self.correction is not None or (self.context is not None and self.context.degree):
            return 2
        later = any(stream.name not in FIRST_STREAMS for stream in self.streams) or self.context is not None
        return int(later)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Header:
        """Read a header strictly.

        Raises:
            CorruptError: it is not canonical JSON of exactly these fields.
            UnsupportedError: it has something that a later version may know.
        """
        document = parse_canonical(data, where)
        try:
            return _header(document)
        except LaterError as error:
            raise UnsupportedError(f"{where}: the header has {error}. Install a later softpack") from None
        except (KeyError, TypeError, ValueError, AttributeError, DataError, RecursionError) as error:
            raise CorruptError(
                f"{where}: the header is not valid: {error}; see formats/header.schema.json"
            ) from None

    def stream(self, name: str) -> tuple[int, StreamSpec] | None:
        """Return number and description of a stream, None where the file has none of that name."""
        for number, stream in enumerate(self.streams, 1):
            if stream.name == name:
                return number, stream
        return None


def _codec_json(codec_id: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": codec_id, "config": without_floats(dict(config))}


def _spec_json(spec: LabelSpec) -> dict[str, Any]:
    return {"classes": spec.classes, "space": spec.space, "temperature": repr(float(spec.temperature))}


def _header(document: Any) -> Header:
    check_fields(
        document,
        "header",
        "codec takes gives tile streams made_by",
        "context correction recipe images fingerprints forced",
    )
    check_fields(document["tile"], "tile", "items views")
    tile_items = integer_of(document["tile"]["items"], "tile.items", 1, MAX_TILE_CELLS)
    tile_views = integer_of(document["tile"]["views"], "tile.views", 1, MAX_TILE_CELLS)
    if tile_items * tile_views > MAX_TILE_CELLS:
        raise ValueError(f"a tile has {tile_items} x {tile_views} cells; expected {MAX_TILE_CELLS} at most")
    streams = tuple(stream_of(stream) for stream in list_of(document["streams"], "streams"))
    check_unique([stream.name for stream in streams], "streams")
    n_stages = sum(stream.name.startswith("codes") for stream in streams)
    expected = [code_stream(stage) for stage in range(1, max(n_stages, 1) + 1)]
    if [stream.name for stream in streams[: len(expected)]] != expected:
        raise ValueError("the first streams are not the codes of the rows, stage by stage")
    context = _context(document["context"]) if "context" in document else None
    names = {stream.name for stream in streams}
    correction = _correction(document["correction"]) if "correction" in document else None
    if (correction is None) != ("correction" not in names):
        raise ValueError("the stream of corrections and what says their step go together")
    if (context is None) != ("prototype" not in names):
        raise ValueError("prototypes and the context that they are for go together")
    if "mix" in names and (context is None or "replay" in names):
        raise ValueError("the stream mix is for the context of rows where there are no replay columns")
    recipe = recipe_of(document["recipe"]) if "recipe" in document else None
    if recipe is not None:
        _check_recipe(recipe, names)
    codec_id, config = _codec(document["codec"], "codec")
    gives = _spec(document["gives"], "gives")
    forced = forced_of(document["forced"], gives.classes) if "forced" in document else ()
    shapes = {
        array.name: array.shape for stream in streams for array in stream.arrays if stream.name == "forced"
    }
    columns = {array.name for stream in streams if stream.name == "replay" for array in stream.arrays}
    check_language(names, columns, forced, shapes.get(FORCED.name, ()))
    if not isinstance(document["made_by"], dict):
        raise ValueError("made_by: expected objects")
    return Header(
        codec_id=codec_id,
        config=config,
        takes=_spec(document["takes"], "takes"),
        gives=gives,
        tile_items=tile_items,
        tile_views=tile_views,
        streams=streams,
        made_by=document["made_by"],
        context=context,
        correction=correction,
        recipe=recipe,
        images=images_of(document["images"]) if "images" in document else {},
        fingerprints=fingerprints_of(document["fingerprints"]) if "fingerprints" in document else {},
        forced=forced,
    )


def _codec(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    check_fields(value, where, "id config")
    config = value["config"]
    if not isinstance(config, dict) or not all(isinstance(setting, (int, str)) for setting in config.values()):
        raise ValueError(f"{where}.config: expected an object of integers, strings, true and false alone")
    return name_of(value["id"], f"{where}.id"), config


def _context(value: Any) -> ContextSpec:
    check_fields(value, "context", "codec width height", "degree")
    codec_id, config = _codec(value["codec"], "context.codec")
    width, height = (
        integer_of(value[side], f"context.{side}", 1, (1 << 31) - 1) for side in ("width", "height")
    )
    degree = integer_of(value["degree"], "context.degree", 1, MAX_DEGREE) if "degree" in value else 0
    return ContextSpec(codec_id, config, width, height, degree)


def _correction(value: Any) -> CorrectionSpec:
    check_fields(value, "correction", "max_kl step temperatures")
    max_kl, step = (positive_of(value[name], f"correction.{name}") for name in ("max_kl", "step"))
    listed = list_of(value["temperatures"], "correction.temperatures")
    temperatures = tuple(positive_of(T, "correction.temperatures") for T in listed)
    if not 1 <= len(set(temperatures)) == len(temperatures) <= MAX_TEMPERATURES:
        raise ValueError(
            f"correction.temperatures: found {listed}; expected 1 to {MAX_TEMPERATURES}, each given once"
        )
    return CorrectionSpec(max_kl, step, temperatures)


def _check_recipe(recipe: Recipe, streams: set[str]) -> None:
    if "mix" in streams:
        raise ValueError(
            "the stream mix is for files that cannot say otherwise who is mixed, which a recipe does"
        )
    if "replay" not in streams and recipe.scale is not None and "source" not in streams:
        raise ValueError(
            "a recipe that draws crops needs the size of every image, and there is no stream source"
        )
    if "mix_item" in recipe.columns and not recipe.items:
        raise ValueError("a recipe that mixes needs the number of items, of which partners are drawn")


def _spec(value: Any, where: str) -> LabelSpec:
    check_fields(value, where, "classes space temperature")
    temperature = decimal_of(value["temperature"], f"{where}.temperature")
    classes = integer_of(value["classes"], f"{where}.classes", 2, MAX_CLASSES)
    return LabelSpec(classes, known_of(value["space"], ROW_SPACES, f"{where}.space"), temperature)
