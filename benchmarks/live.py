"""`rtcstt stt` as a process, and clients that talk to it at the pace of speech."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.server_load import await_port, free_port
from rtcstt.commands.demo import bundled_recording
from rtcstt.media.files import read
from rtcstt.media.pcm import Samples

RATE = 16000
CHUNK = RATE // 10
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
QUERY = "model=ink-2&encoding=pcm_s16le&sample_rate=16000"


@dataclass(slots=True)
class Process:
    pid: int
    port: int

    def url(self, endpoint: str) -> str:
        path = "/stt/turns/websocket" if endpoint == "turns" else "/stt/websocket"
        return f"ws://127.0.0.1:{self.port}{path}?{QUERY}"


@contextlib.contextmanager
def server(*options: str) -> Iterator[Process]:
    port = free_port()
    program = str(Path(sys.executable).with_name("rtcstt"))
    command = [program, "stt", "--port", str(port), "--max-streams", "1000", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_port(port)
        yield Process(process.pid, port)
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def speech(folder: Path) -> list[Samples]:
    """Single voices in English that say something, without the silence around them."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        first = bundled_recording()
        return [trimmed(read(path, RATE)) for path in (first, first.with_name("beckett.wav"))]
    entries = json.loads(manifest.read_text())
    chosen = [entry for entry in entries if entry["text"] and entry["channels"] == 1]
    chosen = [entry for entry in chosen if not {"lang:fr", "lang:de", "raw"} & set(entry["tags"])]
    return [trimmed(read(folder / entry["file"], RATE)) for entry in chosen]


def trimmed(samples: Samples) -> Samples:
    """From the first to the last 10 ms that are at most 30 dB below the loudest."""
    windows = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float32)
    level = np.sqrt((windows**2).mean(axis=1))
    loud = np.flatnonzero(level > level.max() / 30)
    return samples[loud[0] * 160 : (loud[-1] + 1) * 160]


def silence(duration_s: float) -> Samples:
    """As a microphone has it: not all zeros."""
    return np.random.default_rng(0).integers(-3, 4, round(duration_s * RATE)).astype(np.int16)


@dataclass(slots=True)
class Line:
    """One connection. ``came`` is what the server said, each with when."""

    socket: aiohttp.ClientWebSocketResponse
    came: list[tuple[float, dict[str, object]]] = field(default_factory=list)
    sent: int = 0  # samples

    async def listen(self) -> None:
        async for message in self.socket:
            self.came.append((asyncio.get_running_loop().time(), json.loads(message.data)))

    async def talk(self, parts: Iterable[Samples], began: float, pace: float = 1.0) -> None:
        """Send all, in tenths of a second, at the pace of speech since ``began``, times ``pace``."""
        rest = np.zeros(0, np.int16)
        for part in parts:
            rest = np.concatenate((rest, part))
            while len(rest) >= CHUNK:
                self.sent += CHUNK  # a microphone gives its sound when it has been spoken
                await asyncio.sleep(began + self.sent / RATE / pace - asyncio.get_running_loop().time())
                await self.socket.send_bytes(rest[:CHUNK].tobytes())
                rest = rest[CHUNK:]


@contextlib.asynccontextmanager
async def line(http: aiohttp.ClientSession, url: str) -> AsyncIterator[Line]:
    async with http.ws_connect(url, max_msg_size=0) as socket:
        one = Line(socket)
        listening = asyncio.create_task(one.listen())
        try:
            yield one
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
