"""Where a new call goes: to the least busy that takes calls; a core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What one process holds: ``calls`` of ``capacity``, and STT ``streams`` of ``stream_capacity``.

    ``ready``: it answers requests. ``draining``: it takes no new calls. A capacity of 0 takes nothing.
    """

    calls: int = 0
    capacity: int = 0
    streams: int = 0
    stream_capacity: int = 0
    ready: bool = True
    draining: bool = False

    def busy(self, kind: str) -> float:
        """The share of the capacity that is taken, for a new ``kind`` ("call" or "stream"); 1 when none is
        free."""
        held, most = (self.calls, self.capacity) if kind == "call" else (self.streams, self.stream_capacity)
        if not self.ready or self.draining or held >= most:
            return 1.0
        return held / most


def ranked(loads: Iterable[tuple[str, Load]], *, own: str, kind: str = "call") -> list[str]:
    """The names of those that have room, least busy first; of equals ``own`` first, since it costs no hop."""
    free = [(load.busy(kind), name != own, name) for name, load in loads]
    return [name for busy, _, name in sorted(free) if busy < 1]
