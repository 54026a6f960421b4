"""Events of the call and of its tracks' audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rtcstt.events.base import AudioLedger, Event, Gap, TrackEvent, TrackLedger

# -- the call ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStart(Event):
    """The first event. ``created`` is the time of day (ISO 8601, UTC)."""

    type: ClassVar[Literal["session.start"]] = "session.start"
    mode: str
    engine: str
    label: str = ""
    created: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMove(Event):
    """The caller is asked to offer again with the call's id: another server takes the call."""

    type: ClassVar[Literal["session.move"]] = "session.move"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd(Event):
    """The last event. ``complete``: nothing is in ``missing``, the audio without text that may have held
    speech."""

    type: ClassVar[Literal["session.end"]] = "session.end"
    reason: str
    tracks: list[TrackLedger]
    ledger: dict[str, AudioLedger]
    complete: bool
    missing: list[Gap]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(Event):
    """Something was refused or failed; of a track's speech-to-text service where ``track`` is there."""

    type: ClassVar[Literal["error"]] = "error"
    track: str = ""
    title: str
    message: str
    status_code: int
    error_code: str = ""
    doc_url: str = ""
    request_id: str = ""
    engine: str = ""


# -- a track's audio ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStart(TrackEvent):
    type: ClassVar[Literal["track.start"]] = "track.start"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackNamed(TrackEvent):
    """Who speaks on this track, from its first word on; empty when it is no longer said."""

    type: ClassVar[Literal["track.named"]] = "track.named"
    speaker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackEnd(TrackEvent):
    """No more audio comes of this track, and all its text has come."""

    type: ClassVar[Literal["track.end"]] = "track.end"
    reason: str
    ledger: AudioLedger


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMuted(TrackEvent):
    """The sender said that it stops for now (RTCP BYE, hold)."""

    type: ClassVar[Literal["track.muted"]] = "track.muted"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUnmuted(TrackEvent):
    """Packets come again."""

    type: ClassVar[Literal["track.unmuted"]] = "track.unmuted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRefused(TrackEvent):
    """A section of the offer is refused (port 0), and why."""

    type: ClassVar[Literal["track.refused"]] = "track.refused"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioIgnored(TrackEvent):
    """Packets come that are not received, and why; said once for each reason, the counters go on.
    ``track`` is empty where it is not known whose they are."""

    type: ClassVar[Literal["audio.ignored"]] = "audio.ignored"
    reason: str
    payload_type: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSources(TrackEvent):
    """So many sources (SSRCs) send at once on one track; whoever speaks is received."""

    type: ClassVar[Literal["audio.sources"]] = "audio.sources"
    sources: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioStalled(TrackEvent):
    """Packets stopped, and the sender had not said that they would."""

    type: ClassVar[Literal["audio.stalled"]] = "audio.stalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioResumed(TrackEvent):
    """Packets come again after ``stalled`` seconds."""

    type: ClassVar[Literal["audio.resumed"]] = "audio.resumed"
    stalled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSuspect(TrackEvent):
    """The audio cannot be what was stated; ``guess`` says what it may be."""

    type: ClassVar[Literal["audio.suspect"]] = "audio.suspect"
    guess: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtmf(TrackEvent):
    """A key was pressed (RFC 4733, or a gateway's message)."""

    type: ClassVar[Literal["dtmf"]] = "dtmf"
    digit: str
    duration_ms: int
