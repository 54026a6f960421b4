"""Packages from npm that tests use, installed once into .conformance."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conformance import install


def modules(name: str) -> Path:
    """The node_modules of one entry of `install.NODE`; the test is skipped where it cannot be had."""
    try:
        install.install_node(name, install.NODE[name])
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm could not install {', '.join(install.NODE[name])}: {error}")
    if not (install.FOLDER / name / "installed").exists():
        pytest.skip("no npm here (Debian: apt-get install npm)")
    return install.FOLDER / name / "node_modules"


def install_ours(project: Path) -> None:
    """Our package, as npm packs it, into a project's node_modules."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here (Debian: apt-get install npm)")
    pack = ["npm", "pack", "--silent", "--pack-destination", str(project)]
    root = Path(__file__).resolve().parents[1]
    name = subprocess.run(pack, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    with tarfile.open(project / name) as packed:
        packed.extractall(project / "unpacked", filter="data")
    shutil.copytree(project / "unpacked" / "package", project / "node_modules" / "rtcstt")
