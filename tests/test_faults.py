"""What an STT, or the way to it, can do to a call: real sockets, and no word lost and none twice.

The audio carries its words (`rtcstt.testing.speech`), so that the counts are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import random
import socket
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from websockets.asyncio.server import ServerConnection, serve

from rtcstt import wire
from rtcstt.errors import EngineError
from rtcstt.events import AnyEvent
from rtcstt.events.speech import TurnEvent
from rtcstt.stt.alignment import words
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.stream import Limits, Stream
from rtcstt.testing import (
    ConnectionScript,
    Flaky,
    Oracle,
    ScriptedUpstream,
    play,
    silence,
    speech,
    transcript,
)

pytestmark = pytest.mark.real

SENTENCES = (
    "it was the best of times it was the worst of times",
    "it was the age of wisdom it was the age of foolishness",
    "no no no not at all",
)
TEXT = " ".join(SENTENCES)
SPEED = 10.0  # audio per second of wall clock in these tests: the pace is the sender's, not the clock's
LIMITS = Limits(catch_up=1.25 * SPEED, backoff_first_s=0.05, backoff_cap_s=0.3)


class Talk:
    """A call at `SPEED` times real time."""

    def __init__(self, **settings: object) -> None:
        self.events: list[AnyEvent] = []
        settings = {"limits": LIMITS, "seed": 0, **settings}
        self.stream = Stream(on_event=self.events.append, **settings)  # type: ignore[arg-type]

    def send(self, chunk: object) -> None:
        self.stream.send(chunk)  # type: ignore[arg-type]

    async def say(self, samples: object, start: int) -> int:
        from rtcstt.testing import chunks

        for chunk in chunks(samples, start=start):  # type: ignore[arg-type]
            await asyncio.sleep(len(chunk.samples) / 16000 / SPEED)
            self.stream.send(chunk)
        return start + len(samples)  # type: ignore[arg-type]

    async def sentences(self, between: Callable[[int], Awaitable[None]] | None = None) -> None:
        position = 0
        for n, sentence in enumerate(SENTENCES):
            position = await self.say(silence(0.4), position)
            position = await self.say(speech(sentence, word_s=0.14, gap_s=0.05), position)
            if between is not None:
                await between(n)
            position = await self.say(silence(0.9), position)

    def check(self) -> None:
        """Every word once, and the guarantees of docs/wire-protocol.md."""
        assert transcript(self.events) == TEXT
        order = wire.TurnOrder()
        end = 0.0
        for event in self.events:
            if isinstance(event, TurnEvent):
                message = wire.decode_server(json.dumps({"type": event.type, **event.fields}))
                if isinstance(message, wire.messages.TurnMessage):
                    order.advance(message, AssertionError)
                assert event.start is not None and event.end is not None
                assert end <= event.start <= event.end
                end = event.end if event.type == "turn.end" else end
        assert order.state is wire.TurnState.IDLE


async def call(*scripts: ConnectionScript, **settings: object) -> tuple[Talk, ScriptedUpstream]:
    before = asyncio.all_tasks()
    upstream = ScriptedUpstream(*scripts)
    async with upstream.listening() as url:
        talk = Talk(stt=Cartesia(base_url=url), **settings)
        talk.stream.start()
        await talk.sentences()
        await talk.stream.close()
    await asyncio.sleep(0)
    assert {t for t in asyncio.all_tasks() - before if not t.done()} == set()
    return talk, upstream


async def test_nothing_happens() -> None:
    talk, upstream = await call(ConnectionScript())
    talk.check()
    assert len(upstream.connections) == 1
    headers = {name.lower(): value for name, value in upstream.connections[0].headers.items()}
    assert headers["cartesia-version"] == "2026-03-01"
    assert "authorization" not in headers and "sec-websocket-extensions" not in headers


async def test_the_key_goes_where_it_belongs() -> None:
    upstream = ScriptedUpstream()
    async with upstream.listening() as url:
        connection = await Cartesia(base_url=url, api_key="sk_x").connect(wire.Handshake(endpoint="turns"))
        await connection.close()
        await connection.close()
    headers = {name.lower(): value for name, value in upstream.connections[0].headers.items()}
    assert headers["authorization"] == "Bearer sk_x"


_DICE = random.Random(4)
KILLS = sorted(round(_DICE.uniform(0.05, 9.0), 2) for _ in range(20))


@pytest.mark.parametrize("after_s", KILLS)
async def test_killed(after_s: float) -> None:
    talk, upstream = await call(
        ConnectionScript(drop_after_audio_s=after_s, oracle=Oracle(latency_s=0.1)),
        ConnectionScript(oracle=Oracle(latency_s=0.2, hold_words=2, eager_end_s=None)),
    )
    talk.check()
    assert len(upstream.connections) == 2


async def test_killed_again_and_again() -> None:
    talk, upstream = await call(
        *[ConnectionScript(drop_after_audio_s=after_s) for after_s in (0.7, 2.0, 0.1, 3.0, 1.5)],
        ConnectionScript(),
    )
    talk.check()
    assert len(upstream.connections) == 6


async def test_another_recogniser_receives_other_words_and_other_turns() -> None:
    """The second says "weest" for "best": what was published stands, what was not comes in its words."""
    oracle = Oracle(mishear={"best": "weest", "wisdom": "whiz-dom"}, max_words=4, eager_end_s=None)
    talk, _ = await call(ConnectionScript(drop_after_audio_s=2.0), ConnectionScript(oracle=oracle))
    assert transcript(talk.events) == TEXT.replace("wisdom", "whiz-dom")


async def test_silent_for_a_while() -> None:
    limits = Limits(catch_up=1.25 * SPEED, backoff_first_s=0.05, stall_timeout_s=0.8)
    talk, upstream = await call(ConnectionScript(silent_after_audio_s=1.0), ConnectionScript(), limits=limits)
    talk.check()
    assert float(talk.stream.stats()["stalls"]) >= 1


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("not JSON", id="garbage"),
        pytest.param('{"type": "turn.update"', id="half"),
        pytest.param('{"type": "turn.end", "transcript": 7}', id="wrong-type"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param(b"\x00\x01\x02", id="binary"),
        pytest.param('{"type": "turn.resume"}', id="resume"),
        pytest.param('{"type": "flush_done"}', id="other-endpoint"),
        pytest.param('{"type": "error", "title": "t", "message": "m", "status_code": 500}', id="error"),
        pytest.param('{"type": "turn.update", "transcript": "' + "x" * 2**24 + '"}', id="16MB"),
    ],
)
async def test_nonsense(message: str | bytes) -> None:
    talk, upstream = await call(ConnectionScript(inject=((2.0, message),)), ConnectionScript())
    talk.check()
    assert len(upstream.connections) == 2


async def test_nothing_but_nonsense() -> None:
    """The call lives, and the fallback speaks."""
    fallback = ScriptedUpstream(name="fallback")
    async with fallback:
        talk, upstream = await call(ConnectionScript(inject=((0.1, "?"),)), fallback=fallback, patience_s=0.3)
    talk.check()
    assert talk.stream.stats()["engine"] == "fallback"


async def test_unknown_messages_are_let_pass() -> None:
    talk, upstream = await call(ConnectionScript(inject=((1.0, '{"type": "turn.mood", "mood": "fair"}'),)))
    talk.check()
    assert [e.fields["mood"] for e in talk.events if e.name == "turn.mood"] == ["fair"]
    assert len(upstream.connections) == 1


async def test_429_then_200() -> None:
    talk, upstream = await call(
        ConnectionScript(refuse=429), ConnectionScript(refuse=429), ConnectionScript()
    )
    talk.check()
    assert [v.ended for v in upstream.connections] == ["refused", "refused", "closed"]


async def test_refused_for_good_keeps_counting() -> None:
    talk, upstream = await call(ConnectionScript(refuse=401))
    (error,) = [e for e in talk.events if e.type == "error"]
    assert error.fields["status_code"] == 401 and error.fields["error_code"] == "scripted"
    assert len(upstream.connections) == 1
    account = talk.stream.account()
    assert account.taken == 0 and sum(account.discarded.values()) == talk.stream.stats()["received_s"] * 16000


async def test_dns_gone() -> None:
    talk = Talk(stt=Cartesia(base_url="http://no-such-host.invalid:9"), drain_timeout_s=0.5)
    talk.stream.start()
    await talk.sentences()
    await talk.stream.close()
    reasons = [e.fields["reason"] for e in talk.events if e.type == "stt.reconnecting"]
    assert reasons and "cannot be reached" in str(reasons[0])


async def test_restarted_on_the_same_port_in_mid_turn() -> None:
    before, after = ScriptedUpstream(), ScriptedUpstream()
    async with before.listening() as url:
        talk = Talk(stt=Cartesia(base_url=url))
        talk.stream.start()
        middle = asyncio.Event()

        async def reached(sentence: int) -> None:
            if sentence == 1:
                middle.set()

        talking = asyncio.create_task(talk.sentences(reached))
        await middle.wait()
    async with after.listening(int(url.rpartition(":")[2])):
        await talking
        await talk.stream.close()
    talk.check()
    assert before.connections and after.connections


async def test_a_server_that_never_finishes_the_handshake() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fallback = ScriptedUpstream(name="fallback")
    limits = Limits(catch_up=1.25 * SPEED, connect_timeout_s=0.2, backoff_first_s=0.05)
    async with server, fallback:
        talk = Talk(
            stt=Cartesia(base_url=f"http://127.0.0.1:{port}"),
            fallback=fallback,
            patience_s=0.3,
            limits=limits,
        )
        talk.stream.start()
        await talk.sentences()
        await talk.stream.close()
    talk.check()


async def test_manual_mode_over_a_socket() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=3.0), ConnectionScript())
    async with upstream.listening() as url:
        talk = Talk(stt=Cartesia(base_url=url), mode="manual")

        async def release(_: int) -> None:
            talk.stream.finalize()

        talk.stream.start()
        await talk.sentences(release)
        await talk.stream.close()
    assert transcript(talk.events) == TEXT
    assert sum(e.type == "flush_done" for e in talk.events) == len(SENTENCES)
    assert upstream.connections[-1].commands[-1] == "close"


@pytest.mark.parametrize("mode", ["auto", "manual"])
async def test_the_vendors_types_accept_what_listeners_get(mode: str) -> None:
    stt = pytest.importorskip("cartesia.types.stt")
    model = stt.STTAutoFinalizeWebsocketResponse if mode == "auto" else stt.STTManualFinalizeWebsocketResponse
    talk, _ = await call(ConnectionScript(drop_after_audio_s=2.0), ConnectionScript(), mode=mode)
    known = ("turn.", "connected", "transcript", "flush_done", "done")
    checked = [e for e in talk.events if e.type.startswith(known)]
    for event in checked:
        parsed = TypeAdapter(model).validate_python({"type": event.type, **event.fields}, strict=True)
        assert parsed.type == event.type
    assert len(checked) > 5 or mode == "manual"


async def test_real_time_helper_keeps_the_pace() -> None:
    """`play`, the helper for users, is what these tests' own faster one is like."""
    upstream = ScriptedUpstream()
    async with upstream:
        talk = Talk(stt=upstream)
        talk.stream.start()
        begin = asyncio.get_running_loop().time()
        assert await play(talk, speech("one two")) == len(speech("one two"))
        assert asyncio.get_running_loop().time() - begin >= len(speech("one two")) / 16000 - 0.01
        await talk.stream.close()
    assert transcript(talk.events) == "one two"


