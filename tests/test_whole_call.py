"""Faults of the whole: real processes, real sockets, real WebRTC. No word is lost, no sample uncounted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import soundfile
from processes import RTCSTT, Server, check_events, check_ledgers, ended, running, started, until

from rtcstt.call import Call
from rtcstt.commands.demo import bundled_recording, transcript, word_errors
from rtcstt.media.files import read
from rtcstt.media.rtp import Codec
from rtcstt.testing import ConnectionScript, Network, ScriptedCaller, ScriptedUpstream, run_virtual, speech
from rtcstt.testing import transcript as spoken
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets

pytestmark = pytest.mark.real

FIRST = "It was the best of times, it was the worst of times,"
SECOND = "it was the age of wisdom, it was the age of foolishness,"
START_S, MIDDLE_S, END_S = 0.9, 4.9, 8.7  # where they are in two_cities.wav


def voice(start_s: float = START_S, end_s: float = END_S) -> list[bytes]:
    return opus_packets(read(bundled_recording())[int(start_s * 48000) : int(end_s * 48000)])


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded recogniser, which waits little for callers who were lost."""
    with running("serve", tmp_path_factory.mktemp("serve"), "--resume-grace-s", "2") as server:
        yield server


@asynccontextmanager
async def scripted(
    folder: Path, *scripts: ConnectionScript
) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    """A server whose STT runs in the test."""
    async with ScriptedUpstream(*scripts) as upstream, upstream.listening() as url:
        async with started("serve", folder, "--stt", url, "--offers-per-minute", "1000") as server:
            yield server, upstream
            server.process.terminate()
            assert await asyncio.to_thread(server.process.wait, 150) == 0


@asynccontextmanager
async def calling(server: Server, *tracks: list[bytes], channel: bool = True) -> AsyncIterator[Caller]:
    caller = Caller(*tracks, loopback=True, channel=channel)
    try:
        await caller.dial(f"{server.url}/offer")
        yield caller
    finally:
        await caller.close()


async def said(caller: Caller, *, timeout_s: float = 60.0, slow: bool = False) -> list[dict[str, Any]]:
    """Play everything, hang up, and return the events as the caller got them, found to be in order."""
    await caller.played()
    await caller.hang_up(timeout_s=timeout_s)
    events = await collect(caller.events())
    check_events(events, slow=slow)
    return events


