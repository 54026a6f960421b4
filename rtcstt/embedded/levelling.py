"""A slow, bounded gain before the voice detector, which finds less of a voice that is far below its usual
level.

The level of the voice alone is followed, within half a second upwards and some seconds downwards; while
nobody speaks the gain stays, so that noise and voices in the background are not brought forward. Until
somebody has spoken their voice is taken for somewhat quiet. A core.
"""

from __future__ import annotations

import math

import numpy as np

from rtcstt.embedded.hypothesis import Audio

TARGET_DB = -23.0  # full scale is 0: the RMS of a frame of speech
START_DB = -33.0
MOST_DB = 30.0  # of gain; there is no attenuation
UP, DOWN = 0.2, 0.01  # the share by which a frame moves the level
VOICE, CLEAR_VOICE = 0.5, 0.8  # voice activity that moves the level upwards, and downwards


class Leveller:
    """`level` each frame, then `note` what the detector said of it."""

    def __init__(self) -> None:
        self.level_db = START_DB

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
