"""The measurements that stand in the documentation can be repeated, and hold in short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="no benchmarks in this package"),
]


def test_nothing_good_is_thrown_away_on_a_bad_network() -> None:
    command = [sys.executable, "-m", "benchmarks.receive_path"]
    options = ["--seconds", "20", "--loss", "0", "20", "--jitter-ms", "0", "80"]
    out = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [
        line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ") and "→" in line
    ]
    assert len(rows) == 6
    for _, reached, thrown_away, _, _ in rows:
        ours = reached.split(" → ")[1]
        assert abs(float(ours) - 1) < 0.1 / 20  # one chunk of 100 ms
        assert thrown_away.split(" → ")[1] == "0"
