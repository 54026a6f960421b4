"""The parts of a fleet as processes of this machine, a balancer before them, and who reads its events."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

TICK = os.sysconf("SC_CLK_TCK")
START_S = 60.0
END_S = 120.0  # until a call that was hung up says session.end


@dataclass(slots=True)
class Process:
    url: str
    process: asyncio.subprocess.Process

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def process(*command: str, url: str, ready: str) -> AsyncIterator[Process]:
    with tempfile.TemporaryFile() as log:
        started = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError, aiohttp.ClientError):
                    await answers(ready)
                    break
                if started.returncode is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(log.read().decode()[-2000:])
                await asyncio.sleep(0.1)
            yield Process(url, started)
        finally:
            if started.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    started.send_signal(signal.SIGCONT)
                    started.terminate()
                await started.wait()


async def answers(url: str) -> None:
    if url.startswith("tcp:"):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url[4:]))
        writer.close()
        return
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url):
        pass


@contextlib.asynccontextmanager
async def redis(port: int | None = None) -> AsyncIterator[Process]:
    if shutil.which("redis-server") is None:
        raise SystemExit("no redis-server here (Debian: apt-get install redis-server)")
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    async with process(*command, url=f"redis://127.0.0.1:{port}/0", ready=f"tcp:{port}") as found:
        yield found


@contextlib.asynccontextmanager
async def server(stt: str, *options: str, port: int | None = None) -> AsyncIterator[Process]:
    port = port or free_port()
    program = str(Path(sys.executable).with_name("rtcstt"))
    limits = ["--max-calls", "999", "--offers-per-minute", "9999", "--max-calls-per-address", "999"]
    command = [
        program,
        "serve",
        "--port",
        str(port),
        "--stt",
        stt,
        *limits,
        *([] if "--resume-grace-s" in options else ["--resume-grace-s", "1"]),
        *options,
    ]
    url = f"http://127.0.0.1:{port}"
    async with process(*command, url=url, ready=f"{url}/readyz") as found:
        yield found


class Balancer:
    """TCP connections go to the servers in turn, to the next one where nobody listens."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._ports = [int(url.rpartition(":")[2]) for url in urls]
        self._turn = itertools.count()
        self._joins: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Balancer]:
        listening = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            listening.close()
            for task in list(self._joins):
                task.cancel()
            await asyncio.gather(*self._joins, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joins.add(task)
        first = next(self._turn)
        try:
            for step in range(len(self._ports)):
                with contextlib.suppress(OSError):
                    port = self._ports[(first + step) % len(self._ports)]
                    back, forth = await asyncio.open_connection("127.0.0.1", port)
                    await asyncio.gather(_copy(reader, forth), _copy(back, writer))
                    return
        finally:
            self._joins.discard(task)
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


async def history(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """The events of a call from the first, read until it has ended; a call that does not end is an error."""
    last: object = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            while True:
                async with session.get(url) as response:
                    lines = [line async for line in response.content if line.startswith(b"data: ")]
                events = [json.loads(line[6:]) for line in lines]
                last = events[-1] if events else f"status {response.status}"
                if events and events[-1]["type"] == "session.end":
                    return events
                await asyncio.sleep(0.3)
    raise SystemExit(f"{url}: no session.end within {END_S:g} s, the last was {last}")


async def listened_to_the_end(session: aiohttp.ClientSession, url: str, over: asyncio.Event) -> list[int]:
    """The numbers of a call's events, as a browser's EventSource reads them: it connects again, and says
    where it was. Without a session.end for `END_S` after the call is ``over``: what came."""
    numbers: list[int] = []
    reading = asyncio.create_task(_listen(session, url, numbers))
    await over.wait()
    await asyncio.wait({reading}, timeout=END_S)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return numbers


async def _listen(session: aiohttp.ClientSession, url: str, numbers: list[int]) -> None:
    while True:
        headers = {"Last-Event-ID": str(numbers[-1])} if numbers else {}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(url, headers=headers, raise_for_status=True) as response:
                async for line in response.content:
                    if line.startswith(b"id: "):
                        numbers.append(int(line[4:]))
                    if b'"session.end"' in line:
                        return
        await asyncio.sleep(0.3)
