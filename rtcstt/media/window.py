"""A part of a file, as FFmpeg reads it through PyAV."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from rtcstt.media import layouts

MAX_PLACE = 1 << 43  # in a file; file systems have a bound too


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """All bytes of a file. `OSError` where it cannot be read."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


class Window:
    """It has the file's name, by whose ending FFmpeg knows some kinds. What FFmpeg cannot bear is hidden."""

    def __init__(self, path: Path, begin: int, end: int, ending: str) -> None:
        with mapped(path) as data:
            self._hidden = layouts.hidden(data, begin, end)
        self._file = path.open("rb")
        self._begin = begin
        self._length = end - begin
        self._at = 0
        self.name = "recording" + "".join(c for c in ending if c.isascii() and (c.isalnum() or c == "."))
        self._file.seek(begin)

    def read(self, size: int) -> bytes:
        data = self._file.read(max(0, min(size, self._length - self._at)))
        for place, other in self._hidden.items():
            data = _overlaid(data, place - self._at, other)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        place = {0: 0, 1: self._at, 2: self._length}[whence] + offset
        if not 0 <= place <= MAX_PLACE:
            return -errno.EINVAL  # as lseek; FFmpeg may go on without, but not after an exception
        self._at = place
        self._file.seek(self._begin + self._at)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()


def _overlaid(data: bytes, place: int, other: bytes) -> bytes:
    """With other bytes at a place, as far as it is within."""
    begin, end = max(0, place), min(len(data), place + len(other))
    return data if begin >= end else data[:begin] + other[begin - place : end - place] + data[end:]
