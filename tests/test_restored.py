"""A call that goes on at another server, from what was kept of it: no word lost, none twice, one clock.

In virtual time: the server dies at any moment of a conversation, and the caller comes back after any time, or
never. What is kept went through JSON, as it does in Redis.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_missing import Said

from rtcstt import events
from rtcstt.call import Call, CallSettings, KeptTrack, PreparedCall, Restored
from rtcstt.events import AnyEvent, SessionEnd, TranscriptGap, TurnEnd
from rtcstt.feed import Feed
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples
from rtcstt.media.rtp import Codec, Packet
from rtcstt.testing import Oracle, ScriptedUpstream, run_virtual, silence, speech, transcript
from rtcstt.testing.upstream import ConnectionScript

PACKET = SAMPLE_RATE // 50


class Kept:
    """What a journal keeps, with the audio from each track's floor on."""

    def __init__(self) -> None:
        self.audio: dict[str, deque[tuple[int, bytes]]] = {}

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        self.audio.setdefault(track, deque()).append((chunk.start, chunk.pcm))

    def of(self, call: Call) -> dict[str, Any]:
        """As it would be in Redis at this moment."""
        for name, track in call.tracks.items():
            tape = self.audio.get(name, deque())
            while tape and tape[0][0] + len(tape[0][1]) // 2 <= track.floor:
                tape.popleft()
        states = {name: track.state() for name, track in call.tracks.items()}
        return {
            "events": json.loads(json.dumps([event.to_json() for event in call.feed.history])),
            "tracks": json.loads(json.dumps(states)),
            "audio": {name: list(tape) for name, tape in self.audio.items()},
            "origins": {name: track.origin for name, track in call.tracks.items()},
            "created": call.created,
        }


def restored(kept: dict[str, Any], *, without_audio: bool = False) -> Restored:
    feed = Feed("call")
    for text in kept["events"]:
        feed.restore(events.from_dict(json.loads(text)))
    tracks = {
        name: KeptTrack(
            state=state,
            audio=[]
            if without_audio
            else [Chunk(np.frombuffer(pcm, "<i2"), start) for start, pcm in kept["audio"].get(name, [])],
            origin=kept["origins"][name],
        )
        for name, state in kept["tracks"].items()
    }
    return Restored(feed=feed, created=kept["created"], tracks=tracks, handed_over=True)


async def talk(call: Call, samples: Samples, begun: float) -> None:
    """The track's audio from sample 0 on, at the moments it is spoken; what lies in the past is not sent."""
    loop = asyncio.get_running_loop()
    track = call.add_track("0")
    for start in range(0, len(samples), PACKET):
        due = begun + (start + PACKET) / SAMPLE_RATE
        if due < loop.time() - PACKET / SAMPLE_RATE / 2:
            continue
        await asyncio.sleep(max(0.0, due - loop.time()))
        track.push_pcm(samples[start : start + PACKET], SAMPLE_RATE)


def conversation(seed: int) -> tuple[Said, Samples]:
    dice = random.Random(seed)
    said, parts, at = Said(), [silence(0.4)], 0.4
    for _ in range(dice.randint(2, 4)):
        phrase = said.phrase(dice.choice([3, 6, 12]), at)
        parts.append(speech(phrase))
        parts.append(silence(dice.choice([0.2, 0.9, 2.0])))
        at = sum(map(len, parts)) / SAMPLE_RATE
    return said, np.concatenate(parts)


def check(history: Sequence[AnyEvent], call: Call) -> None:
    assert [event.seq for event in history] == list(range(len(history)))
    times = [event.time for event in history]
    assert times == sorted(times), "one clock, which never goes back"
    ended = [(event.track, event.turn) for event in history if isinstance(event, TurnEnd)]
    assert len(ended) == len(set(ended)), "a turn ends once"
    assert [turn for _, turn in ended] == list(range(len(ended))), "turns are numbered on"
    last = history[-1]
    assert isinstance(last, SessionEnd)
    for ledger in last.ledger.values():
        came = sum(ledger[kind] for kind in ("received", "recovered", "concealed", "silence"))  # type: ignore[literal-required]
        assert ledger["sent"] == came - ledger["discarded"], ledger
        assert ledger["discarded"] == sum(ledger["discarded_by_reason"].values()), ledger


