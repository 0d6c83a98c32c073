"""Files that somebody made on purpose: every hash holds, and what they say is a lie."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import zstandard

import softpack
from softpack.container.reader import Labels
from softpack.entropy.arrays import DESCRIPTOR
from softpack.errors import CorruptError, FormatError
from softpack.format.blocks import Block
from softpack.format.canonical import canonical
from softpack.format.layout import BlockType, Coding

HEADROOM = 256 << 20  # bytes that a reader may take for any of these small files


def use_everything(path):
    """Open, verify and read a file; the first problem is raised."""
    report = softpack.verify(path)
    if report.problems:
        raise CorruptError(report.problems[0])
    labels = Labels(path)
    items, views = labels.cells()
    labels.read(items, views)
    labels.replay(items, views)
    labels.load()
    for name in labels.item_columns:
        labels.item_column(name)
    softpack.ledger(path)


def codes(forge):
    return forge.find(BlockType.TILE, 1)


def with_block(**fields):
    """Return a lie about the first block of codes."""
    return lambda forge, path: (forge.change(codes(forge), **fields), forge.write(path))[1]


def with_payload(stream, make, **fields):
    """Return a lie in the payload of the first tile of a stream."""

    def craft(forge, path):
        number = forge.find(BlockType.TILE, stream)
        forge.change(number, make(forge.blocks[number][1]), **fields)
        return forge.write(path)

    return craft


def with_commit(**fields):
    return lambda forge, path: forge.write(path, commit=lambda commit: replace(commit, **fields))


def with_header(change):
    """Return a lie in the header's JSON."""

    def craft(forge, path):
        document = json.loads(forge.blocks[0][1])
        found = change(document)
        payload = found if isinstance(found, bytes) else canonical(document if found is None else found)
        forge.change(0, payload)
        return forge.write(path)

    return craft


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(document):
        for key in keys:
            document = document[key]
        document[last] = value

    return with_header(change)


def array(width, payload, coding=0, base=0, stored_len=None):
    return DESCRIPTOR.pack(coding, width, 0, len(payload) if stored_len is None else stored_len, base) + payload


def frame(n_bytes, claim=None, level=3):
    """Return a zstd frame of zeros, whose 4-byte content size says `claim`."""
    data = zstandard.ZstdCompressor(level=level, write_content_size=True).compress(bytes(n_bytes))
    if claim is None:
        return data
    assert data[4] >> 6 == 2, "a content size of 4 bytes"
    at = 5 if data[4] >> 5 & 1 else 6
    return data[:at] + struct.pack("<I", claim) + data[at + 4 :]


def huge_rows(forge, path):
    """One tile of 16 million rows that take no bits at all."""
    n = 1 << 24
    number = codes(forge)
    lies = {"span_items": n, "span_views": 1, "n_rows": n, "raw_len": 16}
    forge.change(number, array(0, b""), **lies)
    document = json.loads(forge.blocks[0][1])
    document["streams"] = document["streams"][:1]
    document["tile"] = {"items": n, "views": 1}
    forge.blocks = [forge.blocks[0], forge.blocks[number]]
    forge.change(0, canonical(document))
    return forge.write(path, commit=lambda commit: replace(commit, items=n, views=1, n_rows=n))


def index_bomb(forge, path):
    data = frame(1 << 29)
    return forge.write(path, index=lambda headers: (data, {"coding": Coding.ZSTD, "raw_len": 1 << 29}))


def index_of_other_length(n_bytes):
    return lambda forge, path: forge.write(path, index=lambda headers: (headers[:n_bytes], {}))


def index_of_other_blocks(forge, path):
    def lie(headers):
        table = bytearray(headers)
        table[64 + 36 : 64 + 40] = struct.pack(
            "<I", 128
        )  # stored_len of block 1; its seal fails, its length too
        return bytes(table), {}

    return forge.write(path, index=lie)


