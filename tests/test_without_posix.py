"""What Windows has not, rtcstt does without: it starts there, and says what it cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import running

SCRIPT = (sys.executable, str(Path(__file__).with_name("without_posix.py")))
TIMEOUT_S = 120.0
pytestmark = pytest.mark.real


def test_every_module_can_be_imported() -> None:
    done = subprocess.run(SCRIPT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]


def test_several_workers_are_refused() -> None:
    command = [*SCRIPT, "serve", "--port", "0", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2 and "on Windows" in done.stderr, done.stderr[-3000:]


def test_the_server_starts_and_stops(tmp_path: Path) -> None:
    options = ("--stt", "http://127.0.0.1:9", "--record", str(tmp_path / "calls"))
    with running("serve", tmp_path, *options, program=SCRIPT) as server:
        assert server.get("/healthz")["status"] == "ok"
        server.process.terminate()
        assert server.process.wait(TIMEOUT_S) == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()
