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
import signal
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

from benchmarks.fleet_parts import Balancer, Process, free_port, history, listened_to_the_end, redis, server
from benchmarks.table import markdown
from benchmarks.tone_words import WORD_S, WORDS, ends, taught, tones
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import PACKET_S
from rtcstt.testing import ConnectionScript, Oracle, ScriptedUpstream, silence, speech
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets

CHUNK = SAMPLE_RATE // 10
LATE_S = 1.0  # callers that are later did not speak as people do: the machine is too busy for so many


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


@dataclass(slots=True)
class Count:
    """Of the words of several calls. The events of those that lost or doubled any are kept in ``folder``."""

    folder: Path
    calls: int = 0
    words: int = 0
    lost: int = 0
    doubled: int = 0
    holes: int = 0

    def add(self, events: list[dict[str, Any]], sure: Sequence[str]) -> None:
        """``sure``: what was said where the call was received."""
        told = "".join(event["transcript"] for event in events if event["type"] == "turn.end").split()
        lost = [word for word in sure if word not in set(told)]
        doubled = sorted(word for word in set(told) if told.count(word) > 1)
        self.calls += 1
        self.words += len(sure)
        self.lost += len(lost)
        self.doubled += len(told) - len(set(told))
        if lost or doubled:
            found = {"said": list(sure), "lost": lost, "doubled": doubled, "events": events}
            path = self.folder / f"{events[0]['call']}.json"
            path.write_text(json.dumps(found, indent=1))
            print(f"{len(lost)} words lost, {len(doubled)} doubled: {path}", file=sys.stderr, flush=True)
        self.holes += [event["seq"] for event in events] != list(range(len(events)))

    def row(self) -> list[object]:
        return [self.calls, self.words, self.lost, self.doubled, self.holes]


COUNTED = ["calls", "words", "lost", "doubled", "streams with holes"]


class Fleet:
    """Three servers behind a balancer, with an STT that reads `tone_words`, and a Redis."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.stack = stack
        self.ports = [free_port() for _ in range(3)]
        self.servers: list[Process] = []
        self.lives: list[contextlib.AsyncExitStack] = []
        self.stt = self.redis = ""
        self.balancer = Balancer([f"http://127.0.0.1:{port}" for port in self.ports])

    async def start(self, *options: str, oracle: Oracle | None = None) -> None:
        stt = await self.stack.enter_async_context(
            ScriptedUpstream(ConnectionScript(oracle=oracle or Oracle(latency_s=0.2)))
        )
        self.stt = await self.stack.enter_async_context(stt.listening())
        self.redis = (await self.stack.enter_async_context(redis())).url
        self.options = ("--redis", self.redis, "--drain-timeout-s", "20", "--resume-grace-s", "20", *options)
        for index in range(3):
            self.lives.append(contextlib.AsyncExitStack())
            self.servers.append(await self.run(index))
        await self.stack.enter_async_context(self.balancer.listening())
        for life in self.lives:
            self.stack.push_async_exit(life)

    async def run(self, index: int) -> Process:
        one = server(self.stt, *self.options, port=self.ports[index])
        return await self.lives[index].enter_async_context(one)

    async def restart(self, index: int) -> None:
        await self.lives[index].aclose()  # SIGTERM, and until it has ended
        self.servers[index] = await self.run(index)


class WebRtcCaller:
    """A caller who goes on elsewhere, with words in an order of their own."""

    def __init__(self, seed: int, seconds: float) -> None:
        count = min(len(WORDS), int(seconds / 0.34))
        self.words = random.Random(seed).sample(WORDS, count)
        packets = opus_packets(tones(self.words))
        self._lasts_s = PACKET_S * len(packets)
        self.caller = Caller(packets, loopback=True, resume_s=60.0)

    async def late_s(self) -> float:
        """Waits for the end; by how much it came later than in real time."""
        await self.caller.played()
        return asyncio.get_running_loop().time() - (self.caller.started or 0.0) - self._lasts_s

    def said(self, missing: Sequence[dict[str, Any]]) -> list[str]:
        """The words that lie in none of the gaps."""
        return [
            word
            for word, end in zip(self.words, ends(len(self.words)), strict=True)
            if all(end < gap["start"] - 0.05 or end - WORD_S > gap["end"] + 0.05 for gap in missing)
        ]


async def dialled(url: str, calls: int, seconds: float) -> list[WebRtcCaller]:
    callers = [
        WebRtcCaller(seed, seconds) for seed in range(calls)
    ]  # encoding takes a while: before any speaks
    for one in callers:
        await one.caller.dial(f"{url}/offer")
    return callers


async def ended(
    session: aiohttp.ClientSession, url: str, callers: Sequence[WebRtcCaller], count: Count
) -> None:
    """Hang up, and count what each call's transcript has."""
    late_s = max(await asyncio.gather(*(one.late_s() for one in callers)))
    if late_s > LATE_S:
        text = "the callers were late by {:.1f} s at their end: not the servers but they tore the words"
        print(text.format(late_s), file=sys.stderr, flush=True)
    await asyncio.sleep(1.0)
    await asyncio.gather(*(one.caller.hang_up() for one in callers))
    for one in callers:
        events = await history(session, f"{url}/calls/{one.caller.call}/events")
        count.add(events, one.said(events[-1]["missing"]))


