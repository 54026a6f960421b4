"""Several channels into one: FFmpeg's downmix, and what it cannot do: channels of opposite phase; a core."""

from __future__ import annotations

import functools

import av
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CANCELLED = 0.1  # of the power that the channels would have together if they had nothing in common
NOT_CANCELLED = 0.3
CLEARLY_LOUDER = 2.0  # in power


class Mixer:
    """Mixes windows of (channels, samples) into one channel. Where the channels cancel each other out it
    takes the loudest, until they no longer do or another is clearly louder: of two that are as loud, taking
    now one and now the other would turn the phase about in mid-word."""

    def __init__(self) -> None:
        self._cancelled = False
        self._chosen: int | None = None

    def mix(self, window: Floats, layout: str) -> Floats:
        if len(window) == 1:
            return window
        weights = downmix(layout, len(window))
        mixed: Floats = (weights @ window)[None, :]
        power = np.mean(np.square(window, dtype=np.float64), axis=1)
        expected = float(np.square(weights, dtype=np.float64) @ power)
        if expected > 0:
            left = float(np.mean(np.square(mixed, dtype=np.float64))) / expected
            self._cancelled = left < (NOT_CANCELLED if self._cancelled else CANCELLED)
        if not self._cancelled:
            self._chosen = None
            return mixed
        loudest = int(np.argmax(power))
        chosen = self._chosen
        if chosen is None or chosen >= len(window) or power[loudest] > CLEARLY_LOUDER * power[chosen]:
            self._chosen = chosen = loudest
        return window[chosen : chosen + 1]


@functools.lru_cache(maxsize=64)
def downmix(layout: str, channels: int) -> Floats:
    """FFmpeg's weights of each channel in mono, together 1; equal ones where the layout says nothing."""
    equal = np.full(channels, 1 / channels, np.float32)
    if layout.endswith("channels"):  # FFmpeg's name for "so many, wherever they are"
        return equal
    weights = []
    for channel in range(channels):
        one = np.zeros((1, 64 * channels), np.float32)
        one[0, channel::channels] = 1
        frame = av.AudioFrame.from_ndarray(one, "flt", layout)
        frame.sample_rate = 16000
        mono = av.AudioResampler(format="flt", layout="mono").resample(frame)
        weights.append(float(mono[0].to_ndarray()[0, 32]))
    total = sum(weights)
    return np.array([weight / total for weight in weights], np.float32) if total > 0 else equal
