"""Recordings cut into pieces at pauses; a core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtcstt.media.pcm import SAMPLE_RATE

Floats = NDArray[np.float32]

BLOCK = 60 * SAMPLE_RATE  # the longest block
SHORTEST = 30 * SAMPLE_RATE  # no block but the last is shorter
WINDOW = SAMPLE_RATE // 5  # a cut is made in the middle of the quietest 200 ms


@dataclass(frozen=True, slots=True)
class Block:
    """Mono audio at 16 kHz; ``start`` is the index of its first sample in its channel."""

    channel: int
    start: int
    samples: Floats

    @property
    def start_s(self) -> float:
        return self.start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        return (self.start + len(self.samples)) / SAMPLE_RATE


class Cutter:
    """Cuts one channel into blocks, each cut where it is quietest. ``start``: where the channel begins."""

    def __init__(self, channel: int, start: int = 0) -> None:
        self._channel = channel
        self._parts: list[Floats] = []
        self._held = 0
        self._start = start

    def push(self, samples: Floats) -> Iterator[Block]:
        self._parts.append(samples)
        self._held += len(samples)
        while self._held >= BLOCK:
            held = np.concatenate(self._parts)
            cut = quietest(held[SHORTEST:BLOCK]) + SHORTEST
            yield self._take(held, cut)

    def flush(self) -> Iterator[Block]:
        if self._held:
            yield self._take(np.concatenate(self._parts), self._held)

    def _take(self, held: Floats, cut: int) -> Block:
        block = Block(self._channel, self._start, held[:cut])
        self._parts = [held[cut:].copy()]  # a view would keep the whole block in memory
        self._held -= cut
        self._start += cut
        return block


def quietest(samples: Floats) -> int:
    """The middle of the quietest window; the last one of several, so that blocks are long."""
    power = np.cumsum(np.square(samples, dtype=np.float64))
    windows = np.round(power[WINDOW:] - power[:-WINDOW], 9)
    return len(windows) - 1 - int(np.argmin(windows[::-1])) + WINDOW // 2
