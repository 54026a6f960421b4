"""rtcstt's commands as processes of their own, for tests of the whole."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RTCSTT = str(Path(sys.executable).with_name("rtcstt"))
START_S = 120.0
STOP_S = 150.0  # a server waits up to 30 s for callers who speak, then for their last words
PATIENCE_S = 60.0  # for what happens at once on a machine with time


@dataclass(frozen=True, slots=True)
class Server:
    """A running `rtcstt serve` or `rtcstt stt`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        """Whatever is there: an object where it is JSON, else text."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as response:
            body = response.read().decode()
            return json.loads(body) if "json" in response.headers["Content-Type"] else body

    def hang_up(self, call: str) -> float:
        """End a call and wait for the drain; returns how long it was, on its own clock, in s."""
        duration_s = self.get(f"/calls/{call}")["time"]
        request = urllib.request.Request(f"{self.url}/calls/{call}", method="DELETE")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            assert json.load(response)["state"] == "closed"
            return float(duration_s)

    def events(self, call: str, token: str = "") -> list[dict[str, Any]]:
        """The events of a call that has ended."""
        lines = self.get(f"/calls/{call}/events?access_token={token}").splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    def resources(self) -> dict[str, int]:
        """Threads, open files and sockets, and resident memory in kB."""
        folder = Path(f"/proc/{self.process.pid}")
        status = (folder / "status").read_text()
        files = open_files(folder / "fd")
        return {
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),  # type: ignore[index]
            "memory_kb": int(re.search(r"VmRSS:\s+(\d+)", status)[1]),  # type: ignore[index]
            "sockets": sum(file.startswith("socket:") for file in files),
            "files": len(files),
        }


def open_files(folder: Path) -> list[str]:
    """What the links in a folder of /proc name; a file may be closed while this reads."""
    files = []
    for link in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(link))
    return files


@contextlib.contextmanager
def running(
    command: str, folder: Path, *options: str, program: Sequence[str] = (RTCSTT,)
) -> Iterator[Server]:
    """``command`` is serve or stt; it listens on a free port unless ``options`` name one. Last words may take
    long, for on a busy machine the recogniser is behind."""
    options = options if "--port" in options else ("--port", "0", *options)
    if command == "serve" and "--drain-timeout-s" not in options:
        options += ("--drain-timeout-s", "60")
    log = folder / f"{command}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*program, command, *options], stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while (found := re.search(r"listening on (http\S+)", log.read_text())) is None:
            assert process.poll() is None, f"rtcstt {command} ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"rtcstt {command} did not start:\n{log.read_text()}"
            time.sleep(0.05)  # a process of its own has no event to wait for
        yield Server(found[1], process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.asynccontextmanager
async def started(command: str, folder: Path, *options: str) -> AsyncIterator[Server]:
    """`running` for a test with an event loop, which goes on meanwhile."""
    process = running(command, folder, *options)
    server = await asyncio.to_thread(process.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)


async def until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """The first true value of a condition about another process."""
    deadline = time.monotonic() + timeout_s
    while not (value := await asyncio.to_thread(condition)):
        asked = inspect.getsource(getattr(condition, "func", condition)).strip()
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {asked}"
        await asyncio.sleep(0.05)
    return value


async def ended(server: Server, call: str, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
    """The events of a call, once it has ended."""
    await until(lambda: server.get(f"/calls/{call}")["state"] == "closed", timeout_s)
    return await asyncio.to_thread(server.events, call)


def check_ledgers(ledgers: Mapping[str, Mapping[str, Any]]) -> None:
    """To the millisecond, and indeed to the sample."""
    assert ledgers
    for track, ledger in ledgers.items():
        came = sum(ledger[kind] for kind in ("received", "recovered", "concealed", "silence"))
        assert ledger["sent"] == came - ledger["discarded"], (track, ledger)
        assert ledger["discarded"] == sum(ledger["discarded_by_reason"].values()), (track, ledger)


def check_events(events: list[dict[str, Any]], *, slow: bool = False) -> None:
    """Numbered without a hole, in the order of the call, ended by `session.end` with exact ledgers.
    A ``slow`` listener may miss updates of a turn that newer ones have made useless."""
    numbers = [event["seq"] for event in events]
    assert numbers == (sorted(set(numbers)) if slow else list(range(len(events))))
    assert events[0]["type"] == "session.start" and events[-1]["type"] == "session.end"
    assert [event["type"] for event in events].count("session.end") == 1
    check_ledgers(events[-1]["ledger"])
