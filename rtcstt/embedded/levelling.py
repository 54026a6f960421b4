"""A slow, bounded gain before the voice detector, which finds less of a voice that is far below its usual
level.

The level of the voice alone is followed, within half a second upwards and some seconds downwards; while
nobody speaks the gain stays, so that noise and voices in the background are not brought forward. Until
somebody has spoken their voice is taken for somewhat quiet. A core.
"""

from __future__ import annotations

import math

import numpy as np

from rtcstt.embedded.hypothesis import FRAME, Audio

TARGET_DB = -23.0  # full scale is 0: the RMS of a frame of speech
START_DB = -33.0
MOST_DB = 30.0  # of gain; there is no attenuation
UP, DOWN = 0.2, 0.01  # the share by which a frame moves the level
LEAST_FRAMES = 30  # a second, to look at
STANDS_OUT_DB = 12.0
VOICE, CLEAR_VOICE = 0.5, 0.8  # voice activity that moves the level upwards, and downwards


class Leveller:
    """`level` each frame, then `note` what the detector said of it. ``level_db``: the voice's, where it is
    known before (`voice_level_db`)."""

    def __init__(self, level_db: float = START_DB) -> None:
        self.level_db = level_db

    @property
    def gain_db(self) -> float:
        return min(max(TARGET_DB - self.level_db, 0.0), MOST_DB)

    def level(self, frame: Audio) -> Audio:
        """The frame with the present gain."""
        gain = np.float32(10 ** (self.gain_db / 20))
        return frame if gain == 1 else np.clip(frame * gain, -1, 1)

    def note(self, frame: Audio, probability: float) -> None:
        """Voice of this probability was in the frame, as it came."""
        power = float(np.mean(np.square(frame, dtype=np.float64)))
        if not np.isfinite(power):
            return
        moved = 10 * math.log10(max(power, 1e-9)) - self.level_db
        if probability > (VOICE if moved > 0 else CLEAR_VOICE):
            self.level_db += (UP if moved > 0 else DOWN) * moved


def voice_level_db(samples: Audio) -> float:
    """The level to begin with in a recording that begins so, which is there to be looked at: that of its loud
    frames where they stand out as voices do, if it is lower than the usual."""
    count = len(samples) // FRAME
    if count < LEAST_FRAMES:
        return START_DB
    frames = np.nan_to_num(samples[: count * FRAME]).reshape(count, FRAME)
    levels = 10 * np.log10(np.maximum(np.mean(np.square(frames, dtype=np.float64), axis=1), 1e-10))
    loud, quiet = np.percentile(levels, (95, 10))
    if loud - quiet < STANDS_OUT_DB:
        return START_DB
    return min(START_DB, float(levels[levels > loud - STANDS_OUT_DB].mean()))
