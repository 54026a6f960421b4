"""The stream of one track: connecting, refusals, failover, stalls, drain; in virtual time, no socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from rtcstt import wire
from rtcstt.errors import ConfigError, LocalProtocolError
from rtcstt.events import AnyEvent
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.stream import Limits, Stream
from rtcstt.testing import (
    ConnectionScript,
    Oracle,
    ScriptedUpstream,
    noise,
    play,
    run_virtual,
    silence,
    speech,
    transcript,
)
from rtcstt.testing.virtual_time import VirtualLoop

WORDS = "it was the best of times"


class Call:
    """What a test says into a stream, and what came out."""

    def __init__(self, upstream: ScriptedUpstream, **settings: object) -> None:
        self.events: list[AnyEvent] = []
        self.stream = Stream(upstream, on_event=self.events.append, seed=1, **settings)  # type: ignore[arg-type]
        self.position = 0

    async def say(self, text: str) -> None:
        self.position = await play(self.stream, speech(text), start=self.position)

    async def pause(self, duration_s: float) -> None:
        self.position = await play(self.stream, silence(duration_s), start=self.position)

    def types(self, prefix: str) -> list[str]:
        return [event.type for event in self.events if event.type.startswith(prefix)]

    def fields(self, type_: str) -> list[dict[str, object]]:
        return [dict(event.fields) for event in self.events if event.type == type_]


def run(call: Call, *upstreams: ScriptedUpstream, talk: Callable[[], object]) -> Call:
    async def main() -> None:
        async with asyncio.timeout(600):
            call.stream.start()
            await talk()  # type: ignore[misc]
            await call.stream.close()
            assert len(asyncio.all_tasks()) <= 1 + sum(len(u._tasks) for u in upstreams)
            for upstream in upstreams:
                await upstream.__aexit__()

    run_virtual(main())
    return call


def said(call: Call, text: str = WORDS, *, after_s: float = 1.5) -> Callable[[], object]:
    async def talk() -> None:
        await call.pause(0.5)
        await call.say(text)
        await call.pause(after_s)

    return talk


# -- Cartesia ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://api.cartesia.ai", "wss://api.cartesia.ai/stt/turns/websocket"),
        ("http://127.0.0.1:9100", "ws://127.0.0.1:9100/stt/turns/websocket"),
        ("ws://127.0.0.1:9100/", "ws://127.0.0.1:9100/stt/turns/websocket"),
        ("wss://gateway.example/some/prefix/", "wss://gateway.example/some/prefix/stt/turns/websocket"),
    ],
)
def test_url(base: str, expected: str) -> None:
    url = Cartesia(base_url=base).url(wire.Handshake(endpoint="turns", keyterms=("a b", "c&d")))
    assert url.split("?")[0] == expected
    assert "keyterm=a%20b&keyterm=c%26d" in url
    assert "sample_rate=16000" in url and "encoding=pcm_s16le" in url


@pytest.mark.parametrize("base", ["", "api.cartesia.ai", "ftp://x", "http://"])
def test_bad_base_url(base: str) -> None:
    with pytest.raises(ConfigError):
        Cartesia(base_url=base)


def test_the_key_is_not_shown() -> None:
    assert "sk_secret" not in repr(Cartesia(api_key="sk_secret"))


def test_name_without_credentials() -> None:
    assert Cartesia(base_url="http://user:pass@host:1").name == "host:1"


# -- connecting --------------------------------------------------------------------------------------


def test_a_call() -> None:
    upstream = ScriptedUpstream()
    call = run(c := Call(upstream, keyterms=("cartesia",), offset_s=10.0), upstream, talk=said(c))
    assert transcript(call.events) == WORDS
    assert call.types("turn.s") == ["turn.start"]
    (handshake,) = (one.handshake for one in upstream.connections)
    assert (handshake.endpoint, handshake.keyterms) == ("turns", ("cartesia",))
    assert upstream.connections[0].ended == "closed"
    end = next(event for event in call.events if event.type == "turn.end")
    assert end.start == pytest.approx(10.5, abs=0.05)
    assert end.end == pytest.approx(10.5 + 6 * 0.26 - 0.06, abs=0.05)


def test_audio_from_before_the_connection_is_sent() -> None:
    upstream = ScriptedUpstream(ConnectionScript(delay_s=2.0))
    call = run(c := Call(upstream), upstream, talk=said(c))
    assert transcript(call.events) == WORDS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_refusal_is_retried(status: int) -> None:
    upstream = ScriptedUpstream(
        ConnectionScript(refuse=status), ConnectionScript(refuse=status), ConnectionScript()
    )
    call = run(c := Call(upstream), upstream, talk=said(c))
    assert transcript(call.events) == WORDS
    assert [f["attempt"] for f in call.fields("stt.reconnecting")] == [1, 2]
    assert call.fields("stt.reconnecting")[0]["reason"] == f"HTTP {status}"
    (recovered,) = call.fields("stt.recovered")
    assert recovered["engine"] == "scripted" and recovered["attempts"] == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_lasting_refusal_is_an_error_at_once(status: int) -> None:
    upstream = ScriptedUpstream(ConnectionScript(refuse=status), ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c))
    (error,) = call.fields("error")
    assert error["status_code"] == status
    assert len(upstream.connections) == 1 and not call.types("stt.") and not call.types("turn.")
    assert call.stream.stats()["received_s"] == pytest.approx(call.position / 16000)


def test_an_error_event_that_lasts_ends_it() -> None:
    refusal = wire.encode(wire.Error(title="No", message="bad model", status_code=400, error_code="model"))
    upstream = ScriptedUpstream(ConnectionScript(inject=((0.3, refusal),)), ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c))
    (error,) = call.fields("error")
    assert (error["status_code"], error["error_code"]) == (400, "model")
    assert len(upstream.connections) == 1


def test_an_error_event_that_passes_is_a_reconnect() -> None:
    trouble = wire.encode(wire.Error(title="Oops", message="overloaded", status_code=500))
    upstream = ScriptedUpstream(ConnectionScript(inject=((1.2, trouble),)), ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c))
    assert not call.fields("error")
    assert transcript(call.events) == WORDS


@pytest.mark.parametrize(("code", "again"), [(1001, True), (1012, True), (1000, True), (1008, False)])
def test_close_codes(code: int, again: bool) -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=1.2, drop_code=code), ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c))
    assert len(upstream.connections) == 1 + again
    assert (transcript(call.events) == WORDS) is again
    assert bool(call.fields("error")) is not again


def test_backoff_grows_and_never_ends() -> None:
    upstream = ScriptedUpstream(*[ConnectionScript(refuse=503)] * 30, ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c, after_s=200.0))
    assert transcript(call.events) == WORDS
    times = [event.time for event in call.events if event.type == "stt.reconnecting"]
    assert len(times) == 30
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert max(gaps) <= 5.2 and sum(gaps[-5:]) > sum(gaps[:5])


def test_pauses_are_not_what_the_ring_is_spent_on() -> None:
    """An outage of a minute with one sentence in it loses nothing: silence is dropped first."""
    upstream = ScriptedUpstream(ConnectionScript(delay_s=60.0), ConnectionScript())
    call = Call(upstream, limits=Limits(connect_timeout_s=100.0, ring_s=10.0))

    async def talk() -> None:
        await said(call, after_s=25.0)()  # type: ignore[misc]
        await call.say("and the worst")
        await call.pause(60.0)

    run(call, upstream, talk=talk)
    assert transcript(call.events) == WORDS + " and the worst"
    assert call.stream.stats()["lost_s"] == 0


def test_what_the_ring_loses_is_said() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=1.5), ConnectionScript(delay_s=30.0))
    call = Call(upstream, limits=Limits(connect_timeout_s=100.0, ring_s=10.0))

    async def talk() -> None:
        await call.pause(0.5)
        await call.say(" ".join(f"w{i}" for i in range(120)))  # 31 s without a pause
        await call.pause(20.0)

    run(call, upstream, talk=talk)
    (recovered,) = call.fields("stt.recovered")
    assert recovered["lost"] == pytest.approx(20.0, abs=2.0)
    order = wire.TurnOrder()
    for event in call.events:
        if event.type.startswith("turn."):
            message = {"type": event.type, **event.fields}
            order.advance(wire.decode_server(json.dumps(message)), AssertionError)  # type: ignore
    assert order.state is wire.TurnState.IDLE
    received = transcript(call.events).split()
    assert received[0] == "w0" and received[-1] == "w119" and len(received) == len(set(received))


def test_a_bug_in_a_connection_is_a_reconnect(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedUpstream):
        async def connect(self, handshake: wire.Handshake) -> object:  # type: ignore[override]
            connection = await super().connect(handshake)
            if len(self.connections) == 1:
                connection.recv = None  # type: ignore[assignment, method-assign]
            return connection

    upstream = Broken()
    call = run(c := Call(upstream), upstream, talk=said(c))
    assert transcript(call.events) == WORDS
    assert call.fields("stt.reconnecting")[0]["reason"] == "internal error"
    assert "failed" in caplog.text and "best" not in caplog.text


# -- pace --------------------------------------------------------------------------------------------


def test_the_replay_keeps_the_pace() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=8.0), ConnectionScript())
    call = Call(upstream)

    async def talk() -> None:
        await call.say(" ".join(f"w{i}" for i in range(60)))
        await call.pause(12.0)
        assert float(call.stream.stats()["lag_s"]) < 0.2  # won back

    run(call, upstream, talk=talk)
    assert len(transcript(call.events).split()) == 60
    audio = upstream.connections[1].audio
    first = audio[0][0]
    sent = 0.0
    for when, samples in audio:
        sent += samples / 16000
        assert sent <= (when - first) * 1.25 + 0.5


def test_a_pause_wins_back_the_lag() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=3.5), ConnectionScript())
    call = Call(upstream)

    async def talk() -> None:
        await call.say(" ".join(f"w{i}" for i in range(16)))
        await call.pause(0.8)
        await call.say("and so on")
        await call.pause(5.0)
        await call.say("to the end")
        await call.pause(1.0)

    run(call, upstream, talk=talk)
    assert transcript(call.events).split()[-6:] == "and so on to the end".split()
    assert float(call.stream.stats()["skipped_silence_s"]) > 0.3


def test_timers_that_ring_a_little_early_leave_nothing_unsent() -> None:
    """A loop may call them when its clock shows less than what they were set to."""
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=2.0), ConnectionScript())
    call = Call(upstream)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop._clock_resolution, select = 2e-4, loop._jump.select  # type: ignore[attr-defined]
        loop._jump.select = lambda timeout=None: select(timeout and max(timeout - 1e-4, 1e-5))  # type: ignore[method-assign]
        await said(call, after_s=0.1)()  # type: ignore[misc]
        begun = loop.time()
        await call.stream.close()
        assert loop.time() - begun < 3.0

    run(call, upstream, talk=talk)
    assert transcript(call.events) == WORDS and not call.types("transcript.gap")


# -- an STT that does not answer ---------------------------------------------------------------------


def test_an_stt_that_stopped_answering_is_given_up() -> None:
    upstream = ScriptedUpstream(ConnectionScript(silent_after_audio_s=1.0), ConnectionScript())
    call = Call(upstream, limits=Limits(stall_timeout_s=3.0))
    text = " ".join(f"w{i}" for i in range(30))
    run(call, upstream, talk=said(call, text))
    assert transcript(call.events) == text
    assert call.fields("stt.reconnecting")[0]["reason"].endswith("the STT stopped answering")  # type: ignore


def test_an_stt_that_was_silent_for_a_while_is_not_given_up() -> None:
    upstream = ScriptedUpstream(ConnectionScript(silent_after_audio_s=1.0, silent_s=2.0))
    call = Call(upstream, limits=Limits(stall_timeout_s=3.0))
    text = " ".join(f"w{i}" for i in range(30))
    run(call, upstream, talk=said(call, text))
    assert transcript(call.events) == text and len(upstream.connections) == 1


def test_noise_is_not_taken_for_unanswered_speech_for_ever() -> None:
    """The energy track cannot tell music from speech, so each patience is twice the one before."""
    upstream = ScriptedUpstream()
    call = Call(upstream, limits=Limits(stall_timeout_s=3.0, trusted_after_s=1e9))

    async def talk() -> None:
        for i in range(60):
            call.position = await play(call.stream, noise(0.7, seed=i), start=call.position)
            await call.pause(0.3)

    run(call, upstream, talk=talk)
    assert 2 <= float(call.stream.stats()["stalls"]) <= 4
    assert not call.types("turn.")


def test_an_stt_that_does_not_read_is_given_up() -> None:
    upstream = ScriptedUpstream(ConnectionScript(deaf_after_audio_s=1.0), ConnectionScript())
    call = Call(upstream, limits=Limits(send_timeout_s=2.0, stall_timeout_s=1e9))
    text = " ".join(f"w{i}" for i in range(80))
    run(call, upstream, talk=said(call, text, after_s=15.0))
    assert transcript(call.events) == text and len(upstream.connections) == 2


# -- failover ----------------------------------------------------------------------------------------


def both(call: Call, first: ScriptedUpstream, second: ScriptedUpstream, talk: Callable[[], object]) -> None:
    run(call, first, second, talk=talk)


def test_the_fallback_takes_over_and_gives_back_at_a_turns_end() -> None:
    first = ScriptedUpstream(
        ConnectionScript(drop_after_audio_s=1.6),
        *[ConnectionScript(refuse=503)] * 6,
        ConnectionScript(),
        name="cloud",
    )
    second = ScriptedUpstream(name="embedded")
    call = Call(first, fallback=second, patience_s=3.0, limits=Limits(probe_s=2.0))
    sentences = [" ".join(f"s{n}w{i}" for i in range(8)) for n in range(8)]

    async def talk() -> None:
        for sentence in sentences:
            await call.say(sentence)
            await call.pause(1.5)

    both(call, first, second, talk)
    assert transcript(call.events) == " ".join(sentences)
    engines = [f["engine"] for f in call.fields("stt.recovered")]
    assert engines == ["embedded", "cloud"]
    reconnecting = [e.time for e in call.events if e.type == "stt.reconnecting"]
    recovered = next(e.time for e in call.events if e.type == "stt.recovered")
    assert recovered - reconnecting[0] <= 3.0 + 3.0  # patience and at most one backoff
    assert call.stream.stats()["engine"] == "cloud"
    assert len(second.connections) == 1


def test_a_bad_key_goes_to_the_fallback_and_stays_there() -> None:
    first, second = (
        ScriptedUpstream(ConnectionScript(refuse=401), name="cloud"),
        ScriptedUpstream(name="embedded"),
    )
    call = Call(first, fallback=second, limits=Limits(probe_s=0.5))
    both(call, first, second, said(call, after_s=10.0))
    assert transcript(call.events) == WORDS
    assert call.fields("error")[0]["status_code"] == 401
    assert len(first.connections) == 1


def test_if_the_fallback_fails_too_they_take_turns() -> None:
    first = ScriptedUpstream(*[ConnectionScript(refuse=503)] * 6, ConnectionScript(), name="cloud")
    second = ScriptedUpstream(ConnectionScript(refuse=503), name="embedded")
    call = Call(first, fallback=second, patience_s=0.5)
    both(call, first, second, said(call, after_s=30.0))
    assert transcript(call.events) == WORDS
    assert second.connections


# -- commands ----------------------------------------------------------------------------------------


def test_settings_are_kept_across_connections() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=1.6), ConnectionScript())
    call = Call(upstream, settings=wire.TurnSettings(start_threshold=0.7))

    async def talk() -> None:
        await call.pause(0.5)
        call.stream.configure(wire.TurnSettings(end_timeout_ms=700))
        await said(call)()  # type: ignore[misc]

    run(call, upstream, talk=talk)
    assert '"end_timeout_ms": 700' in upstream.connections[0].commands[0]
    assert upstream.connections[1].handshake.turn == wire.TurnSettings(
        start_threshold=0.7, end_timeout_ms=700
    )


def test_settings_that_change_one_after_the_other_are_all_sent() -> None:
    upstream = ScriptedUpstream(ConnectionScript())
    call = Call(upstream)

    async def talk() -> None:
        await call.pause(0.5)
        call.stream.configure(wire.TurnSettings(end_timeout_ms=700))
        call.stream.configure(wire.TurnSettings(start_threshold=0.7))
        await said(call)()  # type: ignore[misc]

    run(call, upstream, talk=talk)
    changes = [json.loads(text)["turn"] for text in upstream.connections[0].commands if "config" in text]
    assert {name: value for change in changes for name, value in change.items()} == {
        "end_timeout_ms": 700,
        "start_threshold": 0.7,
    }


def test_push_to_talk() -> None:
    """Presses of 300 ms: the word is there, whole, and each release is answered."""
    upstream = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.1)))
    call = Call(upstream, mode="manual")

    async def talk() -> None:
        for n in range(20):
            await call.say(f"w{n}")
            await call.pause(0.04)
            call.stream.finalize()
            await call.pause(0.7)

    run(call, upstream, talk=talk)
    assert transcript(call.events).split() == [f"w{n}" for n in range(20)]
    assert len(call.types("flush_done")) == 20
    types = [
        e.type for e in call.events if e.type in ("flush_done", "transcript") and e.fields.get("is_final", 1)
    ]
    assert types == ["transcript", "flush_done"] * 20


@pytest.mark.parametrize("dead_after_s", [1.0, 2.05, 2.1, 2.2])
def test_a_finalize_is_repeated_when_the_connection_dies(dead_after_s: float) -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_after_s=dead_after_s), ConnectionScript())
    call = Call(upstream, mode="manual")

    async def talk() -> None:
        await call.pause(0.5)
        await call.say(WORDS)
        call.stream.finalize()
        await call.pause(3.0)

    run(call, upstream, talk=talk)
    assert transcript(call.events) == WORDS
    assert call.types("flush_done") == ["flush_done"]


def test_commands_of_the_other_mode() -> None:
    with pytest.raises(LocalProtocolError):
        Stream(ScriptedUpstream(), on_event=print).finalize()
    with pytest.raises(LocalProtocolError):
        Stream(ScriptedUpstream(), on_event=print, mode="manual").configure(wire.TurnSettings())


# -- the end -----------------------------------------------------------------------------------------


def test_a_hang_up_in_mid_word_loses_nothing_that_was_said() -> None:
    upstream = ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.5, hold_words=3)))
    call = run(c := Call(upstream), upstream, talk=said(c, after_s=0.0))
    assert transcript(call.events) == WORDS


def test_a_connection_that_dies_in_the_drain_is_made_up_for() -> None:
    upstream = ScriptedUpstream(ConnectionScript(drop_on_close=True), ConnectionScript())
    call = run(c := Call(upstream), upstream, talk=said(c, after_s=0.0))
    assert transcript(call.events) == WORDS and len(upstream.connections) == 2


def test_the_drain_is_capped() -> None:
    upstream = ScriptedUpstream(ConnectionScript(ignore_close=True))
    call = Call(upstream, drain_timeout_s=2.0)
    taken = []

    async def talk() -> None:
        await said(call, after_s=0.0)()  # type: ignore[misc]
        begin = asyncio.get_running_loop().time()
        await asyncio.gather(call.stream.close(), call.stream.close())
        taken.append(asyncio.get_running_loop().time() - begin)

    run(call, upstream, talk=talk)
    assert 2.0 <= taken[0] <= 2.2
    assert call.types("turn.")[-1] == "turn.end"  # closed on our own account


def test_close_without_an_stt_does_not_wait_for_nothing() -> None:
    upstream = ScriptedUpstream(ConnectionScript(refuse=503))
    call = Call(upstream, drain_timeout_s=2.0)
    taken = []

    async def talk() -> None:
        await call.pause(3.0)
        begin = asyncio.get_running_loop().time()
        await call.stream.close()
        taken.append(asyncio.get_running_loop().time() - begin)

    run(call, upstream, talk=talk)
    assert taken[0] <= 2.0


def test_close_of_a_stream_that_never_started() -> None:
    stream = Stream(ScriptedUpstream(), on_event=print)
    run_virtual(stream.close())
    run_virtual(stream.close())


def test_chunks_after_close_are_counted() -> None:
    upstream = ScriptedUpstream()
    call = Call(upstream)

    async def talk() -> None:
        await said(call)()  # type: ignore[misc]
        await call.stream.close()
        await call.pause(0.5)

    run(call, upstream, talk=talk)
    assert call.stream.stats()["chunks_after_close"] == 5
