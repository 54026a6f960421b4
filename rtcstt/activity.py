"""Where in the audio somebody speaks, cheaply: energy against an adaptive noise floor.

This is not the recogniser's voice activity detection. It answers two small questions about audio that
is already being transcribed elsewhere: *when* did the speech begin and end that the STT has just told
us about (its turn events carry no times), and which stretches of a backlog may be skipped because
nothing is said in them. For the second, "speech" must never be missed, so the threshold leans low and
a stretch is widened on both sides by whoever skips.

Frames are 10 ms. The noise floor is a low percentile of the last seconds' frame levels; of digital
silence only the first half second counts (a mute says nothing about the room). Speech begins when
`_ONSET` of the last `_WINDOW` frames are above the threshold and is dated back to the first of them; it
ends when `hangover_s` passed without a frame above it, and is dated back to the last of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rtcstt.pcm import SAMPLE_RATE, Samples

FRAME = SAMPLE_RATE // 100
_ONSET = 3
_WINDOW = 5
_FLOOR_FRAMES = 400
_FLOOR_PERCENTILE = 0.12
_MARGIN_DB = 9.0
_ROOM_DB = -52.0
_RANGE_DB = 34.0
_QUIETEST_DB = -58.0
_SILENT_DB = -95.0
_MUTED_FRAMES = 50


@dataclass(frozen=True, slots=True)
class Stretch:
    """Speech from sample ``start`` to sample ``end``; ``open`` while it is still going on."""

    start: int
    end: int
    open: bool = False


class Activity:
    """Feed it every sample of a track in order; ask it for the stretches of speech so far.

    Stretches that ended more than ``keep_s`` ago are forgotten.
    """

    def __init__(self, *, hangover_s: float = 0.20, keep_s: float = 90.0) -> None:
        self._hangover = round(hangover_s * SAMPLE_RATE)
        self._keep = round(keep_s * SAMPLE_RATE)
        self._rest = np.zeros(0, np.int16)
        self._position = 0
        self._levels: deque[float] = deque(maxlen=_FLOOR_FRAMES)
        self._recent: deque[bool] = deque([False] * _WINDOW, maxlen=_WINDOW)
        self._silent = 0
        self._peak_db = -40.0
        self._closed: deque[Stretch] = deque()
        self._open: Stretch | None = None

    @property
    def position(self) -> int:
        """The sample up to which speech is decided; less than a frame behind what was pushed."""
        return self._position

    def push(self, samples: Samples, start: int) -> None:
        """Samples from ``start`` on; a jump forward counts as silence, since nothing was heard there."""
        expected = self._position + len(self._rest)
        if start > expected:
            self._rest = np.zeros(0, np.int16)
            self._close_stretch()
            self._position = start
        pcm = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        frames = len(pcm) // FRAME
        self._rest = pcm[frames * FRAME :].copy()
        if not frames:
            return
        blocks = pcm[: frames * FRAME].reshape(frames, FRAME).astype(np.float32)
        blocks = blocks - blocks.mean(axis=1, keepdims=True)
        power = np.mean(blocks * blocks, axis=1)
        levels = 10.0 * np.log10(power / 32768.0**2 + 1e-10)
        threshold = self._threshold(levels)
        for level in levels.tolist():
            self._frame(level > threshold)

    def _threshold(self, levels: np.ndarray) -> float:
        for level in levels.tolist():
            self._silent = self._silent + 1 if level <= _SILENT_DB else 0
            if self._silent <= _MUTED_FRAMES:
                self._levels.append(level)
        self._peak_db = max(float(levels.max()), self._peak_db - 0.02 * len(levels))
        if not self._levels:
            return _QUIETEST_DB
        floor = sorted(self._levels)[int(len(self._levels) * _FLOOR_PERCENTILE)]
        if len(self._levels) < _FLOOR_FRAMES // 4:
            floor = min(floor, _ROOM_DB)  # who speaks at once is not the room
        return max(_QUIETEST_DB, floor + _MARGIN_DB, self._peak_db - _RANGE_DB)

    def _frame(self, loud: bool) -> None:
        begin = self._position
        self._position = end = begin + FRAME
        self._recent.append(loud)
        if self._open is not None:
            if loud:
                self._open = Stretch(self._open.start, end, open=True)
            elif end - self._open.end >= self._hangover:
                self._close_stretch()
        elif sum(self._recent) >= _ONSET:
            first = self._recent.index(True)
            self._open = Stretch(max(0, end - (_WINDOW - first) * FRAME), end, open=True)

    def _close_stretch(self) -> None:
        if self._open is not None:
            self._closed.append(Stretch(self._open.start, self._open.end))
            self._open = None
        while self._closed and self._closed[0].end < self._position - self._keep:
            self._closed.popleft()
        self._recent.extend([False] * _WINDOW)

    def stretches(self) -> Iterator[Stretch]:
        """Oldest first; the last one may be open."""
        yield from self._closed
        if self._open is not None:
            yield self._open

    def speech(self, start: int, end: int) -> int:
        """How many of the samples ``start`` to ``end`` are speech."""
        return sum(max(0, min(s.end, end) - max(s.start, start)) for s in self.stretches())

    def quiet(self, start: int, end: int) -> bool:
        """Whether it is decided that nothing is said from ``start`` to ``end``."""
        return end <= self._position and self.speech(start, end) == 0
