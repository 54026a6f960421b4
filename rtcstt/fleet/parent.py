"""Workers: a parent process that starts them, gives them the listening sockets, watches them, and starts
again what ends. It handles no request itself, so its own work cannot delay a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Generic, TypeVar

from rtcstt import logs
from rtcstt.errors import ConfigError, RtcsttError
from rtcstt.fleet.board import Board
from rtcstt.fleet.ids import MAX_WORKERS
from rtcstt.fleet.proxy import Proxy, Target, Unreachable
from rtcstt.fleet.restarts import Restarts
from rtcstt.http import listen
from rtcstt.http.serving import stop_signals

log = logging.getLogger(__name__)

S = TypeVar("S")
BACKLOG = 1024
WATCH_S = 5.0
HUNG_S = 60.0  # without an answer; a worker's event loop is never busy for so long
STOP_MARGIN_S = 15.0  # beyond what workers take to stop by themselves
END_S = 5.0  # for a worker that nobody watches any more
MAX_SOCKET_PATH = 103  # bytes, on macOS; Linux takes 107


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is given: its number, what it shares with the others, and where to listen."""

    index: int
    count: int
    machine: str
    secret: str
    folder: Path
    board: Board
    listeners: tuple[socket.socket, ...]
    verbose: bool

    def target(self, index: int) -> Target:
        """Where a worker takes what the others pass on."""
        return Target("http://localhost", socket=self.folder / str(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[S]):
    """``count`` workers that run ``entry`` with ``settings(index)``, and stop within ``stop_s``. ``entry``
    must be importable by its name."""

    count: int
    entry: Callable[[Assignment, S], None]
    settings: Callable[[int], S]
    host: str
    port: int
    scheme: str
    stop_s: float


def run(plan: Plan[S]) -> int:
    """Until SIGTERM or SIGINT; the exit status. `ConfigError` when it cannot listen."""
    if not 1 <= plan.count <= MAX_WORKERS:
        raise ConfigError(f"workers must be from 1 to {MAX_WORKERS}, or auto")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("workers cannot be more than 1 on Windows: they talk over Unix sockets")
    for index in range(plan.count):
        plan.settings(index)  # what cannot be is told before anything has begun
    with _private_folder() as folder:
        return asyncio.run(_Parent(plan, folder).run())


class _Parent(Generic[S]):
    def __init__(self, plan: Plan[S], folder: Path) -> None:
        self._plan = plan
        self._listeners: tuple[socket.socket, ...] = ()
        self._folder = folder
        self._board = Board(plan.count)
        self._secret = secrets.token_urlsafe(32)
        self._machine = secrets.token_hex(4)
        self._stop = asyncio.Event()
        self._processes: dict[int, SpawnProcess] = {}
        self._status = 0
        self._were_ready = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._signalled, number)
        self._listeners = tuple(await listen(self._plan.host, self._plan.port))
        for one in self._listeners:
            one.listen(BACKLOG)
        tasks = [asyncio.create_task(self._keep(index)) for index in range(self._plan.count)]
        tasks.append(asyncio.create_task(self._announce()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for one in self._listeners:
                one.close()
            self._board.close()
        return self._status

    def _signalled(self, number: signal.Signals) -> None:
        """SIGTERM and SIGHUP drain, SIGINT stops at once, and so does any signal that comes second."""
        self._stop.set()
        for process in self._processes.values():
            if process.pid is not None and process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    async def _announce(self) -> None:
        while not all(load.ready for load in self._board.all()) and not self._stop.is_set():
            await self._pause(0.05)
        if not self._stop.is_set():
            self._were_ready = True
            port = self._listeners[0].getsockname()[1]
            log.info(
                "listening on %s://%s:%d with %d workers",
                self._plan.scheme,
                self._plan.host,
                port,
                self._plan.count,
            )

    async def _keep(self, index: int) -> None:
        """One worker, for as long as the parent lives."""
        loop = asyncio.get_running_loop()
        restarts = Restarts()
        while not self._stop.is_set():
            restarts.started(loop.time())
            try:
                process = self._started(index)
            except OSError as error:  # no memory, processes or file descriptors
                delay = restarts.ended(loop.time())
                log.error("worker %d cannot be started (%s), again in %.1f s", index, error, delay)
                await self._pause(delay)
                continue
            await self._watched(index, process)
            self._board.clear(index)
            if self._stop.is_set():
                break
            if not self._were_ready and process.exitcode in (1, 2):  # it has said why
                self._status = process.exitcode
                self._stop.set()
                break
            delay = restarts.ended(loop.time())
            log.error("worker %d ended (%s), again in %.1f s", index, process.exitcode, delay)
            await self._pause(delay)

    def _started(self, index: int) -> SpawnProcess:
        assignment = Assignment(
            index=index,
            count=self._plan.count,
            machine=self._machine,
            secret=self._secret,
            folder=self._folder,
            board=self._board,
            listeners=self._listeners,
            verbose=log.isEnabledFor(logging.DEBUG),
        )
        process = multiprocessing.get_context("spawn").Process(
            target=_work,
            args=(self._plan.entry, assignment, self._plan.settings(index)),
            name=f"rtcstt-worker-{index}",
        )
        process.start()
        self._processes[index] = process
        return process

    async def _watched(self, index: int, process: SpawnProcess) -> None:
        """Until the process has ended: by itself, because the parent stops, or because it hangs."""
        ended = asyncio.create_task(_ended(process))
        stopped = asyncio.create_task(self._stop.wait())
        hangs = asyncio.create_task(self._hangs(index))
        try:
            await asyncio.wait({ended, stopped, hangs}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and stopped.done():
                if self._status:  # another worker could not start
                    process.terminate()
                await asyncio.wait({ended}, timeout=self._plan.stop_s + STOP_MARGIN_S)
            if not ended.done():
                log.error("worker %d does not answer: killed", index)
                process.kill()
                await ended
        finally:
            for task in (stopped, hangs):
                task.cancel()
            await asyncio.gather(stopped, hangs, return_exceptions=True)
            await _end(process, ended)

    async def _hangs(self, index: int) -> None:
        """Returns when a worker that was ready has not answered for long."""
        loop = asyncio.get_running_loop()
        proxy = Proxy(self._secret)
        answered = loop.time()
        try:
            while loop.time() - answered < HUNG_S:
                await asyncio.sleep(WATCH_S)
                if not self._board.read(index).ready:  # it is still loading
                    answered = loop.time()
                    continue
                with contextlib.suppress(Unreachable):
                    await proxy.get(Target("http://localhost", socket=self._folder / str(index)), "/healthz")
                    answered = loop.time()
        finally:
            await proxy.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


async def _end(process: SpawnProcess, ended: asyncio.Task[None]) -> None:
    """Once it is watched no more; that it runs still is for a fault of who watched it, or a cancellation."""
    if process.exitcode is None:
        process.terminate()
        await asyncio.wait({ended}, timeout=END_S)
    if process.exitcode is None:
        process.kill()
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)
    process.join()


async def _ended(process: SpawnProcess) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(process.sentinel, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(process.sentinel)


def _work(entry: Callable[[Assignment, S], None], assignment: Assignment, settings: S) -> None:
    """In the worker's process."""
    logs.set_up(verbose=assignment.verbose, server=True, worker=assignment.index)
    try:
        entry(assignment, settings)
    except RtcsttError as error:
        print(f"rtcstt: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def end_with_parent() -> None:
    """In a worker with a running event loop: stop in order when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(parent.sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent.sentinel, gone)


def _short_folder() -> str:
    """Where temporary files go, if Unix sockets can be there, whose paths are bounded."""
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (what is made there is this user's alone)
        if len(os.fsencode(folder)) <= MAX_SOCKET_PATH - len("/rtcstt-xxxxxxxx/00") and os.path.isdir(folder):
            return folder
    raise ConfigError("the path of the folder for temporary files (TMPDIR) is too long for Unix sockets")


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """For the workers' local sockets; only this user may enter it."""
    folder = Path(tempfile.mkdtemp(prefix="rtcstt-", dir=_short_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
