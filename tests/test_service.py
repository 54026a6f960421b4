"""Sessions in virtual time, with a recogniser that receives a word a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from fake_recognizer import FakeRecognizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.embedded import Embedded, capacity, processors
from rtcstt.embedded.service import (
    FLOOD_RATE,
    MAX_AUDIO_S,
    MAX_FLUSHES,
    Decoding,
    Limits,
    Pace,
    Service,
    Session,
    check_model,
)
from rtcstt.errors import CallerError, ConnectionLost, EngineError, UpstreamError
from rtcstt.testing import run_virtual

TURNS = wire.Handshake(endpoint="turns")
MANUAL = wire.Handshake(endpoint="manual")
CLOSE = '{"type": "close"}'


def sound(duration_s: float, rate: int = 16000) -> bytes:
    return np.full(round(duration_s * rate), 3000, "<i2").tobytes()


def quiet(duration_s: float) -> bytes:
    return bytes(2 * round(duration_s * 16000))


class Client:
    """Reads all the time; ``messages`` and ``lost`` are what came."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.messages: list[dict[str, Any]] = []
        self.lost: ConnectionLost | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                self.messages.append(json.loads(await self.session.recv()))
        except ConnectionLost as lost:
            self.lost = lost

    async def send(self, *data: str | bytes) -> None:
        for item in data:
            await self.session.send(item)

    async def end(self) -> ConnectionLost:
        """Wait for the server's goodbye."""
        await self._reading
        assert self.lost is not None
        with pytest.raises(ConnectionLost):
            await self.session.send(b"")
        return self.lost

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def text(self) -> str:
        ends = [m["transcript"] for m in self.messages if m["type"] == "turn.end"]
        finals = [m["text"] for m in self.messages if m["type"] == "transcript" and m["is_final"]]
        return "".join(ends + finals)

    def error(self) -> dict[str, Any]:
        assert self.types[-1] == "error"
        return self.messages[-1]


def talk(
    dialogue: Callable[[Client, FakeRecognizer], Awaitable[None]],
    handshake: wire.Handshake = TURNS,
    *,
    recognizer: FakeRecognizer | None = None,
    limits: Limits | None = None,
    version: str = "",
) -> tuple[Client, FakeRecognizer]:
    """One session from its opening to its end; nothing may be left of it."""
    recognizer = recognizer or FakeRecognizer()

    async def main() -> Client:
        service = Service(recognizer, limits=limits)  # type: ignore[arg-type]
        client = Client(await service.open(handshake, version=version))
        await dialogue(client, recognizer)
        await client.end()
        assert service.streams == 0
        await service.close()
        await recognizer.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return client

    return run_virtual(main()), recognizer


def test_turns_from_the_first_word_to_the_goodbye() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(quiet(0.3), sound(2.0), quiet(1.0), sound(1.0), CLOSE)

    client, _ = talk(dialogue)
    assert client.types == [
        *("connected", "turn.start", "turn.update", "turn.update", "turn.end"),
        *("turn.start", "turn.update", "turn.end"),
    ]
    assert client.text() == "word word word"
    assert len({message["request_id"] for message in client.messages}) == 1
    assert client.lost and client.lost.close_code == 1000


def test_manual_from_the_first_word_to_the_goodbye() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(1.0), "finalize", sound(2.0), "done")

    client, _ = talk(dialogue, MANUAL)
    kinds = [m["type"] for m in client.messages if m.get("is_final", True)]
    assert kinds == ["transcript", "flush_done", "transcript", "done"], "and no connected"
    assert client.text() == "word word word"
    assert client.lost and client.lost.close_code == 1000


