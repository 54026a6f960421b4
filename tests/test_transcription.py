"""One track's transcription across connections: the guarantees as properties, the times against known ones.

`Scene` draws a call and an STT that fails in it; the audio carries its words, so every count is exact.
"""

from __future__ import annotations

import json
import random
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.errors import RemoteProtocolError, UpstreamError
from rtcstt.events import AnyEvent, SttReconnecting, Transcript, TurnEnd
from rtcstt.events.speech import TurnEvent
from rtcstt.media.pcm import Chunk
from rtcstt.stt.stream import Stream
from rtcstt.stt.transcription import Transcription
from rtcstt.testing import (
    ConnectionScript,
    Oracle,
    ScriptedUpstream,
    chunks,
    play,
    run_virtual,
    silence,
    speech,
    transcript,
)

VOCABULARY = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa "
    "quebec romeo sierra tango uniform victor whiskey xray yankee zulu one two three four five six seven "
    "eight nine"
).split()


def check_guarantees(events: Iterable[AnyEvent]) -> None:
    """docs/wire-protocol.md, guarantees 1 to 3, and the order of the times."""
    order = wire.TurnOrder()
    turn, last_end, time = -1, 0.0, 0.0
    for event in events:
        assert event.time >= time
        time = event.time
        if not event.type.startswith("turn."):
            continue
        assert isinstance(event, TurnEvent)
        message = wire.decode_server(json.dumps({"type": event.type, **event.fields}))
        assert isinstance(message, wire.messages.TurnMessage)
        order.advance(message, AssertionError)
        assert event.start is not None and event.end is not None and event.turn is not None
        assert last_end <= event.start <= event.end
        if event.type == "turn.start":
            assert event.turn == turn + 1
        turn = event.turn
        last_end = event.end if event.type == "turn.end" else last_end
    assert order.state is wire.TurnState.IDLE


@dataclass
class Scene:
    """A call drawn from a seed: sentences with pauses, and connections that end in some way."""

    seed: int
    mode: str = "auto"

    def __post_init__(self) -> None:
        dice = self.dice = random.Random(self.seed)
        self.words = self._say()
        self.scripts = [self._script() for _ in range(dice.randint(1, 5))] + [
            ConnectionScript(oracle=self._oracle())
        ]
        self.events: list[AnyEvent] = []
        self.truth: list[tuple[float, float]] = []
        self.flushes = 0

    def _say(self) -> list[str]:
        count = self.dice.randint(3, 40)
        if self.dice.random() < 0.3:  # the worst for an alignment
            return [self.dice.choice(["no", "yes", "go"]) for _ in range(count)]
        return [self.dice.choice(VOCABULARY) for _ in range(count)]

    def _oracle(self) -> Oracle:
        dice = self.dice
        return Oracle(
            latency_s=dice.choice([0.0, 0.0, 0.1, 0.3, 0.8]),
            hold_words=dice.choice([0, 1, 2]),
            late_text=dice.random() < 0.2,
            eager_end_s=dice.choice([None, 0.3, 0.35]),
            end_s=dice.choice([0.6, 0.7, 1.0]),
            max_words=dice.choice([None, 2, 4]) if self.mode == "manual" else None,
            durations=dice.random() < 0.5,
            positions=dice.random() < 0.3,
        )

    def _script(self) -> ConnectionScript:
        dice = self.dice
        kind = dice.random()
        if kind < 0.15:
            return ConnectionScript(refuse=dice.choice([429, 500, 503]))
        if kind < 0.25:
            return ConnectionScript(delay_s=dice.uniform(0, 3), drop_after_audio_s=dice.uniform(0, 3))
        if kind < 0.35:
            messages: list[str | bytes] = ["?", b"\x00", '{"type": "turn.resume"}', '{"type": "done"}']
            nonsense = dice.choice(messages)
            return ConnectionScript(inject=((dice.uniform(0, 3), nonsense),), oracle=self._oracle())
        code = dice.choice([None, 1001, 1011, 1012])
        return ConnectionScript(drop_after_audio_s=dice.uniform(0, 12), drop_code=code, oracle=self._oracle())

    async def _talk(self) -> None:
        dice = self.dice
        async with ScriptedUpstream(*self.scripts) as upstream:
            stream = Stream(upstream, on_event=self.events.append, mode=self.mode, seed=self.seed)
            stream.start()
            at = await play(stream, silence(dice.uniform(0.2, 2.0)))
            rest = list(self.words)
            while rest:
                phrase, rest = rest[: (size := dice.randint(1, 8))], rest[size:]
                self.truth += [
                    ((at + i * 4160) / 16000, (at + i * 4160 + 3200) / 16000) for i in range(len(phrase))
                ]
                at = await play(stream, speech(phrase), start=at)
                if self.mode == "manual" and dice.random() < 0.7:
                    stream.finalize()
                    self.flushes += 1
                at = await play(stream, silence(dice.choice([0.3, 0.5, 0.8, 1.2, 2.5])), start=at)
            await stream.close()

    def play(self) -> Scene:
        run_virtual(self._talk())
        return self

    def time_errors(self) -> list[float]:
        """Of the starts and ends of the turns, in seconds."""
        word, errors = 0, []
        for event in self.events:
            if event.type == "turn.end" and (said := len(str(event.fields["transcript"]).split())):
                assert event.start is not None and event.end is not None
                errors += [event.start - self.truth[word][0], event.end - self.truth[word + said - 1][1]]
                word += said
        return errors


