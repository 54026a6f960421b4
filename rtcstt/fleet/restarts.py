"""When a worker that ended is started again; a core, time is an argument."""

from __future__ import annotations

from rtcstt.limits import backoff

FIRST_S, LONGEST_S = 0.1, 10.0
STEADY_S = 30.0  # one that lived so long was no failure to start


class Restarts:
    """One worker's starts: at once after a long life, later and later while it keeps ending early."""

    def __init__(self) -> None:
        self._started = 0.0
        self._early = 0
        self.count = 0

    def started(self, now: float) -> None:
        self._started = now

    def ended(self, now: float) -> float:
        """In how many seconds to start it again."""
        self.count += 1
        if now - self._started >= STEADY_S:
            self._early = 0
            return FIRST_S
        self._early += 1
        return backoff(self._early, FIRST_S, LONGEST_S)
