"""Where decoded audio belongs on a recording's clock; a core.

Containers give each piece of audio a time. Audio that is due later than the audio before it ends leaves a
hole, which is to be filled with silence, so that times count as the container's do. A clock that goes back,
or jumps further than a recording can pause, is a discontinuity (joined files, MPEG-TS that wraps): the
audio goes on there.
"""

from __future__ import annotations

HOLE_S = 0.045  # a smaller one is rounding: containers count in milliseconds, or in video frames
BACK_S = 1.0  # audio due earlier by so little is kept and held against the next hole
LEAP_S = 3600.0  # in containers whose clock does not jump
TS_LEAP_S = 10.0  # in those whose clock may (MPEG-TS); FFmpeg's own figure


class Timeline:
    """``position``: seconds of audio placed so far."""

    def __init__(self) -> None:
        self.position = 0.0
        self._offset = 0.0  # what the container's clock shows at our zero
        self._leap = LEAP_S
        self._first = True
        self._doubtful = False
        self._believed = True

    def start(self, clock: float, *, may_jump: bool, counted: bool = False) -> None:
        """A container begins here, whose clock shows ``clock`` at its beginning. A ``counted`` clock has no
        times of its own, but a count of bytes or frames: it is believed if the second frame follows the
        first."""
        self._offset = clock - self.position
        self._leap = TS_LEAP_S if may_jump else LEAP_S
        self._first = True
        self._doubtful, self._believed = counted, True

    def place(self, time: float | None, duration: float) -> float:
        """The silence, in seconds, to put before audio of that ``time`` and ``duration``."""
        silence = 0.0 if time is None else self._hole(time)
        if self._doubtful and not self._first:
            self._believed = silence == 0.0
            self._doubtful = False
        if not self._believed:
            silence = 0.0
        self._first = False
        self.position += silence + duration
        return silence

    def insert(self, seconds: float) -> None:
        """Something of this length is lost here, of which the container's clock does not know."""
        self.position += seconds
        self._offset -= seconds

    def _hole(self, time: float) -> float:
        hole = time - self._offset - self.position
        leap, least = (LEAP_S, 0.0) if self._first else (self._leap, HOLE_S)
        if not -BACK_S <= hole <= leap:
            self._offset = time - self.position
            return 0.0
        return hole if hole > least else 0.0
