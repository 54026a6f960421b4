"""The events of a call: one class for each type, the same objects in Python and (by `Event.as_dict`) in JSON.

    async for event in transcriber:
        match event:
            case TurnEnd(track=track, transcript=text):
                print(track, text)
            case TranscriptGap():
                print(f"[{event.end - event.start:.1f} s not heard]")

Every event has ``type``, ``call``, ``seq`` (from 0, no holes) and ``time``; those of a track have ``track``,
those of a turn ``turn``, ``start`` and ``end``. Times are seconds on the call's audio clock. A field whose
default is empty (``""``, None) is left out of the JSON while it is empty; any other field is always there.
What a newer speech-to-text service adds to a message is kept in ``extra``, and a message that is new
altogether is an `Unknown`. An event is made without ``call``, ``seq`` and ``time``: the call's feed fills
them in.

A core: standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    TypedDict,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

GapReason: TypeAlias = Literal["network", "stt", "overflow", "drain_timeout", "server"]


class AudioLedger(TypedDict, total=False):
    """What became of a track's audio, in ms; see docs/ledger.md."""

    received: float
    recovered: float
    concealed: float
    silence: float
    sent: float
    discarded: float
    discarded_by_reason: dict[str, float]
    unanswered: float


class TrackLedger(TypedDict):
    """An item of `SessionEnd.tracks`."""

    track: str
    ledger: AudioLedger


class Gap(TypedDict):
    """A stretch of audio that has no text although it may have held speech; seconds on the call's clock."""

    track: str
    start: float
    end: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have."""

    type: ClassVar[str]
    call: str = ""
    seq: int = -1
    time: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    "Fields of the service's message that this version does not know."

    @property
    def name(self) -> str:
        """The ``type`` that the JSON has."""
        return self.type

    @property
    def ends_turn(self) -> bool:
        """Whether its text is definitive, in either mode."""
        return False

    @property
    def fields(self) -> Mapping[str, Any]:
        """The JSON's fields but for the type and the place (call, seq, time, track, turn, start, end)."""
        return {name: value for name, value in self.as_dict().items() if name not in _PLACE}

    def as_dict(self) -> dict[str, Any]:
        """The object that goes to listeners."""
        ours: dict[str, Any] = {"type": self.name}
        for name, empty in _SHOWN[type(self)]:
            value = getattr(self, name)
            if not (empty and value in ("", None)):
                ours[name] = round(value, 3) if name in _SECONDS else value
        return {**ours, **self.extra, **ours}  # ours come first, and win

    def to_json(self) -> str:
        whole = self.as_dict()
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        if _is_unicode(text):
            return text
        return json.dumps(whole, separators=(",", ":"))  # half a surrogate pair, which UTF-8 cannot carry


_PLACE = frozenset({"type", "call", "seq", "time", "track", "turn", "start", "end"})
_SECONDS = frozenset({"time", "start", "end"})


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
class TrackEvent(Event):
    """What the events of a track have: ``track``, the media section's mid."""

    track: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStart(TrackEvent):
    type: ClassVar[Literal["track.start"]] = "track.start"


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


# -- the way to the speech-to-text service -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptGap(TrackEvent):
    """The audio from ``start`` to ``end`` will have no text, although it may have held speech."""

    type: ClassVar[Literal["transcript.gap"]] = "transcript.gap"
    start: float
    end: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttReconnecting(TrackEvent):
    """The connection was lost or refused, and will be tried again."""

    type: ClassVar[Literal["stt.reconnecting"]] = "stt.reconnecting"
    attempt: int
    reason: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttRecovered(TrackEvent):
    """It is there again; ``lag`` seconds of audio wait for it, ``lost`` seconds were too many to keep."""

    type: ClassVar[Literal["stt.recovered"]] = "stt.recovered"
    lag: float
    attempts: int
    lost: float
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttBehind(TrackEvent):
    """``lag`` seconds of audio wait for the service; said at 2 s, and each time it has doubled."""

    type: ClassVar[Literal["stt.behind"]] = "stt.behind"
    lag: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SttCaughtUp(TrackEvent):
    """After `SttBehind`: text comes as soon as usual again."""

    type: ClassVar[Literal["stt.caught_up"]] = "stt.caught_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(TrackEvent):
    """The service's first message, on the first connection."""

    type: ClassVar[Literal["connected"]] = "connected"
    request_id: str = ""