@settings(max_examples=120)
@given(st.integers(0, 2**32))
def test_every_word_once_whatever_the_connections_do(seed: int) -> None:
    scene = Scene(seed).play()
    assert transcript(scene.events).split() == scene.words
    check_guarantees(scene.events)


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_every_word_once_in_manual_mode(seed: int) -> None:
    scene = Scene(seed, mode="manual").play()
    assert transcript(scene.events).split() == scene.words
    assert sum(event.type == "flush_done" for event in scene.events) == scene.flushes


def test_times_in_the_worst_weather() -> None:
    """An STT up to 0.8 s late, dropped again and again: the times stay, nearly all, within 300 ms."""
    errors = [abs(error) for seed in range(60) for error in Scene(seed).play().time_errors()]
    assert len(errors) > 200
    assert np.median(errors) < 0.05
    assert sum(error > 0.3 for error in errors) <= len(errors) * 0.02


async def _turns_of_late_stt(oracle: Oracle, pause_s: float) -> list[tuple[float, float]]:
    """By how much the times of eight sentences of 1.3 s are wrong, start and end."""
    events, truth = list[AnyEvent](), list[tuple[float, float]]()
    async with ScriptedUpstream(ConnectionScript(oracle=oracle)) as upstream:
        stream = Stream(upstream, on_event=events.append)
        stream.start()
        at = await play(stream, silence(1.0))
        for number in range(8):
            said = speech([f"{number}{word}" for word in "abcde"])
            truth.append((at / 16000, (at + len(said)) / 16000 - 0.06))
            at = await play(stream, said, start=at)
            at = await play(stream, silence(pause_s), start=at)
        await stream.close()
    ends = [event for event in events if isinstance(event, TurnEnd)]
    assert len(ends) == 8 and not any("audio_position" in event.fields for event in events)
    return [(e.start - start, e.end - end) for e, (start, end) in zip(ends, truth, strict=True)]


@pytest.mark.parametrize(
    ("latency_s", "pause_s", "positions"),
    [(0.8, 0.8, False), (2.0, 3.0, False), (4.0, 6.0, False)]
    + [(latency_s, pause_s, True) for latency_s in (0.8, 2.0, 7.0) for pause_s in (0.8, 3.0)],
)
def test_an_stt_that_is_behind_makes_no_turn_late(latency_s: float, pause_s: float, positions: bool) -> None:
    """One that tells how far it has come may be behind by several sentences."""
    oracle = Oracle(latency_s=latency_s, positions=positions)
    for errors in run_virtual(_turns_of_late_stt(oracle, pause_s)):
        assert errors == pytest.approx((0, 0), abs=0.1)


# -- any sequence of legal events --------------------------------------------------------------------

_GROW = st.text("ab .", max_size=6)
_STEP = st.one_of(
    st.tuples(st.just("audio"), st.booleans()),
    st.tuples(st.sampled_from(["turn.start", "turn.resume", "drop", "send"]), st.just("")),
    st.tuples(st.sampled_from(["turn.update", "turn.eager_end", "turn.end"]), _GROW),
)