@pytest.mark.parametrize("encoding", wire.ENCODINGS)
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_every_encoding_and_rate_is_received_to_the_last_sample(encoding: str, rate: int) -> None:
    tone = np.sin(np.arange(rate) * 2 * np.pi * 300 / rate) * 0.5
    data = {
        "pcm_s16le": (tone * 32767).astype("<i2"),
        "pcm_s32le": (tone * (2**31 - 1)).astype("<i4"),
        "pcm_f16le": tone.astype("<f2"),
        "pcm_f32le": tone.astype("<f4"),
        "pcm_mulaw": np.where(np.arange(rate) % 2, 0x80, 0x00).astype(np.uint8),
        "pcm_alaw": np.where(np.arange(rate) % 2, 0xAA, 0x2A).astype(np.uint8),
    }[encoding].tobytes()

    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        for begin in range(0, len(data), 777):  # odd, so that samples are torn apart
            await client.send(data[begin : begin + 777])
        await client.send(CLOSE)

    _, recognizer = talk(dialogue, wire.Handshake(endpoint="turns", encoding=encoding, sample_rate=rate))
    received = recognizer.streams[0].audio
    assert abs(len(received) - 16000) <= 1
    if encoding.startswith(("pcm_s", "pcm_f")):
        expected = np.sin(np.arange(16000) * 2 * np.pi * 300 / 16000) * 0.5
        middle = slice(500, 15500)  # resampling needs a run-up
        assert np.allclose(received[middle], expected[middle], atol=0.01)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12))
@settings(max_examples=25)
def test_the_same_audio_whatever_the_messages(sizes: list[int]) -> None:
    rng = np.random.default_rng(7)
    data = rng.integers(-9000, 9000, 12000).astype("<i2").tobytes()

    async def whole(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(data, CLOSE)

    async def torn(client: Client, recognizer: FakeRecognizer) -> None:
        rest = data
        for size in sizes:
            await client.send(rest[:size])
            rest = rest[size:]
        await client.send(rest, CLOSE)

    handshake = wire.Handshake(endpoint="turns", sample_rate=24000)
    one, other = (talk(dialogue, handshake)[1].streams[0].audio for dialogue in (whole, torn))
    assert len(one) == len(other) and np.allclose(one, other, atol=1e-4)


def test_config_reaches_the_stream_and_wrong_config_ends_it() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send('{"type": "config", "turn": {"end_timeout_ms": 900}}')
        assert recognizer.streams[0].settings == wire.TurnSettings(end_timeout_ms=900)
        await client.send('{"type": "config", "turn": {"end_timeout_ms": 9}}')

    client, _ = talk(dialogue)
    assert client.error()["status_code"] == 400
    assert client.lost and client.lost.close_code == 1008 and not wire.retryable(1008)


def test_config_is_judged_with_the_settings_of_the_handshake() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send('{"type": "config", "turn": {"end_threshold": 0.5}}')
        assert not client.session.is_over
        await client.send('{"type": "config", "turn": {"start_threshold": 0.7}}')

    turn = wire.TurnSettings(start_threshold=0.9, eager_end_threshold=0.8)
    client, _ = talk(dialogue, wire.Handshake(endpoint="turns", turn=turn))
    assert client.error()["status_code"] == 400


@pytest.mark.parametrize("handshake", [TURNS, MANUAL])
@pytest.mark.parametrize(
    "text", ["hello", "UklGRiQAAABXQVZF", "{}", "[" * 50_000, '{"type": "config"', "\x00"]
)
def test_text_that_is_no_command_is_refused(handshake: wire.Handshake, text: str) -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(0.5), text)

    client, _ = talk(dialogue, handshake)
    error = client.error()
    assert (error["status_code"], error["error_code"]) == (400, "invalid_message")
    assert error["title"] and error["message"] and error["request_id"]
    assert text not in error["message"] or len(text) < 2
    assert client.lost and client.lost.close_code == 1008


@pytest.mark.parametrize("data", [sound(MAX_AUDIO_S + 0.1), '{"x": "' + "y" * 70_000 + '"}', " " * 70_000])
def test_what_is_too_big_is_refused(data: str | bytes) -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(data)

    client, _ = talk(dialogue)
    assert client.error()["status_code"] == 413
    assert client.lost and client.lost.close_code == 1009


