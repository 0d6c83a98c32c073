"""Small sources in a folder of their own, and the command line run inside this process."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from softpack.cli import main
from softpack.cli.progress import Bar
from softpack.container.file import SpkFile
from softpack.format.layout import BLOCK, BlockType

ITEMS, VIEWS, CLASSES = 6, 4, 10


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str
    error: BaseException | None

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(line: str) -> Ran:
    """Run one command line, `softpack` left out."""
    done = CliRunner().invoke(main, shlex.split(line), prog_name="softpack")
    error = None if isinstance(done.exception, SystemExit) else done.exception
    return Ran(done.exit_code, done.stdout, done.stderr, error)


@pytest.fixture(scope="session", name="labels_NVC")
def labels() -> np.ndarray:
    """Logits [6, 4, 10], fp16 as teachers' are."""
    random = np.random.default_rng(0)
    return (3 * random.normal(size=(ITEMS, 1, CLASSES)) + random.normal(size=(ITEMS, VIEWS, CLASSES))).astype(
        "f2"
    )


@pytest.fixture(scope="session")
def columns() -> dict[str, np.ndarray]:
    """All that may stand beside the labels."""
    random = np.random.default_rng(1)
    cells = (ITEMS, VIEWS)
    corners = random.integers(0, 112, (*cells, 4)) + np.array([0, 0, 112, 112])
    partner = np.where(random.random(cells) < 0.5, -1, random.integers(0, ITEMS, cells)).astype("i4")
    return {
        "crop_xywh": random.integers(1, 20, (*cells, 4)).astype("i4"),
        "flip": random.random(cells) < 0.5,
        "mix_item": partner,
        "mix_lam": random.random(cells, dtype="f4"),
        "mix_box_xyxy": np.where(partner[..., None] < 0, -1, corners).astype("i4"),
        "source_hw": random.integers(100, 200, (ITEMS, 2)).astype("i4"),
        "target": random.integers(0, CLASSES, ITEMS).astype("i4"),
    }


@pytest.fixture(scope="session")
def made(
    labels_NVC: np.ndarray, columns: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the same labels in every format, and a file of them; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    arrays = {"logits": labels_NVC, **columns}
    np.save(folder / "logits.npy", labels_NVC)
    np.savez(folder / "logits.npz", **arrays)
    safetensors.numpy.save_file(arrays, folder / "logits.safetensors")
    with h5py.File(folder / "logits.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    shifted_NVC = labels_NVC.astype("f8") / 4
    probs_NVC = np.exp(shifted_NVC) / np.exp(shifted_NVC).sum(-1, keepdims=True)
    np.savez(folder / "probs.npz", probs=probs_NVC.astype("f4"), temperature=4.0)
    kept = [0, 1, 5, 6, 22]
    item, view = np.divmod(kept, VIEWS)
    np.savez(folder / "ragged.npz", logits=labels_NVC.reshape(-1, CLASSES)[kept], item=item, view=view)
    assert run_command(f"encode '{folder}/logits.npz' -o '{folder}/labels.spk' --codec raw").code == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the process stands in it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path) -> Callable[[str], Ran]:
    """`run("info labels.spk")`: done in the folder, which must succeed."""

    def succeed(line: str) -> Ran:
        ran = run_command(line)
        assert (ran.code, ran.error) == (0, None), ran
        return ran

    return succeed


@pytest.fixture
def refused(here: Path) -> Callable[..., str]:
    """`refused("info labels.spk", code=1)`: its message; nothing may be left behind or changed."""

    def fail(line: str, code: int = 1) -> str:
        before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
        ran = run_command(line)
        assert (ran.code, ran.out, ran.error) == (code, "", None), ran
        assert "Traceback" not in ran.err
        assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
        assert ran.err.startswith("softpack: " if code == 1 else "Usage: softpack ")
        return ran.err

    return fail


@pytest.fixture
def run_any(here: Path) -> Callable[[str], Ran]:
    """`run_any("verify labels.spk")`: done in the folder, however it ends."""
    return run_command


@pytest.fixture
def interrupted(run_any: Callable[[str], Ran], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`interrupted(line)`: interrupt an encoding of 24 rows after 15, committed every 10 numbers."""
    monkeypatch.setattr("softpack.sources.resuming.RESUMED_NUMBERS", 1)
    monkeypatch.setattr("softpack.sources.encoding.COMMIT_NUMBERS", 10)
    monkeypatch.setattr("softpack.sources.base.block_rows", lambda classes: 5)
    call = Bar.__call__

    def stop(bar: Bar, done: int, total: int, seen: str = "") -> None:
        call(bar, done, total, seen)
        if bar._what == "encoding" and done >= 15:
            raise KeyboardInterrupt

    def interrupt(line: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Bar, "__call__", stop)
            ran = run_any(line)
        assert ran.code == 1
        assert "interrupted; what is done is kept, and the same call goes on" in ran.err

    return interrupt


@pytest.fixture
def flip_a_code() -> Callable[[Path], int]:
    """`flip_a_code(path)`: change one bit among the codes of a file; the number of the block that it is in."""

    def flip(path: Path) -> int:
        file = SpkFile(path)
        tiles = (file.blocks["type"] == BlockType.TILE) & (file.blocks["stream"] == 1)
        number = int(np.flatnonzero(tiles)[0])
        data = bytearray(path.read_bytes())
        data[int(file.offsets[number]) + BLOCK.size + 30] ^= 1
        path.write_bytes(data)
        return number

    return flip
