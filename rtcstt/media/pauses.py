"""Whether a source paused or stalled, where its packets tell neither; a core."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rtcstt.media.playout import Frame, Gap

BURST_S = 0.01  # between two packets that a stall had held up
WAIT_S = 0.03  # longer than a packet: then the next one was not held up


class Pauses:
    """Of the first frame after ``least_s`` or more without any, it is known only with the next packet: after
    a stall all that was held up comes at once, after a pause one packet at a time."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._first: Frame | None = None

    def are_unlikely(self, item: Frame | Gap, last_arrival: float) -> bool:
        """Whether it came soon enough after the one before, and none waits: nothing is to be sorted."""
        return self._first is None and item.arrival - last_arrival <= self._least_s

    def sort(self, item: Frame | Gap, last_arrival: float) -> Iterator[tuple[Frame | Gap, bool]]:
        """What can be taken, in order, and whether there was a pause before it. ``last_arrival``: of the one
        before ``item``; minus infinity where it is the first of all."""
        first, self._first = self._first, None
        if first is not None:
            yield first, item.arrival - first.arrival > BURST_S
        elif isinstance(item, Frame) and not item.lost:
            if self._least_s < item.arrival - last_arrival < math.inf:
                self._first = item
                return
        yield item, False

    def overdue(self, now: float) -> Frame | None:
        """The first frame after a pause, where nothing has followed it."""
        if self._first is None or now - self._first.arrival <= WAIT_S:
            return None
        first, self._first = self._first, None
        return first