def test_what_comes_after_close_is_not_received() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(1.0), "close")
        for late in (sound(5.0), "finalize", "close"):
            try:
                await client.send(late)
            except ConnectionLost:
                break

    client, recognizer = talk(dialogue, MANUAL)
    assert client.types == ["transcript", "transcript", "done"]
    assert len(recognizer.streams[0].audio) == 16000


WHISPER = wire.Handshake(endpoint="manual", model="ink-whisper-2025-06-04")


@pytest.mark.parametrize(
    ("handshake", "version", "after_s"),
    [
        (TURNS, "", 180),
        (MANUAL, "2025-04-16", 180),
        (WHISPER, "", 20),
        (WHISPER, "2025-04-16", 20),
        (WHISPER, "2026-03-01", 180),  # Pipecat, whose sign of life comes after 120 s
    ],
)
def test_a_silent_client_gets_its_words_and_is_let_go(
    handshake: wire.Handshake, version: str, after_s: float
) -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        clock = asyncio.get_running_loop()
        await asyncio.sleep(after_s - 1)
        await client.send(sound(1.0))
        begin = clock.time()
        lost = await client.end()
        assert clock.time() - begin == pytest.approx(after_s, abs=0.1)
        assert (lost.close_code, lost.reason) == (1000, "idle")

    client, _ = talk(dialogue, handshake, version=version)
    assert client.text() == "word"
    assert "done" not in client.types, "nobody asked for it"


def test_text_keeps_a_connection_alive_too() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        for _ in range(5):
            await asyncio.sleep(15)
            await client.send("finalize")
        await client.send("close")

    client, _ = talk(dialogue, wire.Handshake(endpoint="manual", model="ink-whisper"))
    assert client.types == ["flush_done"] * 5 + ["done"]


def test_a_failing_recogniser_is_an_error_that_may_be_tried_again() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(0.5), sound(1.0))

    client, _ = talk(dialogue, recognizer=FakeRecognizer(fails_after_s=1.0))
    assert client.error()["status_code"] == 500
    assert client.lost and wire.retryable(client.lost.close_code)


def test_send_waits_for_a_slow_recogniser() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        clock = asyncio.get_running_loop()
        await client.send(*[sound(0.1)] * 40, CLOSE)
        assert clock.time() == pytest.approx(4.0 / 0.5)

    talk(dialogue, recognizer=FakeRecognizer(speed=0.5))


def test_a_flood_is_slowed_down_and_then_refused() -> None:
    limits = Limits(lead_s=20.0, flood_s=60.0)
    hour = [sound(1.0)] * 3600

    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        with pytest.raises(ConnectionLost):
            await client.send(*hour)
        assert asyncio.get_running_loop().time() == pytest.approx(60.0, abs=2)

    client, recognizer = talk(dialogue, limits=limits)
    assert client.error()["error_code"] == "audio_too_fast"
    assert client.lost and client.lost.close_code == 1008
    assert len(recognizer.streams[0].audio) / 16000 == pytest.approx(20 + FLOOD_RATE * 60, abs=2)


def test_who_was_held_up_may_catch_up() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        for _ in range(10):
            await asyncio.sleep(25.0)  # nothing comes through
            await client.send(*[sound(0.1)] * 250)
            for _ in range(300):
                await asyncio.sleep(0.1)
                await client.send(sound(0.1))
        await client.send(CLOSE)

    client, recognizer = talk(dialogue)
    assert "error" not in client.types
    assert len(recognizer.streams[0].audio) == 10 * 55 * 16000


@given(st.lists(st.tuples(st.floats(0.001, 30.0), st.floats(0.0, 60.0)), max_size=60))
def test_no_rhythm_gets_more_audio_through_than_the_pace_allows(rhythm: list[tuple[float, float]]) -> None:
    pace, now, total = Pace(20.0), 0.0, 0.0
    for audio_s, pause_s in rhythm:
        now += pause_s
        wait = pace.take(audio_s, now)
        assert wait >= 0.0
        now += wait
        total += audio_s
        assert total <= 20.0 + FLOOD_RATE * now + 1e-6


