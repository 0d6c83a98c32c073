# fmt: off
"""From the bytes of an .spk file to its blocks: sections 3, 4, 5 and 10 of spk.md in Python, plain and slow."""
import struct
from collections import namedtuple
from typing import Any

import zstandard
from reference_codecs import NotSpkError, TruncatedError, UnsupportedError, expand, need

Block: Any = namedtuple("Block", "sync type coding stream seq part tile_item tile_view span_items span_views "
                        "n_rows stored_len raw reserved payload_hash seal head payload")
HEADER, MODEL, TILE, INDEX, COMMIT = 1, 2, 3, 4, 5
# What Python says of bytes and headers that are not as they should be: they are Corrupt.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error,
             zstandard.ZstdError)
PARTS = DECODER, ENCODER, PROTOTYPES, PROTOTYPE_ENCODER, TABLES, VIEW_BASIS = 0, 1, 3, 4, 5, 7

def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 of bytes. Sums and products may grow beyond 64 bits until they are rotated."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5, lanes = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5, [seed + p1 + p2, seed + p2, seed, seed - p1]
    by_32, by_8, by_4 = (len(data) // n * n for n in (32, 8, 4))
    def rotate(x: int, n: int) -> int:
        return (x % 2**64 << n | x % 2**64 >> 64 - n) % 2**64
    for line in struct.iter_unpack("<4Q", data[:by_32]):
        lanes = [rotate(lane + word * p2, 31) * p1 for lane, word in zip(lanes, line, strict=True)]
    h = sum(map(rotate, lanes, (1, 7, 12, 18))) if by_32 else seed + p5
    for lane in lanes if by_32 else []:
        h = (h ^ rotate(lane * p2, 31) * p1) * p1 + p4
    h += len(data)
    for (word,) in struct.iter_unpack("<Q", data[by_32:by_8]):
        h = rotate(h ^ rotate(word * p2, 31) * p1, 27) * p1 + p4
    for (word,) in struct.iter_unpack("<I", data[by_8:by_4]):
        h = rotate(h ^ word * p1, 23) * p2 + p3
    for byte in data[by_4:]:
        h = rotate(h ^ byte * p5, 11) * p1
    for shift, prime in (33, p2), (29, p3), (32, 1):
        h = (h % 2**64 ^ h % 2**64 >> shift) * prime
    return h

def read_blocks(data: bytes) -> tuple[list[Any], list[int]]:
    """Return all blocks, checked, and the numbers of items, views and rows: sections 3, 4, 5 and 10."""
    need(data and data[:8] == b"\x89SPK\r\n\x1a\n"[:len(data)], "not an .spk file", NotSpkError)
    need(len(data) >= 64, "no whole superblock", TruncatedError)
    _, major, minor, size, seed, _, features, _, _, seal = struct.unpack("<8sHHI6Q", data[:64])
    need(xxh64(data[:56]) == seal, "superblock: hash")
    need(major == 1 and not features, f"version {major}.{minor}, features {features:#x}", UnsupportedError)
    need(len(data) >= 192 and data[-128:-123] == b"SPKB\5", "does not end with a commit", TruncatedError)
    blocks, at = [], 64  # type: Any, int
    while at < len(data):
        b = Block._make([*struct.unpack("<4sBBH10IQQ", data[at:at + 64]), data[at:at + 64], b""])
        other, why, stop = b.type > 127, f"block at {at}, of type {b.type}", at + 64 + b.stored_len
        payload, at = data[at + 64:stop], -(-stop // 64) * 64
        sound = at <= len(data) and xxh64(b.head[:56], seed) == b.seal and xxh64(payload) == b.payload_hash
        need(sound and (b.sync, b.reserved, b.seq) == (b"SPKB", 0, len(blocks)) and not any(data[stop:at]), why)
        known = other or (0 < b.type < 6 and b.coding < 2 and (b.type != MODEL or b.stream in PARTS))
        need(known, f"{why}, coding {b.coding}, stream {b.stream}", UnsupportedError)
        need(other or not b.coding or b.type == MODEL or (b.type, b.raw) == (INDEX, 64 * b.seq), why)
        blocks += [b._replace(payload=payload if other or b.type == TILE else expand(payload, b.coding, b.raw))]
    (index, commit), types = blocks[-2:], [b.type for b in blocks]
    start, file_len, number, *counts, reserved, mark = struct.unpack("<7Q8s", commit.payload)
    need((size, file_len, reserved, mark) == (64, len(data), 0, b"SPK.END\n"), "superblock or commit")
    found = types.count(HEADER), types.count(COMMIT), index.type, data[start:start + 64], index.payload
    need(found == (1, number + 1, INDEX, index.head, b"".join(b.head for b in blocks[:-2])), "index or blocks")
    return blocks, counts
