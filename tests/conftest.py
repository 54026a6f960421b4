"""What every test module may use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("RTCSTT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference recordings beside the checkout; a stranger's clone has none."""
    folder = SHARED / "data"
    if not (folder / "manifest.json").exists():
        pytest.skip("the reference recordings (../shared/data) are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    for name in (os.environ.get("RTCSTT_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium here (Debian: apt-get install chromium)")
