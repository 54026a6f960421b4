"""What a server writes of its calls, behind them: in virtual time, with a store that takes its time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.call import Call
from rtcstt.events import AnyEvent, SttBehind
from rtcstt.feed import Feed
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.schedule import AUDIO_S, ROUND_S, Schedule
from rtcstt.fleet.state import StoreAway, Write, Written
from rtcstt.fleet.store import Store
from rtcstt.fleet.writer import Writer
from rtcstt.media.pcm import Chunk
from rtcstt.media.rtp import Codec, Packet
from rtcstt.testing import ScriptedUpstream, run_virtual, silence, speech, transcript

PACKET, L16 = 320, Codec("L16", 16000)  # 20 ms
ANSWER_S = 0.01  # of the store, to each write


class _Slow:
    """A store that keeps the operations of each write."""

    def __init__(self) -> None:
        self.writes: list[list[Write]] = []
        self.at: list[float] = []

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        self.writes.append(list(writes))
        self.at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(ANSWER_S)
        return [Written.OK for _ in writes]


@contextlib.asynccontextmanager
async def writing(store: _Slow, *calls: Call) -> AsyncIterator[Writer]:
    """A writer of these calls, who has written what they had at first."""
    writer = Writer(cast(Store, store), "a", SharedClock(), keeps_audio=True)
    for call in calls:
        writer.begin(call, dict)
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(1.0)
    store.writes.clear()
    store.at.clear()
    try:
        yield writer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_call_that_another_server_takes_is_not_ended_by_a_write_that_began_before() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, call = _Slow(), Call("c", stt=stt)
            async with writing(store, call) as writer:
                writer.lost = lambda _: call.abandon()
                call.publish(SttBehind(track="0", lag=1.0))  # a round begins
                await asyncio.sleep(ANSWER_S / 2)
                await writer.release("c")
                await asyncio.sleep(10 * ANSWER_S)
                assert store.writes and not writer.has("c")
            await call.wait_closed()
        assert not [one for round_ in store.writes for one in round_ if "closed" in one.operations]

    run_virtual(main())


class _GoesAway(_Slow):
    """A store that is away once it is asked to be."""

    is_away = False

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        written = await super().write(node, writes)
        if self.is_away:
            raise StoreAway("away")
        return written


def test_a_call_that_cannot_be_handed_over_is_received_here_as_before() -> None:
    said = "they go on speaking while redis is away and are received all the same"

    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, call = _GoesAway(), Call("c", stt=stt)
            async with writing(store, call) as writer:
                track, samples = call.add_track("0", {96: L16}), np.concatenate([speech(said), silence(1.5)])
                for number in range(len(samples) // PACKET):
                    if number == 100:
                        store.is_away = True
                        call.publish(SttBehind(track="0", lag=1.0))  # there is something to write
                        releasing = asyncio.create_task(writer.release("c"))
                    payload = samples[number * PACKET : (number + 1) * PACKET].astype(">i2").tobytes()
                    track.push(Packet(1, number, number * PACKET, 96, payload))
                    await asyncio.sleep(0.02)
                with pytest.raises(StoreAway):
                    await releasing
                assert writer.has("c")
            await call.close()
        assert transcript(call.feed.history) == said
        assert call.feed.history[-1].complete  # type: ignore[union-attr]

    run_virtual(main())


def test_work_is_by_what_changed_not_by_how_many_calls_there_are() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, calls = _Slow(), [Call(f"c{n}", stt=stt) for n in range(200)]
            looked_at = Counter[str]()
            async with writing(store, *calls):
                for call in calls:
                    call.feed.since = partial(_counted, looked_at, call)  # type: ignore[method-assign]
                for _ in range(50):  # a tenth of a second of words, on two calls
                    for call in calls[:2]:
                        call.publish(SttBehind(track="0", lag=1.0))
                    await asyncio.sleep(0.002)
                await asyncio.sleep(1.0)
        assert set(looked_at) == {"c0", "c1"}
        assert sum(looked_at.values()) <= 2 * len(store.writes)
        assert len(store.writes) <= 0.1 / ROUND_S + 2, "together, at a steady pace"
        for name in ("c0", "c1"):
            ids = [
                one.operations[i + 1]
                for each in store.writes
                for one in each
                if one.call == name
                for i, what in enumerate(one.operations)
                if what == "event"
            ]
            assert ids == list(range(2, 52))

    run_virtual(main())


def _counted(looked_at: Counter[str], call: Call, after: int, most: int) -> list[AnyEvent]:
    looked_at[call.id] += 1
    return Feed.since(call.feed, after, most)


def test_the_first_event_after_a_pause_is_written_at_once() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, call = _Slow(), Call("c", stt=stt)
            async with writing(store, call):
                said_at = asyncio.get_running_loop().time()
                call.publish(SttBehind(track="0", lag=1.0))
                await asyncio.sleep(1.0)
        assert store.at == [said_at]

    run_virtual(main())


def test_audio_waits_for_an_event_but_not_for_long() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, call = _Slow(), Call("c", stt=stt)
            async with writing(store, call) as writer:
                journal = writer.begin(call, dict)
                await asyncio.sleep(1.0)
                store.writes.clear()
                store.at.clear()
                began = asyncio.get_running_loop().time()
                journal.write("0", Chunk(np.zeros(1600, np.int16), 0))
                await asyncio.sleep(AUDIO_S / 2)
                call.publish(SttBehind(track="0", lag=1.0))
                await asyncio.sleep(1.0)
                journal.write("0", Chunk(np.zeros(1600, np.int16), 1600))
                await asyncio.sleep(1.0)
        waited = [at - began for at in store.at]
        assert waited == pytest.approx([AUDIO_S / 2, AUDIO_S / 2 + 1.0 + AUDIO_S])
        assert [
            [what for what in one.operations if what in ("event", "audio")] for (one,) in store.writes
        ] == [
            ["event", "audio"],
            ["audio"],
        ]

    run_virtual(main())


class _Refusing(_Slow):
    """Some call has what cannot even be sent."""

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        if any(one.call == "bad" for one in writes):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return await super().write(node, writes)


def test_a_call_that_cannot_be_written_keeps_no_other_from_it() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, calls = _Refusing(), [Call(name, stt=stt) for name in ("a", "bad", "b")]
            async with writing(store, *calls) as writer:
                for _ in range(3):
                    for call in calls:
                        call.publish(SttBehind(track="0", lag=1.0))
                    await asyncio.sleep(1.0)
                assert writer.failures == 1
        for name in ("a", "b"):
            assert sum(one.call == name for each in store.writes for one in each) == 3

    run_virtual(main())


class _Away(_Slow):
    """It is away, or full, for a while."""

    def __init__(self, *, full: str = "") -> None:
        super().__init__()
        self.is_away = False
        self.full = full

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        if self.is_away and not self.full:
            raise StoreAway("away")
        done = await super().write(node, writes)
        if not self.is_away:
            return done
        return [StoreAway("OOM") if one.call == self.full else Written.OK for one in writes]


@pytest.mark.parametrize("full", ["", "c1"])
def test_what_could_not_be_written_is_written_later_and_nothing_twice(full: str) -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store, calls = _Away(full=full), [Call(f"c{n}", stt=stt) for n in range(3)]
            async with writing(store, *calls) as writer:
                store.is_away = True
                for call in calls:
                    call.publish(SttBehind(track="0", lag=1.0))
                await asyncio.sleep(60.0)
                assert writer.is_away
                store.is_away = False
                store.writes.clear()
                await asyncio.sleep(1.0)
                assert not writer.is_away
        written = [one.call for each in store.writes for one in each]
        assert written == ([full] if full else ["c0", "c1", "c2"])

    run_virtual(main())


@given(
    changes=st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.0, 0.3)), min_size=1, max_size=40
    )
)
def test_every_change_is_written_in_time_and_rounds_keep_their_distance(
    changes: list[tuple[str, bool, float]],
) -> None:
    schedule, now, rounds = Schedule(), 0.0, list[float]()
    waiting: dict[str, float] = {}

    def until(end: float) -> float:
        while (at := schedule.due_at) <= end:
            taken = schedule.take(at)
            assert taken, "a round has something to write"
            rounds.append(at)
            for call in taken:
                latest = waiting.pop(call)
                assert at <= latest + ROUND_S + 1e-9
        return end

    for call, is_audio, pause in changes:
        (schedule.grew if is_audio else schedule.changed)(call, now)
        latest = now + (AUDIO_S if is_audio else 0.0)
        waiting[call] = min(waiting.get(call, latest), latest)
        now = until(now + pause)
    until(now + 1.0)
    assert not waiting and schedule.due_at == math.inf
    assert all(b - a >= ROUND_S - 1e-9 for a, b in itertools.pairwise(rounds))
