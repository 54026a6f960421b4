"""Between the calls of this server and the state that servers share: what is kept of a call, and how a call
that another server had goes on here."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np

from rtcstt import events
from rtcstt.call import (
    CallOptions,
    CallSettings,
    KeptTrack,
    Mode,
    PreparedCall,
    Recorder,
    Restored,
    TrackState,
)
from rtcstt.errors import CallerError
from rtcstt.feed import Feed
from rtcstt.fleet import state as kept
from rtcstt.fleet.journal import Journal
from rtcstt.fleet.ownership import Act
from rtcstt.fleet.rows import checked
from rtcstt.fleet.shared import LOST, Shared
from rtcstt.fleet.state import Json, StoreAway, Unreadable
from rtcstt.media.pcm import Chunk
from rtcstt.server.admission import Requester
from rtcstt.server.adoption import Kept, adopt, prepare
from rtcstt.server.calls import Calls
from rtcstt.server.entries import Entry
from rtcstt.wire import turn_settings

log = logging.getLogger(__name__)

FORMAT = 1  # of what is kept of a call; grows when servers of the version before could not go on with it
OVERLAP_S = 0.5  # so long both servers receive a caller who moves: longer than audio takes to be written


class Record(TypedDict):
    """What another server must know of a call. No secret is in it. ``created``: s of Unix time; ``first``:
    what `GET /calls/ID` showed of it when it began."""

    format: int
    label: str | None
    metadata: dict[str, object]
    created: float
    first: Json
    identity: str
    digests: list[str]
    gateway: bool
    gateway_key: NotRequired[str | None]
    mode: Mode
    turn: dict[str, float | None]
    keyterms: list[str]
    language: str | None
    update_ms: float | None
    outlives_peers: bool


class _TrackState(TrackState):
    """``origin``: when its first sample was spoken, in s of Redis' time."""

    origin: NotRequired[float]


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
        calls.on_forgotten = shared.writer.forget
        shared.writer.lost = self._lost
        shared.take_over = self._take_over
        shared.prepare = self._prepare
        shared.is_lost = self._is_lost
        shared.check = check
        calls.fetch = self._fetch
        calls.can_move = shared.has_successor
        calls.sharing = shared.counts

    def _begun(self, entry: Entry) -> None:
        self._share(entry, record_of(entry))

    def _share(self, entry: Entry, record: Record, *, fence: int = 1, written: int = -1) -> Journal:
        now = partial(record_now, record, entry)
        journal = self._shared.writer.begin(entry.call, now, fence=fence, written=written)
        entry.call.recorder = _Tee(journal, entry.call.recorder)
        return journal

    def _lost(self, call: str) -> None:
        self._calls.abandon(call)

    async def _take_over(self, call: str, entry: kept.Entry, fence: int, ends: bool) -> None:
        """A call of a server that is gone goes on here. ``ends``: with what was kept, to its end, since its
        caller does not come back."""
        restored, record = await self._restored(call, entry), read_record(entry.record)
        begun = partial(self._goes_on, record, fence, restored.feed.published - 1, restored.tracks)
        adopted = adopt(self._calls, call, restored, kept_of(record), begun)
        if ends:
            adopted.call.hang_up("server lost")

    def _is_lost(self, call: str) -> bool:
        return self._calls.has(call) and self._calls.entry(call).awaits_gateway

    async def _fetch(self, key: str) -> None:
        """A gateway has come to this server: the call it lost comes here too, if another server has it, or
        had it when it died. While Redis is away nobody knows, and the call that begins is a new one."""
        try:
            call = await self._shared.store.call_of_gateway(key)
            if call is None or not await self._has_lost_its_gateway(call):
                return
            with self._shared.arriving(call):
                claimed = await self._shared.take_from_living(call)
                if claimed is None:
                    return
                entry, fence, _ = claimed
                await self._take_over(call, entry, fence, False)
        except StoreAway as error:
            log.warning("the call of a gateway that came back cannot be looked for: %s", error)

    async def _has_lost_its_gateway(self, call: str) -> bool:
        """Of a call of another server, as that one says, or because it has died."""
        act, entry = await self._shared.locate(call)
        if entry is None or act not in (Act.CLAIM, Act.PASS_ON, Act.PREPARE):
            return False
        if act is Act.CLAIM and not await self._shared.others.answers(entry.owner):
            return True
        status = await self._shared.others.ask(entry.owner, LOST + call)
        return status == 204 or (status is None and await self._shared.others.is_gone(entry.owner))

    async def _prepare(self, call: str, entry: kept.Entry) -> None:
        """Another server drains, and the caller of this call offers to this one."""
        prepared = prepare(self._calls, call, kept_of(read_record(entry.record)))
        prepared.on_received = partial(self._shared.own, partial(self._commit, prepared))

    async def _commit(self, call: PreparedCall) -> None:
        """The new connection is received: when both servers have received the caller for a moment, this one
        takes the call."""
        await asyncio.sleep(OVERLAP_S)
        with self._shared.arriving(call.id):
            try:
                claimed = await self._shared.take_from_living(call.id)
                if claimed is not None:
                    entry, fence, handed_over = claimed
                    restored = await self._restored(call.id, entry, handed_over=handed_over)
                    record = read_record(entry.record)
                    begun = partial(
                        self._goes_on, record, fence, restored.feed.published - 1, restored.tracks
                    )
                    self._calls.commit(call, restored, begun)
                    return
            except StoreAway as error:
                log.warning("call %s: cannot be taken over: %s", call.id, error)
            except Exception:
                log.exception("call %s: cannot be taken over", call.id)
            self._calls.abandon(call.id)

    def _goes_on(
        self,
        record: Record,
        fence: int,
        written: int,
        tracks: Mapping[str, KeptTrack],
        entry: Entry,
    ) -> None:
        """``written``: the last event that the other server wrote, before the call says more here;
        ``tracks``: what it kept of them."""
        journal = self._share(entry, record, fence=fence, written=written)
        for name, track in tracks.items():
            journal.kept(name, track.audio)

    async def _restored(self, call: str, entry: kept.Entry, *, handed_over: bool = False) -> Restored:
        store = self._shared.store
        feed = Feed(call)
        for _, event in await store.events(call, -1):
            try:
                feed.restore(events.from_dict(event))
            except ValueError as error:
                raise Unreadable(f"call {call}: {error}") from error
        begun = {event.track for event in feed.history if isinstance(event, events.TrackStart)}
        # What was written last may be of a track of whose events none is written yet.
        states = {name: state for name, state in (await store.tracks(call)).items() if name in begun}
        tracks = {name: await self._kept(call, name, state) for name, state in states.items()}
        turn = kept_of(read_record(entry.record)).options["turn"]
        return Restored(feed=feed, created=entry.created, turn=turn, tracks=tracks, handed_over=handed_over)

    async def _kept(self, call: str, track: str, values: Json) -> KeptTrack:
        state = checked(_TrackState, values, f"call {call}: track {track}")
        origin = state.get("origin")
        return KeptTrack(
            state=state,
            audio=[
                Chunk(np.frombuffer(pcm, "<i2").astype(np.int16), start)
                for start, pcm in await self._shared.store.audio(call, track)
            ],
            origin=None if origin is None else self._shared.clock.to_loop(origin),
        )