async def listen(server: Server, call: str) -> AsyncIterator[dict[str, Any]]:
    """The call's server-sent events, from the first to the last."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/calls/{call}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


async def collect(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def test_sigterm_drains_twenty_calls(tmp_path: Path) -> None:
    packets = voice()
    async with scripted(tmp_path) as (server, upstream), contextlib.AsyncExitStack() as stack:
        calls = [stack.enter_async_context(calling(server, packets)) for _ in range(20)]
        callers = await asyncio.gather(*calls)
        await until(lambda: sum(one.audio_s > 1.0 for one in upstream.connections) == 20)
        server.process.terminate()
        async with asyncio.timeout(90):
            told = [await collect(caller.events()) for caller in callers]
        assert await asyncio.to_thread(server.process.wait, 150) == 0
    for events in told:
        check_events(events)
        assert events[-1]["reason"] == "server stops"
    assert {one.ended for one in upstream.connections} == {"closed"}
    sent_ms = [ledger["sent"] for events in told for ledger in events[-1]["ledger"].values()]
    assert sorted(sent_ms) == pytest.approx(sorted(1000 * one.audio_s for one in upstream.connections))
    assert "Traceback" not in server.log.read_text()


async def test_a_caller_killed_in_mid_word_loses_no_word_before(embedded: Server, tmp_path: Path) -> None:
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    soundfile.write(tmp_path / "voice.wav", samples[int(START_S * rate) :], rate)
    command = [RTCSTT, "call", str(tmp_path / "voice.wav"), "--to", f"{embedded.url}/offer"]
    known = len(embedded.get("/calls")["calls"])
    caller = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        call = (await until(lambda: embedded.get("/calls")["calls"][known:]))[0]["call"]
        await until(lambda: embedded.get(f"/calls/{call}")["tracks"][0]["ledger"]["received"] >= 2700)
    finally:
        caller.kill()  # in "worst"
        await caller.wait()
    events = await ended(embedded, call, timeout_s=120)
    check_events(events)
    assert "it was the best of times, it was the" in transcript(events).lower()
    assert "audio.stalled" in [event["type"] for event in events]
    assert events[-1]["reason"] == "nothing came for 15 s"


async def test_of_two_tracks_one_dies_in_mid_word_and_the_other_goes_on(embedded: Server) -> None:
    async with calling(embedded, voice(end_s=MIDDLE_S), voice(MIDDLE_S)) as caller:
        async for event in caller.events():
            if event["type"] == "turn.start" and event["track"] == "1":
                break
        await asyncio.sleep(0.8)
        await caller._pc.getSenders()[1].stop()  # says BYE
        await caller._playbacks[0].played
        await caller.hang_up()
        events = await collect(caller.events())
    check_events(events)
    of = {track: [event for event in events if event.get("track") == track] for track in ("0", "1")}
    assert word_errors(FIRST, transcript(of["0"])).errors == 0
    assert transcript(of["1"]).lower().startswith("it was the")
    (muted,) = [event for event in of["1"] if event["type"] == "track.muted"]
    (end,) = [event for event in of["1"] if event["type"] == "track.end"]
    assert muted["reason"] == "bye" and muted["time"] < end["time"]
    check_ledgers({"1": end["ledger"]})
    zero, one = (events[-1]["ledger"][track]["received"] for track in ("0", "1"))
    assert zero > one + 1000


LONG = " ".join(f"word{n}" for n in range(9000))  # 80 kB
TURNS = 100


def turns_said(count: int) -> Iterator[tuple[float, str]]:
    """For `ConnectionScript.inject`: turns of `LONG`, one every 30 ms."""
    for n in range(count):
        for message in ({"type": "turn.start"}, {"type": "turn.end", "transcript": LONG}):
            yield 1.0 + 0.03 * n, json.dumps({**message, "request_id": "scripted"})


def read_events(stream: socket.socket) -> list[dict[str, Any]]:
    """Server-sent events up to the last; the socket has sent its request."""
    stream.settimeout(60)
    with stream.makefile("rb") as lines:
        found = []
        for line in lines:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if found[-1]["type"] == "session.end":
                    break
        return found


async def test_a_listener_that_does_not_read_harms_nobody(tmp_path: Path) -> None:
    """The caller has no data channel at all: the events, 8 MB, come by HTTP alone."""
    async with scripted(tmp_path, ConnectionScript(inject=tuple(turns_said(TURNS)))) as (server, _):
        async with calling(server, voice(end_s=END_S - 2.5), channel=False) as caller:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
                deaf.sendall(f"GET /calls/{caller.call}/events HTTP/1.0\r\n\r\n".encode())
                before_kb = server.resources()["memory_kb"]
                assert caller.call
                receiving = asyncio.create_task(collect(listen(server, caller.call)))
                events = await said(caller, slow=True)
                received = await asyncio.wait_for(receiving, 60)
                assert server.resources()["memory_kb"] - before_kb < 100_000
                late = await asyncio.to_thread(read_events, deaf)
    for listener in (events, received, late):
        check_events(listener, slow=True)
        assert transcript(listener) == LONG * TURNS
    assert "Traceback" not in server.log.read_text()


async def test_fifty_calls_leave_nothing_behind(tmp_path: Path) -> None:
    packets = voice(START_S, START_S + 0.3)

    async def one(server: Server) -> None:
        async with calling(server, packets) as caller:
            await said(caller)

    async def ten(server: Server) -> None:
        for _ in range(2):
            await asyncio.gather(*(one(server) for _ in range(5)))

    async with scripted(tmp_path) as (server, upstream):
        idle = server.resources()
        await ten(server)
        await until(lambda: server.resources()["files"] == idle["files"])
        before = server.resources()
        for _ in range(5):
            await ten(server)
        await until(lambda: server.resources()["files"] == idle["files"])
        after = server.resources()
        assert (after["threads"], after["sockets"]) == (before["threads"], idle["sockets"])
        assert after["memory_kb"] - before["memory_kb"] < 15_000  # what can still be read of ended calls
        # One connection for each call at most: short as calls are, some may end before they have theirs.
        assert 0 < len(upstream.connections) <= 60
        assert "rtcstt_calls_open 0" in server.get("/metrics")


async def test_the_stt_is_killed_in_mid_turn_and_comes_back(tmp_path: Path) -> None:
    async with started("stt", tmp_path) as stt:
        options = ("--stt", stt.url, "--drain-timeout-s", "30")
        async with started("serve", tmp_path, *options) as server:
            async with calling(server, voice()) as caller:
                async for event in caller.events():
                    if event["type"] == "turn.update" and "best" in str(event["transcript"]):
                        break
                stt.process.kill()
                await asyncio.to_thread(stt.process.wait)
                async with started("stt", tmp_path, "--port", stt.url.rpartition(":")[2]):
                    events = await said(caller, timeout_s=120)
            text = server.get(f"/calls/{caller.call}/transcript.txt")
    assert word_errors(f"{FIRST} {SECOND}", transcript(events)).errors == 0, transcript(events)
    assert transcript(events).split() == text.split()
    types = [event["type"] for event in events]
    assert "stt.reconnecting" in types and "stt.recovered" in types
    (ledger,) = events[-1]["ledger"].values()
    assert ledger["silence"] < 300, "the call itself knows nothing of it"


def datagrams(seed: int) -> Iterator[bytes]:
    """Noise, and noise that begins as STUN, DTLS, RTP and RTCP do."""
    dice = random.Random(seed)
    for n in range(3000):
        head = (b"", b"\x00\x01\x00\x08\x21\x12\xa4\x42", b"\x16\xfe\xfd", b"\x80\x60", b"\x80\xc8")[n % 5]
        yield head + dice.randbytes(dice.choice((0, 1, 11, 40, 160, 1400)))


REQUESTS = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000,
    b"POST /offer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{",
    b"POST /offer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 70_000,
)


async def ask_strangely(port: int, request: bytes) -> None:
    """Send it, and take whatever comes for a moment; many servers just hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(request)
        await writer.drain()
        await asyncio.wait_for(reader.read(), 0.3)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_garbage_at_the_ports_disturbs_no_call(embedded: Server) -> None:
    async with calling(embedded, voice(end_s=MIDDLE_S)) as caller:
        answer = caller._pc.remoteDescription.sdp
        ports = {int(port) for port in re.findall(r"a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 (\d+) ", answer)}
        assert ports
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for count, data in enumerate(datagrams(7)):
                for port in ports:
                    stranger.sendto(data, ("127.0.0.1", port))
                if count % 20 == 0:
                    await asyncio.sleep(0.01)
        http = int(embedded.url.rpartition(":")[2])
        await asyncio.gather(*(ask_strangely(http, request) for request in REQUESTS * 3))
        events = await said(caller)
    (ledger,) = events[-1]["ledger"].values()
    assert word_errors(FIRST, transcript(events)).errors == 0
    assert ledger["recovered"] + ledger["concealed"] == 0
    assert "Traceback" not in embedded.log.read_text()


