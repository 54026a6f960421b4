"""An event loop that wakes up less often where much is going on: what comes within a few milliseconds is done
in one go.

Each packet of each call is a wake-up of its own otherwise, and the work after it begins with cold caches:
that costs as much again as the work. Network cards do the same with their interrupts.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

from rtcstt.limits import TokenBucket

PER_S = 200  # wake-ups, once there have been `AT_ONCE` in short order: nothing is later than 5 ms by it
AT_ONCE = 50
# With more sockets than so many that had something, the pause is longer by this factor: of 5 ms. A caller's
# packets come every 20 ms, and of a chunk of 100 ms it matters little when within it they are read.
LONGER = ((24, 8.0), (12, 4.0), (4, 2.0))

T = TypeVar("T")


class PacedSelector(selectors.DefaultSelector):
    """Begins to wait no more than so often in a second; then all that has come in the meantime is there. A
    socket that is readable again when its last datagram has been taken is never kept waiting: asyncio takes
    one of a socket at a time, and behind a flood the packets of calls would be dropped."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__()
        self._clock, self._sleep = clock, sleep
        self._bucket = TokenBucket(PER_S, AT_ONCE)
        self._last: set[int] = set()  # what was ready the last time
        self._taken: set[int] = set()  # what was ready since the last pause

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None or timeout > 0:  # else there is something to do already
            if self._last.isdisjoint(key.fd for key, _ in ready):
                pause_s = self._bucket.spend(self._clock(), self._tokens())
                self._taken.clear()
                if pause_s > 0:
                    self._sleep(pause_s)
                    timeout = None if timeout is None else max(0.0, timeout - pause_s)
                ready = super().select(timeout)
        self._last = {key.fd for key, _ in ready}
        self._taken |= self._last
        return ready

    def _tokens(self) -> float:
        return next((tokens for many, tokens in LONGER if len(self._taken) > many), 1.0)


def run(work: Coroutine[object, object, T]) -> T:
    """`asyncio.run` in such a loop, where loops wait by a selector."""
    if sys.platform == "win32":
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PacedSelector())) as runner:
        return runner.run(work)
