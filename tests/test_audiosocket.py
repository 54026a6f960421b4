"""Asterisk's AudioSocket, with real sockets: words arrive, and what is no AudioSocket is let go."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from processes import ended as events_of_ended
from processes import started, until

from rtcstt.call import Call, CallSettings
from rtcstt.errors import ConfigError
from rtcstt.server.admission import Limits
from rtcstt.server.audiosocket import DTMF, ERROR, TERMINATE, UUID, Address, during
from rtcstt.server.calls import Calls
from rtcstt.server.intake import TIMING, Timing
from rtcstt.testing import ScriptedUpstream, silence, speech
from rtcstt.webrtc.connection import PeerSettings

pytestmark = pytest.mark.real

WORDS = "it was the best of times"
AUDIO = np.concatenate([speech(WORDS), silence(0.8)])
SLIN8, SLIN16 = 0x10, 0x12
ID = uuid.UUID("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")


def frame(kind: int, data: bytes = b"") -> bytes:
    return bytes((kind,)) + len(data).to_bytes(2, "big") + data


@asynccontextmanager
async def listening(timing: Timing = TIMING, **limits: float) -> AsyncIterator[tuple[int, Calls]]:
    calls = Calls(
        stt=ScriptedUpstream(),
        settings=CallSettings(),
        peers=PeerSettings,
        limits=Limits(**limits),  # type: ignore[arg-type]
    )
    ports: list[int] = []
    app = web.Application()
    app.cleanup_ctx.append(during(calls, Address("127.0.0.1", 0), ports.append, timing=timing))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        yield ports[0], calls
        await calls.close()
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def play(writer: asyncio.StreamWriter, kind: int = SLIN16, size: int = 640) -> None:
    """The audio in frames of 20 ms, in real time."""
    data, loop = AUDIO.tobytes(), asyncio.get_running_loop()
    begin = loop.time()
    for number, start in enumerate(range(0, len(data), size)):
        await asyncio.sleep(begin + 0.02 * number - loop.time())
        writer.write(frame(kind, data[start : start + size]))


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ended(calls: Calls) -> Call:
    (call,) = calls.all()
    await asyncio.wait_for(call.wait_closed(), 60)
    return call


def text(call: Call) -> str:
    return "".join(event.transcript or "" for event in call.feed.history if event.type == "turn.end")


@pytest.mark.parametrize("last", [TERMINATE, ERROR, None])
async def test_a_call_by_audiosocket(last: int | None) -> None:
    async with listening() as (port, calls):
        async with connection(port) as (_, writer):
            writer.write(frame(UUID, ID.bytes))
            writer.write(frame(DTMF, b"5"))
            await play(writer)
            if last is not None:
                writer.write(frame(last, b"\x01" if last == ERROR else b""))
        call = await ended(calls)
        assert call.label == str(ID) and text(call) == WORDS
        assert call.ledgers()["0"]["received"] == len(AUDIO) / 16


async def test_asterisks_own_rate_takes_its_time() -> None:
    async with listening() as (port, calls):
        async with connection(port) as (_, writer):
            writer.write(frame(UUID, ID.bytes))
            for _ in range(50):
                writer.write(frame(SLIN8, bytes(320)))
                await asyncio.sleep(0.02)
        assert (await ended(calls)).ledgers()["0"]["received"] == 1000.0


async def test_hanging_up_here_tells_asterisk() -> None:
    async with listening() as (port, calls), connection(port) as (reader, writer):
        writer.write(frame(UUID, ID.bytes))
        await play(writer)
        (call,) = calls.all()
        await call.close("hung up here")
        assert await asyncio.wait_for(reader.read(), 60) == frame(TERMINATE)
        assert text(call) == WORDS


async def test_everything_at_once_loses_no_word() -> None:
    async with listening() as (port, calls):
        async with connection(port) as (_, writer):
            data = AUDIO.tobytes()
            frames = [frame(SLIN16, data[at : at + 60001]) for at in range(0, len(data), 60000)]
            assert len(frames) > 1, "and each is a byte too long"
            writer.write(frame(UUID, ID.bytes) + b"".join(frames))
            await writer.drain()
            await soon(calls.all)
        call = await ended(calls)
        assert text(call) == WORDS


async def test_what_is_no_audiosocket_is_let_go() -> None:
    dice = random.Random(1)
    openings = [
        *(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + bytes(30_000), bytes(70_000), b"", b"\x01\x00"),
        *(frame(UUID, b"short"), frame(SLIN8, bytes(320))),
    ]
    async with listening(timing=Timing(start_s=0.3)) as (port, calls):
        for opening in openings:
            async with connection(port) as (reader, writer):
                writer.write(opening)
                with contextlib.suppress(ConnectionError):  # closed with some of it unread
                    assert await asyncio.wait_for(reader.read(), 60) == b""
        assert calls.all() == []
        async with connection(port) as (reader, writer):
            writer.write(frame(UUID, ID.bytes))
            for _ in range(200):
                writer.write(frame(0x77, dice.randbytes(40)))
            writer.write(frame(0x02) + frame(DTMF, b"5") + frame(DTMF, b"\xff") + frame(TERMINATE))
            await soon(calls.all)
            call = await ended(calls)
        assert call.ledgers() == {}
        ignored = [event.fields["reason"] for event in call.feed.history if event.type == "audio.ignored"]
        assert [str(reason).split()[4] for reason in ignored] == ["0x77", "0x02"], "each kind is told once"
        assert [e.fields["digit"] for e in call.feed.history if e.type == "dtmf"] == ["5"]


async def test_audio_goes_on_among_frames_of_other_kinds() -> None:
    """Silence has a kind of its own in some libraries, and a sample may be cut by the end of a frame."""
    async with listening() as (port, calls):
        async with connection(port) as (reader, writer):
            writer.write(frame(UUID, ID.bytes) + frame(0x02) * 101)
            data = AUDIO.tobytes()
            for start in range(0, len(data), 641):
                writer.write(frame(0x12, data[start : start + 641]))
            writer.write(frame(TERMINATE))
            await soon(calls.all)
            call = await ended(calls)
        assert text(call) == WORDS


async def test_a_second_of_frames_of_an_unknown_kind_ends_no_call() -> None:
    """As it was reported: silence as frames of kind 0x02 (CycoreSystems/audiosocket), then speech."""
    path = Path(__file__).parent / "fixtures" / "media" / "audiosocket_silence_02.ws.jsonl.gz"
    with gzip.open(path, "rt") as file:
        frames = [json.loads(line) for line in file]
    async with listening() as (port, calls):
        async with connection(port) as (_, writer):
            for one in frames:
                writer.write(bytes.fromhex(one["frames_hex"]) * one.get("times", 1))
            writer.write(frame(TERMINATE))
            await soon(calls.all)
            call = await ended(calls)
    events = call.feed.history
    ignored = [event.fields["reason"] for event in events if event.type == "audio.ignored"]
    assert len(ignored) == 1 and "0x02" in str(ignored[0])
    size = sum(len(one["frames_hex"]) // 2 - 3 for one in frames if one["frames_hex"].startswith("10"))
    assert call.ledgers()["0"]["received"] == pytest.approx(size / 16, abs=20)


async def test_a_full_server_refuses_with_a_hangup() -> None:
    async with listening(max_calls=1) as (port, calls), connection(port) as (_, first):
        first.write(frame(UUID, ID.bytes))
        await soon(calls.all)
        async with connection(port) as (reader, second):
            second.write(frame(UUID, ID.bytes))
            assert await asyncio.wait_for(reader.read(), 60) == frame(TERMINATE)
        assert len(calls.all()) == 1


def test_strangers_are_kept_out() -> None:
    with pytest.raises(ConfigError, match="--audiosocket-from"):
        Address.parse("0.0.0.0:9092", ())
    address = Address.parse("0.0.0.0:9092", ("10.0.0.0/8", "192.0.2.7"))
    assert address.takes("10.1.2.3") and address.takes("192.0.2.7") and address.takes("::ffff:10.0.0.1")
    assert not address.takes("192.0.2.8") and not address.takes("2001:db8::1")
    assert Address.parse("[::1]:9092", ()).host == "::1"
    for wrong in ("9092", "localhost", "127.0.0.1:x", ":1", "127.0.0.1:70000", "asterisk:1"):
        with pytest.raises(ConfigError):
            Address.parse(wrong, ())
    with pytest.raises(ConfigError):
        Address.parse("127.0.0.1:1", ("everybody",))


async def test_serve_listens_where_it_is_told(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, upstream.listening() as url:
        options = ("--stt", url, "--audiosocket", "127.0.0.1:0")
        async with started("serve", tmp_path, *options) as server:
            port = int(re.search(r"AudioSocket on 127.0.0.1 port (\d+)", server.log.read_text())[1])  # type: ignore[index]
            async with connection(port) as (_, writer):
                writer.write(frame(UUID, ID.bytes))
                await play(writer)
                (call,) = await until(lambda: server.get("/calls")["calls"])
            events = await events_of_ended(server, call["call"])
            said = [event["transcript"] for event in events if event["type"] == "turn.end"]
            assert said == [WORDS] and call["label"] == str(ID)
