"""Audio that came for a call and for which there is no track, or no speech-to-text stream: gaps of its own.

A core: times are seconds on the call's clock.
"""

from __future__ import annotations

from rtcstt.events import TranscriptGap
from rtcstt.media.losses import Unread
from rtcstt.media.pcm import SAMPLE_RATE


class LeftOut:
    """A stretch for each track; one that grows is told in parts."""

    def __init__(self) -> None:
        self._tracks: dict[str, Unread] = {}

    def note(self, track: str, start: float, end: float) -> list[TranscriptGap]:
        """What is to be said now."""
        unread = self._tracks.setdefault(track, Unread())
        unread.note(track, round(start * SAMPLE_RATE), round(end * SAMPLE_RATE), "overflow", least=0)
        return self.due(end)

    def due(self, now: float) -> list[TranscriptGap]:
        """The same, when nothing more came until ``now``."""
        position = round(min(now, 1e9) * SAMPLE_RATE)
        return [
            TranscriptGap(
                track=track, start=lost.start / SAMPLE_RATE, end=lost.end / SAMPLE_RATE, reason=lost.reason
            )
            for track, unread in self._tracks.items()
            for lost in unread.due(position)
        ]
