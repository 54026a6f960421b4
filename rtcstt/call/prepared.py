"""A call that another server still has, while its caller's new connection to this one comes up.

The old connection is received there until the new one is received here (make before break). Until then
nothing is published here, and packets and commands are only kept; with `commit` the call goes on here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rtcstt.call.call import Call
from rtcstt.call.restored import Restored
from rtcstt.call.track import Track
from rtcstt.events import AnyEvent, TrackStart
from rtcstt.media.rtp import Codec

MOST_EARLY = 100  # events, and commands, of the connection that is coming up


class PreparedCall(Call):
    """Made like a `Call`. ``on_received`` is called once, with the first packet."""

    on_received: Callable[[], None] | None = None
    _is_committed = False
    _early: tuple[AnyEvent, ...] = ()
    _asked: tuple[str, ...] = ()

    @property
    def is_committed(self) -> bool:
        return self._is_committed

    def held_since(self) -> Mapping[str, float]:
        """When the first packet of each track came, in the loop's time."""
        return {track.mid: track.held_since for track in self.tracks.values() if track.held_since is not None}

    def publish(self, event: AnyEvent) -> None:
        if self._is_committed:
            super().publish(event)
        elif not isinstance(event, TrackStart) and len(self._early) < MOST_EARLY:
            self._early += (event,)

    def command(self, text: str) -> None:
        if self._is_committed:
            super().command(text)
        else:  # the other server has the call, and no connection to be told over; a `close` comes last
            self._asked = (*self._asked, text)[-MOST_EARLY:]

    def add_track(self, track: str, codecs: Mapping[int, Codec] | None = None) -> Track:
        added = super().add_track(track, codecs)
        if not self._is_committed:
            added.hold(self._received)
        return added

    def commit(self, restored: Restored) -> None:
        """Go on from what the other server had written when it lost the call."""
        waiting = dict(self.tracks)
        self.created = restored.created
        self._shared.turn = restored.turn or self.turn  # which may have changed since this call was prepared
        for event in restored.feed.history:
            self.feed.restore(event)
            self._time = max(self._time, event.time)
            self.counts.add(event)
        self.tracks = restored.tracks_of(self._shared)
        last = {track.mid: name for name, track in self.tracks.items()}
        for mid in waiting.keys() & last.keys():
            track = waiting.pop(mid)
            track.track = last[mid]
            self.tracks[last[mid]] = track
        self._is_committed = True
        for name, kept in restored.tracks.items():
            self.tracks[name].restore(kept)
        for mid, track in waiting.items():
            self.tracks[mid] = track
            self.publish(TrackStart(track=mid))
        for event in self._early:
            self.publish(event)
        for track in self.tracks.values():
            track.release(handed_over=restored.handed_over)
        for text in self._asked:
            self.command(text)

    def _begin(self) -> None:
        """It has begun elsewhere."""

    def _received(self) -> None:
        told, self.on_received = self.on_received, None
        if told is not None:
            told()
