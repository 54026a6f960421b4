"""A call: what a caller addresses by an id."""

from __future__ import annotations

from rtcstt.call.call import MAX_TRACKS, Call
from rtcstt.call.flow import KeptTrack, TrackState
from rtcstt.call.prepared import PreparedCall
from rtcstt.call.restored import Restored
from rtcstt.call.settings import CallOptions, CallSettings, Mode, Recorder
from rtcstt.call.track import Track

__all__ = [
    "Call",
    "CallOptions",
    "CallSettings",
    "KeptTrack",
    "MAX_TRACKS",
    "Mode",
    "PreparedCall",
    "Recorder",
    "Restored",
    "Track",
    "TrackState",
]
