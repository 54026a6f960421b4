"""What a transcript says about itself: every word that was said has its text, or lies in a gap that was said.

In virtual time, with faults of the source, the STT, its load and the hang-up drawn from a seed; the audio
carries its words, so what is neither transcribed nor missing can be counted in milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import string
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.call import Call, CallSettings, Track
from rtcstt.call.flow import Flow
from rtcstt.errors import ConnectionLost
from rtcstt.events import AnyEvent, SessionEnd, SttBehind, SttCaughtUp, TranscriptGap, TurnEnd
from rtcstt.media.playout import LOST_S
from rtcstt.media.rtp import Codec, Packet
from rtcstt.stt.stream import Limits, Stream
from rtcstt.testing import (
    ConnectionScript,
    Network,
    Oracle,
    ScriptedCaller,
    ScriptedUpstream,
    noise,
    play,
    run_virtual,
    silence,
    speech,
    transcript,
)

WORD_S, GAP_S = 0.2, 0.06


def word_of(number: int) -> str:
    """Words of which none is like another one."""
    return "".join(random.Random(number).choices(string.ascii_lowercase, k=7))


@dataclass
class Said:
    """Words and where they are on the track, in seconds."""

    words: list[str] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)

    def phrase(self, count: int, at_s: float) -> list[str]:
        phrase = [word_of(len(self.words) + i) for i in range(count)]
        self.words += phrase
        self.places += [
            (at_s + i * (WORD_S + GAP_S), at_s + i * (WORD_S + GAP_S) + WORD_S) for i in range(count)
        ]
        return phrase

    def forget_after(self, end_s: float) -> None:
        """What is said later is not asked for."""
        count = sum(end <= end_s for _, end in self.places)
        del self.words[count:], self.places[count:]

    def unaccounted_ms(self, events: list[AnyEvent], *, slack_s: float = 0.0) -> float:
        """Speech that is neither in the transcript nor within ``slack_s`` of a gap."""
        told = set(transcript(events).split())
        gaps = [(e.start - slack_s, e.end + slack_s) for e in events if isinstance(e, TranscriptGap)]
        total = 0.0
        for word, (start, end) in zip(self.words, self.places, strict=True):
            if word not in told and not any(a < end and start < b for a, b in gaps):
                total += end - start
        return round(1000 * total)


def check_identity(stream: Stream) -> None:
    account = stream.account()
    received = round(float(stream.stats()["received_s"]) * 16000)
    assert account.taken + sum(account.discarded.values()) == received


@dataclass
class Scene:
    """A track whose STT is away, refuses, dies, stalls, is slow, or never closes."""

    seed: int
    mode: str

    def script(self, dice: random.Random) -> ConnectionScript:
        kind = dice.random()
        oracle = Oracle(
            latency_s=dice.choice([0.0, 0.1, 0.3, 0.8]),
            hold_words=dice.choice([0, 1, 2]),
            eager_end_s=dice.choice([None, 0.35]),
            durations=dice.random() < 0.5,
        )
        if kind < 0.2:
            return ConnectionScript(refuse=dice.choice([429, 503]))
        if kind < 0.27:
            return ConnectionScript(refuse=dice.choice([400, 401]))
        if kind < 0.4:
            return ConnectionScript(delay_s=dice.uniform(0, 30), oracle=oracle)
        if kind < 0.5:
            return ConnectionScript(silent_after_audio_s=dice.uniform(0, 5), oracle=oracle)
        if kind < 0.6:
            return ConnectionScript(deaf_after_audio_s=dice.uniform(0, 5), oracle=oracle)
        if kind < 0.7:
            return ConnectionScript(ignore_close=True, oracle=oracle)
        if kind < 0.75:
            return ConnectionScript(drop_on_close=True, oracle=oracle)
        return ConnectionScript(drop_after_audio_s=dice.uniform(0, 12), oracle=oracle)

    async def talk(self) -> float:
        dice = random.Random(self.seed)
        said, events = Said(), list[AnyEvent]()
        limits = Limits(
            ring_s=dice.choice([5.0, 10.0, 30.0]),
            connect_timeout_s=dice.choice([3.0, 40.0]),
            send_timeout_s=3.0,
            stall_timeout_s=5.0,
        )
        scripts = [self.script(dice) for _ in range(dice.randint(1, 6))]
        if dice.random() < 0.7:
            scripts.append(ConnectionScript())
        async with ScriptedUpstream(*scripts) as upstream:
            stream = Stream(
                upstream,
                on_event=events.append,
                mode=self.mode,
                seed=self.seed,
                limits=limits,
                drain_timeout_s=dice.choice([0.1, 1.0, 5.0]),
            )
            stream.start()
            at = await play(stream, silence(dice.uniform(0.2, 1.5)))
            for _ in range(dice.randint(1, 6)):
                phrase = said.phrase(dice.choice([3, 5, 8, 40]), at / 16000)
                at = await play(stream, speech(phrase, word_s=WORD_S, gap_s=GAP_S), start=at)
                if self.mode == "manual" and dice.random() < 0.7:
                    stream.finalize()
                at = await play(stream, silence(dice.choice([0.0, 0.3, 0.8, 2.5, 15.0])), start=at)
            await stream.close()
        check_identity(stream)
        if not any(isinstance(event, TranscriptGap) for event in events):
            assert transcript(events).split() == said.words
        return said.unaccounted_ms(events)


@settings(max_examples=80)
@given(st.integers(0, 2**32))
def test_what_is_not_transcribed_is_missing(seed: int) -> None:
    assert run_virtual(Scene(seed, "auto").talk()) == 0


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_what_is_not_transcribed_is_missing_in_manual_mode(seed: int) -> None:
    assert run_virtual(Scene(seed, "manual").talk()) == 0


# -- whole calls -------------------------------------------------------------------------------------

CODECS = {96: Codec("L16", 16000)}
PHRASE = 30  # words


def end_of(call: Call) -> SessionEnd:
    last = call.feed.history[-1]
    assert isinstance(last, SessionEnd)
    for ledger in last.ledger.values():
        came = ledger["received"] + ledger["recovered"] + ledger["concealed"] + ledger["silence"]
        assert ledger["sent"] + ledger["discarded"] == came
    return last


async def speak(
    call: Call, said: Said, *, track: str = "0", words: int = PHRASE, rest_s: float = 1.0
) -> None:
    """A second of silence, a phrase, and ``rest_s`` of silence, as packets in real time."""
    line = call.add_track(track, CODECS)
    caller = (
        ScriptedCaller().say(silence(1.0)).say(speech(said.phrase(words, 1.0), word_s=WORD_S, gap_s=GAP_S))
    )
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for at, packet in caller.say(silence(rest_s)).packets():
        await asyncio.sleep(max(0.0, begin + at - loop.time()))
        line.push(packet)


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_stt_that_refuses_the_whole_call(status: int) -> None:
    async def main() -> None:
        said = Said()
        async with ScriptedUpstream(ConnectionScript(refuse=status)) as stt:
            call = Call("c", stt=stt)
            await speak(call, said)
            await call.close()
        last = end_of(call)
        assert last.complete is False and {gap["reason"] for gap in last.missing} == {"stt"}
        assert said.unaccounted_ms(list(call.feed.history)) == 0
        (ledger,) = last.ledger.values()
        assert (ledger["sent"], ledger["unanswered"]) == (0.0, 0.0)
        assert ledger["discarded_by_reason"].keys() <= {"stt", "silence"}
        assert call.failure is not None and call.failure.status == status

    run_virtual(main())


@pytest.mark.parametrize(
    "script", [ConnectionScript(ignore_close=True), ConnectionScript(silent_after_audio_s=0)]
)
def test_a_drain_that_was_cut(script: ConnectionScript) -> None:
    """Everything was taken; what the STT did not answer is said."""

    async def main() -> None:
        said = Said()
        async with ScriptedUpstream(script) as stt:
            call = Call("c", stt=stt, settings=CallSettings(drain_timeout_s=0.5))
            await speak(call, said, rest_s=0.0)
            await call.close()
        last = end_of(call)
        assert last.complete is False
        assert said.unaccounted_ms(list(call.feed.history)) == 0
        (ledger,) = last.ledger.values()
        assert ledger["unanswered"] > 0 and ledger["sent"] > 8000
        (gap,) = last.missing
        assert gap["reason"] == ("drain_timeout" if script.ignore_close else "stt")

    run_virtual(main())


class Chatterer:
    """An STT that talks for ever, and is its own connection."""

    name = "chatterer"

    async def connect(self, handshake: wire.Handshake) -> Chatterer:
        return self

    async def send(self, data: str | bytes) -> None:
        pass

    async def recv(self) -> str:
        await asyncio.sleep(0.5)
        return '{"type": "turn.mood"}'

    async def close(self) -> None:
        pass


class Quiet(Chatterer):
    """An STT that says nothing, and closes normally when it is told to."""

    def __init__(self, reason: str) -> None:
        self._reason, self._closing = reason, asyncio.Event()

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._closing.set()

    async def recv(self) -> str:
        await self._closing.wait()
        raise ConnectionLost(1000, self._reason)


@pytest.mark.parametrize(
    ("word_s", "reason", "complete"),
    [(0.2, "", False), (0.4, "", False), (0.08, "", True), (0.4, wire.ALL_ANSWERED, True)],
)
def test_an_stt_that_closes_without_a_word(word_s: float, reason: str, complete: bool) -> None:
    """What may have been a word is missing, however short, unless the STT states that it was none."""

    async def main() -> None:
        call = Call("c", stt=Quiet(reason))
        line = call.add_track("0", CODECS)
        caller = ScriptedCaller().say(silence(1.0)).say(speech("yes", word_s=word_s)).say(silence(0.6))
        loop = asyncio.get_running_loop()
        for at, packet in caller.packets():
            await asyncio.sleep(at - loop.time())
            line.push(packet)
        await call.close()
        last = end_of(call)
        assert last.complete == complete
        if not complete:
            (gap,) = last.missing
            assert gap["reason"] == "stt" and gap["start"] <= 1.0 and gap["end"] >= 1.0 + word_s

    run_virtual(main())


@pytest.mark.parametrize(("noise_s", "complete"), [(0.4, True), (2.5, False)])
def test_noise_that_an_stt_says_nothing_of(noise_s: float, complete: bool) -> None:
    """It closed normally: short energy without a voice is no word; long energy is not looked at."""

    async def main() -> None:
        call = Call("c", stt=Quiet(""))
        line = call.add_track("0", CODECS)
        caller = ScriptedCaller().say(silence(1.0)).say(noise(noise_s, level_db=-20)).say(silence(0.6))
        loop = asyncio.get_running_loop()
        for at, packet in caller.packets():
            await asyncio.sleep(at - loop.time())
            line.push(packet)
        await call.close()
        assert end_of(call).complete is complete

    run_virtual(main())


def test_a_call_without_trouble_is_complete() -> None:
    async def main() -> None:
        said = Said()
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            await speak(call, said)
            await call.close()
        last = end_of(call)
        assert last.complete and last.missing == [] and transcript(call.feed.history).split() == said.words
        (ledger,) = last.ledger.values()
        assert ledger["unanswered"] == 0 and ledger["discarded"] == 0

    run_virtual(main())


@pytest.mark.parametrize("piece_s", [90.0, 0.02])
def test_a_file_pushed_at_once_says_what_was_too_much(piece_s: float) -> None:
    """What is kept stays in its place on the clock."""

    async def main() -> None:
        said = Said()
        samples = speech(said.phrase(340, 0.0), word_s=WORD_S, gap_s=GAP_S)  # 88 s
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            line = call.add_track("0")
            step = round(piece_s * 16000)
            for start in range(0, len(samples), step):
                line.push_pcm(samples[start : start + step], 16000)
            await call.close()
        last = end_of(call)
        assert last.complete is False and {gap["reason"] for gap in last.missing} == {"overflow"}
        events = list(call.feed.history)
        assert said.unaccounted_ms(events) == 0
        kept = transcript(events).split()
        assert len(kept) > 50 and kept == said.words[-len(kept) :]
        (end,) = [event for event in events if isinstance(event, TurnEnd)]
        assert end.end == pytest.approx(said.places[-1][1], abs=0.3)
        assert last.missing[0]["start"] == 0.0 and last.missing[-1]["end"] <= end.start + 0.3

    run_virtual(main())


def test_an_stt_that_is_behind_is_said_and_all_its_words_come() -> None:
    """Away for 9 s: the backlog is said at 2, 4 and 8 s, and when it is worked off."""

    async def main() -> None:
        said = Said()
        async with ScriptedUpstream(ConnectionScript(delay_s=9.0)) as stt:
            call = Call("c", stt=stt)
            await speak(call, said, words=60)
            await call.close()
        assert end_of(call).complete
        assert transcript(call.feed.history).split() == said.words
        news = [event for event in call.feed.history if isinstance(event, SttBehind | SttCaughtUp)]
        lags = [event.lag for event in news if isinstance(event, SttBehind)]
        assert 2 < lags[0] < 2.3 and len(lags) == 3
        assert all(2 * before < lag for before, lag in pairwise(lags))
        assert isinstance(news[-1], SttCaughtUp)

    run_virtual(main())


def test_a_backlog_keeps_the_turns_apart() -> None:
    """Pauses are shortened only when the STT has ended the turn: fourteen sentences are fourteen turns."""

    async def main() -> None:
        events: list[AnyEvent] = []
        async with ScriptedUpstream(
            ConnectionScript(delay_s=20.0, oracle=Oracle(end_s=1.4, eager_end_s=None))
        ) as stt:
            stream = Stream(stt, on_event=events.append, limits=Limits(connect_timeout_s=30, ring_s=60))
            stream.start()
            at, said = 0, Said()
            for _ in range(14):
                phrase = said.phrase(5, at / 16000)
                at = await play(stream, speech(phrase, word_s=WORD_S, gap_s=GAP_S), start=at)
                at = await play(stream, silence(3.0), start=at)
            await stream.close()
        assert transcript(events).split() == said.words
        ends = [event for event in events if isinstance(event, TurnEnd)]
        assert len(ends) == 14
        for number, event in enumerate(ends):
            assert event.start == pytest.approx(said.places[5 * number][0], abs=0.3)
            assert event.end == pytest.approx(said.places[5 * number + 4][1], abs=0.3)
        assert float(stream.stats()["skipped_silence_s"]) > 5

    run_virtual(main())


def test_a_drain_lasts_as_long_as_the_stt_makes_progress() -> None:
    """12 s of backlog at 1.25 times real time are longer than the patience without progress."""

    async def main() -> float:
        said, events = Said(), list[AnyEvent]()
        async with ScriptedUpstream(ConnectionScript(delay_s=12.0)) as stt:
            stream = Stream(
                stt, on_event=events.append, drain_timeout_s=1.0, limits=Limits(connect_timeout_s=30)
            )
            stream.start()
            await play(stream, speech(said.phrase(50, 0.0), word_s=WORD_S, gap_s=GAP_S))
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await stream.close()
        assert transcript(events).split() == said.words
        return loop.time() - begin

    assert 5 < run_virtual(main()) < 60


class Slow(Chatterer):
    """Another STT on a machine that is too slow: of each 2 s of audio it takes no more for 7 s."""

    def __init__(self, stt: ScriptedUpstream) -> None:
        self._stt = stt

    async def connect(self, handshake: wire.Handshake) -> Slow:
        self._connection, self._taken = await self._stt.connect(handshake), 0
        return self

    async def send(self, data: str | bytes) -> None:
        self._taken += len(data) if isinstance(data, bytes) else 0
        if self._taken > 2 * 32_000:
            self._taken = 0
            await asyncio.sleep(7.0)
        await self._connection.send(data)

    async def recv(self) -> str:
        return str(await self._connection.recv())

    async def close(self) -> None:
        await self._connection.close()


def test_a_drain_lasts_while_the_stt_is_only_behind() -> None:
    """At 350 % load it is silent for longer than the patience again and again, and gives every word."""

    async def main() -> float:
        said, events = Said(), list[AnyEvent]()
        async with ScriptedUpstream() as stt:
            stream = Stream(Slow(stt), on_event=events.append, drain_timeout_s=5.0)
            stream.start()
            await play(stream, speech(said.phrase(60, 0.0), word_s=WORD_S, gap_s=GAP_S))
            begin = asyncio.get_running_loop().time()
            await stream.close()
        assert transcript(events).split() == said.words
        assert not [event for event in events if isinstance(event, TranscriptGap)]
        return asyncio.get_running_loop().time() - begin

    assert 20 < run_virtual(main()) < 60


class Working(Chatterer):
    """A recogniser in this process that has a turn to end, works on it for 20 s, and says nothing meanwhile;
    or one that does not go on."""

    def __init__(self, stt: ScriptedUpstream, *, goes_on: bool) -> None:
        self._stt, self._goes_on = stt, goes_on

    async def connect(self, handshake: wire.Handshake) -> Working:
        self._connection = await self._stt.connect(handshake)
        self._closed_at = math.inf
        return self

    @property
    def position(self) -> int:
        since_s = asyncio.get_running_loop().time() - self._closed_at
        return int(800 * max(0.0, min(since_s, 20.0 if self._goes_on else 1.0)))

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str) and "close" in data:
            self._closed_at = asyncio.get_running_loop().time()
            await asyncio.sleep(0)
        await self._connection.send(data)

    async def recv(self) -> str:
        message = str(await self._connection.recv())
        if asyncio.get_running_loop().time() >= self._closed_at:
            await asyncio.sleep(self._closed_at + 20.0 - asyncio.get_running_loop().time())
        return message

    async def close(self) -> None:
        await self._connection.close()


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_drain_lasts_while_the_recogniser_of_this_process_goes_on(goes_on: bool) -> None:
    async def main() -> bool:
        said, events = Said(), list[AnyEvent]()
        async with ScriptedUpstream() as stt:
            stream = Stream(Working(stt, goes_on=goes_on), on_event=events.append, drain_timeout_s=5.0)
            stream.start()
            await play(stream, speech(said.phrase(6, 0.0), word_s=WORD_S, gap_s=GAP_S))
            await stream.close()
        gaps = [event for event in events if isinstance(event, TranscriptGap)]
        assert bool(gaps) is not goes_on
        return transcript(events).split() == said.words

    assert run_virtual(main()) is goes_on


def test_a_drain_has_an_end() -> None:
    async def main() -> float:
        stream = Stream(Chatterer(), on_event=lambda event: None, limits=Limits(drain_s=8.0))
        stream.start()
        await play(stream, speech("a b c"))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await stream.close()
        return loop.time() - begin

    assert run_virtual(main()) == pytest.approx(8.0, abs=0.6)


def test_an_ended_call_keeps_its_events_and_not_its_audio() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            await speak(call, Said())
            line = call.tracks["0"]
            assert isinstance(line._flow, Flow)
            kept = weakref.ref(line._flow.stream), weakref.ref(line._flow.receiver)
            assert all(ref() is not None for ref in kept)
            await call.close()
            await asyncio.sleep(0)
            gc.collect()
            assert all(ref() is None for ref in kept)
            assert line.ledger() == end_of(call).ledger["0"] and call.snapshot()["time"] > 9
            assert call.silent_s() < 10

    run_virtual(main())


@dataclass
class WholeCall:
    """A call by RTP: losses, pauses and other sources, reports of the sender or none, an STT that fails or is
    overloaded, a hang-up at any time."""

    seed: int

    async def talk(self) -> float:
        """Speech that is neither in the transcript nor missing, in ms; `end_of` checks the ledger."""
        self.dice = dice = random.Random(self.seed)
        said, packets, end_s, slack_s = self.source()
        scene = Scene(self.seed, "auto")
        scripts = [scene.script(dice) for _ in range(dice.randint(0, 3))] + [ConnectionScript()]
        hang_up_s = (
            dice.uniform(0.5, end_s) if dice.random() < 0.3 else end_s + dice.choice([0.0, 0.1, 0.6, 3.0])
        )
        async with ScriptedUpstream(*scripts) as upstream:
            call = Call("c", stt=upstream, settings=CallSettings(drain_timeout_s=dice.choice([0.1, 5.0])))
            line = call.add_track("0", CODECS)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            for due, packet in packets:
                if due < hang_up_s:
                    await asyncio.sleep(max(0.0, begin + due - loop.time()))
                    packet(line) if callable(packet) else line.push(packet)
            await asyncio.sleep(max(0.0, begin + hang_up_s - loop.time()))
            await call.close()
        last = end_of(call)
        events = list(call.feed.history)
        gaps = [(event.start, event.end) for event in events if isinstance(event, TranscriptGap)]
        assert last.complete == (not gaps)
        # What is under way at the hang-up, or lost directly before it, is shorter than what is said to be
        # lost; and a sender who has reported that they pause may go on unseen until the next report.
        said.forget_after(hang_up_s - LOST_S - slack_s - self.report_s)
        if not packets or packets[0][0] > hang_up_s:
            return 0.0  # nothing was received, and nobody knows of anything
        return said.unaccounted_ms(events, slack_s=slack_s)

    def source(self) -> tuple[Said, list[tuple[float, Packet | Callable[[Track], None]]], float, float]:
        """What is said; packets, and what else the track is told, with their times; when all of it is said;
        and how far the call's clock may be from that of the caller."""
        dice = self.dice
        said, caller, at = Said(), ScriptedCaller().say(silence(1.0)), 1.0
        told: list[tuple[float, Callable[[Track], None]]] = []
        self.report_s = dice.choice([0.0, 0.5, 2.0])
        ssrc, announced = 0x5EED, list[int]()
        for _ in range(dice.randint(1, 6)):
            words = dice.choice([3, 5, 8, 30])
            caller.say(speech(said.phrase(words, at), word_s=WORD_S, gap_s=GAP_S))
            at += -(-words * (WORD_S + GAP_S) // 0.02) * 0.02  # in whole packets
            rest_s, kind = dice.choice([0.0, 0.4, 1.0, 3.0]), dice.random()
            if kind < 0.4:
                caller.pause(rest_s)
            elif kind < 0.7:
                caller.mute(rest_s)
            else:
                caller.hold(rest_s)
                if kind > 0.87:
                    told.append((at + 0.07, partial(Track.bye, ssrc=ssrc)))
                if kind > 0.87 or (kind > 0.8 and self.report_s):
                    announced.append(len(caller.packets()))
                if 0.8 < kind < 0.93:
                    ssrc += 1
                    caller.switch(ssrc, sequence=dice.randrange(2**16), timestamp=dice.randrange(2**32))
            at += rest_s
        lost = set[int]()
        for _ in range(dice.randint(0, 3)):
            first = dice.randrange(20, 600)
            burst = set(range(first, first + dice.randint(15, 80)))
            # Where a source has said that it stops, nothing tells that the first packets after it are lost.
            lost |= burst if not any({index - 1, index} & burst for index in announced) else set()
        jitter_s = dice.choice([0.0, 0.03])
        network = Network(lost=frozenset(lost), jitter_s=jitter_s, seed=self.seed)
        packets: list[tuple[float, Packet | Callable[[Track], None]]] = [*caller.packets(network), *told]
        if self.report_s:
            packets += reports(caller, every_s=self.report_s)
        return said, sorted(packets, key=lambda pair: pair[0]), at, jitter_s + network.delay_s + 0.02


@dataclass
class BesideOthers(WholeCall):
    """The same, while other sources of the section send silence for some of the time: whoever of them is
    the main one, no word of who speaks is torn."""

    def source(self) -> tuple[Said, list[tuple[float, Packet | Callable[[Track], None]]], float, float]:
        said, packets, end_s, slack_s = super().source()
        for number in range(self.dice.randint(1, 3)):
            packets += self.quiet(100 + number, end_s)
        return said, sorted(packets, key=lambda pair: pair[0]), end_s, slack_s + 0.6

    def quiet(self, ssrc: int, end_s: float) -> list[tuple[float, Packet | Callable[[Track], None]]]:
        """With pauses that are announced or not, losses, jitter, and an end by BYE or none."""
        dice = self.dice
        caller = ScriptedCaller(ssrc=ssrc, sequence=dice.randrange(2**16))
        start_s = dice.choice([0.0, 0.5, dice.uniform(0.0, end_s)])
        caller.hold(start_s)
        for _ in range(dice.randint(1, 5)):
            caller.mute(dice.uniform(0.1, 4.0))  # any sound would change the words
            kind, rest_s = dice.random(), dice.choice([0.1, 0.4, 1.0, 6.0])
            if kind < 0.3:
                caller.pause(rest_s)
            elif kind < 0.6:
                caller.hold(rest_s)
        count = len(caller.packets())
        first = dice.randrange(count)
        lost = frozenset(range(first, first + dice.choice([0, 1, 5, 12, 40])))
        jitter_s = dice.choice([0.0, 0.03, 0.06])
        arrived = caller.packets(Network(lost=lost, jitter_s=jitter_s, seed=self.seed + ssrc))
        packets: list[tuple[float, Packet | Callable[[Track], None]]] = [*arrived]
        if dice.random() < 0.5 and arrived:
            packets.append((arrived[-1][0] + dice.choice([0.0, 0.1]), partial(Track.bye, ssrc=ssrc)))
        return packets


def reports(caller: ScriptedCaller, *, every_s: float) -> Iterator[tuple[float, Callable[[Track], None]]]:
    """Sender reports, which are not lost."""
    sent = caller.packets(Network(delay_s=0.021))
    for number in range(1, int(sent[-1][0] / every_s) + 1):
        before = [packet for at, packet in sent if at <= number * every_s]
        if before:
            ssrc = before[-1].ssrc
            count = sum(packet.ssrc == ssrc for packet in before)
            yield number * every_s, partial(Track.report, ssrc=ssrc, sent=count)


@settings(max_examples=60)
@given(st.integers(0, 2**32))
@example(600236)  # another source begins with one packet, a loss, and the rest
def test_what_a_whole_call_does_not_transcribe_is_missing(seed: int) -> None:
    assert run_virtual(WholeCall(seed).talk()) == 0


@settings(max_examples=40)
@given(st.integers(0, 2**32))
@example(7100039)  # who is mixed in says BYE, and the main source is silent
@example(7100518)  # the main one comes back while the next one is silent as well
@example(7100354)  # the end of one is lost, and it goes on with another SSRC
def test_who_speaks_beside_quiet_sources_is_transcribed_or_missing(seed: int) -> None:
    assert run_virtual(BesideOthers(seed).talk()) == 0
