"""The invalid vectors: one malformation each, whose hashes and index fit wherever they are not what is wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy as st
import zstandard
from drafts import Draft, DraftBlock

DESCRIPTOR = struct.Struct("<BBHIq")  # coding, width, reserved, stored length, base
Change = Callable[[Draft], None]


# -- ways to change a file ---------------------------------------------------------------------------------


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the header's JSON, and spell it canonically."""

    def apply(draft: Draft) -> None:
        document = json.loads(draft.blocks[0].content)
        change(document)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        draft.set_header(text.encode())

    return apply


def spelling(old: bytes, new: bytes) -> Change:
    """Change how the header is spelled."""

    def apply(draft: Draft) -> None:
        text = draft.blocks[0].content
        if old not in text:
            raise ValueError(f"{old!r} is not in the header")
        draft.set_header(text.replace(old, new, 1))

    return apply


def fields(pick: Callable[[Draft], DraftBlock], **lies: Any) -> Change:
    """Write fields of a block header that do not fit."""
    return lambda draft: pick(draft).lies.update(lies)


def array(stream: int, change: Callable[[list[Any], bytes], tuple[list[Any], bytes]], raw: int = 0) -> Change:
    """Change the first array of a stream's first tile: its descriptor's fields and its stored bytes."""

    def apply(draft: Draft) -> None:
        block = draft.tile(stream)
        payload = block.payload or b""
        facts = list(DESCRIPTOR.unpack(payload[:16]))
        stop = 16 + facts[3]
        facts, stored = change(facts, payload[16:stop])
        block.payload = DESCRIPTOR.pack(*facts) + stored + payload[stop:]
        block.fields["raw_len"] += raw

    return apply


