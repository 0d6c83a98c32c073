from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpack.errors import CorruptError, FormatError, UnsupportedError
from softpack.format.canonical import canonical, parse_canonical, without_floats
from softpack.format.header import CorrectionSpec, Header
from softpack.format.streams import ArraySpec, StreamSpec, column_array, column_stream
from softpack.records import COLUMNS, LabelSpec

CODES = StreamSpec("codes", "row", "codes", (ArraySpec("values", (10,), "uint", 16, 1 << 16),))
REPLAY = StreamSpec(
    "replay", "row", "replay", tuple(column_array(COLUMNS[n]) for n in ("crop_xywh", "flip", "mix_lam"))
)
TARGET = StreamSpec("target", "item", "item", (column_array(COLUMNS["target"]),))
HEADER = Header(
    "raw",
    {"dtype": "fp16"},
    LabelSpec(10, "probs", 4.0),
    LabelSpec(10, "probs", 4.0),
    8,
    16,
    (CODES, REPLAY, TARGET),
    {"softpack": "0.1.0", "seed": 3},
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53) + 1, (1 << 53) - 1)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=3)
    ),
    max_leaves=10,
)


def test_a_header_comes_back():
    assert Header.from_bytes(HEADER.to_bytes(), "here") == HEADER


@pytest.mark.parametrize("step", [1e-9, 0.1, 1 / 3, 1e22])
def test_what_corrections_mean_comes_back_exactly(step):
    correction = CorrectionSpec(0.3, step, (1.0, 1 / 3, 20.0))
    header = replace(HEADER, streams=(*HEADER.streams, column_stream("correction")), correction=correction)

    assert Header.from_bytes(header.to_bytes(), "here") == header
    assert (HEADER.minor, header.minor) == (0, 2)


@pytest.mark.parametrize("temperature", [1e-9, 0.1, 1.0, 4.0, 20.0, 1 / 3, 1e22])
def test_temperatures_come_back_exactly(temperature):
    spec = LabelSpec(10, "log_probs", temperature)

    assert Header.from_bytes(replace(HEADER, gives=spec).to_bytes(), "here").gives == spec


def test_streams_are_found_by_name():
    assert HEADER.stream("codes") == (1, CODES)
    assert HEADER.stream("target") == (3, TARGET)
    assert HEADER.stream("source") is None


@given(values)
def test_one_document_has_one_spelling(document):
    data = canonical(document)

    assert parse_canonical(data, "here") == document
    assert canonical(json.loads(data)) == data


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_format_errors(data):
    with pytest.raises(FormatError, match=r"^here"):
        Header.from_bytes(data, "here")


@given(st.data())
def test_no_value_raises_anything_but_format_errors(data):
    document = json.loads(HEADER.to_bytes())
    node, path = document, data.draw(st.integers(0, 5))
    for _ in range(path):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(node[key], (dict, list)):
            break
        node = node[key]
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if keys:
        node[data.draw(st.sampled_from(keys))] = data.draw(values)
    try:
        header = Header.from_bytes(canonical(document), "here")
    except FormatError:
        return
    assert json.loads(header.to_bytes()) == document


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a":1.5}', "found the float 1.5; numbers with a fraction stand as strings"),
        (b'{"a":NaN}', "found the float NaN"),
        (b'{"a":-0}', "not canonical"),
        (b'{"b":1,"a":1}', "not canonical"),
        (b'{"a":1,"a":1}', "not canonical"),
        (b'{"a": 1}', "not canonical"),
        (b'{"a":"\\u0041"}', "not canonical"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b"9007199254740992", r"beyond 2\*\*53 - 1"),
        (b"[" * 17 + b"]" * 17, "nested deeper than 16"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_other_spellings_are_refused(data, says):
    with pytest.raises(CorruptError, match=says):
        parse_canonical(data, "here")


def test_floats_are_written_as_strings_that_read_back():
    config = without_floats({"lr": 0.1, "k": 3, "on": True, "many": (0.5, 1), "large": 1 << 60})

    assert config == {"lr": "0.1", "k": 3, "on": True, "many": ["0.5", 1], "large": str(1 << 60)}


def changed(path: str, value: object) -> bytes:
    document = json.loads(HEADER.to_bytes())
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    node = document
    for key in keys:
        node = node[key]
    node[last] = value
    return canonical(document)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("tile.items", 0, "tile.items: found 0; expected an integer from 1"),
        ("tile.items", True, "tile.items: found True"),
        ("tile.views", 1 << 24, "cells; expected 16777216 at most"),
        ("codec.id", "../raw", "codec.id: found '../raw'; expected a name"),
        ("codec.config", [], "codec.config: expected an object of integers"),
        ("codec.config", {"a": [1]}, "codec.config: expected an object of integers"),
        ("made_by", 3, "expected objects"),
        ("takes.classes", 1, "takes.classes: found 1"),
        ("takes.temperature", 4, "takes.temperature: found 4"),
        ("takes.temperature", "0.0", "temperature is 0.0; expected a positive number"),
        ("takes.temperature", "1e999", "temperature is inf"),
        ("takes.space", "logits", "logits have no temperature"),
        ("takes.space", 3, "takes.space: found 3; expected a string"),
        ("streams", [], "the first streams are not the codes"),
        ("streams", {}, "streams: found {}; expected a list"),
        ("streams.0.arrays", [], "stream codes has 0 numbers a row"),
        ("streams.0.arrays.0.bits", 0, "values.bits: found 0"),
        ("streams.0.arrays.0.levels", (1 << 16) + 1, "values.levels: found 65537"),
        ("streams.0.arrays.0.shape", [1 << 24, 2], "numbers a row; expected 1 to"),
        ("streams.1.arrays.0.shape", [3], "column crop_xywh: found"),
        ("streams.1.arrays.0.kind", "bool", "column crop_xywh: found"),
    ],
)  # fmt: skip
def test_what_no_version_allows_is_corrupt(path, value, says):
    with pytest.raises(CorruptError, match=says):
        Header.from_bytes(changed(path, value), "here")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("more", 1, "more"),
        ("codec.more", 1, "more"),
        ("gives.space", "odds", "odds"),
        ("streams.1.name", "sounds", "sounds"),
        ("streams.1.arrays.0.name", "colour", "colour"),
        ("streams.0.arrays.0.kind", "float64", "float64"),
    ],
)
def test_what_a_later_version_may_bring_is_unsupported(path, value, says):
    with pytest.raises(UnsupportedError, match=says):
        Header.from_bytes(changed(path, value), "here")


def test_names_stand_once():
    array = json.loads(HEADER.to_bytes())["streams"][0]["arrays"][0]
    streams = json.loads(HEADER.to_bytes())["streams"]

    with pytest.raises(CorruptError, match="codes: a name stands twice"):
        Header.from_bytes(changed("streams.0.arrays", [array, array]), "here")
    with pytest.raises(CorruptError, match="streams: a name stands twice"):
        Header.from_bytes(changed("streams", [*streams, streams[1]]), "here")
