"""Bytes of a recording that became no packet, by where its packets are; a core.

A demuxer that meets damage looks for something that it knows and goes on there, without a word. What it left
out lies between two packets, beside what always does: headers, padding, packets of others.
"""

from __future__ import annotations

USUAL_S = 0.5  # of the recording, to know how many bytes it has in a second
LEAST_TIMES = 4.0  # so many times as much as usually lies between two packets


class Skipped:
    """`take` every packet. Packets with the same place follow each other there (a page of Ogg)."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._begin = self._end = 0  # of what was taken last
        self._count = 0
        self._between = 0  # bytes, in all; without those that were left out
        self._left_out = 0

    def take(self, place: int | None, size: int, position: float) -> float:
        """The seconds left out before a packet at this ``place``, if they are like the others, which last for
        ``position`` seconds."""
        if place is None or place < 0 or not size:
            return 0.0
        if self._first is None:
            self._first = self._begin = self._end = place
        if place == self._begin:
            self._end += size
            return 0.0
        between, used = place - self._end, self._end - self._first - self._left_out
        self._begin, self._end = place, max(self._end, place + size)
        self._count += 1
        if position > USUAL_S and between > LEAST_TIMES * self._between / self._count:
            self._left_out += between
            return between * position / used
        self._between += max(0, between)
        return 0.0

    def rest(self, size: int, position: float) -> float:
        """The same behind the last packet, of a file of this ``size``."""
        used = self._end - (self._first or 0) - self._left_out
        return max(0, size - self._end) * position / used if used > 0 else 0.0
