"""Files of labels, what they should hold, and the blocks that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softpack
from softpack.container.reader import Labels
from softpack.container.writer import Writer
from softpack.format import layout
from softpack.format.blocks import Block, make_file_id, pack_superblock, payload_hash, read_superblock
from softpack.format.index import Commit
from softpack.format.layout import BLOCK, BlockType

ROW_COLUMNS = ("crop_xywh", "crop_xywh_fraction", "flip", "mix_item", "mix_lam", "mix_box_xyxy")
ITEM_COLUMNS = ("source_hw", "target")


@dataclass(frozen=True)
class Rows:
    """What a file should hold; rows in any order."""

    labels_BC: np.ndarray
    item_B: np.ndarray
    view_B: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    item_columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels_BC)

    def take(self, rows: Any) -> Rows:
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(
            self,
            labels_BC=self.labels_BC[rows],
            item_B=self.item_B[rows],
            view_B=self.view_B[rows],
            columns=columns,
        )

    def batches(self, size: int) -> Iterator[Rows]:
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def append_to(self, writer: Writer) -> None:
        writer.append(self.labels_BC, item=self.item_B, view=self.view_B, **self.columns)

    def write(self, path: Path, batch: int = 7, **options: Any) -> Path:
        """Write a file of these rows, exactly as they are."""
        options = {"codec": "raw", "dtype": "fp32", "classes": self.labels_BC.shape[1], **options}
        with softpack.create(path, **options) as writer:
            if self.item_columns:
                writer.set_items(**self.item_columns)
            for some in self.batches(batch):
                some.append_to(writer)
        return path

    def sorted(self) -> Rows:
        """Return the rows by item and then view, as files number them."""
        return self.take(np.lexsort((self.view_B, self.item_B)))

    def check(self, labels: Labels) -> None:
        """Compare a file with these rows, to the bit."""
        rows = self.sorted()
        assert len(labels) == labels.n_rows == len(rows)
        found_items, found_views = labels.cells()
        np.testing.assert_array_equal(found_items, rows.item_B)
        np.testing.assert_array_equal(found_views, rows.view_B)
        np.testing.assert_array_equal(labels.read(self.item_B, self.view_B).numpy(), self.labels_BC)
        assert labels.columns == tuple(self.columns)
        found = labels.replay(self.item_B, self.view_B)
        assert found.keys() == self.columns.keys()
        for name, values in self.columns.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
            assert found[name].dtype == values.dtype, name
        assert set(labels.item_columns) == set(self.item_columns)
        for name, values in self.item_columns.items():
            np.testing.assert_array_equal(labels.item_column(name), values, err_msg=name)


def random_rows(
    present_NV: np.ndarray,
    classes: int = 3,
    columns: Iterable[str] = ROW_COLUMNS,
    item_columns: Iterable[str] = ITEM_COLUMNS,
    seed: int = 0,
) -> Rows:
    """Return random rows for the present (item, view), in random order; every item and view counts."""
    random = np.random.default_rng(seed)
    cells = np.argwhere(present_NV)
    item_B, view_B = random.permutation(cells).T.astype(np.int64) if len(cells) else np.zeros((2, 0), np.int64)
    n, items = len(item_B), len(present_NV)
    partner_B = np.array(
        [random.choice([-1, *np.flatnonzero(present_NV[:, view])]) for view in view_B], np.int32
    ).reshape(n)
    made = {
        "crop_xywh": random.integers(-5, 500, (n, 4), np.int32),
        "crop_xywh_fraction": random.random((n, 4), np.float32),
        "flip": random.random(n) < 0.5,
        "mix_item": partner_B,
        "mix_lam": random.random(n, np.float32),
        "mix_box_xyxy": np.where(partner_B[:, None] < 0, -1, random.integers(0, 224, (n, 4))).astype(np.int32),
    }
    of_items = {
        "source_hw": random.integers(1, 5000, (items, 2), np.int32),
        "target": random.integers(0, classes, items, np.int32),
    }
    return Rows(
        random.standard_normal((n, classes)).astype(np.float32),
        item_B,
        view_B,
        {name: made[name] for name in ROW_COLUMNS if name in columns},
        {name: of_items[name] for name in ITEM_COLUMNS if name in item_columns},
    )


class Forge:
    """The blocks of a file, to be changed and put together again with hashes that hold."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.file_id = read_superblock(data[:64], "forge")
        self.blocks: list[tuple[Block, bytes]] = []
        offset = layout.SUPERBLOCK.size
        while offset < len(data):
            block = Block.from_bytes(data[offset : offset + BLOCK.size], self.file_id, "forge")
            offset += BLOCK.size
            self.blocks.append((block, data[offset : offset + block.stored_len]))
            offset += block.total_len - BLOCK.size
        *_, (_, last) = self.blocks
        self.commit = Commit.from_bytes(last, "forge")
        del self.blocks[-2:]  # the last index and the last commit are made anew

    def find(self, kind: BlockType, stream: int = 0) -> int:
        return next(
            n for n, (block, _) in enumerate(self.blocks) if (block.type, block.stream) == (kind, stream)
        )

    def change(self, number: int, payload: bytes | None = None, **fields: int) -> None:
        block, old = self.blocks[number]
        payload = old if payload is None else payload
        lengths = {"stored_len": len(payload), "raw_len": block.raw_len + len(payload) - len(old)}
        self.blocks[number] = replace(block, **{**lengths, **fields}), payload

    def write(
        self,
        path: Path,
        index: Callable[[bytes], tuple[bytes, dict[str, int]]] = lambda headers: (headers, {}),
        commit: Callable[[Commit], Commit] = lambda commit: commit,
    ) -> Path:
        """Write the blocks, an index and a commit, all sealed."""
        file_id = make_file_id(self.blocks[0][1])
        out, headers = bytearray(pack_superblock(file_id)), []

        def add(block: Block, payload: bytes) -> None:
            block = replace(block, seq=len(headers), payload_hash=payload_hash(payload))
            headers.append(block.to_bytes(file_id))
            out.extend(headers[-1] + payload + bytes(-len(payload) % layout.ALIGN))

        for block, payload in self.blocks:
            add(block, payload)
        index_offset = len(out)
        payload, fields = index(b"".join(headers))
        lengths = {"stored_len": len(payload), "raw_len": len(payload)}
        add(Block(BlockType.INDEX, **{**lengths, **fields}), payload)
        end = len(out) + layout.COMMIT_BLOCK_LEN
        made = commit(replace(self.commit, index_offset=index_offset, file_len=end))
        add(Block(BlockType.COMMIT, stored_len=64, raw_len=64), made.to_bytes())
        path.write_bytes(out)
        return path


@pytest.fixture(scope="session", name="random_rows")
def random_rows_() -> Callable[..., Rows]:
    """`random_rows(present_NV, classes, columns, item_columns, seed) -> Rows`."""
    return random_rows


@pytest.fixture(scope="session", name="forge")
def forge_() -> type[Forge]:
    """`forge(path)`: the blocks of a file, to be changed."""
    return Forge


@pytest.fixture(scope="session")
def ragged() -> Rows:
    """Rows of 5 items x 4 views, some of which are missing, with all columns."""
    present_NV = np.ones((5, 4), bool)
    present_NV[[0, 2, 4], [1, 3, 0]] = False
    return random_rows(present_NV)


@pytest.fixture(scope="session")
def ragged_file(ragged: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of the ragged rows: several tiles, full and ragged ones; not to be changed."""
    return ragged.write(tmp_path_factory.mktemp("ragged") / "ragged.spk", items=5, views=4, tile=(3, 4))


@pytest.fixture
def damaged(ragged_file: Path, tmp_path: Path) -> Path:
    """A copy of the small file, to be damaged."""
    path = tmp_path / "damaged.spk"
    path.write_bytes(ragged_file.read_bytes())
    return path
