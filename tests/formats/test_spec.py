"""spk.md says what the code does, and the reference reader is what it is said to be."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from softpack.codecs.registry import BUILT_IN, setting_names
from softpack.entropy import ans, arrays
from softpack.errors import FormatError
from softpack.format import layout
from softpack.format import streams as streams_module
from softpack.format.canonical import canonical
from softpack.format.header import Header
from softpack.records import COLUMNS

FORMATS = Path(__file__).resolve().parents[2] / "formats"
SPEC = (FORMATS / "spk.md").read_text()
VALID = sorted((FORMATS / "vectors" / "valid").glob("*.spk.json"))
SCHEMA = jsonschema.Draft202012Validator(json.loads((FORMATS / "header.schema.json").read_text()))
REFERENCE = sorted(path.name for path in FORMATS.glob("reference_*.py"))


def header_of(name: str) -> dict[str, Any]:
    return json.loads((FORMATS / "vectors" / "valid" / f"{name}.spk.json").read_text())["header"]


def table(section: str) -> list[list[str]]:
    text = SPEC.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


def test_limits_are_those_of_layout() -> None:
    limits = {row[0]: int(row[1]) for row in table("11.")[1:]}

    known = {**vars(layout), "MAX_LEVELS": ans.MAX_LEVELS}
    assert limits == {name: known[name] for name in limits}
    assert {name for name in known if name.startswith("MAX_")} <= limits.keys()


def test_block_types_and_their_limits_are_those_of_layout() -> None:
    rows = [row for row in table("5.")[1:] if row[0].isdigit()]

    assert {row[1]: int(row[0]) for row in rows} == {t.name: int(t) for t in layout.BlockType}
    assert [row[4] for row in rows[:4]] == [
        f"{most} bytes" for most in (layout.MAX_HEADER, layout.MAX_MODEL, layout.MAX_TILE, layout.MAX_INDEX)
    ]


def test_parts_of_the_model_are_those_of_layout() -> None:
    rows = {int(row[0]): row[1] for row in table("9.") if row[0].isdigit()}

    assert rows == {int(part): part.name for part in layout.ModelPart}


def test_codings_of_arrays_are_those_of_the_code() -> None:
    (row,) = (row for row in table("7.") if row[2] == "coding")

    assert re.findall(r"(\d)(?: \(1\.1\))?:", row[3]) == [
        str(n) for n in (arrays.PLANES, arrays.ZSTD_PLANES, arrays.ANS)
    ]


def test_words_of_the_example_are_those_of_both_coders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FORMATS))
    import reference_codecs

    text, example, *_ = SPEC.split("For example 2 columns of 8 rows", 1)[1].split("```")
    freq = ast.literal_eval(text.split("`freq` = ", 1)[1].split(":", 1)[0])
    lines = dict(re.findall(r"^(numbers|bytes) +(.*)$", example, re.M))
    columns = [[int(n) for n in column.split()] for column in lines["numbers"].split("|")]
    data, tables = bytes.fromhex(lines["bytes"]), np.array(freq, np.uint32)

    assert ans.encode_columns(np.array(columns, np.uint8), tables) == data
    assert ans.decode_columns(data, tables, 8, "here").tolist() == columns
    assert reference_codecs.read_words(data, tables, 8).tolist() == columns


def test_block_header_has_the_fields_and_offsets_of_layout() -> None:
    fields = layout.BLOCK_DTYPE.fields
    assert fields is not None
    expected = [[str(fields[name][1]), name] for name in layout.BLOCK_DTYPE.names or ()]

    assert [[row[0], row[2]] for row in table("4.")[1:]] == expected


def test_superblock_and_commit_have_the_sizes_of_layout() -> None:
    sizes = {"u16": 2, "u32": 4, "u64": 8, "8 bytes": 8, "16 bytes": 16}
    for section, size in (("3.", layout.SUPERBLOCK.size), ("10.", layout.COMMIT.size)):
        at = 0
        for row in table(section)[1:]:
            assert int(row[0]) == at, row
            at += sizes[row[1]]
        assert at == size
    assert " ".join(f"{byte:02X}" for byte in layout.MAGIC) in SPEC
    assert "`SPK.END\\n`" in SPEC


def test_version_is_the_writers() -> None:
    versions = [row[0] for row in table("2.") if re.fullmatch(r"\d+\.\d+", row[0])]

    assert versions[-1] == f"{layout.VERSION_MAJOR}.{layout.VERSION_MINOR}"


def test_columns_are_those_of_records() -> None:
    rows = {row[0]: row for row in table("7.") if row[0] in COLUMNS}

    assert rows.keys() == COLUMNS.keys()
    assert [row[1:4] for row in table("7.") if row[0] == "mix_share"] == [["row", "uint, 8 bits", "[]"]]
    assert streams_module.column_array(streams_module.MIX_SHARE).levels == 256
    for name, column in COLUMNS.items():
        kind = {"int32": "int", "float32": "float32", "bool": "bool"}[column.dtype]
        assert rows[name][1:4] == ["item" if column.per_item else "row", kind, str(list(column.shape))]


def test_columns_of_corrections_are_those_of_the_header() -> None:
    rows = [row[:4] for row in table("7.") if row[1:2] == ["correction"] and row[2] != "codes"]

    assert rows == [[c.name, "correction", "int", "[]"] for c in streams_module.CORRECTION_COLUMNS]


def test_streams_are_those_of_the_header() -> None:
    lines = SPEC.split("\n| stream | per |", 1)[1].split("\n\n", 1)[0].replace("`", "").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {name: (per, scope) for name, per, scope, _ in cells}
    later = {name: facts[:2] for name, facts in streams_module.STREAMS.items() if name.startswith("codes_")}

    assert {rows["codes_2 ... codes_64"]} == {*later.values()}
    assert later.keys() == {f"codes_{stage}" for stage in range(2, layout.MAX_STAGES + 1)}
    assert {name: facts[:2] for name, facts in streams_module.STREAMS.items() if name not in later} == {
        name: facts for name, facts in rows.items() if name in streams_module.STREAMS
    }


@pytest.mark.parametrize("codec_id", BUILT_IN)
def test_every_codec_has_a_page_with_its_settings_and_a_vector(codec_id: str) -> None:
    page = (FORMATS / "codecs" / f"{codec_id}.md").read_text()

    assert f"## Id\n\n`{codec_id}`" in page
    of_1_0 = [path for path in VALID if path.name.startswith(f"1.0_{codec_id}")]
    for name, is_old in setting_names(codec_id).items():
        (line,) = re.findall(
            rf"^\| `{name}` \| .*$", page.split("## Settings", 1)[1].split("\n## ", 1)[0], re.M
        )
        assert bool(re.search(r"\(1\.[1-9]\)", line)) != is_old
    assert of_1_0 or [path for path in VALID if path.name.startswith((f"1.1_{codec_id}", f"1.5_{codec_id}"))]


def test_reference_knows_the_settings_of_all_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FORMATS))
    import reference_codecs

    assert {
        codec_id: dict.fromkeys(always.split(), True) | dict.fromkeys(later.split(), False)
        for codec_id, (always, later) in reference_codecs.SETTINGS.items()
    } == {codec_id: setting_names(codec_id) for codec_id in BUILT_IN}


def test_the_dump_is_the_file() -> None:
    text = SPEC.split("## 15.", 1)[1].split("## 16.", 1)[0]
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", text, re.M)
    found = bytearray()
    for offset, line in lines:
        assert int(offset, 16) == len(found)
        found += bytes.fromhex(line)

    assert bytes(found) == (FORMATS / "vectors" / "valid" / "1.0_two_classes.spk").read_bytes()


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name[:-9])
def test_schema_takes_the_headers_of_valid_files(path: Path) -> None:
    SCHEMA.validate(json.loads(path.read_text())["header"])


BREAKS = {
    "unknown field": lambda h: h.update(more=1),
    "missing field": lambda h: h.pop("tile"),
    "a list": lambda h: h.update(codec=[]),
    "codec id": lambda h: h["codec"].update(id="Raw"),
    "nested setting": lambda h: h["codec"]["config"].update(bits={}),
    "null setting": lambda h: h["codec"]["config"].update(bits=None),
    "one class": lambda h: h["takes"].update(classes=1),
    "too many classes": lambda h: h["takes"].update(classes=(1 << 24) + 1),
    "classes in a string": lambda h: h["takes"].update(classes="12"),
    "classes true": lambda h: h["takes"].update(classes=True),
    "space": lambda h: h["gives"].update(space="odds"),
    "temperature as integer": lambda h: h["gives"].update(temperature=1),
    "temperature of letters": lambda h: h["gives"].update(temperature="warm"),
    "temperature with a space": lambda h: h["gives"].update(temperature=" 1.0"),
    "negative temperature": lambda h: h["gives"].update(temperature="-1.0"),
    "tile of none": lambda h: h["tile"].update(views=0),
    "tile field": lambda h: h["tile"].update(rows=1),
    "no streams": lambda h: h.update(streams=[]),
    "codes not first": lambda h: h["streams"].reverse(),
    "unknown stream": lambda h: h["streams"][1].update(name="other"),
    "other scope": lambda h: h["streams"][1].update(scope="codes"),
    "other per": lambda h: h["streams"][2].update(per="row"),
    "no arrays": lambda h: h["streams"][0].update(arrays=[]),
    "array name": lambda h: h["streams"][0]["arrays"][0].update(name="9"),
    "array kind": lambda h: h["streams"][0]["arrays"][0].update(kind="int"),
    "array bits": lambda h: h["streams"][0]["arrays"][0].update(bits=0),
    "array levels": lambda h: h["streams"][0]["arrays"][0].update(levels=0),
    "array shape": lambda h: h["streams"][0]["arrays"][0].update(shape=[-1]),
    "array field": lambda h: h["streams"][0]["arrays"][0].update(base=0),
    "column name": lambda h: h["streams"][1]["arrays"][0].update(name="hue"),
    "column shape": lambda h: h["streams"][1]["arrays"][0].update(shape=[2]),
    "column bits": lambda h: h["streams"][1]["arrays"][0].update(bits=16),
    "made_by": lambda h: h.update(made_by="me"),
}


BREAKS_OF_1_1 = {
    "context field": ("1.1_context", lambda h: h["context"].update(depth=1)),
    "context without codec": ("1.1_context", lambda h: h["context"].pop("codec")),
    "context codec": ("1.1_context", lambda h: h["context"]["codec"].update(id="")),
    "context setting": ("1.1_context", lambda h: h["context"]["codec"]["config"].update(rank=[1])),
    "context width": ("1.1_context", lambda h: h["context"].update(width=0)),
    "context height": ("1.1_context", lambda h: h["context"].update(height=1 << 31)),
    "context null": ("1.1_context", lambda h: h.update(context=None)),
    "context without prototypes": ("1.1_context", lambda h: h["streams"].pop()),
    "prototypes without context": ("1.1_context", lambda h: h.pop("context")),
    "prototypes of codes": ("1.1_context", lambda h: h["streams"][1].update(scope="codes")),
    "prototypes of int": ("1.1_context", lambda h: h["streams"][1]["arrays"][0].update(kind="int")),
    "prototypes of no arrays": ("1.1_context", lambda h: h["streams"][1].update(arrays=[])),
    "mix without context": (
        "1.1_context_mix",
        lambda h: [h.pop("context"), h["streams"].pop(), h["codec"]["config"].pop("context")],
    ),
    "mix beside replay": (
        "1.1_context_mix",
        lambda h: h["streams"].append(header_of("1.0_replay")["streams"][1]),
    ),
    "mix of one column": ("1.1_context_mix", lambda h: h["streams"][1]["arrays"].pop()),
    "mix turned round": ("1.1_context_mix", lambda h: h["streams"][1]["arrays"].reverse()),
    "stage 1": ("1.1_stages", lambda h: h["streams"][2].update(name="codes_1")),
    "stage 02": ("1.1_stages", lambda h: h["streams"][2].update(name="codes_02")),
    "stage 65": ("1.1_stages", lambda h: h["streams"][2].update(name="codes_65")),
    "stages before the first": ("1.1_stages", lambda h: h["streams"].reverse()),
    "stage per item": ("1.1_stages", lambda h: h["streams"][1].update(per="item")),
}


BREAKS_OF_1_2 = {
    "correction field": lambda h: h["correction"].update(more="1.0"),
    "correction without a step": lambda h: h["correction"].pop("step"),
    "correction null": lambda h: h.update(correction=None),
    "step as number": lambda h: h["correction"].update(step=1),
    "negative step": lambda h: h["correction"].update(step="-1.0"),
    "no temperatures": lambda h: h["correction"].update(temperatures=[]),
    "17 temperatures": lambda h: h["correction"].update(temperatures=[f"{T}.0" for T in range(1, 18)]),
    "temperature as number": lambda h: h["correction"].update(temperatures=[1]),
    "correction without its stream": lambda h: h["streams"].pop(1),
    "stream without its correction": lambda h: h.pop("correction"),
    "corrections per row": lambda h: h["streams"][1].update(per="row"),
    "corrections without values": lambda h: h["streams"][1]["arrays"].pop(),
    "corrections turned round": lambda h: h["streams"][1]["arrays"].reverse(),
}


BREAKS_OF_1_5 = {
    "fingerprints null": ("1.5_fingerprints", lambda h: h.update(fingerprints=None)),
    "no fingerprints": ("1.5_fingerprints", lambda h: h.update(fingerprints={})),
    "other fingerprint": ("1.5_fingerprints", lambda h: h["fingerprints"].update(licence="0" * 64)),
    "long fingerprint": ("1.5_fingerprints", lambda h: h["fingerprints"].update(data="0" * 65)),
    "forced null": ("1.5_forced", lambda h: h.update(forced=None)),
    "forced of none": ("1.5_forced", lambda h: h.update(forced=[])),
    "forced twice": ("1.5_forced", lambda h: h.update(forced=[1, 2, 1])),
    "forced of text": ("1.5_forced", lambda h: h.update(forced=["7", "0", "11"])),
    "forced of none below 0": ("1.5_forced", lambda h: h.update(forced=[7, 0, -1])),
    "forced without its stream": ("1.5_sequences", lambda h: h.update(forced=[7])),
    "stream without its forced": ("1.5_forced", lambda h: h.pop("forced")),
    "forced per item": ("1.5_forced", lambda h: stream_of(h, "forced").update(per="item")),
    "log_prob of a matrix": ("1.5_forced", lambda h: stream_of(h, "forced")["arrays"][0].update(shape=[3, 1])),
    "log_prob of a number": ("1.5_forced", lambda h: stream_of(h, "forced")["arrays"][0].update(shape=[])),
    "log_prob of integers": ("1.5_forced", lambda h: stream_of(h, "forced")["arrays"][0].update(kind="int")),
    "sequence without a hash": ("1.5_sequences", lambda h: stream_of(h, "sequence")["arrays"].pop()),
    "sequence turned round": ("1.5_sequences", lambda h: stream_of(h, "sequence")["arrays"].reverse()),
    "sequence of no tokens": ("1.5_sequences", lambda h: stream_of(h, "replay")["arrays"].pop(0)),
    "sequence per row": ("1.5_sequences", lambda h: stream_of(h, "sequence").update(per="row")),
    "token of floats": ("1.5_sequences", lambda h: stream_of(h, "replay")["arrays"][0].update(kind="float32")),
}


def stream_of(h: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stream for stream in h["streams"] if stream["name"] == name)


@pytest.mark.parametrize("name", BREAKS)
def test_schema_and_softpack_refuse_the_same(name: str) -> None:
    assert_both_refuse("1.0_replay", BREAKS[name])


@pytest.mark.parametrize("name", BREAKS_OF_1_1)
def test_schema_and_softpack_refuse_the_same_of_1_1(name: str) -> None:
    assert_both_refuse(*BREAKS_OF_1_1[name])


@pytest.mark.parametrize("name", BREAKS_OF_1_2)
def test_schema_and_softpack_refuse_the_same_of_1_2(name: str) -> None:
    assert_both_refuse("1.2_correction", BREAKS_OF_1_2[name])


@pytest.mark.parametrize("name", BREAKS_OF_1_5)
def test_schema_and_softpack_refuse_the_same_of_1_5(name: str) -> None:
    assert_both_refuse(*BREAKS_OF_1_5[name])


def assert_both_refuse(vector: str, spoil: Any) -> None:
    document = header_of(vector)
    Header.from_bytes(canonical(document), "sound")
    SCHEMA.validate(document)
    spoil(document)

    assert not SCHEMA.is_valid(document)
    with pytest.raises(FormatError, match=r"broken\.spk: the header"):
        Header.from_bytes(canonical(document), "broken.spk")


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_reader_is_short_and_stands_alone(name: str) -> None:
    source = (FORMATS / name).read_text()
    imports = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }

    assert len(source.splitlines()) <= 200
    assert max(map(len, source.splitlines())) <= 112
    assert ";" not in source
    assert "exec(" not in source
    assert imports <= {"numpy", "zstandard", *(name.removesuffix(".py") for name in REFERENCE)} | set(
        sys.stdlib_module_names
    )