# -- real speech, the embedded recogniser behind real sockets -----------------------------------------


@contextlib.asynccontextmanager
async def embedded_server() -> AsyncIterator[str]:
    """The embedded recogniser on loopback, as `rtcstt stt` serves it."""
    from aiohttp import web

    from rtcstt.embedded import Embedded
    from rtcstt.embedded.http.routes import add_routes
    from rtcstt.http.access import Authenticator
    from rtcstt.http.guard import Guard

    embedded = Embedded()
    try:
        await embedded.preload()
    except EngineError as error:
        pytest.skip(str(error))
    guard = Guard(Authenticator())
    app = guard.application(client_max_size=1 << 20)
    add_routes(app, embedded.preload, guard)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await embedded.close()


async def test_real_speech_killed_at_random_points(shared_data: Path) -> None:
    """Words are compared with those of a call that nothing happened to. The recogniser may receive another
    word the second time, so words may differ, but none may be missing and none come twice."""
    with wave.open(str(shared_data / "jfk.wav")) as file:
        audio = np.frombuffer(file.readframes(10**9), np.int16)
    audio = np.concatenate([audio, silence(1.0)])

    async def killed(url: str, *after_s: float) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        flaky = Flaky(Cartesia(base_url=url), *after_s)
        # a machine that is busy with other things may need long to catch up
        stream = Stream(flaky, on_event=events.append, seed=0, drain_timeout_s=200)
        stream.start()
        await play(stream, audio)
        await stream.close()
        return events

    dice = random.Random(11)
    async with embedded_server() as url:
        kills = [[dice.uniform(0.5, 11.0)] for _ in range(4)] + [[2.0, 1.0]]
        whole = await killed(url)
        broken = await asyncio.gather(*(killed(url, *after) for after in kills))
    spoken = [word.key for word in words(transcript(whole))]
    assert len(spoken) >= 20
    for events in broken:
        received = [word.key for word in words(transcript(events))]
        assert sum(event.type == "stt.recovered" for event in events) >= 1
        changes = difflib.SequenceMatcher(None, spoken, received, autojunk=False).get_opcodes()
        uneven = [
            (spoken[a:b], received[c:d]) for kind, a, b, c, d in changes if kind != "equal" and b - a != d - c
        ]
        # "can not" for "cannot" is no loss
        assert sum(abs(len(old) - len(new)) for old, new in uneven) <= 1, (spoken, received)


async def test_audio_that_an_stt_does_not_read_is_not_swallowed() -> None:
    """The kernel would keep minutes of it, and nobody would know that the STT is behind."""
    over = asyncio.Event()

    async def reads_nothing(websocket: ServerConnection) -> None:
        await over.wait()

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # whatever the system has by default
    async with serve(reads_nothing, sock=listening, max_queue=1, close_timeout=0.1):
        port = listening.getsockname()[1]
        stt = Cartesia(base_url=f"ws://127.0.0.1:{port}")
        connection = await stt.connect(wire.Handshake(endpoint="turns", model="ink-2"))
        sent = 0
        try:
            with contextlib.suppress(TimeoutError):
                while sent < 600:
                    async with asyncio.timeout(1):
                        await connection.send(bytes(3200))
                    sent += 1
        finally:
            over.set()
            await connection.close()
    assert sent < 250, "of 100 ms each"
