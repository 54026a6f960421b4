"""Long loops, such as those over what comes from outside: others run in between.

``await reader.readline()`` and ``async for message in socket`` do not wait while there is something to
read, and a sender of many small messages can keep it so.
"""

from __future__ import annotations

import asyncio

SLICE_S = 0.002


class GivingWay:
    """For one loop: `turn` lets others run, when the last time was `SLICE_S` ago."""

    __slots__ = ("_due", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + SLICE_S

    async def turn(self) -> None:
        if self._loop.time() >= self._due:
            await asyncio.sleep(0)
            self._due = self._loop.time() + SLICE_S
