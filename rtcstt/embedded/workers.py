"""Threads that decode, by priority."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rtcstt.embedded import heap
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

T = TypeVar("T")

THREADS = 2
MAX_PENDING = 2 * SAMPLE_RATE  # samples that wait in a stream before its feeder has to
BEHIND = int(0.6 * SAMPLE_RATE)  # a stream so far behind makes no updates
TRIM_EVERY_S = 10.0  # takes some 10 ms
IDLE_S = 2.0  # without work, for what is free to be given back at once
LATE_S = 0.15  # nor does audio that waited so long for a thread
FINAL, LISTENING, BATCH = 0, 1, 2  # priorities of work
LATER_S = (0.0, 0.3, math.inf)  # after so long, work of a priority comes before what is new of a higher one


class Workers:
    """Threads that take work by priority, then in order. Who asks for work awaits it, so the queue is bounded
    by the number of streams.

    However much comes of a higher priority, a stream that listens is not kept waiting for ever; recordings
    are. ``clock``: in seconds.
    """

    def __init__(
        self, threads: int, *, clock: Callable[[], float] = time.monotonic, idle_s: float = IDLE_S
    ) -> None:
        self.threads = threads
        self._idle_s = idle_s
        self._clock = clock
        self._queue: queue.PriorityQueue[tuple[float, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._running: list[threading.Thread] = []
        self._closed = False
        self._closing = threading.Lock()  # no work may come behind what tells the threads to end
        self._trimmed_at = time.monotonic()
        self._worked = False  # since memory was given back

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    async def run(self, priority: int, work: Callable[[], T]) -> T:
        """The result of ``work``, done in a thread. Cancelling does not stop work that has begun."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if done.cancelled():
                return
            try:
                outcome = (work(), None)
            except Exception as error:
                outcome = (None, error)  # type: ignore[assignment]
            with contextlib.suppress(RuntimeError):  # the loop has gone, and with it who asked
                loop.call_soon_threadsafe(_settle, done, *outcome)

        with self._closing:
            if self._closed:
                raise EngineError("the recogniser is closed")
            self._start()
            self._queue.put((self._clock() + LATER_S[priority], next(self._numbers), job))
        return await done

    def close(self) -> None:
        """Let the threads finish what waits, and end. Blocks."""
        with self._closing:
            self._closed = True
            for _ in self._running:
                self._queue.put((math.inf, next(self._numbers), None))  # behind all that waits
        for thread in self._running:
            thread.join()
        self._running = []

    def _start(self) -> None:
        while len(self._running) < self.threads:
            thread = threading.Thread(target=self._work, name="rtcstt-recogniser", daemon=True)
            self._running.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()
            self._worked = True
            self._trim(time.monotonic())

    def _next(self) -> Callable[[], None] | None:
        """The work that comes next; while there is none, memory is given back."""
        with contextlib.suppress(queue.Empty):
            return self._queue.get(timeout=self._idle_s)[2]
        self._trim(time.monotonic(), idle=True)
        return self._queue.get()[2]

    def _trim(self, now: float, *, idle: bool = False) -> None:
        """Give free memory back now and then, and after work when there is no more to do."""
        if now - self._trimmed_at > TRIM_EVERY_S or (idle and self._worked):
            self._trimmed_at = now
            self._worked = False
            heap.trim()


def _settle(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
