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
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast, get_args, get_type_hints

from rtcstt.events.base import (
    PLACE,
    AudioLedger,
    Event,
    Gap,
    GapReason,
    TrackEvent,
    TrackLedger,
    TurnEvent,
    shown,
)
from rtcstt.events.fitting import fault
from rtcstt.events.session import (
    AudioIgnored,
    AudioResumed,
    AudioSources,
    AudioStalled,
    AudioSuspect,
    Dtmf,
    ErrorEvent,
    SessionEnd,
    SessionMove,
    SessionStart,
    TrackEnd,
    TrackMuted,
    TrackNamed,
    TrackRefused,
    TrackStart,
    TrackUnmuted,
)
from rtcstt.events.speech import (
    Connected,
    FlushDone,
    SttBehind,
    SttCaughtUp,
    SttReconnecting,
    SttRecovered,
    Transcript,
    TranscriptGap,
    TurnEagerEnd,
    TurnEnd,
    TurnResume,
    TurnStart,
    TurnUpdate,
    Unknown,
)

__all__ = [
    "AnyEvent",
    "AudioIgnored",
    "AudioLedger",
    "AudioResumed",
    "AudioSources",
    "AudioStalled",
    "AudioSuspect",
    "Connected",
    "Dtmf",
    "EVENTS",
    "ErrorEvent",
    "Event",
    "FlushDone",
    "Gap",
    "GapReason",
    "SessionEnd",
    "SessionMove",
    "SessionStart",
    "SttBehind",
    "SttCaughtUp",
    "SttReconnecting",
    "SttRecovered",
    "TrackEnd",
    "TrackEvent",
    "TrackLedger",
    "TrackMuted",
    "TrackNamed",
    "TrackRefused",
    "TrackStart",
    "TrackUnmuted",
    "Transcript",
    "TranscriptGap",
    "TurnEagerEnd",
    "TurnEnd",
    "TurnEvent",
    "TurnResume",
    "TurnStart",
    "TurnUpdate",
    "Unknown",
    "WITHOUT_WORDS",
    "fault",
    "from_dict",
    "from_message",
    "merged",
]

AnyEvent: TypeAlias = (
    SessionStart
    | SessionMove
    | SessionEnd
    | ErrorEvent
    | TrackStart
    | TrackNamed
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
    | TrackStart | TrackNamed | TrackEnd | TrackMuted | TrackUnmuted | TrackRefused
    | AudioIgnored | AudioSources | AudioStalled | AudioResumed | AudioSuspect
    | TranscriptGap | SttReconnecting | SttRecovered | SttBehind | SttCaughtUp | Connected | FlushDone
)  # fmt: skip
"""What callers get who may send but not listen: nothing that was said, also in messages yet unknown."""

_KINDS: tuple[type[Event], ...] = get_args(AnyEvent)
EVENTS: Mapping[str, type[Event]] = {kind.type: kind for kind in _KINDS if kind is not Unknown}
"""The classes by the type of their JSON."""


_REQUIRED = {
    kind: {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory} - {"unknown_type"}
    for kind in _KINDS
}
_HINTS = {kind: {name: get_type_hints(kind)[name] for name, _ in shown(kind)} for kind in _KINDS}


def from_message(message: Mapping[str, object], **place: object) -> AnyEvent:
    """The event of a message of the service, whose fields are ``message``, at its ``place``."""
    name = str(message["type"])
    kind = EVENTS.get(name, Unknown)
    hints = _HINTS[kind]
    values = {key: value for key, value in message.items() if key != "type" and key not in PLACE}
    known: dict[str, Any] = {key: value for key, value in values.items() if key in hints}
    rest = {key: value for key, value in values.items() if key not in known}
    known |= {"unknown_type": name} if kind is Unknown else {}
    known |= {key: value for key, value in place.items() if key in hints and value is not None}
    return cast(AnyEvent, kind(**known, extra=rest))


def from_dict(values: Mapping[str, object]) -> AnyEvent:
    """The event of a JSON object, as `Event.as_dict` gave it; `ValueError` names the field that is wrong."""
    name = values.get("type")
    if not isinstance(name, str):
        raise ValueError("an event has a type")
    kind = EVENTS.get(name, Unknown)
    hints = _HINTS[kind]
    rest = {key: value for key, value in values.items() if key not in hints and key != "type"}
    known: dict[str, Any] = {"unknown_type": name} if kind is Unknown else {}
    for key in hints.keys() & values.keys():
        if (wrong := fault(values[key], hints[key], key)) is not None:
            raise ValueError(f"{name}: {wrong} is not what it should be: {key} is {values[key]!r:.40}")
        known[key] = values[key]
    missing = _REQUIRED[kind] - known.keys()
    if missing:
        raise ValueError(f"{name} without {', '.join(sorted(missing))}")
    return cast(AnyEvent, kind(**known, extra=rest))


def merged(gaps: Iterable[Gap]) -> list[Gap]:
    """The gaps in the order of their beginning, those that touch as one."""
    found: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: (gap["track"], gap["start"])):
        last = found[-1] if found else None
        touches = last is not None and (last["track"], last["reason"]) == (gap["track"], gap["reason"])
        if last is not None and touches and gap["start"] <= last["end"] + 0.001:
            last["end"] = max(last["end"], gap["end"])
        else:
            found.append(gap.copy())
    return sorted(found, key=lambda gap: gap["start"])
