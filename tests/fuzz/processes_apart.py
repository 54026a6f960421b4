"""Work in a process of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
NICENESS = 10  # strangers are on other machines: here they take the processors that the server leaves


def _run(work: Callable[..., Coroutine[Any, Any, Any]], where: Any, seed: int, seconds: float) -> Any:
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    return asyncio.run(work(where, seed, seconds=seconds))


async def apart(work: Callable[..., Coroutine[Any, Any, T]], where: Any, seed: int, *, seconds: float) -> T:
    """In a process of its own, or the caller here would have no time to answer the server's checks."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        loop = asyncio.get_running_loop()
        found: T = await loop.run_in_executor(pool, _run, work, where, seed, seconds)
        return found
