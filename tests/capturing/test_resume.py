"""An interrupted capture goes on where it was, and only as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from capturing_helpers import Model, Telling, make_sequences

import softpack
from softpack.capturing import run
from softpack.container.tile_writer import TileWriter
from softpack.errors import DataError
from softpack.relabelling.labeller import same_logits
from softpack.sources.encoding import fit_model

SEQUENCES = make_sequences(60)
HOW = {"codec": "klt", "bits": 40.0, "batch_tokens": 32, "forced": (2,)}


class Stopping(Model):
    """Is interrupted at some call."""

    def __init__(self, after: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.model.register_forward_pre_hook(self.count)
        self.left, self.error = after, error

    def count(self, *given) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


@pytest.fixture
def few(monkeypatch):
    """The codec is fitted to few rows, so that most come after."""
    monkeypatch.setattr("softpack.capturing.capture.n_first", lambda codec: 50)


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9, 15, 25])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, few, after):
    softpack.capture(Model(), SEQUENCES, tmp_path / "whole.spk", **HOW)
    with pytest.raises(KeyboardInterrupt):
        softpack.capture(Stopping(after), SEQUENCES, tmp_path / "a.spk", **HOW)
    assert not (tmp_path / "a.spk").exists()
    model = Model()
    softpack.capture(model, SEQUENCES, tmp_path / "a.spk", **HOW)

    assert (tmp_path / "a.spk").read_bytes() == (tmp_path / "whole.spk").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.spk", "whole.spk"}
    if after == 25:
        assert len(model.model.calls) < 20  # what was said is not asked for again


def test_an_error_leaves_what_was_committed(tmp_path, few, monkeypatch):
    monkeypatch.setattr(run, "COMMIT_S", 0.0)
    with pytest.raises(RuntimeError):
        softpack.capture(Stopping(20, RuntimeError), SEQUENCES, tmp_path / "a.spk", **HOW)
    assert (tmp_path / "a.spk.unfinished.partial").exists()
    model = Model()
    softpack.capture(model, SEQUENCES, tmp_path / "a.spk", **HOW)

    softpack.capture(Model(), SEQUENCES, tmp_path / "whole.spk", **HOW)
    assert (tmp_path / "a.spk").read_bytes() == (tmp_path / "whole.spk").read_bytes()
    assert len(model.model.calls) < 25


KILLED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in its background
sys.path.insert(0, sys.argv[1])
from capturing_helpers import Model, make_sequences
import softpack
import softpack.capturing.capture
from softpack.capturing import run
run.COMMIT_S, sys.modules["softpack.capturing.capture"].n_first = 0.0, lambda codec: 50

calls = []
def wait(*given):
    calls.append(1)
    time.sleep(0.05 if len(calls) < 14 else 600)  # of some 25 calls, so that it never ends by itself

model = Model()
model.model.register_forward_pre_hook(wait)
softpack.capture(model, make_sequences(60), sys.argv[2], codec="klt", bits=40.0, batch_tokens=32, forced=(2,))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_process_left_is_gone_on_with(tmp_path, few, sent):
    out, left = tmp_path / "a.spk", tmp_path / "a.spk.unfinished.partial"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(out)],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    deadline = time.monotonic() + 60
    while (not left.exists() or left.stat().st_size < 8192) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    try:
        process.wait(60)
    finally:
        process.kill()
    assert not out.exists()
    model = Model()
    softpack.capture(model, SEQUENCES, out, **HOW)

    softpack.capture(Model(), SEQUENCES, tmp_path / "whole.spk", **HOW)
    assert out.read_bytes() == (tmp_path / "whole.spk").read_bytes()


def stopped(tmp_path, **how):
    with pytest.raises(KeyboardInterrupt):
        softpack.capture(Stopping(15), SEQUENCES, tmp_path / "a.spk", **{**HOW, **how})


class Tokenizer:
    def __init__(self, word: str) -> None:
        self.word = word

    def get_vocab(self):
        return {self.word: 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": Model(seed=1)}, r"the teacher is another \([0-9a-f]{16}, and was [0-9a-f]{16}\)"),
        ({"model": Model().to(torch.bfloat16)}, "the teacher is another"),
        ({"sequences": SEQUENCES[:-1]}, "the data is another"),
        ({"sequences": [*SEQUENCES[:-1], [1, 2, 3, 4]]}, "the data is another"),
        ({"tokenizer": Tokenizer("b")}, "the tokenizer is another"),
        ({"bits": 41.0}, "encoding is klt bits=41.0, and was klt bits=40.0"),
        ({"seed": 3}, "seed is 3, and was 0"),
        ({"forced": ()}, r"forced tokens are \[\], and were \[2\]"),
    ],
)
def test_what_another_run_left_is_refused(tmp_path, few, change, said):
    stopped(tmp_path, tokenizer=Tokenizer("a"))
    how = {"model": Model(), "sequences": SEQUENCES, "tokenizer": Tokenizer("a"), **HOW, **change}
    with pytest.raises(
        DataError, match=f"a.spk.unfinished: was left by another run: .*{said}.* Call it as it was, or with"
    ):
        softpack.capture(out=tmp_path / "a.spk", **how)
    softpack.capture(out=tmp_path / "a.spk", restart=True, **how)

    assert softpack.open(tmp_path / "a.spk").n_rows


def test_batches_of_another_size_may_go_on(tmp_path, few):
    stopped(tmp_path)
    softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", **{**HOW, "batch_tokens": 64})

    assert softpack.verify(tmp_path / "a.spk").problems == ()


class StoppingTelling(Telling):
    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__call__(*args, **kwargs)


def test_a_teacher_without_weights_is_told_by_what_it_says(tmp_path, few):
    with pytest.raises(KeyboardInterrupt):
        softpack.capture(StoppingTelling(12), SEQUENCES, tmp_path / "a.spk", "raw", batch_tokens=32)
    with pytest.raises(DataError, match="the teacher gives other logits"):
        softpack.capture(
            lambda **given: -Telling()(**given), SEQUENCES, tmp_path / "a.spk", "raw", batch_tokens=32
        )
    softpack.capture(Telling(), SEQUENCES, tmp_path / "a.spk", "raw", batch_tokens=32)

    assert softpack.open(tmp_path / "a.spk").fingerprints.keys() == {"data"}


def test_two_runs_at_once_are_refused(tmp_path):
    said = []

    class Nested(Model):
        def forward(self, *args, **kwargs):
            if not said:
                said.append("")
                with pytest.raises(DataError) as refusal:
                    softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", "raw")
                said.append(str(refusal.value))
            return super().forward(*args, **kwargs)

    softpack.capture(Nested(), SEQUENCES, tmp_path / "a.spk", "raw")
    assert "another run is writing it" in said[1]


def test_progress_counts_tokens(tmp_path):
    seen = []

    class Bar:
        def __init__(self, what, unit):
            self.what, self.unit = what, unit

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __call__(self, done, total, text=""):
            seen.append((self.what, self.unit, done, total))

    softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", "klt", bits=20.0, stage=Bar)
    n_rows = softpack.open(tmp_path / "a.spk").n_rows

    assert ("capturing", "token", n_rows, n_rows) in seen
    assert [what for what, *_ in dict.fromkeys((what,) for what, *_ in seen)] == [
        "hashing the teacher", "asking for the first rows", "fitting", "capturing", "writing",
    ]  # fmt: skip


def test_an_interruption_while_rows_are_written_is_one(tmp_path, few, monkeypatch):
    write, left = TileWriter._write_part, [4]

    def interrupted(writer, part):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        write(writer, part)

    monkeypatch.setattr(run, "COMMIT_S", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(TileWriter, "_write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", **HOW)
    assert left[0] == 0
    softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", **HOW)
    softpack.capture(Model(), SEQUENCES, tmp_path / "whole.spk", **HOW)
    assert (tmp_path / "a.spk").read_bytes() == (tmp_path / "whole.spk").read_bytes()


def test_a_fit_is_not_done_again(tmp_path, few, monkeypatch):
    fitted = []
    monkeypatch.setattr(run, "fit_model", lambda *given, **how: fitted.append(1) or fit_model(*given, **how))
    with pytest.raises(RuntimeError):
        softpack.capture(Stopping(12, RuntimeError), SEQUENCES, tmp_path / "a.spk", **HOW)
    softpack.capture(Model(), SEQUENCES, tmp_path / "a.spk", **HOW)
    assert len(fitted) == 1


def test_teachers_of_minus_infinity_are_told_apart():
    assert same_logits("1.0,-inf,3.0", "1.001,-inf,3.0")
    assert not same_logits("1.0,-inf,3.0", "2.0,-inf,3.0")
    assert not same_logits("1.0,-inf,3.0", "1.0,2.0,3.0")
    assert not same_logits("1.0", "1.0,2.0")
