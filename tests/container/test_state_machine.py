"""Any sequence of appends, commits, errors, crashes and recoveries leaves what a dictionary would hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import softpack

CLASSES = 3


class Files(RuleBasedStateMachine):
    """One file, a writer of it or none, and the rows that must be in it."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "a.spk"
        self.written = {}
        self.committed = {}
        self.made = 0
        self.writer = softpack.create(self.path, "raw", classes=CLASSES, dtype="fp32", tile=(2, 3))

    def teardown(self):
        if self.writer is not None:
            self.writer.abandon()
        shutil.rmtree(self.folder)

    @precondition(lambda self: self.writer)
    @rule(cells=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=8))
    def append(self, cells):
        cells = sorted(cells - self.written.keys())
        if not cells:
            return
        rows = np.arange(self.made, self.made + len(cells) * CLASSES, dtype=np.float32).reshape(-1, CLASSES)
        self.made += rows.size
        items, views = np.array(cells).T
        self.writer.append(rows, item=items, view=views)
        self.written |= dict(zip(cells, rows, strict=True))

    @precondition(lambda self: self.writer)
    @rule()
    def commit(self):
        self.writer.commit()
        self.committed = dict(self.written)

    @precondition(lambda self: self.writer)
    @rule()
    def close(self):
        self.writer.close()
        self.writer, self.committed = None, dict(self.written)

    @precondition(lambda self: self.writer and self.path.exists())
    @rule()
    def fail(self):
        self.writer.abandon()
        self.writer, self.written = None, dict(self.committed)

    @precondition(lambda self: self.writer and self.committed)
    @rule(lost=st.integers(0, 200), junk=st.binary(max_size=100))
    def crash(self, lost, junk):
        """The bytes behind the last commit may be there, or cut off, or junk."""
        path = self.path if self.path.exists() else self.path.with_name("a.spk.partial")
        whole, end = path.read_bytes(), self.writer._out.committed_len
        self.writer._tiles.flush()
        tail = path.read_bytes()[end:]
        self.writer.abandon()
        path.write_bytes(whole[:end] + tail[: max(0, len(tail) - lost)] + junk)
        recovered = softpack.recover(path)
        self.writer = None
        assert recovered.path == self.path
        labels = softpack.open(self.path)
        there = set(zip(*(axis.tolist() for axis in labels.cells()), strict=True))
        assert self.committed.keys() <= there <= self.written.keys()
        self.written = {cell: self.written[cell] for cell in there}
        self.committed = dict(self.written)

    @precondition(lambda self: not self.writer)
    @rule()
    def go_on(self):
        self.writer = softpack.append(self.path)

    @invariant()
    def the_file_holds_what_was_committed(self):
        if self.writer or not self.path.exists():
            return
        labels = softpack.open(self.path)
        assert len(labels) == len(self.committed)
        if self.committed:
            items, views = np.array(list(self.committed)).T
            np.testing.assert_array_equal(labels.read(items, views), np.stack(list(self.committed.values())))
        assert softpack.verify(self.path).problems == ()


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
