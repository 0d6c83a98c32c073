"""An encoding that was interrupted goes on where it was, and gives what it would have given."""

from __future__ import annotations

import numpy as np
import pytest

import softpack
from softpack.container.create import append
from softpack.container.stopped import alone
from softpack.errors import CorruptError, DataError, ExistsError, UnsupportedError
from softpack.format.layout import MAGIC
from softpack.sources import base, resuming
from softpack.sources import encoding as encoding_module
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.sources.peers.given import Given
from softpack.sources.resuming import Encoding

CODECS = {
    "raw": ("raw", {}, {}, 0),
    "without replay": ("raw", {}, {"replay": False}, 0),
    "appendable": ("vqae", {"slots": 2, "steps": 5}, {"appendable": True}, 0),
    "given prototypes": ("vqae", {"slots": 2, "steps": 5, "context": True}, {}, 0),
    "given prototypes, without replay": ("klt", {"context": True}, {"replay": False}, 0),
    "given crops": ("klt", {"context": True}, {}, 2),
    "promised": ("quantize", {"bits": 2}, {"max_kl": 0.1}, 0),
}


@pytest.fixture
def source(layouts, tmp_path, monkeypatch):
    """A set that is read in blocks of 16 rows and committed after each 32."""
    monkeypatch.setattr(base, "block_rows", lambda classes: 16)
    monkeypatch.setattr(encoding_module, "COMMIT_NUMBERS", 320)
    written = layouts.write_sre2l(tmp_path / "set", index=True, items=23, epochs=8)
    layouts.write_images(tmp_path / "images", written.size_hw)
    return open_source(written.path, given=Given(images=tmp_path / "images"))


def stop_after(n_rows: int):
    """Interrupt when so many rows are done."""

    def counted(done: int, total: int) -> None:
        if done >= n_rows:
            raise KeyboardInterrupt

    return counted


def assert_same_labels(one, other) -> None:
    assert (one.shape, len(one), one.columns) == (other.shape, len(other), other.columns)
    item_B, view_B = one.cells(np.arange(len(one)))
    np.testing.assert_array_equal(one.read(item_B, view_B), other.read(item_B, view_B))
    for name, values in (one.replay(item_B, view_B) if one.columns else {}).items():
        np.testing.assert_array_equal(values, other.replay(item_B, view_B)[name])
    for name in one.item_columns:
        np.testing.assert_array_equal(one.item_column(name), other.item_column(name))


@pytest.mark.parametrize(("codec", "settings", "how", "degree"), CODECS.values(), ids=CODECS.keys())
def test_a_run_goes_on_where_it_was(source, tmp_path, codec, settings, how, degree):
    model = fit_model(source, codec, settings, degree=degree)
    encode_source(source, tmp_path / "whole.spk", model, **how)
    encoding, n_there = Encoding(tmp_path / "a.spk", "the same"), []
    assert encoding.left() is None
    for stop in (70, 120):
        with pytest.raises(KeyboardInterrupt):
            encoding.encode(source, model if stop == 70 else None, stop_after(stop), **how)
        assert encoding.is_begun
        assert not encoding.out.exists()
        n_there.append(encoding.left().n_rows)
    assert 0 < n_there[0] < n_there[1] < source.n_rows
    encoding.encode(source, None, **how)
    assert not encoding.is_begun
    assert_same_labels(softpack.open(tmp_path / "whole.spk"), softpack.open(encoding.out))
    assert softpack.verify(encoding.out).n_rows == source.n_rows
    if how.get("appendable"):
        append(encoding.out).abandon()


def test_a_run_that_was_killed_goes_on_from_its_last_commit(source, tmp_path):
    model, encoding = fit_model(source, "raw", {}), Encoding(tmp_path / "a.spk", "the same")
    with pytest.raises(KeyboardInterrupt):
        encoding.encode(source, model, stop_after(100))
    with encoding.partial.open("ab") as file:
        file.write(b"half a block")
    assert encoding.left().n_rows > 0
    encoding.encode(source, None)
    encode_source(source, tmp_path / "whole.spk", model)
    assert_same_labels(softpack.open(tmp_path / "whole.spk"), softpack.open(encoding.out))


def test_what_another_run_left_is_not_gone_on_with(source, tmp_path):
    model = fit_model(source, "raw", {})
    with pytest.raises(KeyboardInterrupt):
        Encoding(tmp_path / "a.spk", "one").encode(source, model, stop_after(100))
    other = Encoding(tmp_path / "a.spk", "other")
    with pytest.raises(ExistsError, match=r"a\.spk\.unfinished: was left by another run, .* \(--force\)"):
        other.left()
    assert other.is_begun
    assert Encoding(tmp_path / "a.spk", "other", force=True).left() is None
    assert not other.is_begun


