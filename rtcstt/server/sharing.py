"""Between the calls of this server and the state that servers share: what is kept of a call, and how a call
that another server had goes on here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtcstt import events
from rtcstt.call import KeptTrack, Recorder, Restored
from rtcstt.feed import Feed
from rtcstt.fleet.journal import Journal
from rtcstt.fleet.shared import Shared
from rtcstt.fleet.state import Entry as Kept
from rtcstt.media.pcm import Chunk
from rtcstt.server.calls import Calls, Entry, Requester
from rtcstt.wire import TurnSettings


@dataclass(frozen=True, slots=True)
class _Tee:
    """What is recorded here also goes to the journal."""

    journal: Journal
    recorder: Recorder | None

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        self.journal.write(track, chunk)
        if self.recorder is not None:
            self.recorder.write(track, chunk, offset_s)


class Sharing:
    """Connects ``calls`` with ``shared``."""

    def __init__(self, calls: Calls, shared: Shared) -> None:
        self._calls = calls
        self._shared = shared
        calls.on_begun = self._begun
        calls.on_forgotten = shared.forget
        shared.lost = self._lost
        shared.take_over = self._take_over

    def _begun(self, entry: Entry) -> None:
        self._share(entry, record_of(entry))

    def _share(self, entry: Entry, record: Mapping[str, Any], *, fence: int = 1, written: int = -1) -> None:
        journal = self._shared.begin(entry.call, record, fence=fence, written=written)
        entry.call.recorder = _Tee(journal, entry.call.recorder)

    def _lost(self, call: str) -> None:
        self._calls.abandon(call)

    async def _take_over(self, call: str, kept: Kept, fence: int, ends: bool) -> None:
        """A call of a server that is gone goes on here. ``ends``: with what was kept, to its end, since its
        caller does not come back."""
        store = self._shared.store
        feed = Feed(call)
        for _, event in await store.events(call, -1):
            feed.restore(events.from_dict(event))
        states = await store.tracks(call)
        tracks = {name: await self._kept(call, name, state) for name, state in states.items()}
        record = kept.record
        restored = Restored(feed=feed, created=float(record["created"]), tracks=tracks)
        written = feed.published - 1

        def begun(entry: Entry) -> None:
            self._share(entry, record, fence=fence, written=written)

        entry = self._calls.adopt(
            call,
            restored,
            by=Requester(str(record["identity"]), ""),
            label=record["label"],
            metadata=record["metadata"],
            options=options_of(record),
            digests=record["digests"],
            is_gateways=bool(record["gateway"]),
            begun=begun,
        )
        if ends or entry.is_gateways:
            entry.call.hang_up("server lost")

    async def _kept(self, call: str, track: str, state: Mapping[str, Any]) -> KeptTrack:
        origin = state.get("origin")
        return KeptTrack(
            state=state,
            audio=[
                Chunk(np.frombuffer(pcm, "<i2").astype(np.int16), start)
                for start, pcm in await self._shared.store.audio(call, track)
            ],
            origin=None if origin is None else self._shared.clock.to_loop(float(origin)),
        )


def record_of(entry: Entry) -> dict[str, Any]:
    """What another server must know of a call, and does not change. No secret is in it."""
    call, settings = entry.call, entry.call.settings
    return {
        "label": call.label,
        "metadata": call.metadata,
        "created": call.created,
        "first": call.snapshot(),
        "identity": entry.by.identity,
        "digests": sorted(entry.secret_digests),
        "gateway": entry.is_gateways,
        "mode": settings.mode,
        "turn": dataclasses.asdict(settings.turn),
        "keyterms": list(settings.keyterms),
        "language": settings.language,
        "update_ms": settings.update_ms,
        "outlives_peers": settings.outlives_peers,
    }


def options_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of `CallSettings`, what the caller chose, or its server."""
    return {
        "mode": record["mode"],
        "turn": TurnSettings(**record["turn"]),
        "keyterms": tuple(record["keyterms"]),
        "language": record["language"],
        "update_ms": record["update_ms"],
        "outlives_peers": record["outlives_peers"],
    }
