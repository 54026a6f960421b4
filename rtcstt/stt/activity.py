"""Where in the audio somebody speaks, cheaply: energy against an adaptive noise floor.

This is not the recogniser's voice activity detection. It answers two small questions about audio that
is already being transcribed elsewhere: *when* did the speech begin and end that the STT has just told
us about (its turn events carry no times), and which stretches of what waits may be skipped because
nothing is said in them. For the second, "speech" must never be missed, so the threshold leans low and
a stretch is widened on both sides by whoever skips.

Frames are 10 ms. The noise floor is a low percentile of the last seconds' frame levels; of digital
silence only the first half second counts (a mute says nothing about the room). Speech begins when
`_ONSET` of the last `_WINDOW` frames are above the threshold and is dated back to the first of them; it
ends when `hangover_s` passed without a frame above it, and is dated back to the last of them.

Audio is looked at when somebody asks, or when three seconds of it have come: numpy takes hardly longer for
them than for a tenth of one, and most of the time for each call goes to what is in no cache of the processor.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtcstt.media.pcm import SAMPLE_RATE, Samples

FRAME = SAMPLE_RATE // 100
_ONSET = 3
_WINDOW = 5
_FLOOR_FRAMES = 400
_FLOOR_PERCENTILE = 0.12
_MARGIN_DB = 9.0
_ROOM_DB = -52.0
_RANGE_DB = 34.0
_PEAK_FALL_DB = 0.02  # per frame
_QUIETEST_DB = -58.0
_SILENT_DB = -95.0
_MUTED_FRAMES = 50
_LONGEST_WAIT = 3 * SAMPLE_RATE
_PERIODS = SAMPLE_RATE * 30 // 1000
_ALIKE = 0.6  # normalised correlation
_VOWEL = 3  # frames, of the shortest word


@dataclass(frozen=True, slots=True)
class Stretch:
    """Speech from sample ``start`` to sample ``end``; ``open`` while it is still going on."""

    start: int
    end: int
    open: bool = False


class SpeechActivity:
    """Feed it every sample of a track in order; ask it for the stretches of speech so far.

    Stretches that ended more than ``keep_s`` ago are forgotten.
    """

    def __init__(self, *, hangover_s: float = 0.20, keep_s: float = 90.0) -> None:
        self._hangover = round(hangover_s * SAMPLE_RATE)
        self._keep = round(keep_s * SAMPLE_RATE)
        self._waiting: list[Samples] = []  # pushed, and not looked at
        self._position = 0
        self._end = 0
        self._levels: NDArray[np.float64] = np.zeros(0)  # the last `_FLOOR_FRAMES`
        self._recent: deque[bool] = deque([False] * _WINDOW, maxlen=_WINDOW)
        self._silent = 0
        self._peak_db = -40.0
        self._closed: list[Stretch] = []
        self._begun: int | None = None  # where the open stretch began
        self._loud_until = 0

    @property
    def position(self) -> int:
        """The sample up to which speech is decided; less than a frame behind what was pushed."""
        self._decide()
        return self._position

    def push(self, samples: Samples, start: int) -> None:
        """Samples from ``start`` on; a jump forward counts as silence, since nothing was received there."""
        if start > self._end:
            self._decide()
            self._waiting.clear()
            self._close_stretch()
            self._position = start
            self._end = start
        self._waiting.append(samples)
        self._end += len(samples)
        if self._end - self._position >= _LONGEST_WAIT:
            self._decide()

    def _decide(self) -> None:
        frames = (self._end - self._position) // FRAME
        if not frames:
            return
        pcm = np.concatenate(self._waiting)
        rest = pcm[frames * FRAME :]
        self._waiting = [rest.copy()] if len(rest) else []
        levels = _levels(pcm[: frames * FRAME].reshape(frames, FRAME))
        threshold = max(_QUIETEST_DB, self._floor_db(levels) + _MARGIN_DB)
        loud = levels > np.maximum(threshold, self._peaks(levels) - _RANGE_DB)
        for is_loud, count in _runs(loud):
            self._run(is_loud, count)

    def _peaks(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The highest level up to each of them, less what it has fallen since."""
        fall = _PEAK_FALL_DB * np.arange(1, len(levels) + 1)
        peaks: NDArray[np.float64] = np.maximum.accumulate(np.maximum(levels + fall, self._peak_db)) - fall
        self._peak_db = float(peaks[-1])
        return peaks

    def _floor_db(self, levels: NDArray[np.float64]) -> float:
        """The noise floor, ``levels`` being the latest."""
        self._levels = np.concatenate((self._levels, self._of_the_room(levels)))[-_FLOOR_FRAMES:]
        count = len(self._levels)
        if not count:
            return _QUIETEST_DB
        rank = int(count * _FLOOR_PERCENTILE)
        floor = float(np.partition(self._levels, rank)[rank])
        # Who speaks at once is not the room.
        return floor if count >= _FLOOR_FRAMES // 4 else min(floor, _ROOM_DB)

    def _of_the_room(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """``levels`` without those of a lasting mute."""
        silent = levels <= _SILENT_DB
        if not silent.any():
            self._silent = 0
            return levels
        kept = []
        for each in silent.tolist():
            self._silent = self._silent + 1 if each else 0
            kept.append(self._silent <= _MUTED_FRAMES)
        return levels[kept]

    def _run(self, loud: bool, count: int) -> None:
        """``count`` frames, all of them loud or none."""
        while loud and self._begun is None and count:
            count -= 1
            self._recent.append(True)
            self._position += FRAME
            if sum(self._recent) >= _ONSET:
                first = self._recent.index(True)
                self._begun = max(0, self._position - (_WINDOW - first) * FRAME)
                self._loud_until = self._position
        self._position += count * FRAME
        self._recent.extend([loud] * min(count, _WINDOW))
        if loud:
            self._loud_until = self._position
        elif self._begun is not None and self._position - self._loud_until >= self._hangover:
            self._close_stretch()

    def _close_stretch(self) -> None:
        if self._begun is not None:
            self._closed.append(Stretch(self._begun, self._loud_until))
            self._begun = None
            del self._closed[: self._after(self._position - self._keep)]
        self._recent.extend([False] * _WINDOW)

    def _after(self, position: int) -> int:
        """The index of the first closed stretch that ends after ``position``."""
        return bisect.bisect_right(self._closed, position, key=lambda stretch: stretch.end)

    def stretches(self, since: int = -1) -> Iterator[Stretch]:
        """Those that end after ``since``, oldest first; the last one may be open."""
        self._decide()
        for index in range(self._after(since), len(self._closed)):
            yield self._closed[index]
        if self._begun is not None and self._loud_until > since:
            yield Stretch(self._begun, self._loud_until, open=True)

    def speech(self, start: int, end: int) -> int:
        """How many of the samples ``start`` to ``end`` are speech."""
        return sum(max(0, min(s.end, end) - max(s.start, start)) for s in self.stretches(start))

    def last_speech(self, before: int) -> int:
        """The end of the last speech up to ``before``; 0 where there was none."""
        self._decide()
        if self._begun is not None and self._begun < before:
            return min(self._loud_until, before)
        last = next((s for s in reversed(self._closed) if s.start < before), None)
        return min(last.end, before) if last else 0

    def quiet(self, start: int, end: int) -> bool:
        """Whether it is decided that nothing is said from ``start`` to ``end``."""
        return end <= self.position and self.speech(start, end) == 0


def has_voice(samples: Samples) -> bool:
    """Whether a voice may sound in them: each word has a vowel, and a vowel repeats itself 60 to 400 times a
    second. Clicks, breath and noise do not; tones and music do. Noise takes 3 ms of CPU a second."""
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    count = (len(samples) - _PERIODS - longest) // FRAME + 1
    found = 0
    for first in range(max(0, count)):
        stretch = samples[first * FRAME : first * FRAME + _PERIODS + longest].astype(np.float64)
        stretch -= stretch.mean()
        alike = np.correlate(stretch[shortest:], stretch[:_PERIODS])
        energy = np.concatenate(([0.0], np.cumsum(np.square(stretch))))
        later = (energy[_PERIODS:] - energy[:-_PERIODS])[shortest:]
        found += bool(np.any(alike > _ALIKE * np.sqrt(np.maximum(later * energy[_PERIODS], 1.0))))
        if found == _VOWEL:
            return True
    return False


def _runs(loud: NDArray[np.bool_]) -> list[tuple[bool, int]]:
    """How many in a row are so, or not."""
    ends = [*(np.flatnonzero(loud[1:] != loud[:-1]) + 1).tolist(), len(loud)]
    runs, at, is_loud = [], 0, bool(loud[0])
    for end in ends:
        runs.append((is_loud, end - at))
        at, is_loud = end, not is_loud
    return runs


def _levels(frames: Samples) -> NDArray[np.float64]:
    """The level of each row in dB of full scale, without its mean: an offset is no sound."""
    values = frames.astype(np.float64)  # exact: no difference of squares gets lost
    mean = np.add.reduce(values, axis=1) / FRAME
    power = np.einsum("ij,ij->i", values, values) / FRAME - mean * mean
    levels: NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, 0.0) / 32768.0**2 + 1e-10)
    return levels
