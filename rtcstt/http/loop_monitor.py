"""How long the event loop was held: while it is, no packet is received, nothing is sent, no timer runs."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from pathlib import Path

from rtcstt.limits import TokenBucket

log = logging.getLogger(__name__)

PERIOD_S = 0.05
STALL_S = 0.1  # what comes later than that is a stall
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds, upper bounds
LOGGED_PER_S = 0.1
WARNED_S = 0.5  # what is shorter is for the logs of servers
# Linux: nanoseconds that the thread ran, and that it waited for a processor; and how often it ran.
SCHEDULING = Path("/proc/thread-self/schedstat")


class Histogram:
    """How often, and for how long in all. ``counts`` are by `BUCKETS`, each for itself."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total_s = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total_s += seconds


class Stalls:
    """A core: ``held`` has all stalls, ``worked`` those that are as long without the time for which the
    system gave the event loop no processor, since others on the machine had them."""

    def __init__(self) -> None:
        self.held, self.worked = Histogram(), Histogram()
        self._logged = TokenBucket(LOGGED_PER_S, 3)
        self._untold = 0

    def observe(self, late_s: float, now: float, waited_s: float = 0.0) -> str | None:
        """A timer came so much too late, ``waited_s`` of it for a processor. Count it where it is a stall;
        what to log of it, where that is not too often."""
        if late_s < STALL_S:
            return None
        self.held.observe(late_s)
        if late_s - waited_s >= STALL_S:
            self.worked.observe(late_s - waited_s)
        if not self._logged.take(now):
            self._untold += 1
            return None
        others, self._untold = self._untold, 0
        why = f", {waited_s * 1000:.0f} ms of them without a processor" if waited_s >= 0.001 else ""
        more = f" (and {others} times before)" if others else ""
        return f"the event loop was held for {late_s * 1000:.0f} ms{why}{more}"


def waited_s(scheduling: Path = SCHEDULING) -> float:
    """For how long this thread has waited for a processor so far, in seconds; 0 where nobody tells."""
    try:
        return int(scheduling.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


async def watch(stalls: Stalls) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due, waited_before = loop.time() + PERIOD_S, waited_s()
        await asyncio.sleep(PERIOD_S)
        now = loop.time()
        if now - due >= STALL_S:
            text = stalls.observe(now - due, now, min(now - due, waited_s() - waited_before))
            if text is not None:
                log.log(logging.WARNING if now - due >= WARNED_S else logging.INFO, text)