def test_rows_that_are_refused_cost_no_others(source, tmp_path):
    model, encoding = fit_model(source, "raw", {}), Encoding(tmp_path / "a.spk", "the same")
    path = source.path / "epoch_6" / "batch_1.tar"
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"epoch_6/batch_1\.tar: cannot be read"):
        encoding.encode(source, model)
    assert not encoding.out.exists()
    assert encoding.left().n_rows > 100
    path.write_bytes(whole)
    encoding.encode(source, None)
    assert len(softpack.open(encoding.out)) == source.n_rows
    assert not encoding.is_begun


def test_what_was_never_committed_is_begun_anew_and_what_is_others_is_kept(tmp_path):
    encoding = Encoding(tmp_path / "a.spk", "the same")
    encoding.partial.write_bytes(MAGIC + b"nothing of use")
    assert encoding.left() is None
    assert not encoding.is_begun
    encoding.rows.write_bytes(b"my own notes")
    with pytest.raises(ExistsError, match=r"a\.spk\.unfinished: is no \.spk file, and in the way of one"):
        encoding.left()
    assert encoding.rows.read_bytes() == b"my own notes"


def test_a_run_that_was_killed_at_its_last_step_goes_on(source, tmp_path, monkeypatch):
    model, encoding = fit_model(source, "quantize", {"bits": 4}), Encoding(tmp_path / "a.spk", "the same")

    def killed(path, out, **how):
        (tmp_path / "a.spk.partial").write_bytes(MAGIC + b"half")
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(resuming, "repack", killed)
        with pytest.raises(SystemExit):
            encoding.encode(source, model)
    assert encoding.left().n_rows == source.n_rows
    encoding.encode(source, None)
    assert [path.name for path in tmp_path.glob("a.spk*")] == ["a.spk"]
    assert softpack.verify(encoding.out).n_rows == source.n_rows


def later(path):
    raise UnsupportedError(f"{path}: of a later version; install a later softpack")


def damaged(path):
    raise CorruptError(f"{path}: the header's checksum is wrong")


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (later, UnsupportedError, "install a later softpack"),
        (damaged, DataError, r"damaged: .* say force=True \(--force\) to throw it away"),
    ],
)
def test_what_was_committed_and_cannot_be_read_is_kept(source, tmp_path, monkeypatch, fault, error, said):
    encoding = Encoding(tmp_path / "a.spk", "the same")
    with pytest.raises(KeyboardInterrupt):
        encoding.encode(source, fit_model(source, "raw", {}), stop_after(100))
    encoding.left()
    there = encoding.rows.read_bytes()
    monkeypatch.setattr("softpack.container.stopped.recover", fault)
    with pytest.raises(error, match=said):
        encoding.left()
    assert encoding.rows.read_bytes() == there
    assert Encoding(tmp_path / "a.spk", "the same", force=True).left() is None
    assert not encoding.is_begun


def test_what_another_process_is_writing_is_left_alone(source, tmp_path):
    encoding = Encoding(tmp_path / "a.spk", "the same", force=True)
    with pytest.raises(KeyboardInterrupt):
        encoding.encode(source, fit_model(source, "raw", {}), stop_after(100))
    encoding.left()
    writer = append(encoding.rows)
    try:
        with pytest.raises(DataError, match="another process is writing it"):
            encoding.left()
        assert encoding.is_begun
    finally:
        writer.abandon()


def test_what_is_left_of_another_run_is_named_before_the_output_that_it_was_writing(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Encoding(tmp_path / "a.spk", "one").encode(source, fit_model(source, "raw", {}), stop_after(100))
    Encoding(tmp_path / "a.spk", "one").left()
    (tmp_path / "a.spk.partial").write_bytes(b"rows of somebody")
    with pytest.raises(ExistsError, match=r"a\.spk\.unfinished: was left by another run"):
        Encoding(tmp_path / "a.spk", "other").left()
    assert (tmp_path / "a.spk.partial").read_bytes() == b"rows of somebody"


def test_where_files_cannot_be_locked_a_run_is_alone(tmp_path, monkeypatch):
    def unlocked(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unlocked)
    with alone(tmp_path / "a.spk"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_name_was_taken_away_is_none(tmp_path, monkeypatch):
    def late(file, how):
        (tmp_path / "a.spk.lock").unlink()

    monkeypatch.setattr("fcntl.flock", late)
    with pytest.raises(DataError, match="another run is writing it"), alone(tmp_path / "a.spk"):
        pass
