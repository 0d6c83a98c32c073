"""A module imports only from layers below its own, and what answers at once imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import softpack

ROOT = Path(softpack.__file__).parent
LAYERS = (
    {
        "errors",
        "records",
        "bits",
        "extras",
        "accounting",
        "checks",
        "chance",
        "recipe",
        "folder",
        "presets",
        "sequences",
        "fingerprints",
    },
    {"format", "codecs", "entropy"},
    {"container"},
    {"sources", "data", "losses"},
    {"eval"},
    {"rate"},
    {"demo", "relabelling"},
    {"capturing"},
    {"cli"},
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
LEVELS["testing"] = LEVELS["container"]  # and nothing but tests imports it
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py"))
SURFACE = {Path("softpack/__init__.py"), Path("softpack/__main__.py")}  # names every room


@cache
def imports(path: Path) -> set[str]:
    """Names of the softpack modules that a file imports, those of `if TYPE_CHECKING` and functions included."""
    package = ".".join(path.parent.parts)
    found = set()
    for node in ast.walk(ast.parse((ROOT.parent / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {module if module != "softpack" else f"softpack.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "softpack"}


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", [path for path in MODULES if path not in SURFACE], ids=str)
def test_imports_go_down(path):
    room = path.with_suffix("").parts[1]
    for module in imports(path) - {"softpack.__version__"}:
        other = room_of(module)
        below = LEVELS[other] < LEVELS[room] or (LEVELS[other] == LEVELS[room] == 0)
        assert other == room or below, f"{path} imports {module}"


def test_every_room_has_its_layer():
    rooms = {path.with_suffix("").parts[1] for path in MODULES} - {"__init__", "__main__"}

    assert rooms <= LEVELS.keys()


def test_nothing_imports_testing():
    users = [
        path for path in MODULES if path.parts[1] != "testing" and any("testing" in m for m in imports(path))
    ]

    assert users == []


def test_no_import_is_relative():
    for path in MODULES:
        for node in ast.walk(ast.parse((ROOT.parent / path).read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


@pytest.mark.parametrize(
    "module",
    ["softpack", *(f"softpack.container.{name}" for name in ("file", "ledger", "verify", "recover"))],
)
def test_what_answers_at_once_imports_no_torch(module):
    code = f"import sys, {module}; print(*sys.modules)"

    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()

    assert module in loaded
    assert not {"torch", "safetensors", "h5py", "matplotlib"} & set(loaded)
    if module == "softpack":
        assert "numpy" not in loaded


@pytest.mark.parametrize("call", ["verify", "ledger", "recover"])
def test_what_answers_at_once_does_without_torch(tmp_path, call):
    path = tmp_path / "a.spk"
    with softpack.create(path, "raw", classes=3):
        pass
    code = f"import sys, softpack; softpack.{call}(sys.argv[1]); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code, path], text=True) == "False\n"
