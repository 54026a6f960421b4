"""`rtcstt transcribe --engine ray`: each recording is a task of a Ray cluster.

A task does with its recording what a run on one machine does, on one processor, and gives back the texts;
they are written here, as always whole or not at all.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from rtcstt.batch.engines import EmbeddedEngine
from rtcstt.batch.run import Done, Run, Work, reason
from rtcstt.errors import ConfigError, EngineError

KNOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class How:
    """What is the same for all recordings of a run."""

    model: str
    language: str | None
    split: bool


def transcribe(works: Sequence[Work], how: How, *, jobs: int | None, progress: Progress) -> int:
    """Transcribes each recording; returns how many failed. ``jobs`` None: as many at a time as the cluster
    has processors. `ConfigError` without Ray or its cluster, `EngineError` without the recogniser there."""
    ray = _import()
    with _connected(ray):
        on_one_processor = ray.remote(num_cpus=1, max_retries=1)
        if problem := ray.get(on_one_processor(_problem).remote(how)):
            raise EngineError(problem)
        limit = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        return _map(ray, on_one_processor(_task), works, how, limit, progress)


def _map(ray: Any, task: Any, works: Sequence[Work], how: How, limit: int, progress: Progress) -> int:
    bar = progress.add_task("recordings", total=len(works))
    waiting = deque(works)
    running: dict[Any, Work] = {}
    failed = 0
    while waiting or running:
        while waiting and len(running) < limit:
            work = waiting.popleft()
            running[task.remote(how, work.source.absolute(), tuple(work.outputs))] = work
        (ended,), _ = ray.wait(list(running), num_returns=1)
        work = running.pop(ended)
        try:
            result = ray.get(ended)
            line = result.write(work.outputs) if isinstance(result, Done) else result
        except (ray.exceptions.RayError, OSError) as error:  # its process or machine is gone; a full disk
            result, line = None, _first_line(error)
        failed += not isinstance(result, Done)
        progress.advance(bar)
        progress.console.print(f"{work.source}: {line}")
    return failed


# In the cluster


def _task(how: How, source: Path, formats: Sequence[str]) -> Done | str:
    """The transcripts, or why there are none: not every error can be sent from process to process."""
    try:
        return asyncio.run(_read(how, source, formats))
    except Exception as error:
        return reason(error)


async def _read(how: How, source: Path, formats: Sequence[str]) -> Done:
    engine = EmbeddedEngine(_recognizer(how.model), how.language)
    return await Run(engine, jobs=1, split=how.split, progress=Progress(disable=True)).read(source, formats)


def _problem(how: How) -> str | None:
    """Why nothing can be transcribed there, told once and not for each recording."""
    from rtcstt.embedded.service import configured_language

    try:
        configured_language(how.language, _recognizer(how.model).languages)
    except Exception as error:
        return reason(error)
    return None


@functools.lru_cache(maxsize=1)
def _recognizer(model: str) -> Any:
    """Loaded once in a process, which does many tasks and ends with the run."""
    from rtcstt.embedded.recognizer import Recognizer

    return Recognizer.load(model, threads=1)


# Ray


def _import() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError("--engine ray needs one more package: pip install 'rtcstt[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """To the cluster of RAY_ADDRESS; without it, to one made for this run on this machine."""
    address = os.environ.get("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is local tells nobody
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the Ray cluster {address} cannot be reached: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """`OSError` when nobody listens there: Ray itself would try for more than five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