def two_headers(forge, path):
    forge.blocks.insert(1, forge.blocks[0])
    return forge.write(path)


def without(stream):
    def craft(forge, path):
        del forge.blocks[forge.find(BlockType.TILE, stream)]
        return forge.write(path)

    return craft


def tile_twice(forge, path):
    for stream in (0, 1, 2):
        block, payload = forge.blocks[forge.find(BlockType.TILE, stream)]
        forge.blocks.append((replace(block, part=9), payload))
    return forge.write(path, commit=lambda commit: replace(commit, n_rows=commit.n_rows + 10))


def model(payload, **fields):
    def craft(forge, path):
        block = Block(BlockType.MODEL, **{"stored_len": len(payload), "raw_len": len(payload), **fields})
        forge.blocks.insert(1, (block, payload))
        return forge.write(path)

    return craft


def tensors(header, data=b"", length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
STREAM = {"name": "codes", "per": "row", "scope": "codes"}
CODES = {"name": "values", "shape": [3], "kind": "uint", "bits": 32, "levels": 1 << 32}
ROWS = 10  # in the first tile

LIES = {
    # blocks
    "stored_len beyond the file": with_block(stored_len=(256 << 20) - 64),
    "stored_len beyond any tile": with_block(stored_len=0xFFFFFFFF),
    "stored_len 0": with_block(stored_len=0),
    "raw_len too large": with_block(raw_len=256 << 20),
    "raw_len beyond any tile": with_block(raw_len=0xFFFFFFFF),
    "raw_len too small": with_block(raw_len=16),
    "n_rows 0": with_block(n_rows=0),
    "n_rows more than the span": with_block(n_rows=13),
    "n_rows one fewer": with_block(n_rows=9),
    "n_rows of all bits": with_block(n_rows=0xFFFFFFFF),
    "span wider than a tile": with_block(span_items=4),
    "span of all bits": with_block(span_items=0xFFFFFFFF, span_views=0xFFFFFFFF, n_rows=0xFFFFFFFF),
    "tile at the end of the world": with_block(tile_item=0xFFFFFFFF),
    "tile elsewhere": with_block(tile_view=1),
    "stream that is none": with_block(stream=9),
    "stream of all bits": with_block(stream=0xFFFF),
    "tile in zstd": with_block(coding=Coding.ZSTD),
    "tile in an unknown coding": with_block(coding=9),
    "unknown type": with_block(type=77),
    "header twice": two_headers,
    "no codes": without(1),
    "no presence": without(0),
    "no replay": without(2),
    "rows twice": tile_twice,
    # tiles
    "array cut short": with_payload(1, lambda old: old[:12]),
    "array longer than the tile": with_payload(1, lambda old: array(32, old[16:], stored_len=0xFFFFFFFF)),
    "array too short": with_payload(1, lambda old: array(32, old[16:-4])),
    "bytes left over": with_payload(1, lambda old: old + b"more"),
    "codes of another width": with_payload(1, lambda old: array(8, bytes(ROWS * 3)), raw_len=16 + ROWS * 3),
    "codes of width 0": with_payload(1, lambda old: array(0, b""), raw_len=16),
    "codes of width 33": with_payload(1, lambda old: array(33, old[16:])),
    "codes with a base": with_payload(1, lambda old: array(32, old[16:], base=1)),
    "unknown array coding": with_payload(1, lambda old: array(32, old[16:], coding=7)),
    "zstd of another size": with_payload(1, lambda old: array(32, frame(500), 1), raw_len=16 + ROWS * 12),
    "zstd that is none": with_payload(1, lambda old: array(32, old[16:], 1)),
    "zstd cut off": with_payload(1, lambda old: array(32, frame(120)[:-1], 1), raw_len=136),
    "zstd with something behind": with_payload(1, lambda old: array(32, frame(120) + b"x", 1), raw_len=136),
    "two zstd frames": with_payload(1, lambda old: array(32, frame(60) * 2, 1), raw_len=136),
    "numbers beyond 32 bits": with_payload(2, lambda old: old[:8] + struct.pack("<q", 1 << 62) + old[16:]),
    "presence of other rows": with_payload(0, lambda old: array(1, b"\xff\xff")),
    "presence of no rows": with_payload(0, lambda old: array(1, b"\0\0")),
    "rows that take no bits": huge_rows,
    # index and commit
    "index bomb": index_bomb,
    "index of half a block": index_of_other_length(100),
    "index of nothing": index_of_other_length(0),
    "index of fewer blocks": index_of_other_length(128),
    "index of other blocks": index_of_other_blocks,
    "index too long": lambda forge, path: forge.write(path, index=lambda headers: (headers + headers[-64:], {})),
    "rows not there": with_commit(n_rows=18),
    "rows without end": with_commit(n_rows=(1 << 64) - 1),
    "items fewer than tiles": with_commit(items=4),
    "items of no end": with_commit(items=1 << 40),
    "items and views of all bits": with_commit(items=(1 << 64) - 1, views=(1 << 64) - 1),
    "views fewer than tiles": with_commit(views=3),
    "index outside the file": with_commit(index_offset=1 << 50),
    "index at nothing": with_commit(index_offset=64),
    "another length": with_commit(file_len=1),
    # header
    "not JSON": with_header(lambda document: b"{"),
    "not UTF-8": with_header(lambda document: b"\xff" * 100),
    "deep JSON": with_header(lambda document: DEEP),
    "deep JSON below the limit of Python": with_header(lambda document: b'{"a":' * 40 + b"1" + b"}" * 40),
    "a wall of brackets": with_header(lambda document: b"[" * 200_000),
    "a long integer": with_header(lambda document: b'{"a":' + b"9" * 500_000 + b"}"),
    "half a surrogate pair": with_header(lambda document: b'{"a":"\\ud800"}'),
    "a duplicate key": with_header(lambda document: b'{"a":1,"a":1}'),
    "spaces": with_header(lambda document: json.dumps(document, sort_keys=True).encode()),
    "a float": put("made_by", "seed", 0.5),
    "NaN": with_header(lambda document: b'{"a":NaN}'),
    "a list": with_header(lambda document: b"[]"),
    "a number": with_header(lambda document: b"1"),
    "nothing": with_header(lambda document: b""),
    "no fields": with_header(lambda document: {}),
    "streams of nothing": put("streams", []),
    "streams that are text": put("streams", "codes"),
    "a stream that is a number": put("streams", 0, 1),
    "arrays of nothing": put("streams", 0, "arrays", []),
    "codes of 2**48 numbers": put("streams", 0, "arrays", 0, "shape", [1 << 24, 1 << 24]),
    "codes of 2**24 x 1 numbers": put("streams", 0, "arrays", 0, "shape", [1 << 24]),
    "a shape of text": put("streams", 0, "arrays", 0, "shape", "3"),
    "a shape of 0": put("streams", 0, "arrays", 0, "shape", [0]),
    "33 bits": put("streams", 0, "arrays", 0, "bits", 33),
    "bits true": put("streams", 0, "arrays", 0, "bits", True),
    "levels of 1": put("streams", 0, "arrays", 0, "levels", 1),
    "levels beyond the bits": put("streams", 0, "arrays", 0, "levels", (1 << 32) + 1),
    "codes that are floats": put("streams", 0, "arrays", 0, "kind", "float32"),
    "codes that are ints": put("streams", 0, "arrays", 0, "kind", "int"),
    "a name with a path": put("streams", 0, "arrays", 0, "name", "../x"),
    "a thousand arrays": put("streams", 0, {**STREAM, "arrays": [{**CODES, "name": f"a{n}"} for n in range(1000)]}),
    "replay per item": put("streams", 1, "per", "item"),
    "columns of another shape": put("streams", 1, "arrays", 0, "shape", [5]),
    "columns of another kind": put("streams", 1, "arrays", 2, "kind", "int"),
    "a tile of nothing": put("tile", "items", 0),
    "a tile of everything": put("tile", "views", 1 << 24),
    "another codec": put("codec", "id", "quantize"),
    "an unknown codec": put("codec", "id", "nosuchcodec"),
    "a codec with a path": put("codec", "id", "os.path"),
    "an unknown setting": put("codec", "config", {"dtype": "fp32", "exec": 1}),
    "a setting that is the spec": put("codec", "config", {"dtype": "fp32", "spec": 1}),
    "a setting of another type": put("codec", "config", {"dtype": 5}),
    "a setting that is a list": put("codec", "config", {"dtype": [[]]}),
    "settings that are a list": put("codec", "config", []),
    "other classes": put("gives", "classes", 4),
    "classes without end": put("takes", "classes", 1 << 60),
    "one class": put("takes", "classes", 1),
    "a space that is none": put("gives", "space", ["logits"]),
    "a temperature that is none": put("gives", "temperature", "hot"),
    "a temperature in other words": put("gives", "temperature", "1_0.0"),
    "a temperature of NaN": put("gives", "temperature", "nan"),
    # model
    "a model that is none": model(b"nothing"),
    "a model for a codec without": model(
        tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"four")),
    "a model with a huge header": model(tensors({}, length=1 << 60)),
    "a model with a header of 100 MB": model(tensors({}, length=100_000_000)),
    "a model of tensors beyond it": model(
        tensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})),
    "a model of a tensor without end": model(
        tensors({"a": {"dtype": "F32", "shape": [1 << 33, 1 << 33], "data_offsets": [0, 4]}}, b"four")
    ),
    "a model of another dtype": model(tensors({"a": {"dtype": "F8_XX", "shape": [1], "data_offsets": [0, 1]}}, b"x")),
    "a model of deep JSON": model(struct.pack("<Q", len(DEEP)) + DEEP),
    "a model with lying zstd": model(frame(70_000, claim=0xFFFF0000), coding=Coding.ZSTD, raw_len=0xFFFF0000),
    "a model with smaller zstd": model(frame(70_000), coding=Coding.ZSTD, raw_len=60_000),
    "a model that is stored and longer": model(b"x" * 64, raw_len=4 << 20),
    "a model of a third part": model(tensors({}), stream=2),
    "a model with rows": model(tensors({}), n_rows=1),
}  # fmt: skip


