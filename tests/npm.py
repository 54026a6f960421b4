"""Packages from npm that tests use, installed once into .conformance."""

from __future__ import annotations

import subprocess
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
