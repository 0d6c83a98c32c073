"""Write the vectors that are missing. What is there is never written again: golden vectors are for ever.

    python formats/make_vectors.py

Deleting files is the only way to have them made anew, and only vectors that were never released may be deleted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import vectors_invalid  # noqa: E402
import vectors_invalid_1_1  # noqa: E402
import vectors_invalid_1_2  # noqa: E402
import vectors_invalid_1_3  # noqa: E402
import vectors_invalid_1_4  # noqa: E402
import vectors_invalid_1_5  # noqa: E402
import vectors_invalid_1_5_sequences  # noqa: E402
import vectors_invalid_1_5_topk  # noqa: E402
import vectors_valid  # noqa: E402
import vectors_valid_1_1  # noqa: E402
import vectors_valid_1_2  # noqa: E402
import vectors_valid_1_3  # noqa: E402
import vectors_valid_1_4  # noqa: E402
import vectors_valid_1_5  # noqa: E402
import vectors_valid_1_5_klt  # noqa: E402
import vectors_valid_1_5_sequences  # noqa: E402
import vectors_valid_1_5_topk  # noqa: E402
from vectors_invalid import SHOULD, make  # noqa: E402

import softpack  # noqa: E402
from softpack.format.layout import BLOCK, BLOCK_FIELDS, BlockType, padded  # noqa: E402

VALID = {
    "1.0": vectors_valid.VALID,
    "1.1": vectors_valid_1_1.VALID,
    "1.2": vectors_valid_1_2.VALID,
    "1.3": vectors_valid_1_3.VALID,
    "1.4": vectors_valid_1_4.VALID,
    "1.5": vectors_valid_1_5.VALID
    | vectors_valid_1_5_sequences.VALID
    | vectors_valid_1_5_topk.VALID
    | vectors_valid_1_5_klt.VALID,
}
LATER = {  # by the version that they need
    "1.1": vectors_invalid_1_1.DRAFTS,
    "1.2": vectors_invalid_1_2.DRAFTS,
    "1.3": vectors_invalid_1_3.DRAFTS,
    "1.4": vectors_invalid_1_4.DRAFTS,
    "1.5": vectors_invalid_1_5.DRAFTS | vectors_invalid_1_5_sequences.DRAFTS | vectors_invalid_1_5_topk.DRAFTS,
}
INVALID = {
    **vectors_invalid.BYTES,
    **vectors_invalid.DRAFTS,
    **{name: draft for drafts in LATER.values() for name, draft in drafts.items()},
}
TOLERANCE = {
    "raw": 0.0,
    "vqae": 1e-4,
    "klt": 1e-4,
    "polyk": 1e-4,
    "head": 1e-4,
}  # the rest: 1e-5; see the pages of `codecs/`
CORRECTED = 1e-5  # at least, where rows are corrected


def main() -> None:
    """Write what is missing, and the sums of all."""
    valid, invalid = HERE / "vectors" / "valid", HERE / "vectors" / "invalid"
    made = [*_write_valid(valid), *_write_invalid(invalid, valid)]
    for path in made:
        print(path.relative_to(HERE))
    if made:
        _write_dump(HERE / "spk.md", valid / "1.0_two_classes.spk")
    print(f"{len(made)} files made; the others were there")
    files = sorted(path for folder in (valid, invalid) for path in folder.iterdir())
    lines = [f"{_sha256(path.read_bytes())}  {path.relative_to(HERE / 'vectors').as_posix()}" for path in files]
    (HERE / "vectors" / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def _write_valid(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for version, name in ((version, name) for version, vectors in VALID.items() for name in vectors):
        shows, write = VALID[version][name]
        path = folder / f"{version}_{name}.spk"
        if not path.exists() and not path.with_suffix(path.suffix + ".json").exists():
            write(path)
            yield from _described(path, _expected(path, shows))


def _write_invalid(folder: Path, valid: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (error, _, why, _) in INVALID.items():
        path = folder / f"{name}.spk"
        if not path.exists() and not path.with_suffix(path.suffix + ".json").exists():
            path.write_bytes(make(name, INVALID[name], valid))
            facts = {
                "error": error,
                "level": "should" if name in SHOULD | vectors_invalid_1_5_sequences.SHOULD else "must",
                "why": why,
            }
            # A reader of an earlier version says UnsupportedError.
            versions = [version for version, vectors in LATER.items() if name in vectors]
            yield from _described(path, facts | ({"version": versions[0]} if versions else {}))


def _described(path: Path, facts: dict[str, Any]) -> list[Path]:
    beside = path.with_suffix(path.suffix + ".json")
    beside.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return [path, beside]


def _expected(path: Path, shows: str) -> dict[str, Any]:
    matrix = path.with_suffix(".safetensors")  # of labels that name one
    labels = softpack.open(path, matrix=matrix) if matrix.exists() else softpack.open(path)
    item, view = labels.cells()
    rows = labels.read(item, view).numpy()
    header = labels.file.header
    config, tolerance = header.config, TOLERANCE.get(header.codec_id, 1e-5)
    return {
        "shows": shows,
        "header": json.loads(labels.file.payload(0)),
        "items": labels.shape[0],
        "views": labels.shape[1],
        "item": _array(item),
        "view": _array(view),
        "labels": _array(rows.astype("<f4")),
        # Numbers may differ by this times the row's largest finite size, or by this; infinities may not.
        "tolerance": tolerance if header.correction is None else max(tolerance, CORRECTED),
        # "exp": compare the exponentials, to 1e-6 (codecs/topk.md says when).
        "compare": "exp" if config.get("tail") == "uniform" else "numbers",
        "columns": {name: _array(values) for name, values in _columns(labels, item, view).items()},
        "item_columns": {name: _array(labels.item_column(name)) for name in labels.item_columns},
        "file_bytes": path.stat().st_size,
        "ledger": {f"{e.scope}: {e.what}": e.n_bits for e in softpack.ledger(path).entries},
        # Of files of several stages: the rows by the first, by the first two, ...
        **({"stages": _stages(path, item, view, labels.n_stages)} if labels.n_stages > 1 else {}),
    }


def _columns(labels: Any, item: np.ndarray, view: np.ndarray) -> dict[str, np.ndarray]:
    forced = {"log_prob": labels.forced(item, view).numpy()} if labels.forced_tokens else {}
    return labels.replay(item, view) | forced


def _stages(path: Path, item: np.ndarray, view: np.ndarray, n_stages: int) -> list[dict[str, Any]]:
    return [
        _array(softpack.open(path, stages=n).read(item, view).numpy().astype("<f4"))
        for n in range(1, n_stages + 1)
    ]


def _array(values: np.ndarray) -> dict[str, Any]:
    """Return shape, dtype and numbers: integers as a list, float32 as base64 of little-endian bytes."""
    facts: dict[str, Any] = {"shape": list(values.shape), "dtype": str(values.dtype.newbyteorder("="))}
    if values.dtype.kind == "f":
        return {**facts, "base64": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    return {**facts, "values": values.astype(np.int64).reshape(-1).tolist()}


def _write_dump(spec: Path, vector: Path) -> None:
    """Put the bytes of a vector into the specification, block by block."""
    data, out, at = vector.read_bytes(), ["```", "superblock", *_dump(vector.read_bytes(), 0, 64)], 64
    while at < len(data):
        block = dict(zip(BLOCK_FIELDS, BLOCK.unpack(data[at : at + 64]), strict=True))
        stop = at + 64 + padded(block["stored_len"])
        kind, says = BlockType(block["type"]).name, f"{block['stored_len']} bytes"
        if block["coding"]:
            says += f" in a zstd frame, {block['raw_len']} without"
        out += [
            "",
            f"block {block['seq']}, {kind}: header",
            *_dump(data, at, at + 64),
            f"{kind}: payload, {says}",
        ]
        out += _dump(data, at + 64, stop)
        at = stop
    before, rest = spec.read_text().split("make_vectors.py -->\n")
    after = rest.split("<!-- end of dump -->")[1]
    body = "\n".join([*out, "```"])
    spec.write_text(f"{before}make_vectors.py -->\n{body}\n<!-- end of dump -->{after}")


def _dump(data: bytes, start: int, stop: int) -> list[str]:
    lines = [(at, data[at : min(at + 16, stop)]) for at in range(start, stop, 16)]
    return [
        f"{at:04x}  {line.hex(' ')}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in line)}"
        for at, line in lines
    ]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
