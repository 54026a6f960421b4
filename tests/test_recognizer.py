"""Streams and their workers: order, priorities, bounds, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_listener import Loud, Rule, said, sound

from rtcstt import wire
from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.recognizer import Recognizer
from rtcstt.embedded.service import Limits, Service, Session
from rtcstt.embedded.streams import BLOCK, MAX_MESSAGES, TurnStream
from rtcstt.embedded.workers import BATCH, FINAL, LISTENING, MAX_PENDING, Workers
from rtcstt.errors import ConnectionLost, EngineError
from rtcstt.media.pcm import SAMPLE_RATE

WITHIN_S = 60.0


class Engine(Rule):
    """The rule, as much of an engine as a recogniser asks for. ``broken``: decoding fails."""

    name, live, languages = "rule", True, ("en",)
    broken = False

    def stream(self, language: str | None = None, keyterms: Any = None) -> Engine:
        return self

    def decode(self, audio: Audio, forced: Any = (), draft: Any = (), **options: bool) -> Any:
        if self.broken:
            raise RuntimeError("out of order")
        return super().decode(audio, forced)


class Detector(Loud):
    def stream(self, level_db: float = 0.0) -> Loud:
        return Loud()


def made(engine: Engine | None = None, *, threads: int = 2) -> Recognizer:
    return Recognizer(engine or Engine(), Detector(), None, threads=threads)  # type: ignore[arg-type]


async def talk(stream: Any, audio: Audio) -> list[Any]:
    """All that comes of it."""

    async def say() -> None:
        for begin in range(0, len(audio), 1600):
            await stream.feed(audio[begin : begin + 1600])
        await stream.finish()

    async with asyncio.timeout(WITHIN_S):
        saying = asyncio.create_task(say())
        messages = [message async for message in stream]
        await saying
    return messages


async def test_two_streams_at_once_have_each_their_own_words() -> None:
    recognizer = made()
    audio = sound(1.5, -1.0)
    others = sound(1.5, -1.0, first=101)
    first, second = await asyncio.gather(talk(recognizer.turns(), audio), talk(recognizer.turns(), others))
    for messages, begin in ((first, 1), (second, 101)):
        ends = [m.transcript for m in messages if isinstance(m, wire.TurnEnd)]
        assert "".join(ends) == said(15, begin)
    await recognizer.close()


async def test_finalize_is_answered_after_all_before_it() -> None:
    recognizer = made()
    stream = recognizer.manual()
    await stream.feed(sound(1.0))
    await stream.finalize()
    messages = await talk(stream, sound(1.0, first=11))
    kinds = [type(m).__name__ for m in messages if not (isinstance(m, wire.Transcript) and not m.is_final)]
    assert kinds == ["Transcript", "FlushDone", "Transcript", "Done"]
    finals = [m.text for m in messages if isinstance(m, wire.Transcript) and m.is_final]
    assert "".join(finals).split() == said(20).split()
    await recognizer.close()


async def test_a_stream_that_fails_says_so_and_others_go_on() -> None:
    engine = Engine()
    broken, whole = made(engine), made()
    engine.broken = True
    with pytest.raises(EngineError, match="recogniser failed"):
        await talk(broken.turns(), sound(1.5, -1.0))
    assert await talk(whole.turns(), sound(1.5, -1.0))
    engine.broken = False
    assert await talk(broken.turns(), sound(1.5, -1.0)), "the workers survive"
    await asyncio.gather(broken.close(), whole.close())


async def test_feeding_waits_for_the_recogniser_and_no_longer_than_it_lives() -> None:
    recognizer, held = made(threads=1), threading.Event()
    blocking = asyncio.create_task(recognizer._workers.run(FINAL, lambda: held.wait(WITHIN_S)))
    stream = recognizer.turns()
    fed = 0

    async def feed() -> None:
        nonlocal fed
        while True:
            await stream.feed(np.zeros(1600, np.float32))
            fed += 1600

    feeding = asyncio.create_task(feed())
    done, _ = await asyncio.wait({feeding}, timeout=0.3)
    assert not done and fed <= MAX_PENDING + 1600 + SAMPLE_RATE
    feeding.cancel()
    held.set()
    await blocking
    await stream.cancel()
    left = len(stream._inbox)
    async with asyncio.timeout(WITHIN_S):
        await stream.feed(np.zeros(100 * MAX_PENDING, np.float32))  # nobody waits for a stream that is over
        assert [message async for message in stream] == []
    assert len(stream._inbox) == left, "nor is anything kept for it"
    await recognizer.close()


async def test_messages_that_nobody_reads_stop_the_listening_and_none_is_lost() -> None:
    class Talkative:
        speaking, received = False, 0

        def receive(self, samples: np.ndarray, *, updates: bool) -> list[wire.TurnMessage]:
            self.received += 1
            return [wire.TurnEnd(f"{self.received}")] * 100

        def flush(self) -> list[wire.TurnMessage]:
            return []

    listener, workers = Talkative(), Workers(1)
    stream = TurnStream(listener, workers)  # type: ignore[arg-type]

    async def feed() -> None:
        for _ in range(30):
            await stream.feed(np.zeros(BLOCK, np.float32))
        await stream.finish()

    feeding = asyncio.create_task(feed())
    done, _ = await asyncio.wait({feeding}, timeout=0.3)
    assert not done and listener.received <= MAX_MESSAGES // 100
    async with asyncio.timeout(WITHIN_S):
        read = [message.transcript async for message in stream if isinstance(message, wire.TurnEnd)]
    assert read == [f"{n}" for n in range(1, 31) for _ in range(100)]
    await feeding
    await asyncio.to_thread(workers.close)


async def test_finals_come_before_listening_and_that_before_recordings() -> None:
    workers, held, order = Workers(1, clock=lambda: 0.0), threading.Event(), list[int]()
    blocking = asyncio.create_task(workers.run(FINAL, lambda: held.wait(WITHIN_S)))
    await asyncio.sleep(0)
    waiting = [
        asyncio.create_task(workers.run(priority, functools.partial(order.append, priority)))
        for priority in (BATCH, LISTENING, FINAL, LISTENING)
    ]
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(blocking, *waiting)
    assert order == [FINAL, LISTENING, LISTENING, BATCH]
    await asyncio.to_thread(workers.close)


async def test_who_listens_is_not_kept_waiting_by_finals_that_come_and_come() -> None:
    """As those of many streams do, of which each is silent at first."""
    clock = iter(range(100))
    workers = Workers(1, clock=lambda: next(clock) / 10)
    held, order = threading.Event(), list[str]()
    blocking = asyncio.create_task(workers.run(FINAL, lambda: held.wait(WITHIN_S)))
    await asyncio.sleep(0)
    asked = [(BATCH, "batch"), (LISTENING, "speech"), *((FINAL, f"final {number}") for number in range(6))]
    waiting = [
        asyncio.create_task(workers.run(priority, functools.partial(order.append, name)))
        for priority, name in asked
    ]
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(blocking, *waiting)
    finals = [f"final {number}" for number in range(6)]
    assert order == [*finals[:2], "speech", *finals[2:], "batch"]
    await asyncio.to_thread(workers.close)


async def test_closing_ends_the_streams_that_nobody_ended() -> None:
    """One that was forgotten, one that is waited for, one that works, one that has not begun."""
    before = set(threading.enumerate())
    recognizer = made()
    recognizer.turns()
    reader = asyncio.create_task(anext(aiter(recognizer.turns()), None))
    busy = recognizer.manual()
    await busy.feed(sound(1.9))
    await asyncio.sleep(0)
    gc.collect()
    recognizer.manual()
    async with asyncio.timeout(WITHIN_S):
        await recognizer.close()
        await recognizer.close()
        assert await reader is None
    assert asyncio.all_tasks() == {asyncio.current_task()}
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "rtcstt-recogniser"]
    with pytest.raises(EngineError, match="closed"):
        recognizer.turns()


def test_a_stream_that_is_forgotten_is_not_destroyed(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio holds no task that waits for what nobody else holds; it would complain of its end."""

    async def main() -> None:
        recognizer = made()
        recognizer.turns()
        await asyncio.sleep(0.01)
        gc.collect()
        await recognizer.close()

    asyncio.run(main())
    gc.collect()
    assert "destroyed" not in caplog.text


