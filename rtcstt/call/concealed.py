"""How much of what a turn says was made up where packets were lost. A core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from rtcstt.events import AnyEvent, TurnEnd
from rtcstt.media.pcm import SAMPLE_RATE

MAX_MARKS = 1000  # chunks with concealed audio that are remembered: of the last minutes at least


class Concealed:
    """Where a track's audio was made up by packet loss concealment, by the count of its ledger."""

    def __init__(self) -> None:
        self._total = 0
        self._before = 0
        self._marks: deque[tuple[int, int, int]] = deque(maxlen=MAX_MARKS)
        "From, to, and how many samples between are made up."

    def note(self, position: int, total: int) -> None:
        """``total`` samples were made up before ``position``."""
        if total > self._total:
            self._marks.append((self._before, position, total - self._total))
        self._before, self._total = position, total

    def told(self, event: AnyEvent, begin_s: Callable[[], float]) -> AnyEvent:
        """A turn's end with how much of it was made up. ``begin_s``: of the track, on the call's clock."""
        if isinstance(event, TurnEnd):
            begin = begin_s()
            start, end = (round((at - begin) * SAMPLE_RATE) for at in (event.start, event.end))
            if count := self.between(start, end):
                return replace(event, concealed=count / 16)
        return event

    def between(self, start: int, end: int) -> int:
        """How many samples, to the chunk."""
        return sum(count for begin, until, count in self._marks if begin < end and start < until)
