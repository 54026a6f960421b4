"""Whether a source paused or stalled, where its packets tell neither; a core."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rtcstt.media.playout import Frame, Gap

BURST, BURST_S = 5, 0.03  # so many packets come in that time only where a stall had held them up
WAIT_S = 0.035  # for these


class Pauses:
    """Of the first frame after ``least_s`` or more without any, it is known only with the next packets: after
    a stall all that was held up comes at once, after a pause one packet at a time."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._held: list[Frame | Gap] = []

    def are_unlikely(self, item: Frame | Gap, last_arrival: float) -> bool:
        """Whether it came soon enough after the one before, and none waits: nothing is to be sorted."""
        return not self._held and item.arrival - last_arrival <= self._least_s

    def sort(self, item: Frame | Gap, last_arrival: float) -> Iterator[tuple[Frame | Gap, bool]]:
        """What can be taken, in order, and whether there was a pause before it. ``last_arrival``: of the one
        before ``item``; minus infinity where it is the first of all."""
        if self._held:
            self._held.append(item)
            passed_s = item.arrival - self._held[0].arrival
            if passed_s > BURST_S or len(self._held) == BURST:
                yield from self._take(is_pause=passed_s > BURST_S)
            return
        passed_s = item.arrival - last_arrival
        if isinstance(item, Frame) and not item.lost and self._least_s < passed_s < math.inf:
            self._held.append(item)
        else:
            yield item, False

    def overdue(self, now: float) -> Iterator[tuple[Frame | Gap, bool]]:
        """Those that wait, where too few have followed in time."""
        if self._held and now - self._held[0].arrival > WAIT_S:
            yield from self._take(is_pause=True)

    def _take(self, *, is_pause: bool) -> Iterator[tuple[Frame | Gap, bool]]:
        held, self._held = self._held, []
        for number, item in enumerate(held):
            yield item, is_pause and not number
