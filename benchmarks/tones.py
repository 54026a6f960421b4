"""A sound whose way can be timed: bursts of a tone at irregular times, in quiet."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np

from rtcstt.media.files import OPUS_RATE
from rtcstt.media.pcm import SAMPLE_RATE, Samples

TONE_S = 0.2
LOUD = 800  # mean absolute value of a tone's samples, at least
QUIET_S = 0.1  # before a tone begins
SAME_ONSET_S = 1.2  # one received later than this after it was sent is another one


def tones(duration_s: float, seed: int = 1) -> tuple[Samples, list[float]]:
    """The sound at 48 kHz, and when each tone begins in it, in s."""
    dice = random.Random(seed)
    wave = np.zeros(round(duration_s * OPUS_RATE), np.int16)
    tone = 8000 * np.sin(2 * np.pi * 700 * np.arange(round(TONE_S * OPUS_RATE)) / OPUS_RATE)
    onsets, at = [], 1.0
    while at + TONE_S < duration_s:
        start = round(at * OPUS_RATE)
        wave[start : start + len(tone)] = tone
        onsets.append(at)
        at += dice.uniform(0.5, 0.7)
    return wave, onsets


class OnsetDetector:
    """Receives tones begin, in pieces of 16 kHz audio of any size."""

    def __init__(self) -> None:
        self._quiet = 0

    def detects_onset(self, samples: Samples) -> bool:
        found = False
        step = SAMPLE_RATE // 200
        for start in range(0, len(samples), step):
            if np.abs(samples[start : start + step].astype(int)).mean() < LOUD:
                self._quiet += step
                continue
            found |= self._quiet >= QUIET_S * SAMPLE_RATE
            self._quiet = 0
        return found


def latencies(sent: Sequence[float], received: Iterable[float]) -> list[float]:
    """How long after it was sent each onset was received, sorted; those never received are left out."""
    found = []
    for at in received:
        before = [when for when in sent if at - SAME_ONSET_S < when <= at]
        found += [at - before[-1]] if before else []
    return sorted(found)


def median_and_95th(values: Sequence[float], digits: int = 0) -> str:
    """Of sorted seconds, in ms."""
    if not values:
        return "-"
    median, late = values[len(values) // 2], values[int(0.95 * len(values))]
    return f"{1000 * median:.{digits}f} / {1000 * late:.{digits}f}"