def test_real_time_is_never_held_back() -> None:
    pace = Pace(20.0)
    assert not any(pace.take(0.1, at * 0.0999) for at in range(100_000))


def test_what_a_client_did_not_read_is_still_there_after_the_end() -> None:
    """The session ends at once when it must, and its slot is free."""

    async def main() -> None:
        recognizer = FakeRecognizer()
        service = Service(recognizer)  # type: ignore[arg-type]
        session = await service.open(TURNS)
        for _ in range(5):
            await session.send(sound(1.0) + quiet(1.0))
        await session.close(1001)
        assert service.streams == 0 and session.is_over
        read = [json.loads(await session.recv())["type"] for _ in range(16)]
        assert read == ["connected", *["turn.start", "turn.update", "turn.end"] * 5]
        with pytest.raises(ConnectionLost) as lost:
            await session.recv()
        assert lost.value.close_code == 1001
        await recognizer.close()

    run_virtual(main())


def test_too_many_commands_that_nobody_could_answer_yet() -> None:
    class Deaf(FakeRecognizer):
        def _add(self, stream: Any) -> Any:
            async def finalize() -> None:
                """Never done."""

            stream.finalize = finalize
            return super()._add(stream)

    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(*["finalize"] * (MAX_FLUSHES + 1))

    client, _ = talk(dialogue, MANUAL, recognizer=Deaf())
    assert client.error()["error_code"] == "too_many_commands"


def test_cancelling_recv_loses_nothing() -> None:
    async def main() -> None:
        recognizer = FakeRecognizer(speed=10.0)
        session = await Service(recognizer).open(TURNS)  # type: ignore[arg-type]
        got: list[str] = []

        async def read() -> None:
            while True:
                try:
                    async with asyncio.timeout(0.013):
                        got.append(json.loads(await session.recv())["type"])
                except TimeoutError:
                    continue
                except ConnectionLost:
                    return

        reading = asyncio.create_task(read())
        for _ in range(10):
            await session.send(sound(1.0) + quiet(1.0))
        await session.send(CLOSE)
        await reading
        assert got == ["connected", *["turn.start", "turn.update", "turn.end"] * 10]

    run_virtual(main())


def test_the_limit_of_streams_is_kept_and_given_back() -> None:
    async def main() -> None:
        recognizer = FakeRecognizer()
        service = Service(recognizer, max_streams=2)  # type: ignore[arg-type]
        sessions = [await service.open(TURNS), await service.open(MANUAL)]
        with pytest.raises(CallerError) as refusal:
            await service.open(TURNS)
        assert (refusal.value.status, refusal.value.code) == (429, "concurrency_limited")
        assert refusal.value.retry_after_s
        await sessions[0].close()
        await sessions[0].close()
        await service.open(TURNS)
        assert service.stats() == {"open": 2, "opened": 3, "refused": 1}
        await service.close()
        assert service.streams == 0
        with pytest.raises(ConnectionLost) as lost:
            await sessions[1].recv()
        assert lost.value.close_code == 1001
        await recognizer.close()

    run_virtual(main())


def test_winding_up_says_what_is_due() -> None:
    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(1.0))
        await client.session.wind_up(1001, "server stops")

    client, _ = talk(dialogue)
    assert client.text() == "word"
    assert client.lost and (client.lost.close_code, client.lost.reason) == (1001, "server stops")


