"""Whether this process stood still, so that what came meanwhile has yet to be read; a core."""

from __future__ import annotations

import math

LEAST_S = 0.1  # a timer that is so late tells it
LONGEST_S = 1.0


class Stall:
    """Packets that came while the process stood still are read for as long as that took, and no longer."""

    def __init__(self) -> None:
        self._until = -math.inf

    def note(self, due: float, now: float) -> None:
        """A timer that was ``due`` then has called ``now``."""
        if now - due > LEAST_S:
            self._until = now + min(now - due, LONGEST_S)

    def lasts(self, now: float) -> bool:
        return now < self._until
