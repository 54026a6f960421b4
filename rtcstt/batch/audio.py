"""Recordings cut into pieces at pauses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rtcstt.errors import ConfigError
from rtcstt.media.pcm import SAMPLE_RATE

Floats = NDArray[np.float32]

BLOCK = 60 * SAMPLE_RATE  # the longest block
SHORTEST = 30 * SAMPLE_RATE  # no block but the last is shorter
WINDOW = SAMPLE_RATE // 5  # a cut is made in the middle of the quietest 200 ms
CUE = 76  # letters; two lines of 42 hold them however they break
HOLE_S = 0.1  # time stamps that jump by more are a hole in the recording: it is filled with silence


# --- audio in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Mono audio at 16 kHz; ``start`` is the index of its first sample in its channel."""

    channel: int
    start: int
    samples: Floats


class Cutter:
    """Cuts one channel into blocks, each cut where it is quietest."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._parts: list[Floats] = []
        self._held = 0
        self._start = 0

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


class Recording:
    """A file being read. ``skipped`` counts the packets that could not be decoded."""

    def __init__(self, path: Path, *, split: bool) -> None:
        self.skipped = 0
        self.channels = 1
        self._split = split
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.audio[0]
        except IndexError as error:
            raise ConfigError("there is no audio in it") from error
        except (OSError, av.FFmpegError) as error:
            raise ConfigError(f"cannot be read: {error}") from error
        if split:
            self.channels = self._stream.codec_context.channels

    @property
    def duration_s(self) -> float | None:
        """What the file says of itself; not every file does."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else None

    def blocks(self) -> Iterator[Block]:
        cutters = [Cutter(channel) for channel in range(self.channels)]
        with self._container:
            for samples in self._samples():
                for cutter, channel in zip(cutters, samples, strict=False):
                    yield from cutter.push(channel)
        for cutter in cutters:
            yield from cutter.flush()

    def _samples(self) -> Iterator[Floats]:
        """Arrays of (channels, samples), with the holes that time stamps tell of filled in."""
        resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
        first: float | None = None
        done = 0
        for frame in self._frames():
            if frame.time is not None:
                first = frame.time if first is None else first
                hole = round((frame.time - first) * SAMPLE_RATE) - done
                while hole > HOLE_S * SAMPLE_RATE:
                    size = min(hole, BLOCK)
                    yield np.zeros((self.channels, size), np.float32)
                    done, hole = done + size, hole - size
            frame.pts = None  # the holes are filled here, the resampler need not mind them
            for part in resampler.resample(frame):
                done += part.samples
                yield self._shaped(part.to_ndarray())
        if first is not None or done:
            for part in resampler.resample(None):
                yield self._shaped(part.to_ndarray())

    def _shaped(self, samples: NDArray[Any]) -> Floats:
        return samples if self._split else samples.mean(axis=0, keepdims=True, dtype=np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        decoded = False
        for packet in self._container.demux(self._stream):
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.AudioFrame)
                    decoded = True
                    yield frame
            except av.FFmpegError:
                self.skipped += 1
        if not decoded:
            raise ConfigError("no sound in it can be decoded")
