"""What a fleet costs, and what its callers notice of a kill, a drain, and a Redis that goes away.

    python -m benchmarks.fleet                 all of it, a few minutes; wants redis-server
    python -m benchmarks.fleet --calls 20 --only redis

Gateway calls (PCM over a WebSocket) of speech whose words an oracle reads back, so that lost and doubled
words can be counted; servers, Redis and callers are processes of this machine. The calls of a killed server
are ended by another one, with what was kept; how WebRTC callers go on is in tests/test_moving.py. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import string
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.table import markdown
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.testing import ConnectionScript, Oracle, ScriptedUpstream, silence, speech

TICK = os.sysconf("SC_CLK_TCK")
CHUNK = SAMPLE_RATE // 10
START_S = 60.0


@dataclass(slots=True)
class Process:
    url: str
    process: asyncio.subprocess.Process

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
async def redis() -> AsyncIterator[Process]:
    if shutil.which("redis-server") is None:
        raise SystemExit("no redis-server here (Debian: apt-get install redis-server)")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    async with process(*command, url=f"redis://127.0.0.1:{port}/0", ready=f"tcp:{port}") as found:
        yield found


@contextlib.asynccontextmanager
async def server(stt: str, *options: str) -> AsyncIterator[Process]:
    port = free_port()
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
        "--resume-grace-s",
        "1",
        *options,
    ]
    url = f"http://127.0.0.1:{port}"
    async with process(*command, url=url, ready=f"{url}/readyz") as found:
        yield found


class Speaker:
    """A gateway's call, with words that are like no other's."""

    def __init__(self, seed: int, seconds: float) -> None:
        dice = random.Random(seed)
        count = int(seconds / 0.26)
        self.words = ["".join(dice.choices(string.ascii_lowercase, k=7)) for _ in range(count)]
        parts: list[Samples] = []
        for begin in range(0, count, 12):
            parts += [speech(self.words[begin : begin + 12]), silence(1.0)]
        self._samples = np.concatenate(parts)
        self.call = ""
        self.sent_s = 0.0

    async def talk(self, session: aiohttp.ClientSession, url: str, began: asyncio.Event) -> None:
        """Until the connection is lost."""
        loop = asyncio.get_running_loop()
        socket = await session.ws_connect(f"{url}/pcm?sample_rate=16000")
        self.call = (await socket.receive_json())["call"]
        began.set()
        reading = asyncio.create_task(drained(socket))
        begun = loop.time()
        try:
            for start in range(0, len(self._samples), CHUNK):
                await asyncio.sleep(max(0.0, begun + start / SAMPLE_RATE - loop.time()))
                await socket.send_bytes(self._samples[start : start + CHUNK].tobytes())
                self.sent_s = (start + CHUNK) / SAMPLE_RATE
        except (ConnectionError, aiohttp.ClientError):
            pass
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await socket.close()

    def said_before(self, seconds: float) -> list[str]:
        """The words that ended before that moment of the audio."""
        row = 12 * 0.26 + 1.0
        ends = [index // 12 * row + (index % 12) * 0.26 + 0.2 for index in range(len(self.words))]
        return [word for word, end in zip(self.words, ends, strict=True) if end < seconds]


async def drained(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


@contextlib.asynccontextmanager
async def talking(
    session: aiohttp.ClientSession, url: str, calls: int, seconds: float
) -> AsyncIterator[list[Speaker]]:
    speakers = [Speaker(seed, seconds) for seed in range(calls)]
    tasks = []
    for speaker in speakers:
        began = asyncio.Event()
        tasks.append(asyncio.create_task(speaker.talk(session, url, began)))
        await began.wait()
    try:
        yield speakers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def info(client: Any) -> dict[str, float]:
    found = await client.info()
    commands = await client.info("commandstats")
    writes = sum(
        row["calls"] for name, row in commands.items() if name in ("cmdstat_evalsha", "cmdstat_eval")
    )
    return {
        "bytes": found["total_net_input_bytes"],
        "memory": found["used_memory"],
        "writes": writes,
        "cpu": found["used_cpu_user"] + found["used_cpu_sys"],
    }


async def cost(calls: int, seconds: float) -> list[list[object]]:
    """What Redis has to do for each call, and what it costs the server."""
    from redis.asyncio import Redis

    rows: list[list[object]] = []
    for audio in (None, "off", "on"):
        oracle = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.2)))
        async with contextlib.AsyncExitStack() as stack:
            stt = await stack.enter_async_context(oracle)
            url = await stack.enter_async_context(stt.listening())
            state = await stack.enter_async_context(redis())
            options = () if audio is None else ("--redis", state.url, "--redis-audio", audio)
            one = await stack.enter_async_context(server(url, *options))
            client = await stack.enter_async_context(Redis.from_url(state.url))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            empty = (await info(client))["memory"]
            async with talking(session, one.url, calls, seconds + 10):
                await asyncio.sleep(5.0)
                before, cpu = await info(client), one.cpu_s()
                await asyncio.sleep(seconds)
                after, used = await info(client), one.cpu_s() - cpu
        share = used / seconds / calls
        rate = {name: (after[name] - before[name]) / seconds / calls for name in after}
        of_redis: list[object] = [
            f"{rate['writes']:.1f}",
            f"{rate['bytes'] / 1000:.1f} kB",
            f"{(after['memory'] - empty) / calls / 1e6:.2f} MB",
            f"{100 * rate['cpu']:.2f} %",
        ]
        name = "without" if audio is None else f"--redis-audio {audio}"
        rows.append([name, f"{100 * share:.2f} %", *(["", "", "", ""] if audio is None else of_redis)])
    return rows


async def killed(calls: int) -> list[list[object]]:
    """Words that one of three servers had received before a kill -9, and what the others make of them."""
    oracle = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.2)))
    lost = doubled = total = holes = 0
    slowest = unwritten = 0.0
    async with contextlib.AsyncExitStack() as stack:
        stt = await stack.enter_async_context(oracle)
        url = await stack.enter_async_context(stt.listening())
        state = await stack.enter_async_context(redis())
        options = ("--redis", state.url, "--drain-timeout-s", "20")
        servers = [await stack.enter_async_context(server(url, *options)) for _ in range(3)]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with talking(session, servers[0].url, calls, 30.0) as speakers:
            await asyncio.sleep(7.3)  # in mid-sentence
            sent = [speaker.sent_s for speaker in speakers]
            os.kill(servers[0].process.pid, signal.SIGKILL)
            began = time.monotonic()
            for index, (speaker, seconds) in enumerate(zip(speakers, sent, strict=True)):
                base = f"{servers[1 + index % 2].url}/calls/{speaker.call}"
                await history(session, f"{base}/events")  # until it has ended
                events = await history(session, f"{base}/events")
                slowest = max(slowest, time.monotonic() - began)
                ended = [event for event in events if event["type"] == "turn.end"]
                told = "".join(event["transcript"] for event in ended).split()
                known = min(gap["start"] for gap in events[-1]["missing"] if gap["reason"] == "server")
                known -= events[-1]["ledger"]["0"]["silence"] / 1000  # put in where this machine was late
                unwritten = max(unwritten, seconds - known)
                sure = speaker.said_before(min(known, seconds) - 0.1)
                total += len(sure)
                lost += len(set(sure) - set(told))
                doubled += len(told) - len(set(told))
                holes += [event["seq"] for event in events] != list(range(len(events)))
    return [[calls, total, lost, doubled, holes, f"{unwritten:.2f} s", f"{slowest:.1f} s"]]


async def history(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    async with session.get(url) as response:
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


async def listened(listeners: int, seconds: float) -> list[list[object]]:
    """What those who listen through two other servers cost the owner of a call."""
    oracle = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.2)))
    async with contextlib.AsyncExitStack() as stack:
        stt = await stack.enter_async_context(oracle)
        url = await stack.enter_async_context(stt.listening())
        state = await stack.enter_async_context(redis())
        servers = [await stack.enter_async_context(server(url, "--redis", state.url)) for _ in range(3)]
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        async with talking(session, servers[0].url, 1, seconds + 30) as (speaker,):
            await asyncio.sleep(3.0)
            cpu = servers[0].cpu_s()
            await asyncio.sleep(seconds)
            alone = (servers[0].cpu_s() - cpu) / seconds
            tasks = [
                asyncio.create_task(follow(session, f"{servers[1 + n % 2].url}/calls/{speaker.call}/events"))
                for n in range(listeners)
            ]
            await asyncio.sleep(5.0)
            cpu = servers[0].cpu_s()
            await asyncio.sleep(seconds)
            with_them = (servers[0].cpu_s() - cpu) / seconds
            async with session.delete(f"{servers[0].url}/calls/{speaker.call}"):
                pass
            found = await asyncio.gather(*tasks)
    good = sum(
        bool(numbers) and numbers == sorted(set(numbers)) for numbers in found
    )  # slow ones are spared updates
    same = len({numbers[-1] if numbers else -1 for numbers in found}) == 1
    return [
        [listeners, f"{100 * (with_them - alone):.1f} %", f"{good} of {listeners}", "yes" if same else "no"]
    ]


async def follow(session: aiohttp.ClientSession, url: str) -> list[int]:
    async with session.get(url, timeout=aiohttp.ClientTimeout(None), raise_for_status=True) as response:
        return [int(line[4:]) async for line in response.content if line.startswith(b"id: ")]


async def measure(options: argparse.Namespace) -> None:
    if options.only in (None, "redis"):
        head = ["server", "CPU of a call", "writes a second", "to Redis a second", "Redis memory", "its CPU"]
        print(markdown(head, await cost(options.calls, options.seconds)))
    if options.only in (None, "kill"):
        head = [
            "calls",
            "words before",
            "lost",
            "doubled",
            "streams with holes",
            "not written",
            "all ended after",
        ]
        print(markdown(head, await killed(options.calls)))
    if options.only in (None, "listeners"):
        head = ["listeners", "CPU of the owner, more", "each event once, in order", "all to the end"]
        print(markdown(head, await listened(options.listeners, options.seconds)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--listeners", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", choices=("redis", "kill", "listeners"))
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
