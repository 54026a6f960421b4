"""Recordings read in processes of their own: one that crashes or stops its decoder is refused with the
reason, and nothing else ends. Shared by `rtcstt transcribe` and the batch endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rtcstt import file_worker
from rtcstt.errors import FileError
from rtcstt.media.tracks import FileInfo, Part, ReadSettings

LINGER_S = 10.0  # a process that waits for the next recording, and need not be kept, waits so long for it
STALL_S = 60.0  # without a sign of a process that has something to read; usually it takes milliseconds
WORKER = (sys.executable, "-P", "-m", "rtcstt.file_worker")
MAX_MESSAGE = 256 << 20
_FROM_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
)  # no secrets


class Readers:
    """At most ``limit`` recordings are read at a time; ``keep`` processes wait for the next. `close` it.

    More processes than that wait for ``linger_s``: to start one takes a third of a second of a processor.
    ``stall_s``: for so long a decoder may give nothing, not even a second of audio.
    """

    def __init__(
        self,
        limit: int,
        *,
        keep: int | None = None,
        stall_s: float = STALL_S,
        linger_s: float = LINGER_S,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._keep = limit if keep is None else keep
        self._stall_s = stall_s
        self._linger_s = linger_s
        self._command = command
        self._idle: list[tuple[float, _Process]] = []  # since when; the longest first
        self._busy: set[_Process] = set()
        self._tidying: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def open(self, path: str | Path, settings: ReadSettings | None = None) -> AsyncIterator[Reading]:
        """A recording whose beginning has been read. Raises `FileError`, here or while its parts are read."""
        async with self._slots:
            process = self._idle.pop()[1] if self._idle else await _Process.start(self._command)
            self._busy.add(process)
            reading = Reading(process, self._stall_s)
            try:
                await reading.begin(path, settings or ReadSettings())
                yield reading
            finally:
                self._busy.discard(process)
                if reading.is_over and not self._closed:
                    self._idle.append((asyncio.get_running_loop().time(), process))
                    if len(self._idle) > self._keep and (self._tidying is None or self._tidying.done()):
                        self._tidying = asyncio.create_task(self._tidy())
                else:
                    await process.end()

    async def _tidy(self) -> None:
        """End processes that have waited for `linger_s`, until no more wait than are kept."""
        loop = asyncio.get_running_loop()
        while len(self._idle) > self._keep:
            left_s = self._idle[0][0] + self._linger_s - loop.time()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                await self._idle.pop(0)[1].end()

    async def close(self) -> None:
        """End all processes. Idempotent."""
        self._closed = True
        processes = [*(process for _, process in self._idle), *self._busy]
        self._idle.clear()
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await asyncio.gather(*(process.end() for process in processes))


class Reading:
    """A recording that is being read. ``info`` is there from the beginning; iterate its `parts` once."""

    info: FileInfo

    def __init__(self, process: _Process, stall_s: float) -> None:
        self._process = process
        self._stall_s = stall_s
        self.is_over = False
        """Everything was read, or refused: the process can read another."""

    async def begin(self, path: str | Path, settings: ReadSettings) -> None:
        await self._process.ask(file_worker.request(os.fspath(path), settings))
        first = await self._next()
        assert isinstance(first, FileInfo)
        self.info = first

    async def parts(self) -> AsyncIterator[Part]:
        """Sound and gaps, in order."""
        while (part := await self._next()) is not None:
            assert not isinstance(part, FileInfo)
            yield part

    async def _next(self) -> Part | FileInfo | None:
        deadline = asyncio.get_running_loop().time() + 10 * self._stall_s
        while asyncio.get_running_loop().time() < deadline:
            kind, body = await self._process.message(self._stall_s)
            if kind == file_worker.DONE:
                self.is_over = True
                return None
            if kind == file_worker.ERROR:
                self.is_over = True
                raise FileError(*json.loads(body))
            if kind != file_worker.TICK:
                return file_worker.decode(kind, body)
        raise FileError(f"for {10 * self._stall_s:g} s nothing came of what the decoder read; it was ended")


class _Process:
    """A `file_worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> _Process:
        environment = {name: os.environ[name] for name in _FROM_ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = "1"
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            limit=1 << 20,
        )
        return cls(process)

    async def ask(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        with contextlib.suppress(ConnectionError):  # why it ended, `message` tells
            await self._process.stdin.drain()

    async def message(self, timeout_s: float) -> tuple[bytes, bytes]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                header = await self._process.stdout.readexactly(file_worker.HEADER.size)
                kind, length = file_worker.HEADER.unpack(header)
                if length > MAX_MESSAGE:
                    raise FileError("the decoder's answer cannot be understood")
                return kind, await self._process.stdout.readexactly(length)
        except TimeoutError:
            raise FileError(f"the decoder stood still on it for {timeout_s:g} s and was ended") from None
        except asyncio.IncompleteReadError:
            status = await self._process.wait()
            raise FileError(f"the decoder crashed on it ({_name(status)})") from None

    async def end(self) -> None:
        """Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        # Only when its output has been read to the end does asyncio take a process for ended.
        with contextlib.suppress(RuntimeError):  # somebody reads it already
            while await self._process.stdout.read(1 << 16):
                pass
        await self._process.wait()


def _name(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