async def killed_and_resumed(calls: int, folder: Path) -> list[list[object]]:
    """WebRTC callers whose server is killed in mid-sentence: they offer again by themselves."""
    count, back = Count(folder), list[float]()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(taught())
        fleet = Fleet(stack)
        await fleet.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        callers = await dialled(fleet.balancer.url, calls, 25.0)
        await asyncio.sleep(7.3)
        async with session.get(f"{fleet.servers[0].url}/calls") as response:
            owned = {call["call"] for call in (await response.json())["calls"] if call["state"] == "open"}
        fleet.servers[0].kill()
        killed_at = asyncio.get_running_loop().time()
        waiting = {index for index, one in enumerate(callers) if one.caller.call in owned}
        while waiting and asyncio.get_running_loop().time() - killed_at < 20:
            await asyncio.sleep(0.05)
            for index in [i for i in waiting if callers[i].caller.resumed]:
                waiting.discard(index)
                back.append(asyncio.get_running_loop().time() - killed_at)
        fleet.servers[0] = await fleet.run(0)
        await ended(session, fleet.servers[1].url, callers, count)
    return [[*count.row(), len(back), f"{max(back, default=0):.1f} s"]]


async def rolled(calls: int, folder: Path) -> list[list[object]]:
    """All three servers are restarted, one after the other, while callers speak and others listen."""
    count, whole = Count(folder), 0
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(taught())
        fleet = Fleet(stack)
        await fleet.start()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None))
        )
        callers = await dialled(fleet.balancer.url, calls, 60.0)
        over = asyncio.Event()
        listeners = [
            asyncio.create_task(
                listened_to_the_end(session, f"{fleet.balancer.url}/calls/{one.caller.call}/events", over)
            )
            for one in callers
        ]
        for index in range(3):
            await asyncio.sleep(4.0)
            await fleet.restart(index)
        await ended(session, fleet.servers[0].url, callers, count)
        over.set()
        received = await asyncio.gather(*listeners)
        whole = sum(numbers == list(range(len(numbers))) for numbers in received)
    moves = sum(one.caller.resumed for one in callers)
    return [[*count.row(), moves, f"{whole} of {calls}"]]


async def away(calls: int, away_s: float, folder: Path, *, paused: bool) -> list[list[object]]:
    """Redis is killed and started empty, or stopped and continued, while gateways' calls go on."""
    count, same = Count(folder), 0
    oracle = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.2)))
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        stt = await stack.enter_async_context(oracle)
        url = await stack.enter_async_context(stt.listening())
        state = contextlib.AsyncExitStack()
        stored = await state.enter_async_context(redis(port))
        options = ("--redis", stored.url, "--drain-timeout-s", "20")
        servers = [await stack.enter_async_context(server(url, *options)) for _ in range(2)]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with talking(session, servers[0].url, calls, away_s + 25) as speakers:
            await asyncio.sleep(5.0)
            if paused:
                os.kill(stored.process.pid, signal.SIGSTOP)
                await asyncio.sleep(away_s)
                os.kill(stored.process.pid, signal.SIGCONT)
            else:
                stored.kill()
                await state.aclose()
                await asyncio.sleep(away_s)
                await state.enter_async_context(redis(port))
            await asyncio.sleep(8.0)
            for speaker in speakers:
                said_s = speaker.sent_s
                async with session.delete(f"{servers[0].url}/calls/{speaker.call}"):
                    pass
                events = await history(session, f"{servers[0].url}/calls/{speaker.call}/events")
                silence_s = events[-1]["ledger"]["0"]["silence"] / 1000
                count.add(events, speaker.said_before(said_s - silence_s - 0.5))
                same += events == await complete(session, f"{servers[1].url}/calls/{speaker.call}/events")
        await state.aclose()
    name = f"paused for {away_s:g} s" if paused else f"killed, back empty after {away_s:g} s"
    return [[name, *count.row(), f"{same} of {calls}"]]