@settings(max_examples=300)
@given(st.lists(_STEP, max_size=60))
def test_any_legal_events_on_any_connections_give_legal_events(steps: list[tuple[str, object]]) -> None:
    core, now, start = Transcription(), 0.0, 0
    events: list[AnyEvent] = []
    server: wire.TurnsServer | None = None
    for kind, value in steps:
        if server is None:
            server = wire.TurnsServer()
            core.connected(wire.TurnsClient(), now)
        if kind == "audio":
            samples = speech("x", word_s=0.5, gap_s=0.0) if value else silence(0.5)
            core.audio(Chunk(samples, start))
            start, now = start + len(samples), now + 0.5
        elif kind == "send":
            core.data_to_send(now)
        elif kind == "drop":
            core.disconnected()
            server = None
        else:
            fields = {"type": kind, "request_id": "r"}
            if kind in ("turn.update", "turn.eager_end", "turn.end"):
                fields["transcript"] = server.order.transcript + str(value)
            try:
                text = server.send(wire.decode_server(json.dumps(fields)))
            except Exception:
                continue  # not legal here
            core.receive(text)
        events += core.events()
    core.end()
    check_guarantees(events + core.events())


# -- the STT says what it must not -------------------------------------------------------------------


def connected(mode: str = "auto") -> Transcription:
    core = Transcription(mode=mode)
    core.connected(wire.ManualClient() if mode == "manual" else wire.TurnsClient(), 0.0)
    return core


@pytest.mark.parametrize("data", [b"x", "x", "[]", '{"type": 1}', '{"type": "turn.end", "transcript": ""}'])
def test_nonsense_is_the_peers_fault(data: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        connected().receive(data)


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (401, False), (429, True), (500, True)])
def test_an_error_event(status: int, retryable: bool) -> None:
    text = wire.encode(wire.Error(title="t", message="m", status_code=status, error_code="c"))
    with pytest.raises(UpstreamError) as caught:
        connected().receive(text)
    assert (caught.value.status, caught.value.retryable, caught.value.code) == (status, retryable, "c")


def test_messages_that_this_version_does_not_know_pass_through() -> None:
    core = connected()
    core.receive('{"type": "turn.mood", "request_id": "r", "mood": {"fair": 1}}')
    core.receive('{"type": "session.end", "request_id": "r"}')  # that is ours to say
    (event,) = core.events()
    assert (event.name, event.fields) == ("turn.mood", {"mood": {"fair": 1}, "request_id": "r"})


@pytest.mark.parametrize(
    "words",
    [
        {"words": ["a"], "start": [1.0], "end": [1.5]},
        [{"words": ["a", "b"], "start": [1.0, 1.2], "end": [1.1, 1.5]}],
        [{"word": "a", "start": 1.0, "end": 1.5}],
    ],
)
def test_word_times_of_the_stt_are_used(words: object) -> None:
    core = connected("manual")
    for chunk in chunks(silence(3.0)):
        core.audio(chunk)
        core.data_to_send(100.0 + chunk.start / 16000)
    core.receive(json.dumps({"type": "transcript", "text": "a", "is_final": True, "words": words}))
    (event,) = core.events()
    assert event.fields["words"] == words
    assert isinstance(event, Transcript) and (event.start, event.end) == (1.0, 1.5)


@pytest.mark.parametrize(
    "words",
    [
        {},
        [],
        [1],
        {"start": ["x"], "end": [None]},
        [{"start": -1, "end": 1e9}],
        [{"words": [], "start": [], "end": []}],
    ],
)
def test_senseless_word_times_are_not(words: object) -> None:
    core = connected("manual")
    core.audio(Chunk(speech("a"), 0))
    core.data_to_send(100.0)
    core.receive(json.dumps({"type": "transcript", "text": "a", "is_final": True, "words": words}))
    (event,) = core.events()
    assert isinstance(event, Transcript)
    assert (event.start, event.end) == (0.0, pytest.approx(0.2, abs=0.02))


# -- times against real speech -----------------------------------------------------------------------


