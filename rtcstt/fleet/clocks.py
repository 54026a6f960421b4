"""This process's time and Redis' time; a core.

Servers' clocks differ, and every process's monotonic clock begins somewhere else; so what one server tells
another is in Redis' time.
"""

from __future__ import annotations

JUMP_S = 0.25  # less is how long the answer took


class SharedClock:
    """Learned from heartbeats: ``shared_ms`` was told between ``before`` and ``after``, in s of the loop."""

    def __init__(self) -> None:
        self._difference: float | None = None

    def learn(self, shared_ms: int, before: float, after: float) -> None:
        difference = shared_ms / 1000 - (before + after) / 2
        if self._difference is None or abs(difference - self._difference) > JUMP_S + (after - before):
            self._difference = difference

    @property
    def is_known(self) -> bool:
        return self._difference is not None

    def to_shared(self, loop_s: float) -> float:
        """In s of Redis' time."""
        return loop_s + (self._difference or 0.0)

    def to_loop(self, shared_s: float) -> float:
        return shared_s - (self._difference or 0.0)