async def complete(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """What another server says of the call, once it knows its end."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        async with session.get(url) as response:
            lines = [line async for line in response.content if line.startswith(b"data: ")]
        events = [json.loads(line[6:]) for line in lines]
        is_late = asyncio.get_running_loop().time() > deadline
        if is_late or (events and events[-1]["type"] == "session.end"):
            return events
        await asyncio.sleep(0.5)


async def lasted(minutes: float) -> list[list[object]]:
    """Calls come, move, end and lose their server, for as long as told; what is kept must not grow."""
    from redis.asyncio import Redis

    rows: list[list[object]] = []
    async with contextlib.AsyncExitStack() as stack:
        fleet = Fleet(stack)
        await fleet.start("--keep-ended-s", "20", "--resume-grace-s", "2")
        session = await stack.enter_async_context(aiohttp.ClientSession())
        client = await stack.enter_async_context(Redis.from_url(fleet.redis))
        dice, began, calls, kills = random.Random(1), time.monotonic(), 0, 0
        coming: set[asyncio.Task[None]] = set()
        while (passed := time.monotonic() - began) < 60 * minutes:
            for _ in range(2):
                calls += 1
                coming.add(asyncio.create_task(one_call(session, dice.choice(fleet.servers).url, calls)))
            await asyncio.sleep(1.0)
            coming = {task for task in coming if not task.done()}
            if passed > 30 * (kills + 1):
                victim = 1 + kills % 2  # the first one lives for all of it
                if kills % 3:
                    await fleet.restart(victim)
                else:
                    fleet.servers[victim].kill()
                    await fleet.servers[victim].process.wait()
                    await fleet.restart(victim)
                kills += 1
                kept = (await client.info("memory"))["used_memory"] / 1e6
                first = fleet.servers[0]
                rows.append(
                    [f"{passed / 60:.1f}", calls, kills, f"{first.resident_mb():.1f} MB", first.files()]
                    + [await client.dbsize(), f"{kept:.1f} MB"]
                )
                print(rows[-1], file=sys.stderr, flush=True)
        await asyncio.gather(*coming)
    return rows


async def one_call(session: aiohttp.ClientSession, url: str, seed: int) -> None:
    """A short one, which ends in order, or with its server."""
    began = asyncio.Event()
    with contextlib.suppress(aiohttp.ClientError, OSError, TypeError, TimeoutError):
        await Speaker(seed, random.Random(seed).uniform(3, 20)).talk(session, url, began)


async def measure(options: argparse.Namespace) -> None:
    def wanted(name: str) -> bool:
        return options.only in (None, name)

    if wanted("redis"):
        head = ["server", "CPU of a call", "writes a second", "to Redis a second", "Redis memory", "its CPU"]
        print(markdown(head, await cost(options.calls, options.seconds)), flush=True)
    if wanted("kill"):
        head = [*COUNTED, "not written", "all ended after"]
        print(markdown(head, await killed(options.calls)), flush=True)
    if wanted("resume"):
        head = [*COUNTED, "moved", "last one back after the kill"]
        print(markdown(head, await killed_and_resumed(options.calls, options.keep)), flush=True)
    if wanted("roll"):
        head = [*COUNTED, "moves", "listeners without a hole"]
        print(markdown(head, await rolled(options.calls, options.keep)), flush=True)
    if wanted("away"):
        head = ["Redis", *COUNTED, "the same at another server"]
        rows = await away(options.calls, 10.0, options.keep, paused=True)
        rows += await away(options.calls, 60.0, options.keep, paused=False)
        print(markdown(head, rows), flush=True)
    if wanted("listeners"):
        head = ["listeners", "CPU of the owner, more", "each event once, in order", "all to the end"]
        print(markdown(head, await listened(options.listeners, options.seconds)), flush=True)
    if options.only == "soak":
        head = ["minute", "calls", "servers ended", "memory", "open files", "keys", "Redis"]
        print(markdown(head, await lasted(options.minutes)), flush=True)


SCENARIOS = ("redis", "kill", "resume", "roll", "away", "listeners", "soak")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--listeners", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak (default: %(default)s)")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the events of calls go that lost or doubled words",
    )
    parser.add_argument("--only", choices=SCENARIOS, help="the soak runs only when it is asked for")
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
