"""`rtcstt transcribe --watch DIR`: what appears in a folder is transcribed, until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from rtcstt.batch.run import Result, Run
from rtcstt.batch.sources import Work, is_recording
from rtcstt.batch.state import Stamp
from rtcstt.errors import ConfigError
from rtcstt.http.serving import on_stop_signals

SETTLED_S = 2.0  # a file that did not change for so long has been written to its end

Planner = Callable[[Sequence[tuple[Path, Path]]], list[Work]]


async def transcribe(
    folder: Path, run: Run, plan: Planner, *, settled_s: float = SETTLED_S, stop: asyncio.Event | None = None
) -> list[Result]:
    """The results of all that appeared in a folder (an absolute path) until ``stop`` (by default SIGINT or
    SIGTERM)."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigError("--watch needs one more package: pip install 'rtcstt[watch]'")
    with contextlib.ExitStack() as stack:
        if stop is None:
            stopped = stop = asyncio.Event()
            stack.enter_context(on_stop_signals(lambda _: stopped.set()))
        return await _watch(folder, run, plan, settled_s, stop)


async def _watch(
    folder: Path, run: Run, plan: Planner, settled_s: float, stop: asyncio.Event
) -> list[Result]:
    import watchfiles

    results: list[Result] = []
    changed: dict[Path, Stamp | None] = {}
    watching = watchfiles.awatch(
        folder, stop_event=stop, yield_on_timeout=True, rust_timeout=round(settled_s * 1000), debounce=200
    )
    async for changes in watching:
        changed |= {Path(name): None for _, name in changes if is_recording(Path(name).name)}
        settled = _settled(changed)
        if settled:
            results += await run.all(plan([(path, folder) for path in settled]))
    return results


def _settled(changed: dict[Path, Stamp | None]) -> list[Path]:
    """Those that are as they were the last time; they are taken out, and those that are gone."""
    settled = []
    for path, before in sorted(changed.items()):
        try:
            now = Stamp.of(path)
        except OSError:
            changed.pop(path)
            continue
        changed[path] = now
        if now == before:
            settled.append(path)
            changed.pop(path)
    return settled
