"""`rtcstt transcribe --engine ray`: each recording is a task of a Ray cluster.

A task does with its recording what a run on one machine does, on one processor, and gives back the
transcript; outputs and state are written here.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from rtcstt.batch.engines import EmbeddedEngine, EngineSettings
from rtcstt.batch.recording import RecordingTranscriber
from rtcstt.batch.run import Result, RunSettings, RunState, reason, stamp_of, without_work, written
from rtcstt.batch.sources import Work, printable
from rtcstt.batch.state import Stamp
from rtcstt.batch.transcripts import Transcription
from rtcstt.errors import ConfigError, EngineError, FileError
from rtcstt.reading import Readers

if TYPE_CHECKING:
    from rtcstt.embedded.recognizer import Recognizer

REACH_S = 10.0


def transcribe(
    works: Sequence[Work], settings: RunSettings, state: RunState, *, jobs: int | None, progress: Progress
) -> list[Result]:
    """The result of each recording. ``jobs`` None: as many at a time as the cluster has processors.
    `ConfigError` without Ray or its cluster, `EngineError` without the recogniser there."""
    results: dict[int, Result] = {}
    left: list[tuple[int, Work]] = []
    for number, work in enumerate(works):
        result = without_work(work, state)
        if result is None:
            left.append((number, work))
        else:
            results[number] = result
    if left:
        ray = _import()
        with _connected(ray):
            on_one_processor = ray.remote(num_cpus=1, max_retries=1)
            if problem := ray.get(on_one_processor(_problem).remote(settings.engine)):
                raise EngineError(problem)
            limit = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
            task = on_one_processor(_task)
            results |= _map(ray, task, left, settings, state, limit, progress)
    return [results[number] for number in range(len(works))]


def _map(
    ray: Any,
    task: Any,
    works: Sequence[tuple[int, Work]],
    settings: RunSettings,
    state: RunState,
    limit: int,
    progress: Progress,
) -> dict[int, Result]:
    bar = progress.add_task("recordings", total=len(works))
    waiting = deque(works)
    running: dict[Any, tuple[int, Work, Stamp, float]] = {}
    results: dict[int, Result] = {}
    while waiting or running:
        while waiting and len(running) < limit:
            number, work = waiting.popleft()
            try:
                stamp = stamp_of(work)
            except FileError as error:  # it went away
                results[number] = Result(work.source, "failed", error=reason(error))
                continue
            asked = task.remote(settings, work.path.absolute(), work.title)
            running[asked] = number, work, stamp, time.monotonic()
        if not running:
            break
        (ended,), _ = ray.wait(list(running), num_returns=1)
        number, work, stamp, began = running.pop(ended)
        results[number] = _result(ray, ended, work, state, stamp, time.monotonic() - began)
        progress.advance(bar)
        progress.console.print(f"{printable(work.source)}: {results[number].line}")
    return results


def _result(ray: Any, ended: Any, work: Work, state: RunState, stamp: Stamp, took_s: float) -> Result:
    try:
        found = ray.get(ended)
        if isinstance(found, str):
            return Result(work.source, "failed", error=found, took_s=took_s)
        return written(work, found, state, stamp, took_s)
    except ray.exceptions.RayError as error:  # its process or machine is gone
        return Result(work.source, "failed", error=_first_line(error), took_s=took_s)
    except Exception as error:  # a full disk
        return Result(work.source, "failed", error=reason(error), took_s=took_s)


# In the cluster


def _task(settings: RunSettings, source: Path, name: str) -> Transcription | str:
    """The transcript, or why there is none: not every error can be sent from process to process."""
    try:
        return asyncio.run(_read(settings, source, name))
    except Exception as error:
        return reason(error)


async def _read(settings: RunSettings, source: Path, name: str) -> Transcription:
    engine = EmbeddedEngine(_recognizer(settings.engine.model_name), settings.engine)
    readers = Readers(1)
    try:
        transcriber = RecordingTranscriber(engine, readers, settings.recording, jobs=1)
        return await transcriber.transcribe(source, name)
    finally:
        await readers.close()


def _problem(settings: EngineSettings) -> str | None:
    """Why nothing can be transcribed there, told once and not for each recording."""
    try:
        EmbeddedEngine(_recognizer(settings.model_name), settings)
    except Exception as error:
        return reason(error)
    return None


@functools.lru_cache(maxsize=1)
def _recognizer(model: str) -> Recognizer:
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
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the Ray cluster {address} cannot be reached: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """`OSError` when nobody listens there: Ray itself would try for more than five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
