"""The feed: one numbered history, listeners at any pace."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rtcstt.events import AnyEvent, Transcript, TurnEnd, from_dict
from rtcstt.feed import PATIENCE, Feed
from rtcstt.testing import run_virtual


def said(feed: Feed, type_: str, turn: int | None = None, **fields: object) -> AnyEvent:
    place = {} if turn is None else {"turn": turn, "start": 0.0, "end": 1.0}
    return feed.publish(from_dict({"type": type_, "track": "0", **place, **fields}), time=1.0)


def say_end(feed: Feed) -> None:
    end = {"reason": "", "tracks": [], "ledger": {}, "complete": True, "missing": []}
    feed.publish(from_dict({"type": "session.end", **end}), time=1.0)


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """A coroutine that spins without an await cannot be cancelled: a signal ends the test instead."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"the event loop was held for {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def received(feed: Feed, *, after: int = -1, pause_s: float = 0.0) -> list[AnyEvent]:
    events = []
    async for event in feed.subscribe(after=after):
        events.append(event)
        if pause_s:
            await asyncio.sleep(pause_s)
    return events


def test_an_event_carries_the_stts_fields_untouched_and_ours_on_top() -> None:
    event = TurnEnd(
        call="c",
        seq=3,
        time=1.23456,
        track="0",
        turn=2,
        start=0.5,
        end=1.25,
        transcript=" Hé\n",
        request_id="r",
        extra={"new": [1], "seq": "theirs"},
    )
    sent = json.loads(event.to_json())
    assert sent == {
        "type": "turn.end",
        "call": "c",
        "seq": 3,
        "time": 1.235,
        "track": "0",
        "turn": 2,
        "start": 0.5,
        "end": 1.25,
        "transcript": " Hé\n",
        "request_id": "r",
        "new": [1],
    }
    assert event.transcript == " Hé\n"


def test_a_transcript_event_has_its_text_as_transcript() -> None:
    assert Transcript(track="0", turn=0, start=0, end=1, text="a", is_final=True).transcript == "a"


def test_late_and_early_listeners_get_the_same_events() -> None:
    async def main() -> None:
        feed = Feed("c")
        early = asyncio.create_task(received(feed))
        await asyncio.sleep(0)
        for index in range(3):
            said(feed, "turn.end", index, transcript="x")
        await asyncio.sleep(0.1)
        late = asyncio.create_task(received(feed))
        from_two = asyncio.create_task(received(feed, after=1))
        say_end(feed)
        feed.close()
        assert [event.seq for event in await early] == [0, 1, 2, 3]
        assert await late == await early
        assert [event.seq for event in await from_two] == [2, 3]
        assert await received(feed, after=3) == []
        assert feed.listeners == 0

    run_virtual(main())


def test_who_comes_late_gets_the_whole_past_and_quickly() -> None:
    async def main() -> None:
        feed = Feed("c")
        for index in range(5000):
            said(feed, "turn.update", index // 100, transcript="x" * (index % 100))
        looked_at = 0

        class Counting(list[AnyEvent]):
            def __getitem__(self, key: Any) -> Any:
                nonlocal looked_at
                found = super().__getitem__(key)
                looked_at += len(found) if isinstance(key, slice) else 1
                return found

        feed._history = Counting(feed._history)
        feed.close()
        assert [event.seq for event in await received(feed)] == list(range(5000))
        assert looked_at < 10_000, "the history must not be gone through for each event"
        assert feed.coalesced == 0

    run_virtual(main())


def test_text_that_utf8_cannot_carry_is_escaped() -> None:
    event = TurnEnd(track="0", turn=0, start=0, end=1, transcript="a\ud800b")
    assert json.loads(event.to_json().encode())["transcript"] == "a\ud800b"


def test_a_listener_that_stops_listening_leaves_nothing_behind() -> None:
    async def main() -> None:
        feed = Feed("c")
        listening = asyncio.create_task(received(feed))
        await asyncio.sleep(0)
        assert feed.listeners == 1
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert feed.listeners == 0

    run_virtual(main())


STEPS = st.lists(st.sampled_from(["turn.update"] * 6 + ["turn.end", "audio.stalled"]), max_size=300)


def published(feed: Feed, steps: list[str]) -> Iterator[AnyEvent]:
    turn = 0
    for index, step in enumerate(steps):
        yield said(feed, step, turn if step.startswith("turn") else None, transcript="x" * index)
        turn += step == "turn.end"


@given(STEPS, st.integers(0, 40))
def test_a_slow_listener_misses_only_updates_that_a_later_one_made_needless(
    steps: list[str], per_second: int
) -> None:
    async def main() -> None:
        feed = Feed("c")
        slow = asyncio.create_task(received(feed, pause_s=0.1))
        await asyncio.sleep(0)  # they listen from the beginning
        sent = []
        for number, event in enumerate(published(feed, steps), 1):
            sent.append(event)
            if per_second and number % per_second == 0:
                await asyncio.sleep(1.0)
        feed.close()
        got = await slow
        assert [event.seq for event in got] == sorted({event.seq for event in got})
        missed = [event for event in sent if event not in got]
        for event in missed:
            assert event.type == "turn.update"
            later = [e.as_dict() for e in got if e.seq > event.seq]
            assert any(e.get("turn") == event.turn and e.get("transcript") for e in later)
        assert len(missed) == feed.coalesced
        if len(sent) <= PATIENCE:
            assert not missed

    run_virtual(main())


@given(STEPS)
def test_the_history_is_bounded_by_dropping_needless_updates_only(steps: list[str]) -> None:
    feed = Feed("c", max_events=20)
    sent = list(published(feed, steps))
    kept = feed.history
    assert [event for event in sent if event.type != "turn.update"] == [
        event for event in kept if event.type != "turn.update"
    ]
    assert len(kept) + feed.dropped == len(sent)
    if sent:
        assert kept[-1] == sent[-1]


def test_a_long_turn_does_not_fill_the_history() -> None:
    feed = Feed("c", max_events=50)
    for index in range(1000):
        said(feed, "turn.update", 0, transcript="x" * index)
    assert len(feed.history) <= 51