def model(change: Callable[[bytes], bytes]) -> Change:
    """Change the safetensors of the decoder."""

    def apply(draft: Draft) -> None:
        draft.blocks[1].change(change(draft.blocks[1].content))

    return apply


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the tensors of the decoder."""

    def apply(data: bytes) -> bytes:
        found = st.load(data)
        change(found)
        return st.save(found)

    return model(apply)


def safetensors_header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the header of the safetensors."""

    def apply(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        document = json.loads(data[8 : 8 + size])
        change(document)
        text = json.dumps(document, separators=(",", ":")).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return model(apply)


def frame(make: Callable[[bytes], bytes], coding: int = 1) -> Change:
    """Make the first array of the codes a zstd frame of its planes."""

    def change(facts: list[Any], stored: bytes) -> tuple[list[Any], bytes]:
        if facts[0]:
            stored = zstandard.decompress(stored)
        made = make(stored)
        return [coding, facts[1], facts[2], len(made), facts[4]], made

    return array(1, change)


def without_size(data: bytes) -> bytes:
    """Return a frame that does not say how much it holds."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def says(size: int) -> Callable[[bytes], bytes]:
    """Return what makes a frame that says another size than it holds."""

    def make(data: bytes) -> bytes:
        # Magic, a descriptor for an 8-byte size and no window, the size, one raw last block.
        return bytes.fromhex("28b52ffde0") + size.to_bytes(8, "little") + (len(data) << 3 | 1).to_bytes(3, "little") + data

    return make


def flip(offset: Callable[[bytes, Draft], int], bit: int = 0) -> Callable[[bytes, Draft], bytes]:
    """Flip one bit of the finished file."""

    def apply(data: bytes, draft: Draft) -> bytes:
        changed = bytearray(data)
        changed[offset(data, draft)] ^= 1 << bit
        return bytes(changed)

    return apply


def swap(draft: Draft, one: int, other: int) -> None:
    """Exchange two blocks."""
    draft.blocks[one], draft.blocks[other] = draft.blocks[other], draft.blocks[one]


def at(number: int) -> Callable[[Draft], DraftBlock]:
    """Pick a block by its number."""
    return lambda draft: draft.blocks[number]


def codes(draft: Draft) -> DraftBlock:
    """Pick the first tile of codes."""
    return draft.tile(1)


def ids(draft: Draft) -> DraftBlock:
    """Pick the first presence bits."""
    return draft.tile(0)


def target(draft: Draft) -> DraftBlock:
    """Pick the first tile of the column of items."""
    return draft.tile(3)


def arrays(document: dict[str, Any], stream: int = 0) -> list[dict[str, Any]]:
    """Return the arrays of a stream of the header."""
    found: list[dict[str, Any]] = document["streams"][stream]["arrays"]
    return found


# -- what is wrong with them -------------------------------------------------------------------------------

C, U, T, N = "CorruptError", "UnsupportedError", "TruncatedError", "NotSpkError"
RAGGED, LOWRANK, PARTS, VQAE = "ragged", "lowrank", "parts", "vqae"

# name: (kind, valid vector it begins with, why, change of the whole bytes)
BYTES: dict[str, tuple[str, str, str, Callable[[bytes, Draft], bytes]]] = {
    "empty": (N, RAGGED, "a file of no bytes", lambda data, d: b""),
    "other_magic": (N, RAGGED, "begins as a PNG file does", lambda data, d: b"\x89PNG\r\n\x1a\n" + data[8:]),
    "text_mode": (N, RAGGED, "line ends were changed in transfer", lambda data, d: data.replace(b"\r\n", b"\n")),
    "cut_in_magic": (T, RAGGED, "cut after 5 bytes", lambda data, d: data[:5]),
    "cut_in_superblock": (T, RAGGED, "cut after 63 bytes", lambda data, d: data[:63]),
    "cut_after_superblock": (T, RAGGED, "cut after 64 bytes", lambda data, d: data[:64]),
    "cut_in_block_header": (T, RAGGED, "cut within the header of the second block", lambda data, d: data[: offsets(data)[1] + 20]),
    "cut_in_payload": (T, RAGGED, "cut within a payload", lambda data, d: data[: offsets(data)[2] + 70]),
    "cut_between_blocks": (T, RAGGED, "cut after a whole block", lambda data, d: data[: offsets(data)[3]]),
    "cut_before_index": (T, RAGGED, "cut before the index", lambda data, d: data[: offsets(data)[-3]]),
    "cut_before_commit": (T, RAGGED, "cut between index and commit", lambda data, d: data[:-128]),
    "cut_in_commit": (T, RAGGED, "the last byte is missing", lambda data, d: data[:-1]),
    "trailing_byte": (T, RAGGED, "a byte behind the commit", lambda data, d: data + b"\0"),
    "trailing_zip": (T, RAGGED, "another file behind the commit", lambda data, d: data + b"PK\x05\x06" + bytes(18)),
    "trailing_commit": (C, RAGGED, "the commit stands twice, so the length does not fit", lambda data, d: data + data[-128:]),
    "flip_in_version": (C, RAGGED, "a bit of the superblock", flip(lambda data, d: 10)),
    "flip_in_file_id": (C, RAGGED, "a bit of the file id", flip(lambda data, d: 20)),
    "flip_in_superblock_hash": (C, RAGGED, "a bit of the superblock's hash", flip(lambda data, d: 60)),
    "flip_in_header": (C, RAGGED, "a bit of the JSON", flip(lambda data, d: offsets(data)[0] + 80)),
    "flip_in_model": (C, LOWRANK, "a bit of a weight", flip(lambda data, d: offsets(data)[2] - 70)),
    "flip_in_presence": (C, RAGGED, "a bit of a presence payload", flip(lambda data, d: offsets(data)[1] + 64 + 16)),
    "flip_in_codes": (C, RAGGED, "a bit of a payload of codes", flip(lambda data, d: offsets(data)[2] + 64 + 20)),
    "flip_in_block_header": (C, RAGGED, "a bit of a tile's place", flip(lambda data, d: offsets(data)[2] + 16)),
    "flip_in_payload_hash": (C, RAGGED, "a bit of a payload hash", flip(lambda data, d: offsets(data)[2] + 50)),
    "flip_in_padding": (C, RAGGED, "a bit of the padding of a block", flip(lambda data, d: offsets(data)[3] - 1)),
    "flip_in_index": (C, RAGGED, "a bit of the index", flip(lambda data, d: offsets(data)[-2] - 70)),
    "flip_in_commit": (C, RAGGED, "a bit of the number of rows", flip(lambda data, d: len(data) - 24)),
    "flip_in_end_mark": (C, RAGGED, "a bit of the last byte", flip(lambda data, d: len(data) - 1)),
    "swapped_as_they_are": (C, PARTS, "two tiles have changed places, and the index is the old one", lambda data, d: moved(data, [0, 2, 1])),
    "doubled_as_it_is": (C, PARTS, "a tile stands twice, the index is the old one", lambda data, d: moved(data, [0, 1, 1])),
    "transplanted_block": (C, PARTS, "a block of another file, sealed for that file", lambda data, d: transplanted(data)),
}

# name: (kind, valid vector it begins with, why, change of the draft)
DRAFTS: dict[str, tuple[str, str, str, Change]] = {
    # superblock
    "version_2": (U, RAGGED, "major version 2", lambda d: setattr(d, "major", 2)),
    "version_0": (U, RAGGED, "major version 0, which never was", lambda d: setattr(d, "major", 0)),
    "incompatible_feature": (U, RAGGED, "an incompatible feature that is not known", lambda d: setattr(d, "features", (1 << 63, 0, 0))),
    "superblock_length": (C, RAGGED, "the superblock says that it is longer", lambda d: setattr(d, "superblock_len", 128)),
    # commit and index
    "commit_length": (C, RAGGED, "the commit says another length of the file", lambda d: d.commit.update(file_len=1 << 50)),
    "commit_index_outside": (C, RAGGED, "the index is said to lie beyond the file", lambda d: d.commit.update(index_offset=1 << 60)),
    "commit_index_elsewhere": (C, RAGGED, "the index is said to be where the header is", lambda d: d.commit.update(index_offset=64)),
    "commit_end_mark": (C, RAGGED, "the end mark is another", lambda d: d.commit.update(end=b"SPK.end\n")),
    "commit_reserved": (C, RAGGED, "the reserved field of the commit is not 0", lambda d: d.commit.update(reserved=1)),
    "commit_number": (C, PARTS, "the third commit says that it is the first", lambda d: d.commit.update(number=0)),
    "commit_n_rows": (C, RAGGED, "the commit counts one row more than the tiles hold", lambda d: d.commit.update(n_rows=12)),
    "commit_items_too_few": (C, RAGGED, "a tile lies outside the items of the commit", lambda d: d.commit.update(items=3)),
    "commit_views_too_few": (C, RAGGED, "a tile lies outside the views of the commit", lambda d: d.commit.update(views=6)),
    "commit_compressed": (C, RAGGED, "a commit is never compressed", fields(at(-1), coding=1)),
    "commit_raw_length": (C, RAGGED, "the commit says another length before compression", fields(at(-1), raw_len=65)),
    "commit_is_index": (T, RAGGED, "the last block is no commit", fields(at(-1), type=4)),
    "index_lacks_a_block": (C, RAGGED, "the index lists one block less", lambda d: d.blocks[-2].change(index_of(d)[:-64])),
    "index_lists_another": (C, RAGGED, "the index lists a block with another hash", lambda d: d.blocks[-2].change(index_of(d)[:120] + bytes(8) + index_of(d)[128:])),
    "index_ragged": (C, RAGGED, "the index is no multiple of 64 bytes", lambda d: d.blocks[-2].change(index_of(d)[:-1])),
    "index_promises_a_gibibyte": (C, RAGGED, "an index frame that promises 1 GiB", lambda d: bomb(d.blocks[-2], 1 << 30)),
    "index_unknown_coding": (U, RAGGED, "an index of an unknown coding", fields(at(-2), coding=7)),
    # blocks
    "block_sync": (C, RAGGED, "a block does not begin with SPKB", fields(codes, sync=b"SPKA")),
    "block_reserved": (C, RAGGED, "the reserved field of a block is not 0", fields(codes, reserved=1)),
    "block_padding": (C, RAGGED, "padding that is not 0", lambda d: setattr(codes(d), "padding", b"x" * (-len(codes(d).payload or b"") % 64))),
    "block_payload_hash": (C, RAGGED, "a payload hash that is wrong, sealed", fields(codes, payload_hash=1)),
    "block_order": (C, RAGGED, "two blocks have each other's number", lambda d: (d.blocks[1].lies.update(seq=2), d.blocks[2].lies.update(seq=1))),
    "block_unknown_type": (U, RAGGED, "a critical block of an unknown type", lambda d: d.blocks.insert(1, d.block(b"", type=99))),
    "block_type_0": (U, RAGGED, "a block of type 0", lambda d: d.blocks.insert(1, d.block(b"", type=0))),
    "block_promises_4_gib": (C, RAGGED, "a payload of 4 GiB in a small file", fields(codes, stored_len=(1 << 32) - 64)),
    "block_fields_of_a_tile": (C, LOWRANK, "a model with a number of rows", fields(at(1), n_rows=5)),
    "header_twice": (C, RAGGED, "a second header", lambda d: d.blocks.insert(1, d.block(d.blocks[0].payload, type=1))),
    "header_not_first": (C, RAGGED, "the header is the second block", lambda d: swap(d, 0, 1)),
    "header_compressed": (C, RAGGED, "a header is never compressed", lambda d: compress(d.blocks[0])),
    "header_has_a_stream": (C, RAGGED, "a header with a stream", fields(at(0), stream=1)),
    # the header's JSON
    "json_not_canonical": (C, RAGGED, "a space in the JSON", spelling(b":", b": ")),
    "json_unsorted": (C, RAGGED, "keys that are not sorted", spelling(b'"config":{"bits":4},"id":"quantize"', b'"id":"quantize","config":{"bits":4}')),
    "json_duplicate_key": (C, RAGGED, "a key stands twice", spelling(b'"items":2,', b'"items":2,"items":2,')),
    "json_float": (C, RAGGED, "a number with a fraction", spelling(b'"bits":4', b'"bits":4.0')),
    "json_nan": (C, RAGGED, "NaN", spelling(b'"bits":4', b'"bits":NaN')),
    "json_large_integer": (C, RAGGED, "an integer beyond 2^53 - 1", spelling(b'"seed":0', b'"seed":9007199254740992')),
    "json_half_a_surrogate": (C, RAGGED, "half of a surrogate pair", spelling(b'"seed":0', b'"seed":"\\ud800"')),
    "json_not_utf8": (C, RAGGED, "bytes that are not UTF-8", spelling(b'"seed":0', b'"seed":"\xff"')),
    "json_cut": (C, RAGGED, "the last brace is missing", lambda d: d.set_header(d.blocks[0].content[:-1])),
    "json_a_list": (C, RAGGED, "no object", lambda d: d.set_header(b"[]")),
    "json_deep": (C, RAGGED, "2,000 lists in each other", lambda d: d.set_header(b"[" * 2000 + b"]" * 2000)),
    "json_missing_field": (C, RAGGED, "lacks gives", header(lambda h: h.pop("gives"))),
    "json_unknown_field": (U, RAGGED, "a field of a later version", header(lambda h: h.update(stages=2))),
    "json_unknown_array_field": (U, RAGGED, "an array with a field of a later version", header(lambda h: arrays(h)[0].update(signed=True))),
    "unknown_space": (U, RAGGED, "a space of a later version", header(lambda h: h["takes"].update(space="logits2"))),
    "unknown_stream": (U, RAGGED, "a stream of a later version", header(lambda h: h["streams"].append({**h["streams"][2], "name": "prototype"}))),
    "unknown_scope": (U, RAGGED, "a known stream with a scope of a later version", header(lambda h: h["streams"][1].update(scope="context"))),
    "unknown_per": (U, RAGGED, "a known stream per something of a later version", header(lambda h: h["streams"][1].update(per="mark"))),
    "unknown_kind": (U, RAGGED, "codes of a kind of a later version", header(lambda h: arrays(h)[0].update(kind="ternary"))),
    "unknown_column": (U, RAGGED, "a replay column of a later version", header(lambda h: arrays(h, 1)[0].update(name="jitter"))),
    "unknown_codec": (U, RAGGED, "a codec that is not known", header(lambda h: h["codec"].update(id="klt9"))),
    "unknown_setting": (U, RAGGED, "a setting of a later version", header(lambda h: h["codec"]["config"].update(stages=2))),
    "missing_setting": (C, RAGGED, "a setting is missing", header(lambda h: h["codec"]["config"].pop("bits"))),
    "temperature_spelled_badly": (C, RAGGED, "a temperature with an underscore", header(lambda h: h["gives"].update(temperature="1_0"))),
    "gives_another_space": (C, RAGGED, "gives is not what the codec gives", header(lambda h: h["gives"].update(space="log_probs"))),
    "tile_of_no_items": (C, RAGGED, "tiles of 0 items", header(lambda h: h["tile"].update(items=0))),
    "tile_too_large": (C, RAGGED, "tiles of 2^40 cells", header(lambda h: h["tile"].update(items=1 << 20, views=1 << 20))),
    "stream_twice": (C, RAGGED, "a stream stands twice", header(lambda h: h["streams"].append(h["streams"][1]))),
    "codes_not_first": (C, RAGGED, "the codes are not the first stream", header(lambda h: h["streams"].reverse())),
    "bits_33": (C, RAGGED, "codes of 33 bits", header(lambda h: arrays(h)[1].update(bits=33))),
    "levels_above_bits": (C, RAGGED, "more levels than the bits can say", header(lambda h: arrays(h)[0].update(levels=17))),
    "shape_of_nothing": (C, RAGGED, "an array of no numbers", header(lambda h: arrays(h)[0].update(shape=[0]))),
    "shape_of_other_classes": (C, RAGGED, "codes for 11 of the 12 classes", header(lambda h: arrays(h)[0].update(shape=[11]))),
    # tiles
    "tile_unknown_stream": (C, RAGGED, "a tile of stream 9 of 3", fields(codes, stream=9)),
    "tile_without_rows": (C, RAGGED, "a tile of no rows", fields(codes, n_rows=0)),
    "tile_wider_than_a_tile": (C, RAGGED, "a part that covers more than its tile", fields(codes, span_items=3)),
    "tile_outside": (C, RAGGED, "a tile beyond the items", fields(target, tile_item=1)),
    "tile_more_rows_than_cells": (C, RAGGED, "more rows than cells", lambda d: [b.lies.update(n_rows=99) for b in (ids(d), codes(d), d.tile(2))]),
    "tile_compressed": (C, RAGGED, "a tile is never compressed as a whole", fields(codes, coding=1)),
    "tile_unknown_coding": (U, RAGGED, "a tile of an unknown coding", fields(codes, coding=2)),
    "tile_lacks_a_stream": (C, RAGGED, "a part without its replay", lambda d: d.blocks.remove(d.tile(2))),
    "tile_lacks_presence": (C, RAGGED, "a part of missing rows without presence bits", lambda d: d.blocks.remove(ids(d))),
    "tile_presence_needless": (C, PARTS, "a full part with presence bits", lambda d: needless(d)),
    "tile_disagrees": (C, RAGGED, "codes and replay of a part disagree about its rows", fields(codes, n_rows=6)),
    "tile_twice": (C, PARTS, "a part stands twice", lambda d: d.blocks.insert(2, copy(codes(d)))),
    "tile_dropped": (C, PARTS, "a part is missing, the index fits", lambda d: drop_part(d)),
    "row_twice": (C, PARTS, "an (item, view) is there twice", lambda d: row_twice(d)),
    "presence_bits": (C, RAGGED, "one presence bit less than rows", array(0, lambda f, s: (f, bytes([s[0] & s[0] - 1]) + s[1:]))),
    "item_tile_with_a_part": (C, RAGGED, "a column of items has parts", fields(target, part=1)),
    "item_tile_with_a_view": (C, RAGGED, "a column of items has views", fields(target, tile_view=1)),
    "item_tile_misses_items": (C, RAGGED, "a column of items covers more than it has", fields(target, n_rows=3)),
    "tile_raw_length": (C, RAGGED, "a tile says another length before compression", fields(codes, raw_len=1000)),
    "tile_bytes_left_over": (C, RAGGED, "bytes behind the last array", lambda d: lengthen(codes(d))),
    # arrays
    "array_unknown_coding": (U, RAGGED, "an array of an unknown coding", array(1, lambda f, s: ([2, *f[1:]], s))),
    "array_reserved": (C, RAGGED, "the reserved field of an array is not 0", array(1, lambda f, s: ([f[0], f[1], 1, *f[3:]], s))),
    "array_base": (C, RAGGED, "codes with a base", array(1, lambda f, s: ([*f[:4], 1], s))),
    "array_width_above_bits": (C, RAGGED, "5 bits where the header says 4", array(1, lambda f, s: ([f[0], 5, *f[2:]], s))),
    "array_width_below_bits": (C, RAGGED, "3 bits where the header says 4", array(1, lambda f, s: ([f[0], 3, *f[2:]], s))),
    "array_width_33": (C, RAGGED, "a column of 33 bits", array(3, lambda f, s: ([f[0], 33, *f[2:]], s))),
    "array_longer_than_tile": (C, RAGGED, "an array promises more bytes than its tile has", array(1, lambda f, s: ([*f[:3], (1 << 32) - 1, f[4]], s))),
    "array_too_short": (C, RAGGED, "planes that are a byte short", array(1, lambda f, s: ([*f[:3], f[3] - 1, f[4]], s[:-1]))),
    "array_code_above_levels": (C, VQAE, "code 7 of 5 levels", lambda d: all_ones(codes(d))),
    "array_id_above_classes": (C, "topk_zero", "class 15 of 12", lambda d: all_ones(codes(d))),
    "array_column_too_large": (C, RAGGED, "a number beyond 32 bits", array(3, lambda f, s: ([*f[:4], (1 << 31) - 1], s))),
    "array_column_base": (C, RAGGED, "a base of -2^63", array(3, lambda f, s: ([*f[:4], -(1 << 63)], s))),
    "array_huge_of_width_0": (C, RAGGED, "a column of no bits for 2^31 items, in 16 bytes", lambda d: huge(d)),
    "array_zstd_of_width_0": (C, RAGGED, "a frame of nothing, for numbers of no bits", lambda d: nothing(d)),
    "zstd_says_less": (C, RAGGED, "a frame that says it holds a byte less", frame(lambda p: zstandard.compress(p[:-1]))),
    "zstd_says_more": (C, RAGGED, "a frame that says it holds a byte more", frame(lambda p: zstandard.compress(p + b"\0"))),
    "zstd_holds_less": (C, RAGGED, "a frame that holds less than it says", frame(lambda p: says(len(p))(p[:-1]))),
    "zstd_holds_more": (C, RAGGED, "a frame that holds more than it says", frame(lambda p: says(len(p))(p + b"\0"))),
    "zstd_promises_a_tebibyte": (C, RAGGED, "a frame that says it holds 1 TiB", frame(lambda p: says(1 << 40)(p))),
    "zstd_no_size": (C, RAGGED, "a frame that says no size", frame(without_size)),
    "zstd_two_frames": (C, RAGGED, "two frames", frame(lambda p: zstandard.compress(p) + zstandard.compress(b""))),
    "zstd_trailing_bytes": (C, RAGGED, "bytes behind the frame", frame(lambda p: zstandard.compress(p) + b"\0\0")),
    "zstd_cut": (C, RAGGED, "a frame cut short", frame(lambda p: zstandard.compress(p)[:-3])),
    "zstd_no_frame": (C, RAGGED, "no frame at all", frame(lambda p: b"not a frame")),
    # model
    "model_missing": (C, LOWRANK, "the decoder is missing", lambda d: d.blocks.pop(1)),
    "model_needless": (C, RAGGED, "a model for a codec that has none", lambda d: d.blocks.insert(1, d.block(st.save({"mean": np.zeros(2, "f2")}), type=2))),
    "model_twice": (C, LOWRANK, "the tensors stand twice", lambda d: d.blocks.insert(1, copy(d.blocks[1]))),
    "model_unknown_part": (U, LOWRANK, "a part of the model of a later version", fields(at(1), stream=2)),
    "model_lacks_a_tensor": (C, LOWRANK, "a tensor is missing", tensors(lambda t: t.pop("mean"))),
    "model_extra_tensor": (C, LOWRANK, "a tensor too many", tensors(lambda t: t.update(extra=t["mean"]))),
    "model_bad_name": (C, LOWRANK, "a tensor's name is a path", tensors(lambda t: t.update({"../mean": t.pop("mean")}))),
    "model_wrong_shape": (C, LOWRANK, "a basis of other classes", tensors(lambda t: t.update(basis=t["basis"][:, 1:]))),
    "model_nan": (C, LOWRANK, "NaN among the weights", tensors(lambda t: t["mean"].fill(float("nan")))),
    "model_unknown_dtype": (C, LOWRANK, "a tensor of 64 bits", tensors(lambda t: t.update(mean=t["mean"].astype("f8")))),
    "model_no_safetensors": (C, LOWRANK, "no safetensors", model(lambda data: b"\x80\x04pickle" + bytes(32))),
    "model_header_too_long": (C, LOWRANK, "safetensors that promise a header of 2^62 bytes", model(lambda data: (1 << 62).to_bytes(8, "little") + data[8:])),
    "model_cut": (C, LOWRANK, "safetensors cut short", model(lambda data: data[:-1])),
    "model_trailing": (C, LOWRANK, "bytes behind the last tensor", model(lambda data: data + b"\0")),
    "model_overlap": (C, LOWRANK, "two tensors share bytes", safetensors_header(lambda h: h["step"].update(data_offsets=h["offset"]["data_offsets"]))),
    "model_promises_4_gib": (C, LOWRANK, "a model frame that promises 4 GiB", lambda d: bomb(d.blocks[1], (4 << 30) - 64)),
}


# -- helpers that need more than a line --------------------------------------------------------------------


def offsets(data: bytes) -> list[int]:
    """Return where each block begins, and the end."""
    found = [64]
    while found[-1] < len(data):
        stored = int.from_bytes(data[found[-1] + 40 : found[-1] + 44], "little")
        found.append(found[-1] + 64 + -(-stored // 64) * 64)
    return found


def moved(data: bytes, order: list[int]) -> bytes:
    """Put the first blocks into another order, byte for byte."""
    starts = offsets(data)
    blocks = [data[start:stop] for start, stop in zip(starts[:-1], starts[1:], strict=True)]
    return data[:64] + b"".join(blocks[n] for n in order) + b"".join(blocks[len(order) :])


def transplanted(data: bytes) -> bytes:
    """Seal one block with the id of another file."""
    other = Draft.read_bytes(data)
    other.file_id = bytes(16)
    start, stop = offsets(data)[1], offsets(data)[2]
    return data[:start] + other.to_bytes()[start:stop] + data[stop:]


def index_of(draft: Draft) -> bytes:
    """Return the index that fits a draft."""
    data = draft.to_bytes()
    start = offsets(data)[-3]
    size = int.from_bytes(data[start + 40 : start + 44], "little")
    return data[start + 64 : start + 64 + size]


def bomb(block: DraftBlock, size: int) -> None:
    """Give a block a zstd frame that promises `size` bytes."""
    block.payload = says(size)(b"x")
    block.fields |= {"coding": 1, "raw_len": size}


def compress(block: DraftBlock) -> None:
    """Compress a whole payload, and say so."""
    block.fields |= {"coding": 1, "raw_len": len(block.content)}
    block.payload = zstandard.compress(block.content) if block.payload is None else zstandard.compress(block.payload)


def lengthen(block: DraftBlock) -> None:
    """Add bytes behind the arrays of a tile."""
    block.payload = (block.payload or b"") + b"more"


def copy(block: DraftBlock) -> DraftBlock:
    """Return another block with the same content."""
    return DraftBlock(dict(block.fields), block.payload)


def all_ones(block: DraftBlock) -> None:
    """Set every bit of the first array."""
    payload = block.payload or b""
    facts = list(DESCRIPTOR.unpack(payload[:16]))
    planes = zstandard.decompress(payload[16 : 16 + facts[3]]) if facts[0] else payload[16 : 16 + facts[3]]
    rest = payload[16 + facts[3] :]
    block.payload = DESCRIPTOR.pack(0, facts[1], 0, len(planes), 0) + b"\xff" * len(planes) + rest


def needless(draft: Draft) -> None:
    """Give presence bits to a part that lacks no row."""
    draft.blocks[1:] = [*draft.blocks[-2:]]
    payload = DESCRIPTOR.pack(0, 1, 0, 1, 0) + b"\x01"
    place = {"type": 3, "span_items": 1, "span_views": 1, "n_rows": 1}
    draft.blocks.insert(1, draft.block(payload, **place, raw_len=17))
    codes = DESCRIPTOR.pack(0, 4, 0, 6, 0) + bytes(6) + 2 * (DESCRIPTOR.pack(0, 16, 0, 2, 0) + bytes(2))
    draft.blocks.insert(2, draft.block(codes, **place, stream=1))
    draft.counts = [(1, 1, 1)]


def drop_part(draft: Draft) -> None:
    """Take out the first part."""
    part = draft.tile(1).fields["part"]
    draft.blocks = [b for b in draft.blocks if b.fields["type"] != 3 or b.fields["part"] != part]


def row_twice(draft: Draft) -> None:
    """Write the first part again, as another part."""
    first = [copy(b) for b in draft.blocks if b.fields["type"] == 3 and b.fields["part"] == 0]
    for block in first:
        block.fields["part"] = 9
    draft.blocks[-2:-2] = first
    items, views, n_rows = draft.counts[-1]
    draft.counts[-1] = (items, views, n_rows + first[0].fields["n_rows"])


def huge(draft: Draft) -> None:
    """Let a column of items say that it has 2^31 of them in no bits."""
    block = draft.tile(3)
    block.payload = DESCRIPTOR.pack(0, 0, 0, 0, 5)
    block.fields |= {"raw_len": 16, "span_items": 1 << 31, "n_rows": 1 << 31}
    draft.commit.update(items=1 << 31)


def nothing(draft: Draft) -> None:
    """Let a column of items be a zstd frame of no bytes."""
    block, empty = draft.tile(3), zstandard.compress(b"")
    block.payload = DESCRIPTOR.pack(1, 0, 0, len(empty), 5) + empty
    block.fields["raw_len"] = 16


def make(name: str, valid: Path) -> bytes:
    """Return the bytes of an invalid vector."""
    if name in BYTES:
        _, base, _, change = BYTES[name]
        path = valid / f"1.0_{base}.spk"
        return change(path.read_bytes(), Draft.read(path))
    _, base, _, mutate = DRAFTS[name]
    draft = Draft.read(valid / f"1.0_{base}.spk")
    mutate(draft)
    return draft.to_bytes()