L16 = Codec("L16", 16000)


def test_ten_minutes_of_every_trouble_keep_time_and_words() -> None:
    """In virtual time: words, jitter, duplicates, mute, DTX and hold in turn."""

    async def main() -> tuple[Call, ScriptedUpstream, float, str]:
        text = [f"word{n}" for n in range(120)]
        caller = ScriptedCaller()
        for n in range(0, len(text), 5):
            caller.say(speech(text[n : n + 5], word_s=0.4, gap_s=0.1)).mute(5.0)
            caller.pause(10.0).mute(2.0).hold(5.5)
        async with ScriptedUpstream() as upstream:
            call = Call("long", stt=upstream)
            line = call.add_track("0", {96: L16})
            loop = asyncio.get_running_loop()
            packets = caller.packets(Network(jitter_s=0.06, duplicate=0.01, seed=3))
            for arrival, packet in packets:
                await asyncio.sleep(arrival - loop.time())
                line.push(packet)
            await asyncio.sleep(600 - loop.time())
            duration_s = loop.time() - packets[0][0] + 0.02  # the first packet's audio was spoken before it
            await call.close()
            return call, upstream, duration_s, " ".join(text)

    call, upstream, duration_s, text = run_virtual(main())
    events = call.feed.history
    (ledger,) = call.ledgers().values()
    check_ledgers(call.ledgers())
    assert 590 < duration_s <= 600
    assert ledger["sent"] == pytest.approx(1000 * duration_s, abs=0.1)
    assert upstream.connections[0].audio_s * 1000 == ledger["sent"]
    assert spoken(events).split() == text.split()
    gone = {reason for reason in ledger["discarded_by_reason"] if reason not in ("lag", "covered by silence")}
    assert not gone
