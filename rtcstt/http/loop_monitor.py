"""How long the event loop was held: while it is, no packet is received, nothing is sent, no timer runs."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left

from rtcstt.limits import TokenBucket

log = logging.getLogger(__name__)

PERIOD_S = 0.05
STALL_S = 0.1  # what comes later than that is a stall
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds, upper bounds
LOGGED_PER_S = 0.1
WARNED_S = 0.5  # what is shorter is for the logs of servers


class Stalls:
    """How often, and for how long. A core: ``late_s`` is by how much a timer came too late."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total_s = 0.0
        self._logged = TokenBucket(LOGGED_PER_S, 3)
        self._untold = 0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, late_s: float, now: float) -> str | None:
        """Count it where it is a stall; what to log of it, where that is not too often."""
        if late_s < STALL_S:
            return None
        self.counts[bisect_left(BUCKETS, late_s)] += 1
        self.total_s += late_s
        if not self._logged.take(now):
            self._untold += 1
            return None
        others, self._untold = self._untold, 0
        more = f" (and {others} times before)" if others else ""
        return f"the event loop was held for {late_s * 1000:.0f} ms{more}"


async def watch(stalls: Stalls) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        now = loop.time()
        text = stalls.observe(now - due, now)
        if text is not None:
            log.log(logging.WARNING if now - due >= WARNED_S else logging.INFO, text)
