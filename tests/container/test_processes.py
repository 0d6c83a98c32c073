"""Files that are shared between processes, and writers that are killed."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import softpack


def test_labels_are_pickled_by_their_path(ragged_file, ragged):
    labels = softpack.open(ragged_file)
    labels[0, 0]

    data = pickle.dumps(labels)

    assert len(data) < 500
    ragged.check(pickle.loads(data))
    ragged.check(pickle.loads(pickle.dumps(labels)))


def test_loaded_labels_are_pickled_with_their_codes(ragged_file, ragged):
    resident = pickle.loads(pickle.dumps(softpack.open(ragged_file).load()))

    np.testing.assert_array_equal(resident.read(ragged.item_B, ragged.view_B), ragged.labels_BC)
    assert resident.shape == (5, 4, 3)


def test_workers_may_stand_in_another_folder(ragged_file, ragged, tmp_path, monkeypatch):
    monkeypatch.chdir(ragged_file.parent)
    labels = softpack.open(ragged_file.name)
    monkeypatch.chdir(tmp_path)

    ragged.check(pickle.loads(pickle.dumps(labels)))


def read_into(labels, item_B, view_B, pipe):
    pipe.send(labels.read(item_B, view_B).numpy())
    pipe.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_read_the_labels_that_were_opened_before(ragged_file, ragged, how):
    labels = softpack.open(ragged_file)
    labels[0, 0]
    context = multiprocessing.get_context(how)
    mine, theirs = context.Pipe(duplex=False)

    worker = context.Process(target=read_into, args=(labels, ragged.item_B, ragged.view_B, theirs))
    worker.start()
    theirs.close()
    found = mine.recv()
    worker.join(60)

    np.testing.assert_array_equal(found, ragged.labels_BC)
    assert worker.exitcode == 0
    ragged.check(labels)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(ragged_file, damaged, tmp_path):
    gc.collect()  # what earlier tests left
    before = open_files()

    for _ in range(3):
        softpack.open(ragged_file)[0, 0]
        softpack.verify(ragged_file)
        softpack.ledger(ragged_file)
        softpack.recover(damaged)
        with softpack.append(damaged):
            pass
        with softpack.create(tmp_path / "a.spk", "raw", classes=3, force=True):
            pass
        with pytest.raises(softpack.errors.ExistsError):
            softpack.create(tmp_path / "a.spk", "raw", classes=3)
        with pytest.raises(softpack.errors.CodecError):
            softpack.create(tmp_path / "a.spk", "raw", classes=3, force=True, k=3)

    gc.collect()
    assert open_files() <= before


KILLED = """
import sys, numpy as np, softpack
from softpack.container import tile_writer
tile_writer.PENDING_BYTES = 1000
tile_writer.COMMIT_BYTES = 3000
how, path = sys.argv[1:]
writer = softpack.append(path) if how == "append" else softpack.create(path, "raw", dtype="fp32", classes=10)
with writer:
    for item in range(1 << 20):
        rows = np.random.default_rng(item).standard_normal((8, 10)).astype(np.float32)
        writer.append(rows, item=item + 1000 * (how == "append"), view=np.arange(8))
        if item == 50:
            print("here", flush=True)
"""


def kill_a_writer(how, path):
    with subprocess.Popen([sys.executable, "-c", KILLED, how, path], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL


def check_items(labels, first):
    items = np.unique(labels.cells()[0])
    items = items[items >= first]
    assert len(items) >= 50 - 8
    for item in items.tolist():
        views = np.flatnonzero(labels.has(np.full(8, item), np.arange(8)))
        expected = np.random.default_rng(item - first).standard_normal((8, 10)).astype(np.float32)
        np.testing.assert_array_equal(labels.read(np.full(len(views), item), views), expected[views])


def test_what_a_killed_writer_had_written_is_given_back(tmp_path):
    path = tmp_path / "a.spk"
    kill_a_writer("create", path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.spk.partial"]

    recovered = softpack.recover(tmp_path / "a.spk.partial")

    assert recovered.path == path
    assert softpack.verify(path).problems == ()
    check_items(softpack.open(path), first=0)


def test_a_killed_append_loses_nothing_of_before(tmp_path, random_rows):
    rows = random_rows(np.ones((4, 3), bool), classes=10, columns=(), item_columns=())
    path = rows.write(tmp_path / "a.spk")
    kill_a_writer("append", path)

    softpack.recover(path)

    labels = softpack.open(path)
    assert softpack.verify(path).problems == ()
    np.testing.assert_array_equal(labels.read(rows.item_B, rows.view_B), rows.labels_BC)
    check_items(labels, first=1000)