@pytest.mark.parametrize("lag_s", [0.0, 0.3])
def test_times_of_real_words(shared_data: Path, lag_s: float) -> None:
    """Events as the cloud sends them, without times: 0.15 s after an onset, 0.6 s after an end."""
    entries = {e["file"]: e for e in json.loads((shared_data / "manifest.json").read_text())}
    for name, tolerance in (("spm_audio_08_words.wav", 0.1), ("ami_ES2011a_40s-46s.wav", 0.3)):
        segments = entries[name]["segments"]
        if name.startswith("ami"):  # half a second between its parts: one turn
            segments = [{"start": segments[0]["start"], "end": segments[-1]["end"]}]
        with wave.open(str(shared_data / name)) as file:
            audio = np.frombuffer(file.readframes(10**9), np.int16)
        found = times_of(np.concatenate([audio, silence(2.0)]), segments, lag_s)
        assert len(found) == len(segments)
        for (start, end), segment in zip(found, segments, strict=True):
            assert start == pytest.approx(segment["start"], abs=tolerance)
            assert end == pytest.approx(segment["end"], abs=tolerance)


@pytest.mark.parametrize("after_s", [0.1, 0.4])  # 0.1: before it is clear that there is a pause
def test_a_resumed_turn_ends_with_what_was_said_after_the_pause(after_s: float) -> None:
    """The turn's start came late, as in a replay, its end at once."""
    audio = np.concatenate([silence(0.5), speech("one two"), silence(2.0), speech("three"), silence(1.0)])
    end = len(audio) / 16000 - 1.06  # of "three"
    ((start, found),) = times_from(
        audio,
        [
            (1.3, wire.TurnStart(request_id="r")),
            (2.5, wire.TurnEagerEnd(transcript="one two", request_id="r")),
            (end, wire.TurnResume(request_id="r")),
            (end + 0.1, wire.TurnUpdate(transcript="one two three", request_id="r")),
            (end + after_s, wire.TurnEnd(transcript="one two three", request_id="r")),
        ],
    )
    assert (start, found) == (pytest.approx(0.5, abs=0.1), pytest.approx(end, abs=0.3))


def times_of(audio: np.ndarray, segments: list[dict[str, float]], lag_s: float) -> list[tuple[float, float]]:
    due: list[tuple[float, wire.ServerMessage]] = []
    for segment in segments:
        due.append((segment["start"] + 0.15 + lag_s, wire.TurnStart(request_id="r")))
        due.append((segment["end"] + 0.6 + lag_s, wire.TurnEnd(transcript="x", request_id="r")))
    return times_from(audio, due)


def times_from(audio: np.ndarray, due: list[tuple[float, wire.ServerMessage]]) -> list[tuple[float, float]]:
    """Start and end of the turns, when the STT's messages come at these seconds."""
    core = connected()
    for chunk in chunks(audio):
        core.audio(chunk)
        now = (chunk.start + len(chunk.samples)) / 16000
        core.data_to_send(now)
        while due and due[0][0] <= now:
            core.receive(wire.encode(due.pop(0)[1]))
    return [
        (e.start, e.end)
        for e in core.events()
        if e.type == "turn.end" and e.start is not None and e.end is not None
    ]


# -- the ring ----------------------------------------------------------------------------------------


def test_a_turn_longer_than_the_ring_survives_a_drop() -> None:
    """A minute without a pause, 30 s kept: the replay begins in the middle of the turn and still joins."""
    words = [f"{a}{b}" for a in VOCABULARY[:15] for b in VOCABULARY[15:31]]
    events: list[AnyEvent] = []

    async def main() -> None:
        async with ScriptedUpstream(
            ConnectionScript(drop_after_audio_s=50.0), ConnectionScript()
        ) as upstream:
            stream = Stream(upstream, on_event=events.append, seed=0)
            stream.start()
            at = await play(stream, speech(words))
            await play(stream, silence(2.0), start=at)
            await stream.close()

    run_virtual(main())
    assert transcript(events).split() == words
    check_guarantees(events)


def test_an_old_silence_is_not_replayed() -> None:
    core = connected()
    for chunk in chunks(silence(20.0)):
        core.audio(chunk)
        core.data_to_send(100.0 + chunk.start / 16000)
    core.disconnected()
    assert core.lag_s <= 2.2


def test_events_are_on_the_calls_clock() -> None:
    core = Transcription(offset_s=100.0)
    core.audio(Chunk(silence(0.5), 0))
    core.announce(SttReconnecting(track="0", attempt=1, reason="r", engine="e"))
    (event,) = core.events()
    assert event.time == 100.5 and event.fields == {"attempt": 1, "reason": "r", "engine": "e"}
    assert core.events() == []