async def die_and_return(seed: int, dies_s: float, away_s: float, latency_s: float) -> None:
    said, samples = conversation(seed)
    loop = asyncio.get_running_loop()
    script = ConnectionScript(oracle=Oracle(latency_s=latency_s, hold_words=seed % 3))
    async with ScriptedUpstream(script) as stt:
        kept = Kept()
        first = Call("call", stt=stt, settings=CallSettings(outlives_peers=True), recorder=kept)
        begun = loop.time()
        talking = asyncio.create_task(talk(first, samples, begun))
        await asyncio.wait({talking}, timeout=dies_s)
        what = kept.of(first)
        talking.cancel()
        first.abandon()
        await asyncio.gather(talking, return_exceptions=True)
        dead_s = loop.time() - begun

        await asyncio.sleep(away_s)
        second = Call("call", stt=stt, settings=CallSettings(outlives_peers=True), restored=restored(what))
        await talk(second, samples, begun)
        await asyncio.sleep(1.5)
        await second.close()
        history = second.feed.history

    check(history, second)
    for text, event in zip(what["events"], history, strict=False):
        assert json.loads(text) == event.as_dict(), "what was published changed"
    words = transcript(history).split()
    assert len(words) == len(set(words)), f"a word twice: {words}"
    assert words == [word for word in said.words if word in set(words)], "in the order they were said"
    gaps = [event for event in history if isinstance(event, TranscriptGap)]
    assert all(gap.reason == "server" for gap in gaps) and len(gaps) <= 1
    received = [
        word
        for word, (start, end) in zip(said.words, said.places, strict=True)
        if end < dead_s - 0.5 or start > dead_s + away_s + 0.5
    ]
    assert not set(received) - set(words), "lost a word that a server received"
    # A word of which only the last packet was not received ends where the gap begins.
    assert said.unaccounted_ms(list(history), slack_s=0.02) == 0, "a word without text lies in no gap"
    if gaps:
        assert gaps[0].start >= dead_s - 0.5
        back_s = dead_s + away_s if dead_s + away_s < len(samples) / SAMPLE_RATE else dead_s + away_s + 1.5
        assert gaps[0].end <= back_s + 0.5
        assert not history[-1].complete  # type: ignore[union-attr]


@given(
    seed=st.integers(0, 2**16),
    dies_s=st.floats(0.3, 9.0),
    away_s=st.floats(0.0, 12.0),
    latency_s=st.sampled_from([0.0, 0.2, 0.8]),
)
@example(seed=1, dies_s=2.0, away_s=3.0, latency_s=0.2)
def test_a_caller_who_comes_back_finds_their_call(
    seed: int, dies_s: float, away_s: float, latency_s: float
) -> None:
    run_virtual(die_and_return(seed, dies_s, away_s, latency_s))


@pytest.mark.parametrize("away_s", [0.0, 0.03, 0.1, 0.15, 0.19, 0.5])
def test_however_short_the_time_without_a_server_was_it_is_a_gap(away_s: float) -> None:
    async def return_soon() -> Sequence[AnyEvent]:
        _, samples = conversation(11)
        settings = CallSettings(outlives_peers=True)
        begun = asyncio.get_running_loop().time()
        async with ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.2))) as stt:
            kept = Kept()
            first = Call("call", stt=stt, settings=settings, recorder=kept)
            talking = asyncio.create_task(talk(first, samples, begun))
            await asyncio.wait({talking}, timeout=1.27)
            what = kept.of(first)
            talking.cancel()
            first.abandon()
            await asyncio.gather(talking, return_exceptions=True)
            written_s = what["audio"]["0"][-1][0] / SAMPLE_RATE + 0.1
            back_s = asyncio.get_running_loop().time() - begun + away_s
            await asyncio.sleep(away_s)
            second = Call("call", stt=stt, settings=settings, restored=restored(what))
            await talk(second, samples, begun)
            await second.close()
        history = second.feed.history
        check(history, second)
        (gap,) = [event for event in history if isinstance(event, TranscriptGap)]
        assert gap.reason == "server"
        assert gap.start == pytest.approx(written_s, abs=0.001)
        assert gap.end == pytest.approx(back_s, abs=0.021)  # a packet
        return history

    history = run_virtual(return_soon())
    assert not history[-1].complete  # type: ignore[union-attr]


