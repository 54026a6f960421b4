"""Gains for voices that are far below the usual level: a slow, bounded one before the voice detector, and
one for each stretch that is decoded. A core.

**Before the voice detector** the level of the voice alone is followed, within half a second upwards and some
seconds downwards; while nobody speaks the gain stays, so that noise and voices in the background are not
brought forward. Until somebody has spoken their voice is taken for somewhat quiet (`Leveller`); and beside
that, in what is so quiet that the detector finds no voice in it, a very quiet one is looked for (`Search`).

**Before the decoder** (`raised`) a stretch whose voice is below -45 dB gets one gain for all of it, a power
of two, so that it hardly changes while a turn grows. Above that nothing is touched: there the recogniser does
as well without. Nothing is added: noise of half a step of 16 bits, against the stairs of a voice that has
three bits left, costs more words than it saves (a telephone call at -50 dB peak, the mean of four roundings:
15.3 % of the words wrong without, 15.9 % with it; 13.7 % at its own level).
"""

from __future__ import annotations

import math

import numpy as np

from rtcstt.embedded.hypothesis import FRAME, Audio

TARGET_DB = -23.0  # full scale is 0: the RMS of a frame of speech
START_DB = -33.0
MOST_DB = 60.0  # of gain; there is no attenuation
UP, DOWN = 0.2, 0.01  # the share by which a frame moves the level
LEAST_FRAMES = 30  # a second, to look at
LEAST_TO_RAISE = 3
STANDS_OUT_DB = 12.0
VOICE, CLEAR_VOICE = 0.5, 0.8  # voice activity that moves the level upwards, and downwards
QUIET_DB = -65.0  # the level of the voice that is looked for
QUIET_BELOW_DB = -45.0  # of a frame that it may be in
SILENT_DB, SILENT_FRAMES = -93.0, 15  # nothing is looked for where half a second has only zeros and ones
FOUND_FRAMES = 6  # of clear voice, a fifth of a second, and the voice is known
RAISED_BELOW_DB = -45.0  # the level of a voice that is raised for the decoder
STEP_DB = 20 * math.log10(2)


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
        level_db = _level_db(frame)
        if level_db is None:
            return
        moved = level_db - self.level_db
        if probability > (VOICE if moved > 0 else CLEAR_VOICE):
            self.level_db += (UP if moved > 0 else DOWN) * moved


class Search:
    """Until a voice is known: is there a very quiet one? `looks_at` each frame, then `note` what the detector
    said of it with and without this gain; then `found` or `over` may be true, and stay so."""

    def __init__(self) -> None:
        self.leveller = Leveller(QUIET_DB)
        self.found = False
        self.over = False
        self._quiet = self._usual = 0  # frames of clear voice
        self._silent = SILENT_FRAMES  # in a row

    def looks_at(self, frame: Audio) -> bool:
        """Whether such a voice can be in the next frame: no louder sound, and no lasting digital silence."""
        level_db = _level_db(frame)
        if level_db is None:
            return False
        self._silent = self._silent + 1 if level_db <= SILENT_DB else 0
        return level_db < QUIET_BELOW_DB and self._silent < SILENT_FRAMES

    def note(self, usual: float, quiet: float | None) -> None:
        """How probable voice is with the usual gain, and with this one; None: it was not looked for."""
        self._usual = self._usual + 1 if usual > CLEAR_VOICE else 0
        self._quiet = self._quiet + 1 if quiet is not None and quiet > CLEAR_VOICE else 0
        if self._quiet >= FOUND_FRAMES:
            self.found = self.over = True
        elif self._usual >= FOUND_FRAMES and quiet is None:
            self.over = True


def raised(samples: Audio) -> Audio:
    """A stretch with speech in it as the decoder should get it; the same where it is loud enough."""
    level_db = _loud_db(samples, least=LEAST_TO_RAISE)
    if level_db is None or level_db >= RAISED_BELOW_DB:
        return samples
    steps = int(min(TARGET_DB - level_db, MOST_DB) / STEP_DB)
    louder: Audio = np.clip(samples * np.float32(2**steps), -1, 1)
    return louder


def voice_level_db(samples: Audio) -> float:
    """The level to begin with in a recording that begins so, which is there to be looked at: that of its loud
    frames where they stand out as voices do, if it is lower than the usual."""
    level_db = _loud_db(samples, least=LEAST_FRAMES, stands_out_db=STANDS_OUT_DB)
    return START_DB if level_db is None else min(START_DB, level_db)


def _loud_db(samples: Audio, *, least: int, stands_out_db: float = 0.0) -> float | None:
    """The mean level of the loud frames; None where there are fewer frames than ``least``, or they do not
    stand out so far from the quiet ones."""
    count = len(samples) // FRAME
    if count < least:
        return None
    frames = np.nan_to_num(samples[: count * FRAME]).reshape(count, FRAME)
    levels = 10 * np.log10(np.maximum(np.mean(np.square(frames, dtype=np.float64), axis=1), 1e-10))
    loud, quiet = np.percentile(levels, (95, 10))
    return float(levels[levels >= loud - STANDS_OUT_DB].mean()) if loud - quiet >= stands_out_db else None


def _level_db(frame: Audio) -> float | None:
    """Of one frame; None where it holds what is no number."""
    power = float(np.mean(np.square(frame, dtype=np.float64)))
    return 10 * math.log10(max(power, 1e-10)) if math.isfinite(power) else None