@pytest.fixture(scope="module")
def lies(ragged_file, forge, tmp_path_factory):
    """Paths of all lying files by what they lie about."""
    folder = tmp_path_factory.mktemp("lies")
    return {
        what: craft(forge(ragged_file), folder / f"{n}.spk") for n, (what, craft) in enumerate(LIES.items())
    }


@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_refused(lies, what):
    with pytest.raises(FormatError) as refused:
        use_everything(lies[what])

    assert lies[what].name in str(refused.value)
    assert len(str(refused.value)) < 4000


def test_the_forge_makes_good_files(ragged_file, ragged, forge, tmp_path):
    path = forge(ragged_file).write(tmp_path / "a.spk")

    use_everything(path)
    assert forge(path).blocks == forge(ragged_file).blocks
    ragged.check(softpack.open(path))


CHILD = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("hostile", sys.argv[1])
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)
hostile.use_everything(sys.argv[2])  # so that all is imported
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + hostile.HEADROOM
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[3:]:
    try:
        hostile.use_everything(path)
        print(path, "passed")
    except hostile.FormatError:
        pass
    except BaseException as error:
        print(path, repr(error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_lies_take_little_memory_and_time(lies, ragged_file):
    paths = [str(path) for path in lies.values()]

    begun = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, __file__, str(ragged_file), *paths],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert child.stdout == "", child.stdout
    assert child.returncode == 0, child.stderr
    assert time.monotonic() - begun < 60
