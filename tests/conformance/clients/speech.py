"""What every client here does with its recording: 100 ms at a time, somewhat faster than it was spoken."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator

SPEED = float(os.environ.get("SPEED", "4"))
CHUNK_S = 0.1 / SPEED


def read(path: str) -> tuple[int, bytes]:
    """Sample rate and 16-bit mono samples."""
    with wave.open(path) as file:
        return file.getframerate(), file.readframes(file.getnframes())


def chunks(pcm: bytes, rate: int) -> Iterator[bytes]:
    size = rate // 10 * 2
    for begin in range(0, len(pcm), size):
        yield pcm[begin : begin + size]