async def die_alone(seed: int, dies_s: float, *, without_audio: bool) -> tuple[Said, Sequence[AnyEvent]]:
    said, samples = conversation(seed)
    async with ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.3))) as stt:
        kept = Kept()
        first = Call("call", stt=stt, settings=CallSettings(outlives_peers=True), recorder=kept)
        talking = asyncio.create_task(talk(first, samples, asyncio.get_running_loop().time()))
        await asyncio.wait({talking}, timeout=dies_s)
        what = kept.of(first)
        talking.cancel()
        first.abandon()
        await asyncio.gather(talking, return_exceptions=True)
        await asyncio.sleep(35.0)
        second = Call(
            "call",
            stt=stt,
            settings=CallSettings(outlives_peers=True),
            restored=restored(what, without_audio=without_audio),
        )
        await second.close("server lost")
        check(second.feed.history, second)
        return said, second.feed.history


@given(seed=st.integers(0, 2**16), dies_s=st.floats(0.5, 9.0))
def test_the_last_words_of_who_never_came_back_are_there(seed: int, dies_s: float) -> None:
    said, history = run_virtual(die_alone(seed, dies_s, without_audio=False))
    words = transcript(history).split()
    sure = [word for word, (_, end) in zip(said.words, said.places, strict=True) if end < dies_s - 0.5]
    assert words[: len(sure)] == sure and len(words) == len(set(words))
    assert history[-1].reason == "server lost"  # type: ignore[union-attr]


@pytest.mark.parametrize("dies_s", [0.5, 1.5, 3.0])
def test_without_the_audio_what_had_no_text_is_in_the_gap(dies_s: float) -> None:
    said, history = run_virtual(die_alone(7, dies_s, without_audio=True))
    gaps = [event for event in history if isinstance(event, TranscriptGap)]
    assert len(gaps) == 1 and gaps[0].reason == "server"
    told = set(transcript(history).split())
    for word, (start, end) in zip(said.words, said.places, strict=True):
        if end < dies_s and word not in told:
            assert gaps[0].start <= end and start <= gaps[0].end


def test_a_call_that_was_abandoned_says_nothing_more() -> None:
    async def abandon() -> None:
        _, samples = conversation(3)
        async with ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.5))) as stt:
            call = Call("call", stt=stt, settings=CallSettings(outlives_peers=True))
            await talk(call, samples, asyncio.get_running_loop().time())
            before = call.feed.history
            call.abandon()
            assert call.state == "closed"
            await asyncio.sleep(20)
            assert call.feed.history == before

    run_virtual(abandon())


# -- a call that moves while its caller speaks -------------------------------------------------------

L16 = Codec("L16", 16000)


