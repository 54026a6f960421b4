"""What of a track's clock has no audio although some was sent: lost on the way, not understood, or too much.

A core: positions are samples of the track's clock. Packets lost in a row of no more than `LOST_S` are
concealed, and only counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rtcstt.media.clock import AudioClock
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.media.playout import LOST_S, Frame
from rtcstt.media.rtp import PACKET_S
from rtcstt.media.signals import Lost

MAIN = "main"  # whose, of what the track's main source sends
APART = round(0.2 * SAMPLE_RATE)  # between what is not understood, until it is said as two stretches
OVER = SAMPLE_RATE  # after so long without more of it a stretch is over
SAID_AT = 10 * SAMPLE_RATE  # one that grows is said in parts of this length
LEAST = round(LOST_S * SAMPLE_RATE)


@dataclass(slots=True)
class _Stretch:
    start: int
    end: int
    reason: str
    least: int

    def takes(self, start: int, reason: str) -> bool:
        return reason == self.reason and start <= self.end + APART


class Unread:
    """Audio that came and is not understood, or for which there was no room: as few and long stretches as
    their news allows."""

    def __init__(self) -> None:
        self._open: dict[str, _Stretch] = {}
        self._due: list[Lost] = []

    def note(self, whose: str, start: int, end: int, reason: str = "network", *, least: int = LEAST) -> None:
        """``whose``: stretches of several sources are told apart. One of no more than ``least`` samples is
        not told."""
        stretch = self._open.get(whose)
        if stretch is None or not stretch.takes(start, reason):
            self.over(whose)
            self._open[whose] = _Stretch(start, end, reason, least)
            return
        stretch.end = max(end, stretch.end + end - start)
        stretch.least = min(stretch.least, least)

    def extend(self, whose: str, end: int) -> None:
        """Theirs goes on to ``end``, though no more of it came."""
        if (stretch := self._open.get(whose)) is not None:
            stretch.end = max(stretch.end, end)

    def grows(self, whose: str) -> bool:
        """Whether a stretch of theirs is not over."""
        return whose in self._open

    def over(self, whose: str) -> None:
        """Audio of theirs is understood again."""
        stretch = self._open.pop(whose, None)
        if stretch is not None and stretch.end - stretch.start > stretch.least:
            self._due.append(Lost(stretch.start, stretch.end, stretch.reason))

    def due(self, position: int, *, everything: bool = False) -> list[Lost]:
        """What is to be said when the clock has come to ``position``; each once."""
        if not self._open and not self._due:
            return []
        for whose, stretch in list(self._open.items()):
            if everything or position - stretch.end > OVER:
                self.over(whose)
            elif stretch.end - stretch.start >= SAID_AT:
                self._due.append(Lost(stretch.start, stretch.end, stretch.reason))
                stretch.start, stretch.least = stretch.end, 0
        due, self._due = self._due, []
        return due


class NotTaken:
    """Packets that are not taken, by their arrival. Where nothing else comes, the track's ``clock`` begins
    with them."""

    def __init__(self, clock: AudioClock, unread: Unread) -> None:
        self._clock = clock
        self._unread = unread
        self._since = self._last = -math.inf  # before the clock has begun: when they came

    def note(
        self, now: float, whose: str = MAIN, since: float | None = None, *, reason: str = "network"
    ) -> None:
        """A packet that came ``now`` is not taken, or those are that came ``since`` then."""
        if self._clock.origin is None:
            if now - self._last > OVER / SAMPLE_RATE:
                self._since = now - PACKET_S
            self._last = now
            if now - self._since <= LOST_S:
                return
            self._clock.begin(self._since)
            since = self._since
        if since is not None and self._unread.grows(whose):
            self._unread.extend(whose, self.place(now))
            return
        start = self.place(now - PACKET_S if since is None else since)
        self._unread.note(whose, start, self.place(now), reason)

    def place(self, at: float) -> int:
        """Where on the clock audio lies whose last sample was spoken then; 0 before the clock has begun."""
        if self._clock.origin is None:
            return 0
        return max(0, round((at - self._clock.origin + self._clock.lag_s) * SAMPLE_RATE))


class Losses:
    """Those of a track's main source; ``unread`` has what others sent as well."""

    def __init__(self) -> None:
        self.unread = Unread()
        self.end = 0
        "Where the last audio that came ends."
        self.hole_is_loss = False
        "Whatever is before the next audio was not received."
        self._run = 0  # where the audio began that has come without a hole
        self._late = 0  # by how much its end is behind its time
        self._due: list[Lost] = []

    @property
    def missing_from(self) -> int:
        """Where what did not come after the last audio begins. Where silence had gone out in the place of
        that audio, its end was due before it, and that silence stands for what is lost too."""
        due = self.end - self._late
        return due if due < self._run else self.end

    def go_on_from(self, end: int) -> None:
        """Another source is the main one now, whose last audio ends there."""
        self.end, self._late = end, 0

    def received(self, frame: Frame, count: int, end: int, ahead_s: float) -> None:
        """The last ``count`` samples up to ``end`` are those of a frame; ``ahead_s``: of its time."""
        start = end - count
        if self.unread.grows(MAIN):
            if frame.lost:
                self.unread.extend(MAIN, start)
            self.unread.over(MAIN)
        elif frame.lost or frame.follows_doubt or self.hole_is_loss:
            self._note_hole(frame, start)
        self.hole_is_loss = False
        self._note_end(count, end, ahead_s)

    def received_pcm(self, count: int, end: int) -> None:
        """The last ``count`` samples up to ``end`` came without packets."""
        self.unread.over(MAIN)
        if self.hole_is_loss and self.end:
            self._lose(self.missing_from, end - count)
        self.hole_is_loss = False
        self._note_end(count, end, 0.0)

    def unreadable(self, frame: Frame, count: int, at: int, end: int, ahead_s: float) -> None:
        """A frame that stands for ``count`` samples from ``at`` on cannot be decoded; what is in its place
        ends at ``end``."""
        self.unread.note(MAIN, at - frame.lost * count, at + count)
        self._note_end(count, end, ahead_s)

    def note_lost_end(self, last_received: int, end: int) -> None:
        """All that came after the sample ``last_received`` is lost."""
        self._lose(max(self.missing_from, last_received), end)

    def due(self, position: int, *, everything: bool = False) -> list[Lost]:
        """What is to be said now; each once."""
        due, self._due = self._due, []
        return due + self.unread.due(position, everything=everything)

    def _note_hole(self, frame: Frame, start: int) -> None:
        lost_s = frame.lost * frame.codec.duration(frame.payload) / frame.codec.clock_rate
        if self.end and (lost_s > LOST_S or frame.follows_doubt or self.hole_is_loss):
            self._lose(self.missing_from, start)

    def _note_end(self, count: int, end: int, ahead_s: float) -> None:
        if end - count > self.end:
            self._run = end - count
        self.end, self._late = end, max(0, round(ahead_s * SAMPLE_RATE))

    def _lose(self, start: int, end: int) -> None:
        if end - start > LEAST:
            self._due.append(Lost(start, end, "network"))