@pytest.mark.parametrize(("version", "older"), [("", False), ("2025-11-04", False), ("2025-04-16", True)])
def test_words_and_errors_take_the_form_of_the_clients_version(version: str, older: bool) -> None:
    columns = {"words": ["a", "b"], "start": [0.0, 0.5], "end": [0.4, 1.0]}

    class Timed(FakeRecognizer):
        def _add(self, stream: Any) -> Any:
            stream.say(wire.Transcript("a b", True, words=[columns]))
            return super()._add(stream)

    async def main() -> list[dict[str, Any]]:
        session = await Service(Timed()).open(MANUAL, version=version)  # type: ignore[arg-type]
        client = Client(session)
        await asyncio.sleep(1)
        await client.send("nonsense")
        await client.end()
        return client.messages

    transcript, error = run_virtual(main())
    assert error["status_code"] == 400
    if older:
        assert transcript["words"] == [
            {"word": "a", "start": 0.0, "end": 0.4},
            {"word": "b", "start": 0.5, "end": 1.0},
        ]
        assert error["code"] == 400
    else:
        assert transcript["words"] == [columns] and "code" not in error


def test_what_is_too_quiet_is_silence() -> None:
    handshake = wire.Handshake(endpoint="manual", model="ink-whisper", min_volume=0.5)

    async def dialogue(client: Client, recognizer: FakeRecognizer) -> None:
        await client.send(sound(1.0), "close")

    client, recognizer = talk(dialogue, handshake)
    assert client.text() == "" and not np.any(recognizer.streams[0].audio)


@pytest.mark.parametrize("name", ["ink-2", "ink-2-2026-05-01", "tiny-en", "base-en"])
def test_models_of_turns(name: str) -> None:
    check_model(name, endpoint="turns")
    check_model(name, endpoint="manual")


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [("ink-whisper", "turns"), ("ink-3", "turns"), ("ink-25", "manual"), ("", None), ("ink-whisperer", None)],
)
def test_unknown_models_are_named(name: str, endpoint: wire.Endpoint | None) -> None:
    with pytest.raises(CallerError) as refusal:
        check_model(name, endpoint=endpoint)
    assert (refusal.value.status, refusal.value.code) == (400, "model_not_found")


def test_other_languages_are_refused() -> None:
    async def main() -> None:
        service = Service(FakeRecognizer())  # type: ignore[arg-type]
        with pytest.raises(CallerError) as refusal:
            await service.open(wire.Handshake(endpoint="manual", model="ink-whisper", language="de"))
        assert refusal.value.code == "unsupported_language"
        await (await service.open(wire.Handshake(endpoint="manual", language="en-US"))).close()

    run_virtual(main())


# -- in this process -----------------------------------------------------------------------------------


class Loaded(FakeRecognizer):
    """Counts how often a model is loaded, and what is closed."""

    listening = capacity.LISTENING
    loads: ClassVar[list[str]] = []
    threads: ClassVar[int] = 0
    closed: ClassVar[list[Loaded]] = []
    measured: ClassVar[list[Loaded]] = []

    @classmethod
    def load(cls, model: str, *, threads: int, device: object = None) -> Loaded:
        cls.loads.append(model)
        cls.threads = threads
        return cls()

    def describe(self) -> list[str]:
        return ["a fake"]

    def cost_s(self) -> float:
        self.measured.append(self)
        return 0.1

    async def close(self) -> None:
        await super().close()
        self.closed.append(self)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> type[Loaded]:
    monkeypatch.setattr("rtcstt.embedded.recognizer.Recognizer", Loaded)
    monkeypatch.setattr(Loaded, "loads", [])
    monkeypatch.setattr(Loaded, "closed", [])
    monkeypatch.setattr(Loaded, "measured", [])
    return Loaded


async def test_one_model_serves_all_who_use_it(loaded: type[Loaded]) -> None:
    first, second, other = Embedded("one"), Embedded("one"), Embedded("two")
    sessions = await asyncio.gather(*(stt.connect(TURNS) for stt in (first, first, second, other)))
    assert sorted(loaded.loads) == ["one", "two"]
    assert (await first.describe())[0] == "a fake"
    await first.close()
    await first.close()
    assert not loaded.closed and not first.is_ready
    with pytest.raises(ConnectionLost):
        await sessions[0].send(CLOSE)
    await sessions[2].send(CLOSE)  # the other one's goes on
    assert json.loads(await sessions[2].recv())["type"] == "connected"
    await second.close()
    await other.close()
    assert len(loaded.closed) == 2
    await first.preload()
    assert len(loaded.loads) == 3
    await first.close()


