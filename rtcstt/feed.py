"""A call's events: one numbered history, any number of listeners, each at its own pace.

There are no queues. A listener is a place in the shared history: who reads slowly falls behind, and late
subscribers get the full history first. What was published before they came they get whole. Of what was
published since, when they are behind by more than `PATIENCE` events, they are spared the `turn.update`s
that a later one of the same turn made needless; every other event reaches every listener.

The history is bounded by the same rule: beyond `MAX_EVENTS` the needless updates are dropped from
it. Numbers (``seq``) are given without holes; who is spared an update sees its number skipped.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeVar

from rtcstt.events import AnyEvent, TurnEagerEnd, TurnEnd, TurnUpdate

MAX_EVENTS = 20_000
PATIENCE = 32
BATCH = 256  # events of the past that are looked up at once

E = TypeVar("E", bound=AnyEvent)


class Feed:
    """The history of one call. `publish` never waits; `close` ends subscriptions after the last event."""

    def __init__(self, call: str, *, max_events: int = MAX_EVENTS) -> None:
        self._call = call
        self._max_events = max_events
        self._history: list[AnyEvent] = []
        self._next = 0
        self._closed = False
        self._news: set[asyncio.Event] = set()
        self.on_published: Callable[[], None] = lambda: None
        self.dropped = 0  # updates taken out of the history
        self.coalesced = 0  # updates that slow listeners were spared

    @property
    def history(self) -> tuple[AnyEvent, ...]:
        return tuple(self._history)

    @property
    def published(self) -> int:
        """How many events there were."""
        return self._next

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def listeners(self) -> int:
        return len(self._news)

    def publish(self, event: E, *, time: float) -> E:
        """Number an event and make it known. Nothing may be published after `close`."""
        assert not self._closed, "an event after the last one"
        numbered = replace(event, call=self._call, seq=self._next, time=time)
        self._append(numbered)
        return numbered

    def restore(self, event: AnyEvent) -> None:
        """One that was numbered elsewhere: the next, or a later one where needless ones are gone."""
        assert not self._closed and event.seq >= self._next, "events come in order"
        self._append(event)

    def since(self, after: int, most: int | None = None) -> list[AnyEvent]:
        """At most so many events with a number above ``after``, oldest first; None: all."""
        begin = bisect_right(self._history, after, key=_seq)
        return self._history[begin:] if most is None else self._history[begin : begin + most]

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _append(self, event: AnyEvent) -> None:
        self._next = event.seq + 1
        self._history.append(event)
        if len(self._history) > self._max_events:
            self._thin()
        self._wake()

    async def subscribe(self, *, after: int = -1) -> AsyncIterator[AnyEvent]:
        """Events with a number above ``after``, first those that were, then those to come.

        ``after`` comes from outside and may be any number: one beyond the newest event counts as that of
        the newest, so that nothing of the past is sent, and everything to come.
        """
        news = asyncio.Event()
        self._news.add(news)
        joined = self._next
        after = max(-1, min(after, joined - 1))
        try:
            while not self._closed or self._behind(after):
                news.clear()
                planned = self._next
                for event in self._due(after, joined):
                    if event.seq > after + 1:
                        self.coalesced += self._between(after, event.seq)
                    after = event.seq
                    yield event
                    if self._next - planned > PATIENCE:
                        break  # it took long: look again at what is needless by now
                if not self._behind(after) and not self._closed:
                    await news.wait()
        finally:
            self._news.discard(news)

    def _behind(self, after: int) -> int:
        return self._next - 1 - after

    def _due(self, after: int, joined: int) -> list[AnyEvent]:
        """What a listener at ``after`` gets next: the past as it is; what came since they ``joined``, when
        they are far behind, without needless updates."""
        begin = bisect_right(self._history, after, key=_seq)
        past = bisect_left(self._history, joined, key=_seq)
        if begin < past:
            return self._history[begin : min(past, begin + BATCH)]
        due = self._history[begin:]
        if len(due) <= PATIENCE:
            return due
        return _without_superseded(due)

    def _between(self, after: int, before: int) -> int:
        """How many events of the history lie between two numbers."""
        return bisect_left(self._history, before, key=_seq) - bisect_right(self._history, after, key=_seq)

    def _thin(self) -> None:
        kept = _without_superseded(self._history)
        self.dropped += len(self._history) - len(kept)
        self._history = kept
        self._max_events = max(self._max_events, len(kept) + len(kept) // 2)

    def _wake(self) -> None:
        for news in self._news:
            news.set()
        self.on_published()


def _seq(event: AnyEvent) -> int:
    return event.seq


def _without_superseded(events: list[AnyEvent]) -> list[AnyEvent]:
    """The events but for each `turn.update` after which the same turn says more."""
    said: set[tuple[str, int]] = set()
    kept = []
    for event in reversed(events):
        if isinstance(event, TurnUpdate | TurnEagerEnd | TurnEnd):
            turn = (event.track, event.turn)
            if turn in said and isinstance(event, TurnUpdate):
                continue
            said.add(turn)
        kept.append(event)
    return kept[::-1]