# -- what was said -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEvent(TrackEvent):
    """What the events of a turn have. ``turn`` counts the turns of its track from 0; ``start`` and ``end``
    are those of the speech, so far."""

    turn: int
    start: float
    end: float
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStart(TurnEvent):
    """Somebody began to speak."""

    type: ClassVar[Literal["turn.start"]] = "turn.start"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUpdate(TurnEvent):
    """``transcript`` is all the text of this turn so far, verbatim; it only ever grows."""

    type: ClassVar[Literal["turn.update"]] = "turn.update"
    transcript: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEagerEnd(TurnEvent):
    """The speaker might be done: `TurnResume` or `TurnEnd` follows."""

    type: ClassVar[Literal["turn.eager_end"]] = "turn.eager_end"
    transcript: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResume(TurnEvent):
    """They were not done."""

    type: ClassVar[Literal["turn.resume"]] = "turn.resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd(TurnEvent):
    """The turn is over. The transcripts of a track, joined with nothing between, are its text."""

    type: ClassVar[Literal["turn.end"]] = "turn.end"
    transcript: str

    @property
    def ends_turn(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript(TurnEvent):
    """Manual mode: the text since the last final one. Only final ones count; join verbatim."""

    type: ClassVar[Literal["transcript"]] = "transcript"
    text: str
    is_final: bool
    duration: float | None = None
    language: str = ""
    words: list[Any] | dict[str, Any] | None = None
    "As the service gave them, or None."

    @property
    def transcript(self) -> str:
        """The text, under the name that it has in turns."""
        return self.text

    @property
    def ends_turn(self) -> bool:
        return self.is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushDone(TrackEvent):
    """Manual mode: answers a `finalize`, after the transcripts that it brought about."""

    type: ClassVar[Literal["flush_done"]] = "flush_done"
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Event):
    """A message of a newer service, passed through. Its own type is ``name``, its fields are in ``extra``;
    ``type`` is "unknown" so that comparing ``type`` tells the other classes apart."""

    type: ClassVar[Literal["unknown"]] = "unknown"
    unknown_type: str
    track: str = ""
    turn: int | None = None
    start: float | None = None
    end: float | None = None

    @property
    def name(self) -> str:
        return self.unknown_type


AnyEvent: TypeAlias = (
    SessionStart
    | SessionMove
    | SessionEnd
    | ErrorEvent
    | TrackStart
    | TrackEnd
    | TrackMuted
    | TrackUnmuted
    | TrackRefused
    | AudioIgnored
    | AudioSources
    | AudioStalled
    | AudioResumed
    | AudioSuspect
    | Dtmf
    | TranscriptGap
    | SttReconnecting
    | SttRecovered
    | SttBehind
    | SttCaughtUp
    | Connected
    | TurnStart
    | TurnUpdate
    | TurnEagerEnd
    | TurnResume
    | TurnEnd
    | Transcript
    | FlushDone
    | Unknown
)

WITHOUT_WORDS = (
    SessionStart | SessionMove | SessionEnd | ErrorEvent
    | TrackStart | TrackEnd | TrackMuted | TrackUnmuted | TrackRefused
    | AudioIgnored | AudioSources | AudioStalled | AudioResumed | AudioSuspect
    | TranscriptGap | SttReconnecting | SttRecovered | SttBehind | SttCaughtUp | Connected | FlushDone
)  # fmt: skip
"""What callers get who may send but not listen: nothing that was said, also in messages yet unknown."""

_KINDS: tuple[type[Event], ...] = get_args(AnyEvent)
EVENTS: Mapping[str, type[Event]] = {kind.type: kind for kind in _KINDS if kind is not Unknown}
"""The classes by the type of their JSON."""


_FIELDS = {kind: [f for f in dataclasses.fields(kind) if f.name != "unknown_type"] for kind in _KINDS}
# The fields of the JSON in their order, and whether each may be left out.
_SHOWN = {
    kind: [(f.name, f.default in ("", None)) for f in its if f.name != "extra"]
    for kind, its in _FIELDS.items()
}
_REQUIRED = {kind: {f.name for f in its if f.default is f.default_factory} for kind, its in _FIELDS.items()}
_HINTS = {kind: {name: get_type_hints(kind)[name] for name, _ in shown} for kind, shown in _SHOWN.items()}


def from_message(message: Mapping[str, Any], **place: Any) -> AnyEvent:
    """The event of a message of the service, whose fields are ``message``, at its ``place``."""
    name = message["type"]
    kind = EVENTS.get(name, Unknown)
    hints = _HINTS[kind]
    values = {key: value for key, value in message.items() if key != "type" and key not in _PLACE}
    known = {key: value for key, value in values.items() if key in hints}
    rest = {key: value for key, value in values.items() if key not in known}
    known |= {"unknown_type": name} if kind is Unknown else {}
    known |= {key: value for key, value in place.items() if key in hints and value is not None}
    return cast(AnyEvent, kind(**known, extra=rest))


def from_dict(values: Mapping[str, Any]) -> AnyEvent:
    """The event of a JSON object, as `Event.as_dict` gave it; `ValueError` names the field that is wrong."""
    name = values.get("type")
    if not isinstance(name, str):
        raise ValueError("an event has a type")
    kind = EVENTS.get(name, Unknown)
    hints = _HINTS[kind]
    rest = {key: value for key, value in values.items() if key not in hints and key != "type"}
    known: dict[str, Any] = {"unknown_type": name} if kind is Unknown else {}
    for key in hints.keys() & values.keys():
        if not _fits(values[key], hints[key]):
            raise ValueError(f"{name}: {key} cannot be {values[key]!r:.40}")
        known[key] = values[key]
    missing = _REQUIRED[kind] - known.keys()
    if missing:
        raise ValueError(f"{name} without {', '.join(sorted(missing))}")
    return cast(AnyEvent, kind(**known, extra=rest))


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of the JSON can stand where ``hint`` is: the outermost type only."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    plain = get_origin(hint) or hint
    return isinstance(value, dict if is_typeddict(plain) else plain)
