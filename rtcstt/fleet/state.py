"""What the state that servers share is made of; a core. `store` keeps it in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypedDict

from rtcstt.errors import RtcsttError

Json: TypeAlias = Mapping[str, object]
"""An object of JSON; who reads a field of it checks what it is (`rows.checked`)."""


class StoreAway(RtcsttError):
    """Redis does not answer, or cannot write (full memory, a replica): the same may succeed later."""


class Unreadable(StoreAway):
    """What is kept there is nothing that this server understands: garbage, or of another version. The same
    fails again; other keys are as they were."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one server's part in the shared state; ``audio_lost`` in samples."""

    is_away: bool
    failures: int
    moved_away: int
    audio_lost: int


class Written(Enum):
    """What became of an owner's write."""

    OK = "ok"
    LOST = "lost"
    "Another node owns the call now."
    UNKNOWN = "unknown"
    "Redis does not know the call, or an older owner of it: it has forgotten."


@dataclass(frozen=True, slots=True)
class Creation:
    """What is written of a call that is not known yet. ``begun``: when, in s of Unix time."""

    begun: float
    record: Json


@dataclass(frozen=True, slots=True)
class Write:
    """Several operations on a call (see lua/write.lua), all or, when it is not the owner's, none. ``fence``:
    the owner's number. ``creation``: the call begins with it, whatever was known by older owners."""

    call: str
    fence: int
    operations: Sequence[str | int | bytes]
    ended: bool = False
    creation: Creation | None = None


class About(TypedDict):
    """What a node says of itself with each heartbeat."""

    url: str
    calls: int
    capacity: int
    draining: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """The fleet as a heartbeat found it: when (Redis' time, in ms), and of each node when it was last
    there, and what it said of itself, unless that is too long ago, or cannot be read. Another ``epoch`` than
    before means that Redis was emptied."""

    now: int
    epoch: str
    seen: Mapping[str, int]
    about: Mapping[str, About]
    secret: str
    "What servers show each other, as it is kept now."


@dataclass(frozen=True, slots=True)
class Entry:
    """A call as it is kept. ``record`` is what its server told of it as a whole; of that, ``created`` is when
    it was placed, in s of Unix time, and ``first`` what it showed of itself then; ``snapshot`` is the last
    such."""

    owner: str
    fence: int
    state: str
    record: Json
    created: float
    first: Json
    snapshot: Json | None
