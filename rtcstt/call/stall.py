"""Whether this process stood still, so that what came meanwhile has yet to be read; a core."""

from __future__ import annotations

import math

LEAST_S = 0.1  # a timer that is so late tells it
LONGEST_S = 1.0


class Stall:
    """Packets that came while the process stood still are read for as long as that took, and no longer. Where
    it stands still again and again it is too slow, and what does not come is waited for no longer."""

    def __init__(self) -> None:
        self._until = -math.inf
        self._last = -math.inf  # when it was told last
        self._most = -math.inf  # until when at most, where it is told again and again

    def note(self, due: float, now: float) -> None:
        """A timer that was ``due`` then has called ``now``."""
        if now - due > LEAST_S:
            if due - self._last > LONGEST_S:
                self._most = now + LONGEST_S
            self._last = now
            self._until = min(now + now - due, self._most)

    def lasts(self, now: float) -> bool:
        return now < self._until
