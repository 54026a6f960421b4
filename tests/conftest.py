"""What every test module may use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is. The gate tries the same examples each time;
# `make fuzz` tries others, and says how to repeat what it found.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", PATIENT, derandomize=True, database=None)
settings.register_profile("fuzz", PATIENT, max_examples=1000, print_blob=True)
settings.load_profile("gate")

# Servers here have the same recogniser everywhere: `auto` would be base-en where that is present.
os.environ.setdefault("RTCSTT_MODEL", "tiny-en")

SHARED = Path(os.environ.get("RTCSTT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with real parts come first; the rest, quick and independent, fills what time the workers have
    left. A file keeps its order."""
    real = {item.path for item in items if item.get_closest_marker("real")}
    items.sort(key=lambda item: item.path not in real)
    for item in items:
        if item.get_closest_marker("real"):
            # Browsers, gateways and the scheduler are not ours: what fails is told (R) and tried again. Tests
            # in virtual time are never tried twice.
            if item.config.pluginmanager.hasplugin("rerunfailures"):  # -p no:rerunfailures: not even once
                item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


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
