"""What a track's receiver has to say besides audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Stalled:
    """Packets stopped, and the sender had not said that they would."""

    since: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """Packets come again, after ``stalled_s`` seconds."""

    stalled_s: float


@dataclass(frozen=True, slots=True)
class Muted:
    """The sender said that it stops for now: RTCP BYE, or a hold."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unmuted:
    """Packets come again after that."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Packets come that are not received; said once for each payload type and reason."""

    reason: str
    payload_type: int | None = None


@dataclass(frozen=True, slots=True)
class SeveralSources:
    """So many sources send at once; they are mixed."""

    count: int


@dataclass(frozen=True, slots=True)
class Pressed:
    """A key, once it was let go (RFC 4733)."""

    digit: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The audio from sample ``start`` to ``end`` of the track will not be received: packets were lost, in a
    row longer than can be concealed (``reason`` "network"), or it came faster than it may be sent on
    ("overflow")."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """The audio cannot be what was stated; ``guess`` says what it may be."""

    guess: str


Signal: TypeAlias = Stalled | Resumed | Muted | Unmuted | Ignored | SeveralSources | Pressed | Lost | Suspect