async def test_work_after_closing_is_refused() -> None:
    recognizer = made()
    await recognizer.close()
    with pytest.raises(EngineError, match="closed"):
        await recognizer.transcribe(sound(1.0))


async def test_work_that_comes_while_the_workers_close_is_done_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(1)
    await workers.run(FINAL, lambda: None)
    closing = threading.Thread(target=workers.close)

    def close_meanwhile() -> None:
        closing.start()
        closing.join(0.2)  # it may have to wait for us

    monkeypatch.setattr(workers, "_start", close_meanwhile)
    async with asyncio.timeout(WITHIN_S / 4):
        assert await workers.run(FINAL, lambda: "done") == "done"
    await asyncio.to_thread(closing.join)


async def test_a_recording_that_cannot_be_read_on_raises_what_reading_raised() -> None:
    def blocks() -> Iterator[Audio]:
        yield sound(1.0)
        raise wire.bad_request("broken here")

    recognizer = made()
    with pytest.raises(Exception, match="broken here"):
        await recognizer.transcribe(blocks())
    assert (await recognizer.transcribe(sound(1.0, -1.0))).text == said(10)
    await recognizer.close()


# -- the four guarantees -------------------------------------------------------------------------------


class Fickle:
    """A voice detector that is as sure as chance has it, but detects nothing in silence."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def stream(self, level_db: float = 0.0) -> Fickle:
        return self

    def probability(self, frame: Audio) -> float:
        sure = float(self._random.choice([0.05, 0.3, 0.5, 0.7, 0.97, 0.97, 0.97]))
        return sure if float(frame.max()) > 0 else 0.01

    def complete(self, audio: Audio) -> float:
        return float(self._random.random())


THRESHOLDS = st.tuples(st.floats(0.81, 0.9), st.floats(0.51, 0.8), st.floats(0.05, 0.5)).map(
    lambda three: dict(zip(("start_threshold", "eager_end_threshold", "end_threshold"), three, strict=True))
)


@given(
    parts=st.lists(
        st.floats(0.1, 2.5).flatmap(lambda s: st.sampled_from([s, s, -s])), min_size=1, max_size=8
    ),
    thresholds=THRESHOLDS,
    timeout_ms=st.integers(640, 3000),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
    configured=st.one_of(st.none(), THRESHOLDS),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_guarantees_hold_whatever_is_said_set_and_cut(
    parts: list[float],
    thresholds: dict[str, float],
    timeout_ms: int,
    sizes: list[int],
    configured: dict[str, float] | None,
    seed: int,
) -> None:
    turn = wire.TurnSettings(**thresholds, end_timeout_ms=timeout_ms)
    handshake = wire.Handshake(endpoint="turns", turn=turn)
    pcm = (sound(*parts) * 32768).astype("<i2").tobytes()
    chunks, begin = list[str | bytes](), 0
    for size in itertools.cycle(sizes if sum(sizes) > 1000 else [*sizes, 3200]):
        chunks.append(pcm[begin : begin + size])
        begin += size
        if begin >= len(pcm):
            break
    if configured:
        chunks.insert(len(chunks) // 2, json.dumps({"type": "config", "turn": configured}))

    async def main() -> list[str]:
        fickle = Fickle(seed)
        recognizer = Recognizer(Engine(), fickle, fickle)  # type: ignore[arg-type]
        service = Service(recognizer, limits=Limits(lead_s=1000))
        session = await service.open(handshake)
        saying = asyncio.create_task(said_to(session, [*chunks, '{"type": "close"}']))
        received = []
        with pytest.raises(ConnectionLost) as lost:
            async with asyncio.timeout(WITHIN_S):
                while True:
                    received.append(await session.recv())
        assert lost.value.close_code == 1000
        await saying
        await recognizer.close()
        return received

    client = wire.TurnsClient()  # raises at what the first three guarantees exclude
    messages = [client.receive_text(text) for text in asyncio.run(main())]
    assert client.order.state is wire.TurnState.IDLE
    ends = [m.transcript for m in messages if isinstance(m, wire.TurnEnd)]
    whole = "".join(ends)
    assert whole == " ".join(whole.split()), "spaces are in the text, one between two words"
    known = [
        int(word[1:]) for word in whole.split() if int(word[1:]) < 8000
    ]  # others were cut off in mid-word
    assert known == sorted(set(known)), "no word comes twice"


async def said_to(session: Session, messages: list[str | bytes]) -> None:
    for message in messages:
        await session.send(message)


# -- the real thing ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Iterator[Recognizer]:
    try:
        loaded = Recognizer.load()
    except EngineError as error:
        pytest.skip(str(error))
    yield loaded
    asyncio.run(loaded.close())


@pytest.fixture(scope="module")
def voice() -> Audio:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32", frames=48000 * 8)
    return np.asarray(soxr.resample(samples * 3, rate, SAMPLE_RATE), np.float32)


@pytest.mark.real
async def test_a_recording_has_words_with_times_in_order(real: Recognizer, voice: Audio) -> None:
    found = await real.transcribe(voice, words=True)
    assert "best of times" in found.text.lower()
    assert found.duration == pytest.approx(len(voice) / SAMPLE_RATE)
    assert " ".join(word.word for word in found.words) == found.text
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= found.duration


@pytest.mark.real
async def test_the_end_of_a_turn_says_how_sure_each_word_is(real: Recognizer, voice: Audio) -> None:
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    messages = await talk(real.turns(wire.TurnSettings()), np.concatenate([voice, silence]))
    ends = [message for message in messages if isinstance(message, wire.TurnEnd)]
    assert ends
    for end in ends:
        confidence = cast(list[float], end.extra["confidence"])
        assert len(confidence) == len(end.transcript.split())
        assert all(0 <= one <= 1 for one in confidence) and np.median(confidence) > 0.8


@pytest.mark.real
@pytest.mark.parametrize("factor", [3, 1 / 3])
async def test_a_wrong_sample_rate_makes_nonsense_and_no_failure(
    real: Recognizer, voice: Audio, factor: float
) -> None:
    """What is 48 kHz, taken for 16, and the other way round."""
    wrong = np.asarray(soxr.resample(voice, SAMPLE_RATE, SAMPLE_RATE * factor), np.float32)
    client = wire.TurnOrder()
    for message in await talk(real.turns(), wrong[: 8 * SAMPLE_RATE]):
        assert not isinstance(message, wire.Unknown)
        client.advance(message, EngineError)
    assert client.state is wire.TurnState.IDLE


@pytest.mark.real
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
async def test_samples_that_are_no_sound_harm_only_themselves(
    real: Recognizer, voice: Audio, value: float
) -> None:
    """Float encodings can say anything."""
    wrong = voice[: 3 * SAMPLE_RATE].copy()
    wrong[SAMPLE_RATE : 2 * SAMPLE_RATE] = value
    await talk(real.turns(), wrong)
    found = await real.transcribe(voice[: 5 * SAMPLE_RATE])
    assert "best of times" in found.text.lower()


@pytest.mark.parametrize("level_db", [-30, -50, -65, -75])
async def test_a_quiet_voice_is_understood_live_and_in_recordings(
    real: Recognizer, voice: Audio, level_db: float
) -> None:
    spoken = voice[: 9 * SAMPLE_RATE]
    factor = 10 ** (level_db / 20) / float(np.sqrt(np.mean(spoken**2)))
    quiet = (np.round(spoken * factor * 32768) / 32768).astype(np.float32)
    ends = [m for m in await talk(real.turns(), quiet) if isinstance(m, wire.TurnEnd)]
    found = await real.transcribe(quiet)
    for text in ("".join(end.transcript for end in ends), found.text):
        assert "best of times" in text.lower() and "age of wisdom" in text.lower(), text


async def test_words_are_where_they_were_said(real: Recognizer, voice: Audio) -> None:
    """A silence put in the midst of a sentence moves what comes after it, and how sure each word is is
    known."""
    spoken = voice[: 9 * SAMPLE_RATE]
    found = (await real.transcribe(spoken, words=True)).words
    at = next(word for word in found if word.word.lower().startswith("age"))
    assert all(word.confidence is not None and 0 < word.confidence <= 1 for word in found)
    stream = real.manual()
    await stream.feed(spoken)
    await stream.finalize()
    await stream.finish()
    finals = [m async for m in stream if isinstance(m, wire.Transcript) and m.is_final]
    columns: list[Any] = [columns for final in finals for columns in (final.words or [])]
    words = [word for one in columns for word in one["words"]]
    starts = [start for one in columns for start in one["start"]]
    assert all(len(one["confidence"]) == len(one["words"]) for one in columns)
    same = next(start for word, start in zip(words, starts, strict=True) if word.lower().startswith("age"))
    assert same == pytest.approx(at.start, abs=0.3)
