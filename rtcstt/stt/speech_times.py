"""When was said what the STT has just told us of? Its turn events carry no times; the audio has them.

`SpeechTimes` looks for the answer among the stretches of speech that the energy track found, given how far a
connection had been sent the audio (``cursor``) when the message came, and how late this STT's messages
usually are (`Latency`). Its functions change nothing. Positions are samples of the track.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.activity import SpeechActivity, Stretch


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


START_DELAY = samples(0.15)  # a turn.start comes about so long after the onset
LONGEST_START = samples(1.5)
SHORTEST_SPEECH = samples(0.08)
SHORTEST_PAUSE = samples(0.2)  # no turn ends after less silence than this
LAG_SPREAD = samples(0.25)  # the end of a turn takes an STT so much longer than its start, at most
CERTAIN_PAUSE = samples(0.25)
LOOK_BACK = samples(0.4)


@dataclass(frozen=True, slots=True)
class Onset:
    """Where speech began. ``lag``: how late its `turn.start` was beyond what every STT needs;
    ``longest_lag``: how late it might have been, if an earlier onset was meant. None where no onset was
    found."""

    sample: int
    lag: int | None = None
    longest_lag: int | None = None


@dataclass(slots=True)
class Latency:
    """How late one connection's messages have been recently."""

    lags: deque[int] = field(default_factory=lambda: deque(maxlen=5))
    longest_lags: deque[int] = field(default_factory=lambda: deque(maxlen=5))

    def note(self, onset: Onset) -> None:
        if onset.lag is not None and onset.longest_lag is not None:
            self.lags.append(onset.lag)
            self.longest_lags.append(onset.longest_lag)

    @property
    def usual(self) -> int:
        return sorted(self.lags)[len(self.lags) // 2] if self.lags else 0

    @property
    def shortest(self) -> int:
        return min(self.lags, default=0)

    @property
    def longest(self) -> int:
        return max(self.longest_lags, default=0)


class SpeechTimes:
    """Beginnings and ends of speech, of one track."""

    def __init__(self, activity: SpeechActivity) -> None:
        self.activity = activity

    def stretches(self, until: int) -> list[Stretch]:
        return [stretch for stretch in self.activity.stretches() if stretch.start < until]

    def last_speech(self, cursor: int) -> int:
        """The end of the last speech before ``cursor``."""
        return self.activity.last_speech(cursor)

    def first_start(self, cursor: int, *, since: int, default: int) -> int:
        """The first speech that begins at ``since`` or later."""
        return min((s.start for s in self.stretches(cursor) if s.start >= since), default=default)

    def onset(self, cursor: int, since: int, latency: Latency) -> Onset:
        """Where the speech began that a `turn.start` arriving now speaks of: of the onsets that no turn has
        yet (those after ``since``), the one that fits best how late this STT usually is."""
        possible = [
            s.start for s in self.stretches(cursor) if s.start >= since and s.end - s.start >= SHORTEST_SPEECH
        ]
        if not possible:
            return Onset(max(since, cursor - START_DELAY))
        # An STT that is behind may speak of what was said long ago; what it said nothing of is none of it.
        earliest = cursor - LONGEST_START - latency.usual
        onsets = [start for start in possible if start >= earliest] or possible[-1:]
        expected = cursor - START_DELAY - latency.usual
        onset = min(onsets, key=lambda start: abs(start - expected))
        return Onset(
            onset,
            lag=max(0, cursor - onset - START_DELAY),
            longest_lag=max(0, cursor - onsets[0] - START_DELAY),
        )

    def end_of_speech(
        self, cursor: int, onset: int, latency: Latency, *, resumed: int = 0
    ) -> tuple[int, int | None]:
        """Where the speech from ``onset`` on ended that a `turn.end` (or `eager_end`) arriving now closes,
        and a sample in the pause behind it; None where it is not certain which pause it was. Speech up to
        ``resumed`` it closes only if there is no other."""
        received = cursor - SHORTEST_PAUSE
        stretches = self.stretches(cursor)
        spoken = [s for s in stretches if s.end > onset]
        spoken = [s for s in spoken if s.end > resumed] or spoken
        ended = [s for s in spoken if s.end <= received]
        if not ended:
            return max(onset, resumed, cursor - LOOK_BACK), None
        likely = [s for s in ended if s.end <= received - latency.usual] or ended
        surely = [s for s in ended if s.end <= received - latency.longest - LAG_SPREAD]
        end = likely[-1].end
        following = min((s.start for s in stretches if s.start >= end), default=cursor)
        decided = cursor - latency.shortest - SHORTEST_SPEECH  # at the latest
        certain = surely[-1:] == ended[-1:] and following >= max(decided, end + CERTAIN_PAUSE)
        return end, end + (following - end) // 2 if certain else None
