"""Tasks that talk to Redis: kept going, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from rtcstt.limits import Once

log = logging.getLogger(__name__)

AGAIN_S = 0.2
RETRY_S = 0.5


async def kept_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do it for ever; to be cancelled. A fault in it is logged with its ``name``, and it begins again: nobody
    would notice that a task is no more which says that this server lives, or writes its calls. The same fault
    is logged once."""
    told = Once()
    while True:
        try:
            await work()
        except Exception as error:
            if told.new(repr(error)):
                log.exception("%s failed, and begins again", name)
        await asyncio.sleep(RETRY_S)


async def cancelled(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel them until they are done. Once may not do: up to Python 3.11 `asyncio.wait_for`, by which the
    Redis client writes, forgets a cancellation that comes as it ends (bpo-37658)."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
