"""A call's events: one numbered history, any number of listeners, each at its own pace.

There are no queues. A listener is a place in the shared history: who reads slowly falls behind, and
who comes late begins at the beginning. What was there before he came he gets whole. Of what was
published since, when he is behind by more than `PATIENCE` events, he is spared the `turn.update`s
that a later one of the same turn made needless; every other event reaches every listener.

The history is bounded by the same rule: beyond `MAX_EVENTS` the needless updates are dropped from
it. Numbers (``seq``) are given without holes; who is spared an update sees its number skipped.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_EVENTS = 20_000
PATIENCE = 32
BATCH = 256  # events of the past that are looked up at once


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a call, as every listener gets it.

    ``fields`` are the STT message's own, untouched, or those of rtcstt's own events. Times are
    seconds on the call's audio clock: ``time`` that of the event, ``start`` and ``end`` those of the
    speech. ``turn`` counts the turns of its track from 0.
    """

    type: str
    seq: int
    call: str
    time: float
    track: str | None = None
    turn: int | None = None
    start: float | None = None
    end: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def transcript(self) -> str | None:
        """The text, verbatim: of `turn.*` the turn's so far, of `transcript` that since the last final."""
        text = self.fields.get("text" if self.type == "transcript" else "transcript")
        return text if isinstance(text, str) else None

    @property
    def ends_turn(self) -> bool:
        """Whether the text is definitive, in either mode."""
        return self.type == "turn.end" or (self.type == "transcript" and self.fields.get("is_final") is True)

    def as_dict(self) -> dict[str, Any]:
        """The object that goes to listeners."""
        ours: dict[str, Any] = {"type": self.type, "call": self.call, "seq": self.seq}
        ours |= {"time": round(self.time, 3)}
        optional = {"track": self.track, "turn": self.turn, "start": self.start, "end": self.end}
        for name, value in optional.items():
            if value is not None:
                ours[name] = round(value, 3) if isinstance(value, float) else value
        return {**ours, **self.fields, **ours}  # ours come first, and win

    def to_json(self) -> str:
        whole = self.as_dict()
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        if _is_unicode(text):
            return text
        return json.dumps(whole, separators=(",", ":"))  # half a surrogate pair, which UTF-8 cannot carry


class Feed:
    """The history of one call. `publish` never waits; `close` ends subscriptions after the last event."""

    def __init__(self, call: str, *, max_events: int = MAX_EVENTS) -> None:
        self._call = call
        self._max_events = max_events
        self._history: list[Event] = []
        self._next = 0
        self._closed = False
        self._news: set[asyncio.Event] = set()
        self.dropped = 0  # updates taken out of the history
        self.coalesced = 0  # updates that slow listeners were spared

    @property
    def history(self) -> tuple[Event, ...]:
        return tuple(self._history)

    @property
    def published(self) -> int:
        """How many events there were."""
        return self._next

    @property
    def listeners(self) -> int:
        return len(self._news)

    def publish(
        self,
        type_: str,
        *,
        time: float,
        track: str | None = None,
        turn: int | None = None,
        start: float | None = None,
        end: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Event:
        """Number an event and make it known. Nothing may be published after `close`."""
        assert not self._closed, "an event after the last one"
        event = Event(type_, self._next, self._call, time, track, turn, start, end, fields or {})
        self._next += 1
        self._history.append(event)
        if len(self._history) > self._max_events:
            self._thin()
        self._wake()
        return event

    def close(self) -> None:
        self._closed = True
        self._wake()

    async def subscribe(self, *, after: int = -1) -> AsyncIterator[Event]:
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

    def _due(self, after: int, joined: int) -> list[Event]:
        """What a listener at ``after`` gets next: the past as it is; what came since he ``joined``, when he
        is far behind, without needless updates."""
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


def _seq(event: Event) -> int:
    return event.seq


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_superseded(events: list[Event]) -> list[Event]:
    """The events but for each `turn.update` after which the same turn says more."""
    said: set[tuple[str | None, int | None]] = set()
    kept = []
    for event in reversed(events):
        turn = (event.track, event.turn)
        if event.type == "turn.update" and turn in said:
            continue
        if event.type in ("turn.update", "turn.eager_end", "turn.end"):
            said.add(turn)
        kept.append(event)
    return kept[::-1]
