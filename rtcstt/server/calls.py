"""The calls of a server: placing them, finding them, resuming them, ending them all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rtcstt import logs
from rtcstt.call import Call, CallSettings, PreparedCall, Restored
from rtcstt.errors import CallerError
from rtcstt.events import SessionMove
from rtcstt.fleet import ids
from rtcstt.fleet.state import Counts
from rtcstt.http import is_loopback
from rtcstt.limits import Reservation, Slots
from rtcstt.recordings import Recordings
from rtcstt.stt.seam import Stt
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.webrtc.negotiation import Offer
from rtcstt.webrtc.peer import Peer

log = logging.getLogger(__name__)

RETRY_S = 10  # what a caller is told who finds no room
CALLS_PER_ADDRESS = 32
KEPT_ENDED = 200  # calls that can still be read after their end, at most
QUIET_S = 2.0  # a connection that sent nothing for so long may be replaced by a new offer
SILENT_S = 5.0  # the end of the server waits for no caller who sent nothing for so long
LOOK_S = 0.2  # between two looks whether all callers have finished


@dataclass(frozen=True, slots=True)
class Requester:
    """Who placed a call: a digest of their token (empty where none is needed), their address, and whether
    they may have what is said."""

    identity: str = ""
    address: str = ""
    may_listen: bool = True


@dataclass(slots=True)
class Entry:
    """A call, its present connection, and the task that keeps its limits until it has ended.

    ``secret`` is told to who placed the call alone, and lets whoever has it resume the call.
    """

    call: Call
    placed: float
    by: Requester = Requester()
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    secret_digests: set[str] = field(default_factory=set)
    streams: Reservation | None = None
    peer: Peer | None = None
    waiting: asyncio.TimerHandle | None = None
    connecting: bool = False
    is_gateways: bool = False  # it has no peer, and never will
    life: asyncio.Task[None] | None = None
    recording: asyncio.Task[None] | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        self.secret_digests.add(digest(self.secret))

    @property
    def is_prepared(self) -> bool:
        """Another server still has the call."""
        return isinstance(self.call, PreparedCall) and not self.call.is_committed

    def give_back(self) -> None:
        """The streams that were reserved for it."""
        if self.streams is not None:
            self.streams.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What does not change of a call that another server had. ``options`` are those of `CallSettings`."""

    by: Requester
    label: str | None
    metadata: Mapping[str, Any] | None
    options: Mapping[str, Any]
    digests: tuple[str, ...]
    is_gateways: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What calls a server takes, and for how long; times in seconds."""

    max_calls: int = 100
    max_calls_per_address: int | None = None
    "None: `CALLS_PER_ADDRESS`, but no limit for gateways, and for this machine's own, where proxies are."
    max_calls_per_token: int | None = None
    max_call_s: float = 4 * 3600.0
    idle_s: float = 3600.0
    "Without a packet; muted browsers may send none, so this is no sign of a lost caller."
    resume_grace_s: float = 30.0
    keep_ended_s: float = 3600.0

    def calls_of(self, address: str, *, gateway: bool) -> int | None:
        """How many calls at once are taken from an address; None: any number."""
        if self.max_calls_per_address is not None:
            return self.max_calls_per_address
        return None if gateway or not address or is_loopback(address) else CALLS_PER_ADDRESS


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
        self._limits = limits
        self.recordings = recordings
        self.streams = streams or Slots(lambda: None)
        self._entries: dict[str, Entry] = {}
        self._worker = worker
        self._stopping = False
        self.on_ended: Callable[[Call], None] = lambda call: None
        self.sharing: Callable[[], Counts | None] = lambda: None
        self.can_move: Callable[[], bool] = lambda: False
        "Whether another server would take the calls of this one."
        self.on_begun: Callable[[Entry], None] = lambda entry: None
        self.on_forgotten: Callable[[str], None] = lambda call: None
        self.on_changed: Callable[[], None] = lambda: None
        "There are more, or fewer, or no more are taken."
        self.placed = 0
        self.refused = 0
        self.taken_over = 0

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return sum(entry.call.state != "closed" for entry in self._entries.values())

    @property
    def capacity(self) -> int:
        """Calls at once, at most; no more than there are streams for."""
        streams = self.streams.capacity
        if streams is None:
            return self._limits.max_calls
        return min(self._limits.max_calls, self.open + max(0, streams - self.streams.used))

    @property
    def stopping(self) -> bool:
        """No more calls are taken."""
        return self._stopping

    def has(self, id: str) -> bool:
        entry = self._entries.get(id)
        return entry is not None and not entry.is_prepared

    def all(self) -> list[Call]:
        """Every call that is remembered, newest last."""
        self._forget()
        return [entry.call for entry in self._entries.values() if not entry.is_prepared]

    def find(self, id: str) -> Call:
        """`CallerError` 404 when there is none."""
        return self._entry(id).call

    def peer(self, id: str) -> Peer | None:
        """The call's present connection."""
        return self._entry(id).peer

    def secret(self, id: str) -> str:
        """What its caller may resume the call with."""
        return self._entry(id).secret

    async def place(
        self,
        sdp: str,
        *,
        by: Requester = Requester(),
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Call, str]:
        """A new call, and the answer to its offer. Nothing of it is left when the offer is refused.

        ``options`` are those of `CallSettings` that the caller chose.
        """
        self._check_room(by)
        offer = Offer.parse(sdp, max_tracks=self._peers().max_tracks)  # bad offers go before there is a call
        entry = self._enter(by, len(_mids(offer)), label, metadata, options or {})
        try:
            answer = await self._connect(entry, offer)
        except BaseException:
            del self._entries[entry.call.id]
            self.on_changed()
            await entry.call.close("refused")
            entry.give_back()
            raise
        self._start(entry)
        return entry.call, answer

    def begin(
        self,
        *,
        by: Requester = Requester(),
        tracks: int = 1,
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Call:
        """A new call without a peer. Who began it adds its ``tracks``, gives it audio, and hangs it up."""
        self._check_room(by, gateway=True)
        entry = self._enter(by, tracks, label, metadata, {**(options or {}), "outlives_peers": False})
        entry.is_gateways = True
        self._start(entry)
        return entry.call

    def admit_tracks(self, call: Call, count: int) -> bool:
        """Whether a call that `begin` made may have so many tracks, for which streams are reserved then."""
        streams = self._entry(call.id).streams
        return streams is None or streams.grow(count)

    async def resume(
        self, id: str, sdp: str, *, by: Requester = Requester(), secret: str | None = None
    ) -> tuple[Call, str]:
        """Another connection for a call whose caller lost theirs; 409 while the old one still sends.

        It is for who placed it: who has the same token, or the ``secret`` that came with the answer.
        """
        entry = self._entry(id)
        known = secret is not None and digest(secret) in entry.secret_digests
        if not known and by.identity != entry.by.identity:
            raise CallerError(403, "not_your_call", "Not your call", "Another token placed this call.")
        if entry.call.state != "open":
            raise CallerError(409, "call_ended", "The call has ended", "Place a new call.")
        if entry.is_gateways:
            raise CallerError(
                409, "no_webrtc", "Not a WebRTC call", "This call's audio comes from a gateway."
            )
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
            if entry.streams is not None and not entry.streams.grow(len(_mids(offer))):
                raise self._full("No speech-to-text stream is free for another track.")
            return entry.call, await peer.renegotiate(offer)
        if speaks or entry.connecting or offer is None:
            raise CallerError(409, "call_connected", "Second offer", "This call has a connection that works.")
        tracks = _mids(offer) | {track.mid for track in entry.call.tracks.values() if not track.ended}
        entry.streams = entry.streams or self.streams.reserve(0)
        if entry.streams is not None and not entry.streams.grow(len(tracks)):
            raise self._full("No speech-to-text stream is free for another track.")
        old = entry.peer
        entry.call.caller_may_listen = by.may_listen
        answer = await self._connect(entry, offer)
        if old is not None:
            await old.close("replaced")
        return entry.call, answer

    def adopt(
        self,
        id: str,
        restored: Restored,
        kept: Kept,
        begun: Callable[[Entry], None],
    ) -> Entry:
        """A call that another server had, from what is kept of it; its caller may `resume` it. ``begun`` is
        told instead of `on_begun`."""
        settings = replace(self.settings, **kept.options)
        call = Call(
            id,
            stt=self.stt,
            label=kept.label,
            metadata=kept.metadata,
            settings=settings,
            restored=restored,
        )
        open_tracks = sum(not track.ended for track in call.tracks.values())
        entry = self._entered(call, kept, open_tracks)
        self.taken_over += 1
        self._start(entry, begun)
        self._wait_for_caller(entry, "server lost")
        return entry

    def prepare(self, id: str, kept: Kept) -> PreparedCall:
        """A call that another server still has, for its caller to `resume` here; `commit` it then."""
        known = self._entries.get(id)
        if known is not None and isinstance(known.call, PreparedCall):
            return known.call
        settings = replace(self.settings, **kept.options)
        call = PreparedCall(id, stt=self.stt, label=kept.label, metadata=kept.metadata, settings=settings)
        self._entered(call, kept, 0)
        return call

    def commit(self, call: PreparedCall, restored: Restored, begun: Callable[[Entry], None]) -> None:
        """The call is this server's now."""
        entry = self._entries[call.id]
        self._start(entry, begun, restored)
        self.taken_over += 1
        self.on_changed()

    def _entered(self, call: Call, kept: Kept, tracks: int) -> Entry:
        entry = Entry(
            call,
            asyncio.get_running_loop().time(),
            kept.by,
            secret_digests=set(kept.digests),
            streams=self.streams.reserve(tracks),
            is_gateways=kept.is_gateways,
        )
        self._entries[call.id] = entry
        self.on_changed()
        return entry

    def abandon(self, id: str) -> None:
        """Another server has the call now: here it ends without a word."""
        entry = self._entries.pop(id, None)
        if entry is not None:
            entry.call.abandon()
            self.on_changed()

    async def hang_up(self, id: str, reason: str = "hung up") -> None:
        """Drain a call and end it."""
        await self._entry(id).call.close(reason)

    async def drain(self, timeout_s: float) -> None:
        """Take no more calls, and wait until every caller has finished, or has not been received for a while,
        or the time is over."""
        self._stopping = True
        self.on_changed()
        if self.can_move():
            for entry in self._entries.values():
                if entry.peer is not None and entry.call.state == "open":
                    entry.call.publish(SessionMove(reason="drain"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._speaking():  # noqa: ASYNC110 (it is time that ends a silence, no event)
                    await asyncio.sleep(LOOK_S)

    async def close(self, reason: str = "server stops") -> None:
        """Take no more calls, drain those that are open, and wait until all connections are closed."""
        self._stopping = True
        entries = list(self._entries.values())
        await asyncio.gather(*(entry.call.close(reason) for entry in entries))
        await asyncio.gather(*(entry.life for entry in entries if entry.life is not None))

    def _speaking(self) -> bool:
        return any(
            entry.call.state == "open" and entry.call.silent_s() < SILENT_S
            for entry in self._entries.values()
        )

    def _entry(self, id: str) -> Entry:
        self._forget()
        entry = self._entries.get(id)
        if entry is None:
            raise no_such_call()
        return entry

    def _enter(
        self,
        by: Requester,
        tracks: int,
        label: str | None,
        metadata: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Entry:
        """A call that counts from now on, so that offers at once cannot be too many."""
        settings = replace(self.settings, **options)
        streams = self.streams.reserve(tracks)
        if streams is None:
            capacity = self.streams.capacity
            raise self._full(f"It has {capacity} speech-to-text streams; the call's tracks need {tracks}.")
        call = Call(ids.new(self._worker), stt=self.stt, label=label, metadata=metadata, settings=settings)
        call.caller_may_listen = by.may_listen
        entry = Entry(call, asyncio.get_running_loop().time(), by, streams=streams)
        self._entries[call.id] = entry
        self.on_changed()
        return entry

    def _start(
        self,
        entry: Entry,
        begun: Callable[[Entry], None] | None = None,
        restored: Restored | None = None,
    ) -> None:
        self.placed += begun is None
        with logs.about_call(entry.call.id):
            if self.recordings is not None:
                entry.recording = asyncio.create_task(self.recordings.begin(entry.call).run())
            (begun or self.on_begun)(entry)
            if restored is not None and isinstance(entry.call, PreparedCall):
                entry.call.commit(restored)
            entry.life = asyncio.create_task(self._live(entry))

    def _check_room(self, by: Requester, *, gateway: bool = False) -> None:
        self._forget()
        if self._stopping:
            self.refused += 1
            raise CallerError(503, "stopping", "The server stops", "Try another one.", retry_after_s=30)
        if self.open >= self._limits.max_calls:
            raise self._full(f"It takes {self._limits.max_calls} calls at once.")
        per_address, per_token = (
            self._limits.calls_of(by.address, gateway=gateway),
            self._limits.max_calls_per_token,
        )
        others = [entry.by for entry in self._entries.values() if entry.call.state != "closed"]
        if per_address is not None and sum(one.address == by.address for one in others) >= per_address:
            raise self._too_many(f"It takes {per_address} calls at once from one address.")
        if by.identity and per_token is not None:
            if sum(one.identity == by.identity for one in others) >= per_token:
                raise self._too_many(f"It takes {per_token} calls at once of one token.")

    def _full(self, message: str) -> CallerError:
        self.refused += 1
        return CallerError(503, "full", "The server is full", message, retry_after_s=RETRY_S)

    def _too_many(self, message: str) -> CallerError:
        self.refused += 1
        return CallerError(429, "too_many_calls", "Too many calls", message, retry_after_s=RETRY_S)

    async def _connect(self, entry: Entry, offer: Offer) -> str:
        peer: Peer

        async def on_lost(reason: str) -> None:
            await self._lost(entry, peer, reason)

        entry.connecting = True
        try:
            with logs.about_call(entry.call.id):
                peer = Peer(entry.call, settings=self._peers(), on_lost=on_lost)
                answer = await peer.answer(offer)
        finally:
            entry.connecting = False
        entry.peer = peer
        if entry.waiting is not None:
            entry.waiting.cancel()
            entry.waiting = None
        return answer

    async def _lost(self, entry: Entry, peer: Peer, reason: str) -> None:
        """A caller who hung up is gone, and so is one who was never received; one who lost the network may
        come back."""
        if entry.peer is not peer:
            return  # replaced already
        if entry.is_prepared:
            self.abandon(entry.call.id)
            return
        never_received = entry.call.silent_s() == math.inf and entry.call.time == 0  # here or elsewhere
        if self._limits.resume_grace_s == 0 or peer.hung_up or never_received or self._stopping:
            await entry.call.close(reason)
            return
        entry.peer = None
        log.info("call %s: %s, waiting for the caller to come back", entry.call.id, reason)
        self._wait_for_caller(entry, reason)

    def _wait_for_caller(self, entry: Entry, reason: str) -> None:
        loop = asyncio.get_running_loop()
        entry.waiting = loop.call_later(self._limits.resume_grace_s, entry.call.hang_up, reason)

    async def _live(self, entry: Entry) -> None:
        """Keep a call's limits until it has ended; then let go of what it held."""
        loop = asyncio.get_running_loop()
        while entry.call.state != "closed":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._keep_limits(entry, loop.time())):
                    await entry.call.wait_closed()
        if entry.waiting is not None:
            entry.waiting.cancel()
        if entry.peer is not None:
            await entry.peer.wait_closed()
            entry.peer = None
        entry.give_back()
        if entry.recording is not None:
            await entry.recording
        entry.ended = loop.time()
        self.on_ended(entry.call)
        self.on_changed()

    def _keep_limits(self, entry: Entry, now: float) -> float | None:
        """End a call that has lasted, or been idle, too long; else in how many seconds to look again."""
        if entry.call.state != "open":
            return None
        age = now - entry.placed
        left = self._limits.max_call_s - age
        idle_left = self._limits.idle_s - min(age, entry.call.silent_s())
        if left <= 0:
            entry.call.hang_up("longest call reached")
        elif idle_left <= 0:
            entry.call.hang_up("idle")
        else:
            return min(left, idle_left)
        return None

    def _forget(self) -> None:
        """Ended calls, when they have been kept long enough or are too many."""
        now = asyncio.get_running_loop().time()
        ended = [(id, entry.ended) for id, entry in self._entries.items() if entry.ended is not None]
        for index, (id, at) in enumerate(ended):
            if index < len(ended) - KEPT_ENDED or now - at > self._limits.keep_ended_s:
                del self._entries[id]
                self.on_forgotten(id)


def digest(secret: str) -> str:
    """What may be stored of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def no_such_call() -> CallerError:
    return CallerError(404, "call_not_found", "No such call", "There is no call with this id.")


def _mids(offer: Offer) -> set[str]:
    """Of its tracks, each of which needs a stream."""
    return {section.mid for section in offer.taken.sections if section.kind == "audio"}
