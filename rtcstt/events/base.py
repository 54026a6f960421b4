"""What the events have in common."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, TypedDict

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
    extra: Mapping[str, object] = field(default_factory=dict)
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
    def fields(self) -> Mapping[str, object]:
        """The JSON's fields but for the type and the place (call, seq, time, track, turn, start, end)."""
        return {name: value for name, value in self.as_dict().items() if name not in PLACE}

    def as_dict(self) -> dict[str, object]:
        """The object that goes to listeners."""
        ours: dict[str, object] = {"type": self.name}
        for name, empty in shown(type(self)):
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


PLACE = frozenset({"type", "call", "seq", "time", "track", "turn", "start", "end"})
_SECONDS = frozenset({"time", "start", "end"})


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_shown: dict[type[Event], list[tuple[str, bool]]] = {}


def shown(kind: type[Event]) -> list[tuple[str, bool]]:
    """The fields of the JSON in their order, and whether each may be left out."""
    if kind not in _shown:
        fields = (f for f in dataclasses.fields(kind) if f.name not in ("extra", "unknown_type"))
        _shown[kind] = [(f.name, f.default in ("", None)) for f in fields]
    return _shown[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackEvent(Event):
    """What the events of a track have: ``track``, the media section's mid."""

    track: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEvent(TrackEvent):
    """What the events of a turn have. ``turn`` counts the turns of its track from 0; ``start`` and ``end``
    are those of the speech, so far."""

    turn: int
    start: float
    end: float
    request_id: str = ""
