"""Who has a call, and what a node does about it; a core: Redis' time is an argument, in ms.

Of a call that somebody asks for (an offer with its id, or a sweep over the calls of nodes that are gone):

| state | owner | asked by an offer | found by a sweep |
|---|---|---|---|
| not known | | unknown | - |
| closed | | ended | - |
| open | this node | own | - |
| open | lives | pass on | leave |
| open | lives, drains | prepare | leave |
| open | dead | claim | claim when the grace is over, and end it |

A node is dead when Redis has had no heartbeat of it for `DEAD_MS` although it had ours all the time: after
Redis itself was away everybody first gets the time to be seen again. One that still answers at its address is
cut off from Redis alone: then what is asked for is passed on. Where a connection is refused the first
heartbeat that it misses (`SILENT_MS`) says the same: one that goes on being seen lives, and its address is
wrong, or the way to it closed; its calls are not taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

DEAD_MS = 5000  # without a heartbeat
SILENT_MS = 1500
MISSED_MS = 3000  # between two of our own: Redis was away, or this process slept


class Act(Enum):
    UNKNOWN = "unknown"
    ENDED = "ended"
    OWN = "own"
    PASS_ON = "pass on"
    PREPARE = "prepare"
    CLAIM = "claim"
    LEAVE = "leave"


class Nodes:
    """The other nodes, as this one's heartbeats find them."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._now: int | None = None
        self._since = 0  # of an uninterrupted row of our own heartbeats
        self._seen: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._draining: set[str] = set()

    def beat(self, now: int, seen: Mapping[str, int], draining: set[str]) -> None:
        """A heartbeat of ours came through at ``now``; ``seen``: the last one of each node."""
        if self._now is None or not 0 <= now - self._now <= MISSED_MS:
            self._since = now
            self._refused.clear()
        self._now = now
        self._seen = {node: at for node, at in seen.items() if node != self._own}
        self._refused = {node: at for node, at in self._refused.items() if self._seen.get(node, at + 1) <= at}
        self._draining = draining

    def refused(self, node: str, now: int) -> None:
        """Nobody listens where the node was."""
        if node in self._seen:
            self._refused[node] = now

    def has_refused(self, node: str) -> bool:
        """Nobody listened where it was, and it has not been seen since."""
        return node in self._refused

    def is_dead(self, node: str) -> bool:
        if node == self._own:
            return False
        return self._missing_ms(node) > (SILENT_MS if node in self._refused else DEAD_MS)

    def is_silent(self, node: str) -> bool:
        """It has missed a heartbeat: it may be dead, and has nothing to add for now."""
        return node != self._own and self._missing_ms(node) > SILENT_MS

    def dead(self) -> list[str]:
        return [node for node in self._seen if self.is_dead(node)]

    def gone_ms(self, node: str) -> int:
        """For how long a dead node has been dead, as far as this one can tell."""
        return max(0, self._missing_ms(node) - DEAD_MS)

    def living(self) -> list[str]:
        """The others that take what is passed on."""
        return [node for node in self._seen if not self.is_dead(node) and node not in self._refused]

    def is_draining(self, node: str) -> bool:
        return node in self._draining

    def on_offer(self, owner: str | None, state: str) -> Act:
        """What to do with an offer for a call; ``owner`` is None when nobody knows the call."""
        if owner is None:
            return Act.UNKNOWN
        if state != "open":
            return Act.ENDED
        if owner == self._own:
            return Act.OWN
        if self.is_dead(owner):
            return Act.CLAIM
        return Act.PREPARE if self.is_draining(owner) else Act.PASS_ON

    def on_sweep(self, owner: str, state: str, grace_ms: int) -> Act:
        """What to do with an open call that is found among those of ``owner``."""
        if state != "open":
            return Act.ENDED
        if owner == self._own:
            return Act.OWN
        if self.is_dead(owner) and self.gone_ms(owner) >= grace_ms:
            return Act.CLAIM
        return Act.LEAVE

    def _missing_ms(self, node: str) -> int:
        if self._now is None:
            return 0
        if node not in self._seen:  # it left, and was forgotten with its calls
            return self._now - self._since
        return self._now - max(self._seen[node], self._since)