def record_of(entry: Entry) -> Record:
    """What another server must know of a call."""
    call, settings = entry.call, entry.call.settings
    return {
        "format": FORMAT,
        "label": call.label,
        "metadata": dict(call.metadata),
        "created": call.created,
        "first": call.snapshot(),
        "identity": entry.by.identity,
        "digests": sorted(entry.secret_digests),
        "gateway": entry.is_gateways,
        "gateway_key": entry.gateway_key,
        "mode": settings.mode,
        "turn": dataclasses.asdict(settings.turn),
        "keyterms": list(settings.keyterms),
        "language": settings.language,
        "update_ms": settings.update_ms,
        "outlives_peers": settings.outlives_peers,
    }


def record_now(record: Record, entry: Entry) -> Json:
    """The same of a call that goes on: its turn settings may have changed, and each server that has it tells
    its caller another secret."""
    turn, digests = dataclasses.asdict(entry.call.turn), sorted(entry.secret_digests)
    return {**record, "turn": turn, "digests": digests}


def check(entry: kept.Entry) -> None:
    """`Unreadable` where this server could not go on with the call."""
    kept_of(read_record(entry.record))


def read_record(values: Json) -> Record:
    """What `record_of` told of a call of another server. `Unreadable`: of a later version, or garbage."""
    if (format := values.get("format", FORMAT)) != FORMAT:
        raise Unreadable(f"a call is kept in format {format!r:.20}, which this version does not know")
    return checked(Record, values, "the record of a call")


def kept_of(record: Record) -> Kept:
    """The same, to go on with. `Unreadable` names the setting that cannot be."""
    try:
        options: CallOptions = {
            "mode": record["mode"],
            "turn": turn_settings(record["turn"]),
            "keyterms": tuple(record["keyterms"]),
            "language": record["language"],
            "update_ms": record["update_ms"],
            "outlives_peers": record["outlives_peers"],
        }
        CallSettings(**options)  # which checks them
    except CallerError as error:
        raise Unreadable(f"the record of a call cannot be read: {error}") from error
    return Kept(
        by=Requester(record["identity"], ""),
        label=record["label"],
        metadata=record["metadata"],
        options=options,
        digests=tuple(record["digests"]),
        is_gateways=record["gateway"],
        gateway_key=record.get("gateway_key"),
    )
