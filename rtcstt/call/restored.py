"""What another server kept of a call, from which it goes on here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rtcstt.call.flow import KeptTrack, Shared
from rtcstt.call.track import Track
from rtcstt.events import TrackStart
from rtcstt.feed import Feed
from rtcstt.wire import TurnSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A call as it was when its server last reported. ``feed`` holds its events, ``created`` is when it
    was placed (Unix time), ``turn`` the turn settings that held; None: those it began with. ``handed_over``:
    that server has reported all it received, and let go of it."""

    feed: Feed
    created: float
    turn: TurnSettings | None = None
    tracks: Mapping[str, KeptTrack] = field(default_factory=dict)
    handed_over: bool = False

    def tracks_of(self, shared: Shared) -> dict[str, Track]:
        """The call's tracks as they were. The call's clock goes on as well, unless nothing had come."""
        origins = [kept.origin for kept in self.tracks.values() if kept.origin is not None]
        shared.origin = min(origins, default=None)
        found = {}
        for event in self.feed.history:
            if isinstance(event, TrackStart):
                kept = self.tracks.get(event.track, KeptTrack({"mid": event.track.partition(".")[0]}))
                found[event.track] = Track(shared, event.track, str(kept.state["mid"]))
        return found
