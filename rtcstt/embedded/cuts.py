"""Audio that has not been decoded for good yet, and where it may be cut. A core."""

from __future__ import annotations

from collections import deque

import numpy as np

from rtcstt.embedded.hypothesis import Audio
from rtcstt.media.pcm import SAMPLE_RATE

SHORTEST_PART = SAMPLE_RATE  # of a segment that is decoded in parts


def quietest(audio: Audio, begin: int, end: int) -> int:
    """The middle of the quietest 60 ms between two samples. The middle counts most: there it is cut, and
    between words of fluent speech it is quiet for hardly 20 ms."""
    step, window = SAMPLE_RATE // 200, np.bartlett(13)[1:-1]
    part = audio[begin:end]
    blocks = part[: len(part) // step * step].reshape(-1, step)
    loudness = np.convolve((blocks**2).mean(axis=1), window, "valid")
    return int(begin + (int(loudness.argmin()) + len(window) / 2) * step)


def part(audio: Audio) -> int:
    """Where to cut audio that cannot be decoded as a whole; 0 where it is too short for that."""
    length = len(audio)
    if length < 2 * SHORTEST_PART:
        return 0
    return quietest(
        audio, max(SHORTEST_PART, length // 3), min(length - SHORTEST_PART, 2 * length // 3) + 1600
    )


class Tail:
    """Audio from the sample ``start`` to the sample ``end`` of a stream."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._parts: deque[Audio] = deque()

    def append(self, samples: Audio) -> None:
        self._parts.append(samples)
        self.end += len(samples)

    def first(self, length: int) -> Audio:
        joined = np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)
        self._parts = deque([joined])
        return joined[:length]

    def drop(self, length: int) -> None:
        self.start += length
        while length and self._parts:
            part = self._parts.popleft()
            if len(part) > length:
                self._parts.appendleft(part[length:])
                return
            length -= len(part)
