"""What is installed: version, license, types, and no tests."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import softpack
from softpack.cli import main

ROOT = Path(__file__).resolve().parents[1]


def test_version_is_the_same_everywhere():
    try:
        installed = importlib.metadata.version("softpack")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("softpack is not installed")
    assert installed == softpack.__version__
    assert CliRunner().invoke(main, ["--version"]).stdout == f"softpack, version {installed}\n"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (installed, "Unreleased")


def test_license_and_types():
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License\n")
    assert (Path(softpack.__file__).parent / "py.typed").is_file()


def test_what_the_source_distribution_names_is_there():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"], project["project"]["readme"]]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
def test_wheel_holds_the_package_and_no_tests(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob(f"softpack-{softpack.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        entry_points = file.read(f"softpack-{softpack.__version__}.dist-info/entry_points.txt").decode()
    packed = {name for name in names if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "softpack").rglob("*.py")}
    assert packed == {*package, "softpack/py.typed"}
    assert any(name.endswith("/LICENSE") for name in names)
    assert "softpack = softpack.cli:main" in entry_points
