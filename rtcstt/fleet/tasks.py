"""Ending tasks that talk to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

AGAIN_S = 0.2


async def cancelled(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel them until they are done. Once may not do: up to Python 3.11 `asyncio.wait_for`, by which the
    Redis client writes, forgets a cancellation that comes as it ends (bpo-37658)."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
