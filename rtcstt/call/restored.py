"""What another server kept of a call, from which it goes on here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtcstt.feed import Feed
from rtcstt.media.pcm import Chunk


@dataclass(frozen=True, slots=True)
class KeptTrack:
    """``state`` is what `Track.state` gave; ``audio`` that from the floor on, as far as it was kept.
    ``origin``: when its first sample was spoken, in the loop's time here; None when nothing had come."""

    state: Mapping[str, Any]
    audio: Sequence[Chunk] = ()
    origin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A call as it was when its server was last heard of. ``feed`` holds its events, ``created`` is when it
    was placed (Unix time)."""

    feed: Feed
    created: float
    tracks: Mapping[str, KeptTrack] = field(default_factory=dict)