async def test_a_limit_is_each_ones_own(loaded: type[Loaded]) -> None:
    narrow, wide = Embedded(max_streams=1), Embedded()
    await narrow.connect(TURNS)
    with pytest.raises(UpstreamError) as refusal:
        await narrow.connect(MANUAL)
    assert (refusal.value.status, refusal.value.code) == (429, "concurrency_limited")
    assert refusal.value.retryable
    await wide.connect(MANUAL)
    await narrow.close()
    await wide.close()


async def test_without_a_limit_the_machine_is_measured_once(loaded: type[Loaded]) -> None:
    first, second, own = Embedded(), Embedded(), Embedded(max_streams=3)
    limits = [(await stt.preload()).max_streams for stt in (first, second, own)]
    held = capacity.streams(processors.usable(), 0.1)
    assert limits == [held, held, 3]
    assert len(loaded.measured) == 1
    assert (await first.describe())[-1] == f"streams at once: {held}"
    for stt in (first, second, own):
        await stt.close()


@pytest.mark.parametrize(("count", "threads"), [(1, 2), (8, 8)])
async def test_as_many_threads_work_as_the_limit_of_streams_counts_on(
    loaded: type[Loaded], monkeypatch: pytest.MonkeyPatch, count: int, threads: int
) -> None:
    monkeypatch.setattr("rtcstt.embedded.processors.usable", lambda: count)
    stt = Embedded()
    assert (await stt.preload()).max_streams == capacity.streams(count, 0.1)
    assert loaded.threads == threads
    await stt.close()


async def test_what_cannot_be_loaded_can_be_tried_again(
    loaded: type[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(model: str, *, threads: int, device: object = None) -> Loaded:
        raise EngineError("rtcstt models fetch")

    stt = Embedded()
    with monkeypatch.context() as patch:
        patch.setattr(Loaded, "load", missing)
        with pytest.raises(EngineError, match="fetch"):
            await stt.connect(TURNS)
    await stt.connect(TURNS)
    await stt.close()


@pytest.mark.parametrize("endpoint", ["turns", "manual"])
async def test_a_session_decodes_as_it_asked_else_as_the_server_says(endpoint: wire.Endpoint) -> None:
    recognizer = FakeRecognizer()
    service = Service(recognizer, defaults=Decoding(update_ms=700, keyterm_strength=0.5))  # type: ignore[arg-type]
    async with contextlib.AsyncExitStack() as sessions:
        silent = wire.Handshake(endpoint=endpoint, keyterms=("Vosk", "Kyutai"))
        for handshake, update_ms, strength in (
            (silent, 700, 0.5),
            (replace(silent, update_ms=250.0, keyterm_strength=2.0), 250, 2.0),
        ):
            session = await service.open(handshake)
            sessions.push_async_callback(session.close)
            assert recognizer.options["update_ms"] == update_ms
            assert recognizer.options["keyterms"] == (("Vosk", "Kyutai"), strength)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
async def test_every_sample_is_received_before_the_flush_is_done(rate: int) -> None:
    """What the resampler holds back (115 ms at 8 kHz with soxr) is the end of a word."""
    recognizer = FakeRecognizer()
    service = Service(recognizer)  # type: ignore[arg-type]
    session = await service.open(wire.Handshake(endpoint="manual", sample_rate=rate))
    for press in (1, 2):
        for _ in range(5):
            await session.send(sound(0.1, rate))
        await session.send("finalize")
        while json.loads(await session.recv())["type"] != "flush_done":
            pass
        assert len(recognizer.streams[0].audio) == press * 8000
        assert np.abs(recognizer.streams[0].audio[-80:]).min() > 0.03, "the last of it as well"
    await session.close()
