"""The loads of all workers of a machine, in memory that they share: each writes its own row, all read."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import Protocol

from rtcstt.fleet.placement import Load

_MOST = 2**32 - 1
_ROW = struct.Struct("<IIIIBB6xd")  # calls, capacity, streams, stream_capacity, ready, draining, written at
STALE_S = 3.0  # a worker writes its row every 0.1 s; one that has not for so long hangs


class Board:
    """Rows for ``workers`` processes. Pickled only while a process is being started, which it is sent
    to (not on Windows)."""

    def __init__(self, workers: int, *, file: int | None = None) -> None:
        self._workers = workers
        size = workers * _ROW.size
        if file is None and workers > 1:
            file = _new_file(size)
        self._file = file
        self._rows = mmap.mmap(-1 if file is None else file, size)

    def __reduce__(self) -> tuple[object, ...]:
        from multiprocessing.reduction import DupFd

        assert self._file is not None, "alone, a process has nobody to share with"
        return _received, (self._workers, DupFd(self._file))

    def write(self, worker: int, load: Load) -> None:
        counts = (
            min(count, _MOST) for count in (load.calls, load.capacity, load.streams, load.stream_capacity)
        )
        now = time.monotonic()  # which all processes of a machine share
        _ROW.pack_into(self._rows, worker * _ROW.size, *counts, load.ready, load.draining, now)

    def clear(self, worker: int) -> None:
        """The worker is gone."""
        self.write(worker, Load(ready=False))

    def read(self, worker: int) -> Load:
        calls, capacity, streams, stream_capacity, ready, draining, _ = self._row(worker)
        return Load(calls, capacity, streams, stream_capacity, bool(ready), bool(draining))

    def hangs(self, worker: int) -> bool:
        """It is there, and has not worked for a while: nothing new should go to it."""
        return time.monotonic() - self._row(worker)[-1] > STALE_S

    def _row(self, worker: int) -> tuple[int, int, int, int, int, int, float]:
        return _ROW.unpack_from(self._rows, worker * _ROW.size)

    def all(self) -> list[Load]:
        return [self.read(worker) for worker in range(self._workers)]

    def close(self) -> None:
        self._rows.close()
        if self._file is not None:
            os.close(self._file)


def _new_file(size: int) -> int:
    """A file without a name."""
    if hasattr(os, "memfd_create"):  # Linux
        file = os.memfd_create("rtcstt-board")
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, size)
    return file


class _Sent(Protocol):
    def detach(self) -> int: ...


def _received(workers: int, file: _Sent) -> Board:
    return Board(workers, file=file.detach())
