"""The calls of a server: placing them, finding them, resuming them, ending them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from rtcstt import logs
from rtcstt.call import Call, CallOptions, CallSettings, PreparedCall, Restored
from rtcstt.errors import CallerError
from rtcstt.fleet import ids
from rtcstt.fleet.state import Counts
from rtcstt.limits import Slots
from rtcstt.recordings import Recordings
from rtcstt.server.admission import ANYBODY, Admission, Limits, Requester
from rtcstt.server.entries import QUIET_S, Entries, Entry
from rtcstt.stt.seam import Stt
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.webrtc.negotiation import Offer
from rtcstt.webrtc.peer import Peer

log = logging.getLogger(__name__)

LOOK_S = 0.2  # between two looks whether all callers have finished


class Calls:
    """Every call of a server, from its offer until it is forgotten. ``recordings``: where calls are kept.
    ``streams``: what the STT takes at once; one is reserved for each track before a call is accepted.
    """

    def __init__(
        self,
        *,
        stt: Stt,
        settings: CallSettings,
        peers: Callable[[], PeerSettings],
        limits: Limits,
        recordings: Recordings | None = None,
        worker: int | None = None,
        streams: Slots | None = None,
    ) -> None:
        """``worker``: its number, where several share a port."""
        self.stt = stt
        self.settings = replace(settings, outlives_peers=limits.resume_grace_s > 0)
        self._peers = peers
        self.limits = limits
        self.recordings = recordings
        self.streams = streams or Slots(lambda: None)
        self.entries = Entries()
        self._worker = worker
        self._admission = Admission(limits, self.streams)
        self.on_ended: Callable[[Call], None] = lambda call: None
        self.sharing: Callable[[], Counts | None] = lambda: None
        self.can_move: Callable[[], bool] = lambda: False
        "Whether another server would take the calls of this one."
        self.fetch: Callable[[str], Awaitable[None]] = nothing_elsewhere
        "Brings the call with a gateway's key here, where another server has it and has lost its gateway."
        self.on_begun: Callable[[Entry], None] = lambda entry: None
        self.on_forgotten: Callable[[str], None] = lambda call: None
        self.on_changed: Callable[[], None] = lambda: None
        "There are more, or fewer, or no more are taken."
        self.placed = self.taken_over = 0

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return len(self.entries.open())

    @property
    def capacity(self) -> int:
        """Calls at once, at most; no more than there are streams for."""
        return self._admission.capacity(self.open)

    @property
    def refused(self) -> int:
        return self._admission.refused

    @property
    def stopping(self) -> bool:
        """No more calls are taken."""
        return self._admission.stopping

    def has(self, id: str) -> bool:
        entry = self.entries.get(id)
        return entry is not None and not entry.is_prepared

    def all(self) -> list[Call]:
        """Every call that is remembered, newest last."""
        self._forget()
        return [entry.call for entry in self.entries.values() if not entry.is_prepared]

    def find(self, id: str) -> Call:
        """`CallerError` 404 when there is none."""
        return self.entry(id).call

    def entry(self, id: str) -> Entry:
        """The call with its connection and secret; `CallerError` 404 when there is none."""
        self._forget()
        return self.entries.find(id)

    async def place(
        self,
        sdp: str,
        *,
        by: Requester = ANYBODY,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
        options: CallOptions | None = None,
    ) -> tuple[Call, str]:
        """A new call, and the answer to its offer. Nothing of it is left when the offer is refused."""
        self.check_room(by)
        offer = Offer.parse(sdp, max_tracks=self._peers().max_tracks)  # bad offers go before there is a call
        entry = self._enter(by, len(_mids(offer)), label, metadata, options or {})
        try:
            answer = await entry.connect(offer, self._peers(), partial(self._lost, entry))
        except BaseException:
            del self.entries[entry.call.id]
            self.on_changed()
            await entry.call.close("refused")
            entry.give_back()
            raise
        self.start(entry)
        return entry.call, answer

    def begin(
        self,
        *,
        by: Requester = ANYBODY,
        tracks: int = 1,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
        options: CallOptions | None = None,
        key: str | None = None,
    ) -> Call:
        """A new call without a peer. Who began it adds its ``tracks``, gives it audio, and hangs it up.
        ``key``: by which its gateway comes back."""
        self.check_room(by, gateway=True)
        entry = self._enter(by, tracks, label, metadata, {**(options or {}), "outlives_peers": False})
        entry.is_gateways = True
        entry.gateway_key = key
        self.start(entry)
        return entry.call

    async def resume(
        self, id: str, sdp: str, *, by: Requester = ANYBODY, secret: str | None = None
    ) -> tuple[Call, str]:
        """Another connection for a call whose caller lost theirs; 409 while the old one still sends.

        It is for who placed it: who has the same token, or the ``secret`` that came with the answer.
        """
        entry = self.entry(id)
        entry.check_caller(by, secret)
        peer = entry.peer
        held = peer.tracks if peer is not None else ()
        speaks = peer is not None and entry.call.silent_s() < QUIET_S
        try:
            offer = Offer.parse(sdp, max_tracks=self._peers().max_tracks, held=held)
        except CallerError:
            if not speaks:
                raise
            offer = None
        if peer is not None and offer is not None and peer.continues(offer):
            self._grow(entry, len(_mids(offer)))
            return entry.call, await peer.renegotiate(offer)
        if speaks or entry.connecting or offer is None:
            raise CallerError(409, "call_connected", "Second offer", "This call has a connection that works.")
        tracks = _mids(offer) | {track.mid for track in entry.call.tracks.values() if not track.ended}
        self._grow(entry, len(tracks))
        old = entry.peer
        entry.call.caller_may_listen = by.may_listen
        answer = await entry.connect(offer, self._peers(), partial(self._lost, entry))
        if old is not None:
            await old.close("replaced")
        return entry.call, answer

    def prepared(self, id: str) -> PreparedCall | None:
        """A call that another server has, and that may go on here."""
        return self.entries.prepared(id)

    def commit(self, call: PreparedCall, restored: Restored, begun: Callable[[Entry], None]) -> None:
        """The prepared call is this server's now."""
        self.start(self.entries[call.id], begun, restored)
        self.on_changed()

    def add(self, entry: Entry) -> None:
        """It counts from now on."""
        self.entries[entry.call.id] = entry
        self.on_changed()

    def abandon(self, id: str) -> None:
        """Another server has the call now: here it ends without a word."""
        entry = self.entries.pop(id, None)
        if entry is not None:
            entry.call.abandon()
            self.on_changed()

    async def hang_up(self, id: str, reason: str = "hung up") -> None:
        """Drain a call and end it."""
        await self.entry(id).call.close(reason)

    async def drain(self, timeout_s: float) -> None:
        """Take no more calls, and wait until every caller has finished, or has not been received for a while,
        or the time is over."""
        self._admission.stopping = True
        self.on_changed()
        if self.can_move():
            for entry in self.entries.values():
                entry.ask_to_move("drain")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # It is time that ends a silence, no event.
                while any(entry.speaks for entry in self.entries.values()):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)

    async def close(self, reason: str = "server stops") -> None:
        """Take no more calls, drain those that are open, and wait until all connections are closed."""
        self._admission.stopping = True
        entries = list(self.entries.values())
        await asyncio.gather(*(entry.close(reason) for entry in entries))

    def _enter(
        self,
        by: Requester,
        tracks: int,
        label: str | None,
        metadata: Mapping[str, object] | None,
        options: CallOptions,
    ) -> Entry:
        """A call that counts from now on, so that offers at once cannot be too many."""
        settings = replace(self.settings, **options)
        streams = self._admission.reserve(tracks)
        call = Call(ids.new(self._worker), stt=self.stt, label=label, metadata=metadata, settings=settings)
        call.caller_may_listen = by.may_listen
        self.add(entry := Entry(call, asyncio.get_running_loop().time(), by, streams=streams))
        return entry

    def start(
        self, entry: Entry, begun: Callable[[Entry], None] | None = None, restored: Restored | None = None
    ) -> None:
        """``begun`` and ``restored`` are for a call that another server had."""
        self.placed += begun is None
        self.taken_over += begun is not None
        with logs.about_call(entry.call.id):
            if self.recordings is not None:
                entry.recording = asyncio.create_task(self.recordings.begin(entry.call).run())
            (begun or self.on_begun)(entry)
            if restored is not None and isinstance(entry.call, PreparedCall):
                entry.call.commit(restored)
            entry.life = asyncio.create_task(self._live(entry))

    async def _lost(self, entry: Entry, peer: Peer, reason: str) -> None:
        if entry.peer is peer and entry.is_prepared:
            self.abandon(entry.call.id)
        elif entry.peer is peer:  # and not replaced already
            await entry.lost(peer, reason, 0 if self.stopping else self.limits.resume_grace_s)

    def check_room(self, by: Requester, *, gateway: bool = False) -> None:
        """`CallerError` when no new call is taken from them."""
        self._forget()
        self._admission.check(by, [entry.by for entry in self.entries.open()], gateway=gateway)

    def _grow(self, entry: Entry, tracks: int) -> None:
        entry.streams = entry.streams or self.streams.reserve(0)
        if entry.streams is not None:
            self._admission.grow(entry.streams, tracks)

    async def _live(self, entry: Entry) -> None:
        await entry.live(self.limits)
        self.on_ended(entry.call)
        self.on_changed()

    def _forget(self) -> None:
        for id in self.entries.forget(asyncio.get_running_loop().time(), self.limits):
            self.on_forgotten(id)


async def nothing_elsewhere(key: str) -> None:
    """There is no other server."""


def _mids(offer: Offer) -> set[str]:
    """Of its tracks, each of which needs a stream."""
    return {section.mid for section in offer.taken.sections if section.kind == "audio"}
