"""softpack and the reference reader, held to every vector."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softpack
from softpack import errors
from softpack.cli.facts import facts_of
from softpack.entropy.arrays import ANS, describe
from softpack.format.layout import BlockType

FORMATS = Path(__file__).resolve().parents[2] / "formats"
sys.path.insert(0, str(FORMATS))

import reference_reader  # noqa: E402

VALID = sorted((FORMATS / "vectors" / "valid").glob("*.spk"))
STAGES = [path for path in VALID if "stages" in json.loads(path.with_suffix(".spk.json").read_text())]
INVALID = sorted((FORMATS / "vectors" / "invalid").glob("*.spk"))
MUST = [path for path in INVALID if json.loads(path.with_suffix(".spk.json").read_text())["level"] == "must"]
KINDS = ("NotSpkError", "TruncatedError", "CorruptError", "UnsupportedError")


def beside(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".spk.json").read_text())


def numbers(facts: dict[str, Any]) -> np.ndarray:
    if "base64" in facts:
        return np.frombuffer(base64.b64decode(facts["base64"]), "<f4").reshape(facts["shape"])
    return np.array(facts["values"], np.int64).reshape(facts["shape"])


def checkpoint_of(path: Path) -> Path | None:
    """Return what is beside a vector whose output matrix is not in it."""
    checkpoint = path.with_suffix(".safetensors")
    return checkpoint if checkpoint.exists() else None


def by_softpack(path: Path, stages: int | None = None) -> dict[str, Any]:
    checkpoint = checkpoint_of(path)
    labels = softpack.open(path, stages=stages, **({"matrix": checkpoint} if checkpoint else {}))
    item, view = labels.cells()
    rows = labels.read(item, view).numpy()
    columns = labels.replay(item, view) | {name: labels.item_column(name) for name in labels.item_columns}
    if labels.forced_tokens:
        columns["log_prob"] = labels.forced(item, view).numpy()
    if "length" in labels.item_columns:
        for sequence in range(labels.shape[0]):
            labels.tokens(sequence)
    header = json.loads(labels.file.payload(0))
    return {"header": header, "item": item, "view": view, "labels": rows, **columns}


def by_reference(path: Path, stages: int | None = None) -> dict[str, Any]:
    found = reference_reader.read(path, stages, checkpoint_of(path))
    return {**found, "header": json.loads(found["header"])}


READERS = pytest.mark.parametrize("read", [by_softpack, by_reference])


def assert_same_labels(found: np.ndarray, expected: np.ndarray, facts: dict[str, Any]) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    if facts["compare"] == "exp":
        np.testing.assert_allclose(np.exp(found), np.exp(expected), rtol=0, atol=1e-6)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    size = np.where(finite, np.abs(expected), 0).max(axis=1, keepdims=True, initial=1)
    off = np.abs(np.where(finite, found, 0) - np.where(finite, expected, 0))
    assert (off <= facts["tolerance"] * size).all(), off.max()


@READERS
@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid(path: Path, read: Any) -> None:
    facts, found = beside(path), read(path)

    columns = facts["columns"] | facts["item_columns"]
    assert found["header"] == facts["header"]
    assert found.keys() == {"header", "item", "view", "labels", *columns}
    assert_same_labels(found["labels"], numbers(facts["labels"]), facts)
    for name, expected in {"item": facts["item"], "view": facts["view"], **columns}.items():
        np.testing.assert_array_equal(found[name], numbers(expected), err_msg=name)


@READERS
@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_first_stages(path: Path, read: Any) -> None:
    facts = beside(path)
    assert len(facts["stages"]) == facts["header"]["codec"]["config"]["stages"]
    for n, expected in enumerate(facts["stages"], 1):
        assert_same_labels(read(path, stages=n)["labels"], numbers(expected), facts)
    np.testing.assert_array_equal(numbers(facts["stages"][-1]), numbers(facts["labels"]))
    assert not np.allclose(numbers(facts["stages"][0]), numbers(facts["labels"]))


def test_vectors_show_all_of_1_1() -> None:
    files = {path.stem: softpack.open(path).file for path in VALID}
    streams = {stream.name for file in files.values() for stream in file.header.streams}
    parts = {int(b["stream"]) for file in files.values() for b in file.blocks if b["type"] == BlockType.MODEL}

    assert {"codes_2", "codes_3", "prototype", "mix", "replay", "source", "target"} <= streams
    assert parts == {0, 1, 3, 5, 7}  # no codec of prototypes has an encoder apart
    assert {int(file.minor) for name, file in files.items() if name.startswith("1.1_")} == {1}


def test_vectors_show_all_of_1_2() -> None:
    files = {path.stem: softpack.open(path) for path in VALID if path.name.startswith("1.2_")}
    corrected = {name: labels.corrections(*labels.cells()).n_rows for name, labels in files.items()}

    assert {labels.file.minor for labels in files.values()} == {2}
    assert {labels.spec.space for labels in files.values()} == {"logits", "log_probs", "probs"}
    assert corrected["1.2_correction_none"] == 0
    assert any(0 < n < files[name].n_rows for name, n in corrected.items())
    assert any(n == files[name].n_rows for name, n in corrected.items())
    contexts = [labels.file.header.context for labels in files.values()]
    assert {context.degree for context in contexts if context} == {0, 1, 2, 3}
    parts = files["1.2_correction_parts"].file
    number, _ = parts.header.stream("correction") or (0, None)
    assert {number in part.blocks for part in parts.parts} == {True, False}


def test_the_reference_reader_finds_the_tokens_of_sequences() -> None:
    import reference_sequences

    for path in (
        path
        for path in VALID
        if path.name.startswith("1.5_") and "sequence" in path.read_bytes().decode("latin-1")
    ):
        found, labels = by_reference(path), softpack.open(path)
        for item in range(labels.shape[0]):
            np.testing.assert_array_equal(reference_sequences.tokens_of(found, item), labels.tokens(item))
    found["token"][0] += 1
    with pytest.raises(reference_reader.CorruptError, match="sequence 0: other tokens"):
        reference_sequences.tokens_of(found, 0)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("tables", "codes.index"),
        ("tables", "prototype.levels"),
        ("tables", "mix.mix_share"),
        ("tables_2_levels", "codes.levels"),
        ("tables_4096_levels", "codes.levels"),
        ("klt_context", "codes.levels_2"),
    ],
)
def test_arrays_with_tables_are_entropy_coded(name: str, array: str) -> None:
    file = softpack.open(FORMATS / "vectors" / "valid" / f"1.1_{name}.spk").file
    stream, array = array.split(".")
    number, spec = file.header.stream(stream) or (0, None)
    block = int(np.flatnonzero((file.blocks["type"] == BlockType.TILE) & (file.blocks["stream"] == number))[0])
    data = file.payload(block)
    for other in spec.arrays if spec else ():
        described = describe(data, other.name)
        if other.name == array:
            assert described.coding == ANS
            return
        data = data[16 + described.stored_len :]
    raise AssertionError(f"there is no array {array}")


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_by_verify_and_ledger(path: Path) -> None:
    facts, account = beside(path), softpack.ledger(path)

    assert softpack.verify(path).problems == ()
    assert softpack.open(path).shape[:2] == (facts["items"], facts["views"])
    assert {f"{e.scope}: {e.what}": e.n_bits for e in account.entries} == facts["ledger"]
    assert account.total_bits == 8 * path.stat().st_size == 8 * facts["file_bytes"]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_by_softpack(path: Path) -> None:
    kind = beside(path)["error"]
    with pytest.raises(getattr(errors, kind)) as refusal:
        by_softpack(path)

    assert type(refusal.value).__name__ == kind
    assert path.name in str(refusal.value)
    assert len(str(refusal.value)) > len(str(path)) + 10


@pytest.mark.parametrize("path", MUST, ids=lambda path: path.stem)
def test_invalid_by_reference(path: Path) -> None:
    kind = beside(path)["error"]
    with pytest.raises(getattr(reference_reader, kind)) as refusal:
        by_reference(path)

    assert type(refusal.value).__name__ == kind
    assert str(refusal.value)


def test_few_vectors_are_left_to_a_readers_choice() -> None:
    assert {beside(path)["level"] for path in INVALID} == {"must", "should"}
    assert 0 < len(INVALID) - len(MUST) <= 12


def test_bit_flips_are_detected_wherever_they_are() -> None:
    path = FORMATS / "vectors" / "valid" / "1.0_single_row.spk"
    data = path.read_bytes()
    for byte in range(len(data)):
        changed = bytearray(data)
        changed[byte] ^= 1 << (byte % 8)
        with pytest.raises(tuple(getattr(reference_reader, kind) for kind in KINDS)):
            reference_reader.read_blocks(bytes(changed))


def test_every_truncation_is_refused_or_ends_at_an_earlier_commit(tmp_path: Path) -> None:
    data = (FORMATS / "vectors" / "valid" / "1.0_parts.spk").read_bytes()
    whole = []
    for length in range(0, len(data) + 1, 8):
        try:
            reference_reader.read_rows(data[:length])
            whole.append(length)
        except (reference_reader.NotSpkError, reference_reader.TruncatedError):
            continue

    assert len(whole) == 3  # its commits
    for n_rows, length in zip((7, 14, 20), whole, strict=True):
        cut = tmp_path / "cut.spk"
        cut.write_bytes(data[:length])
        assert softpack.open(cut).n_rows == n_rows
        assert len(reference_reader.read(cut)["item"]) == n_rows


def test_the_command_line_writes_npz(tmp_path: Path) -> None:
    path, out = FORMATS / "vectors" / "valid" / "1.0_replay.spk", tmp_path / "out.npz"
    command = [sys.executable, str(FORMATS / "reference_reader.py"), str(path), "-o", str(out)]
    subprocess.run(command, check=True)

    with np.load(out) as found:
        assert found["labels"].shape == (20, 12)
        assert json.loads(str(found["header"])) == beside(path)["header"]


def test_info_says_the_version_and_the_columns_of_the_file() -> None:
    known = {path.stem: facts_of(softpack.open(path).file) for path in VALID}

    assert {name: facts["format"] for name, facts in known.items()} == {
        **{name: f"spk {name[:3]}" for name in known},
        "1.0_ancillary": "spk 1.7",
    }
    assert known["1.1_context_mix"]["columns"] == known["1.1_stages"]["columns"] == []
    assert known["1.1_context_boxes"]["columns"] == ["mix_item", "mix_box_xyxy"]


def test_sums_are_those_of_all_files() -> None:
    lines = (FORMATS / "vectors" / "SHA256SUMS").read_text().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    files = {path for folder in ("valid", "invalid") for path in (FORMATS / "vectors" / folder).iterdir()}
    found = {
        path.relative_to(FORMATS / "vectors").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }

    assert found == sums


def test_every_vector_has_its_json_and_is_small() -> None:
    for path in [*VALID, *INVALID]:
        assert path.with_suffix(".spk.json").exists()
        assert path.stat().st_size <= 8192, path.name


def test_vectors_are_never_written_again() -> None:
    before = {path: path.stat().st_mtime_ns for path in [*VALID, *INVALID]}
    result = subprocess.run(
        [sys.executable, str(FORMATS / "make_vectors.py")], check=True, capture_output=True, text=True
    )

    assert result.stdout.startswith("0 files made")
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "name", ["sequences_of_less_than_nothing", "sequences_of_fewer_tokens", "token_hash_of_another"]
)
def test_the_reference_reader_refuses_who_asks_for_tokens_that_are_none(name: str) -> None:
    import reference_sequences

    found = by_reference(FORMATS / "vectors" / "invalid" / f"{name}.spk")
    with pytest.raises(reference_reader.CorruptError, match="sequence"):
        [reference_sequences.tokens_of(found, item) for item in range(len(found["length"]))]
