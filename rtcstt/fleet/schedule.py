"""Which calls are to be written, and when; a core: times are arguments, in s.

Nothing is looked at that did not change. Rounds come at a steady pace, so that however much happens, what
changed in the meantime goes out together; after a quiet moment the first change is written at once. Audio
alone waits a little for an event to go with it.
"""

from __future__ import annotations

import math

ROUND_S = 0.02  # from the beginning of a round to that of the next, at least
AUDIO_S = 0.2  # so long audio waits for an event to be written with


class Schedule:
    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._soonest = math.inf
        self._next_round = -math.inf

    def changed(self, call: str, now: float) -> None:
        """It is to be written in the next round."""
        self._put(call, now)

    def grew(self, call: str, now: float) -> None:
        """It has more audio."""
        self._put(call, now + AUDIO_S)

    def forget(self, call: str) -> None:
        self._due.pop(call, None)

    @property
    def due_at(self) -> float:
        """When the next round is to begin; infinite while nothing changes."""
        return max(self._soonest, self._next_round)

    def take(self, now: float) -> list[str]:
        """The calls of the round that begins now: those that are due."""
        due = [call for call, at in self._due.items() if at <= now]
        for call in due:
            del self._due[call]
        self._soonest = min(self._due.values(), default=math.inf)
        self._next_round = now + ROUND_S
        return due

    def _put(self, call: str, at: float) -> None:
        if at < self._due.get(call, math.inf):
            self._due[call] = at
            self._soonest = min(self._soonest, at)