class Connection:
    """One of a caller's connections: the same audio at the same moments, in packets of its own. What is due
    within ``stalls`` (from, to; s of the call) comes at its end, all at once."""

    def __init__(
        self, call: Call, samples: Samples, begun: float, seed: int, stalls: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self._stalls = stalls
        self._track = call.add_track("0", {96: L16})
        self._samples, self._begun = samples, begun
        dice = random.Random(seed)
        self._ssrc, self._seq, self._at = dice.getrandbits(32), dice.getrandbits(16), dice.getrandbits(32)

    async def send(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for start in range(0, len(self._samples), PACKET):
            due = self._begun + (start + PACKET) / SAMPLE_RATE
            if due < began:
                continue
            if self._stalls[0] <= due - self._begun < self._stalls[1]:
                due = self._begun + self._stalls[1]
            await asyncio.sleep(max(0.0, due - loop.time()))
            number = start // PACKET
            packet = Packet(
                payload_type=96,
                sequence=(self._seq + number) % 2**16,
                timestamp=(self._at + start) % 2**32,
                ssrc=self._ssrc,
                marker=False,
                payload=self._samples[start : start + PACKET].astype(">i2").tobytes(),
            )
            self._track.push(packet)
        self._track.bye(self._ssrc)  # else the silence to the end of the call is a loss


async def move(
    seed: int,
    moves_s: float,
    overlap_s: float,
    latency_s: float,
    *,
    both_s: float = math.inf,
    stalls: tuple[float, float] = (0.0, 0.0),
) -> None:
    """``both_s``: so long the caller sends over both connections, which may end before the old server lets
    go of the call. ``stalls``: see `Connection`."""
    said, samples = conversation(seed)
    if both_s < overlap_s or stalls[1]:
        samples = np.concatenate([samples, silence(overlap_s + stalls[1])])  # they are there to the end
    loop = asyncio.get_running_loop()
    settings = CallSettings(outlives_peers=True)
    script = ConnectionScript(oracle=Oracle(latency_s=latency_s, hold_words=seed % 3))
    async with ScriptedUpstream(script) as stt:
        kept = Kept()
        old = Call("call", stt=stt, settings=settings, recorder=kept)
        begun = loop.time()
        first = asyncio.create_task(Connection(old, samples, begun, seed, stalls).send())
        await asyncio.wait({first}, timeout=moves_s)

        for track in old.tracks.values():
            track.leave()
        new = PreparedCall("call", stt=stt, settings=settings)
        came = asyncio.Event()
        new.on_received = came.set
        second = asyncio.create_task(Connection(new, samples, begun, seed + 1, stalls).send())
        listener = asyncio.create_task(collected(new))
        await asyncio.wait_for(came.wait(), 1.0)
        await asyncio.sleep(min(overlap_s, both_s))
        if both_s < overlap_s:
            first.cancel()
            await asyncio.sleep(overlap_s - both_s)
        assert not new.feed.history, "nothing is published before"
        for track in old.tracks.values():
            track.hand_over()
        what = kept.of(old)
        old.abandon()
        new.commit(restored(what))
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(1.5)
        await new.close()
        history = new.feed.history
        assert await listener == list(history)

    check(history, new)
    for text, event in zip(what["events"], history, strict=False):
        assert json.loads(text) == event.as_dict(), "what was published changed"
    assert not [event for event in history if isinstance(event, TranscriptGap)]
    assert transcript(history).split() == said.words
    assert history[-1].complete  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overlap_s", [2.5, 4.0, 9.0])
def test_a_call_that_moves_slowly_loses_no_word_either(seed: int, overlap_s: float) -> None:
    """The caller has closed the old connection before the old server has let go of the call."""
    run_virtual(move(seed, 1.0, overlap_s, 0.2, both_s=2.0))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stall_s", [0.6, 1.5, 3.0])
@pytest.mark.parametrize("moves_s", [-0.4, 0.05, 0.5, 1.5])
def test_a_caller_who_stalled_loses_no_word_when_their_call_moves(
    seed: int, stall_s: float, moves_s: float
) -> None:
    """What came late, all at once, is still being sent on by the old server: it is received here as well, or
    is not there at all."""
    begin, end = 1.0, 1.0 + stall_s
    run_virtual(move(seed, end + moves_s, 0.8, 0.2, stalls=(begin, end)))


async def collected(call: Call) -> list[AnyEvent]:
    return [event async for event in call.feed.subscribe()]


@given(
    seed=st.integers(0, 2**16),
    moves_s=st.floats(0.5, 4.0),
    overlap_s=st.floats(0.5, 1.5),
    latency_s=st.sampled_from([0.0, 0.2, 0.8]),
)
def test_a_call_moves_without_losing_a_word(
    seed: int, moves_s: float, overlap_s: float, latency_s: float
) -> None:
    run_virtual(move(seed, moves_s, overlap_s, latency_s))
