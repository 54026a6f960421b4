"""A call of a server: who placed it, its present connection, and its life until it is let go."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from rtcstt import logs
from rtcstt.call import Call, PreparedCall
from rtcstt.errors import CallerError
from rtcstt.events import SessionMove
from rtcstt.limits import Reservation
from rtcstt.server.admission import ANYBODY, Limits, Requester
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.webrtc.negotiation import Offer
from rtcstt.webrtc.peer import Peer

log = logging.getLogger(__name__)

QUIET_S = 2.0  # a connection that sent nothing for so long may be replaced by another one
MOVE_S = 10.0  # who is asked to move has so long to offer again, and then to be received there
SILENT_S = 5.0  # the end of the server waits for no caller who sent nothing for so long


class Connection(Protocol):
    """A gateway's, that can be told to end."""

    drop: Callable[[], None]


@dataclass(slots=True)
class Entry:
    """A call, its present connection, and the task that keeps its limits until it has ended.

    ``secret`` is told to who placed the call alone, and lets whoever has it resume the call.
    """

    call: Call
    placed: float
    by: Requester = ANYBODY
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    secret_digests: set[str] = field(default_factory=set)
    streams: Reservation | None = None
    peer: Peer | None = None
    waiting: asyncio.TimerHandle | None = None
    connecting: bool = False
    asked_to_move_at: float | None = None
    is_gateways: bool = False  # it has no peer, and never will
    gateway_key: str | None = None  # by which the gateway finds it again; see `returning`
    link: Connection | None = None  # the gateway's present connection
    life: asyncio.Task[None] | None = None
    recording: asyncio.Task[None] | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        self.secret_digests.add(digest(self.secret))

    @property
    def is_prepared(self) -> bool:
        """Another server still has the call."""
        return isinstance(self.call, PreparedCall) and not self.call.is_committed

    @property
    def never_received(self) -> bool:
        """Nothing of it, here or elsewhere."""
        return self.call.silent_s() == math.inf and self.call.time == 0

    def give_back(self) -> None:
        """The streams that were reserved for it."""
        if self.streams is not None:
            self.streams.release()

    def check_caller(self, by: Requester, secret: str | None, *, gateway: bool = False) -> None:
        """`CallerError` 403 unless this is who placed the call, 409 when it cannot be resumed. ``gateway``:
        with audio from one."""
        known = secret is not None and digest(secret) in self.secret_digests
        if not known and by.identity != self.by.identity:
            raise CallerError(403, "not_your_call", "Not your call", "Another token placed this call.")
        if self.call.state != "open":
            raise CallerError(409, "call_ended", "The call has ended", "Place a new call.")
        if self.is_gateways and not gateway:
            message = "This call's audio comes from a gateway."
            raise CallerError(409, "no_webrtc", "Not a WebRTC call", message)
        if gateway and not self.is_gateways:
            message = "This call's audio comes over WebRTC."
            raise CallerError(409, "no_gateway", "Not a gateway's call", message)

    def rejoin(self, by: Requester, secret: str | None) -> Call:
        """The gateway of a call that lost it comes back; `CallerError` as `check_caller` has it, and 409 when
        another connection has the call."""
        self.check_caller(by, secret, gateway=True)
        if not self.awaits_gateway:
            raise CallerError(409, "call_connected", "Second gateway", "This call has a connection.")
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        self.call.caller_may_listen = by.may_listen
        return self.call

    @property
    def awaits_gateway(self) -> bool:
        """Its connection is lost, or may be: nothing came for a moment."""
        if self.call.state != "open" or not self.is_gateways:
            return False
        return self.waiting is not None or QUIET_S <= self.call.silent_s() < math.inf

    async def connect(
        self, offer: Offer, settings: PeerSettings, on_lost: Callable[[Peer, str], Awaitable[None]]
    ) -> str:
        """The answer to an offer, by a new connection for the call; `CallerError` when it is refused."""
        peer: Peer

        async def lost(reason: str) -> None:
            await on_lost(peer, reason)

        self.connecting = True
        try:
            with logs.about_call(self.call.id):
                peer = Peer(self.call, settings=settings, on_lost=lost)
                answer = await peer.answer(offer)
        finally:
            self.connecting = False
        self.peer = peer
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        return answer

    async def lost(self, peer: Peer, reason: str, grace_s: float) -> None:
        """A caller who hung up is gone, and so is one who was never received; one who lost the network may
        come back for ``grace_s``. One who was asked to move is with the other server, or will be."""
        if (
            self.asked_to_move_at is not None
        ):  # they may be with the other server, which takes the call in a moment
            self.peer = None
            self.wait_for_caller(MOVE_S, reason)
            return
        if grace_s == 0 or peer.hung_up or self.never_received:
            await self.call.close(reason)
            return
        self.peer = None
        log.info("call %s: %s, waiting for the caller to come back", self.call.id, reason)
        self.wait_for_caller(grace_s, reason)

    async def close(self, reason: str) -> None:
        """Drain the call, and wait until it has let go of everything."""
        await self.call.close(reason)
        if self.life is not None:
            await self.life

    def ask_to_move(self, reason: str) -> None:
        """Its caller, who has a connection here, is asked to offer to another server."""
        if self.peer is not None and self.call.state == "open":
            self.asked_to_move_at = asyncio.get_running_loop().time()
            for track in self.call.tracks.values():
                track.leave()
            self.call.publish(SessionMove(reason=reason))

    @property
    def speaks(self) -> bool:
        """It is open, and its caller was received a moment ago, or may be about to be received elsewhere.

        Who is silent when they are asked to move has time to do so too.
        """
        asked_at = self.asked_to_move_at
        moves = asked_at is not None and (
            self.waiting is not None or asyncio.get_running_loop().time() < asked_at + MOVE_S
        )
        return self.call.state == "open" and (moves or self.call.silent_s() < SILENT_S)

    def wait_for_caller(self, grace_s: float, reason: str) -> None:
        """The call ends after ``grace_s`` unless its caller comes back."""
        loop = asyncio.get_running_loop()
        self.waiting = loop.call_later(grace_s, self.call.hang_up, reason)

    async def live(self, limits: Limits) -> None:
        """Keep a call's limits until it has ended; then let go of what it held."""
        loop = asyncio.get_running_loop()
        while self.call.state != "closed":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._keep_limits(limits, loop.time())):
                    await self.call.wait_closed()
        if self.waiting is not None:
            self.waiting.cancel()
        if self.peer is not None:
            await self.peer.wait_closed()
            self.peer = None
        self.give_back()
        if self.recording is not None:
            await self.recording
        self.ended = loop.time()

    def _keep_limits(self, limits: Limits, now: float) -> float | None:
        """End a call that has lasted, or been idle, too long; else in how many seconds to look again."""
        if self.call.state != "open":
            return None
        age = now - self.placed
        left = limits.max_call_s - age
        idle_left = limits.idle_s - min(age, self.call.silent_s())
        if left <= 0:
            self.call.hang_up("longest call reached")
        elif idle_left <= 0:
            self.call.hang_up("idle")
        else:
            return min(left, idle_left)
        return None


class Entries(dict[str, Entry]):
    """The calls that a server remembers, by their ids, oldest first."""

    def find(self, id: str) -> Entry:
        """`CallerError` 404 when there is none."""
        if id not in self:
            raise no_such_call()
        return self[id]

    def of_gateway(self, key: str) -> Entry | None:
        """The newest open one, first of those that have lost their connection."""
        found = [
            entry
            for entry in self.values()
            if entry.gateway_key == key and entry.call.state == "open" and not entry.is_prepared
        ]
        return max(reversed(found), key=lambda entry: entry.awaits_gateway, default=None)

    def open(self) -> list[Entry]:
        """Those that have not ended."""
        return [entry for entry in self.values() if entry.call.state != "closed"]

    def prepared(self, id: str) -> PreparedCall | None:
        """A call that another server still has."""
        entry = self.get(id)
        return entry.call if entry is not None and isinstance(entry.call, PreparedCall) else None

    def forget(self, now: float, limits: Limits) -> list[str]:
        """Ended calls, when they have been kept for ``keep_ended_s`` or are more than ``keep_ended``:
        first those of which nothing was ever received, which anybody can make many of, then those that ended
        first. Their ids."""
        ended = sorted(
            (not entry.never_received, entry.ended, id)
            for id, entry in self.items()
            if entry.ended is not None
        )
        too_many = len(ended) - limits.keep_ended
        gone = [id for i, (_, at, id) in enumerate(ended) if i < too_many or now - at > limits.keep_ended_s]
        for id in gone:
            del self[id]
        return gone


def digest(secret: str) -> str:
    """What may be stored of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def no_such_call() -> CallerError:
    return CallerError(404, "call_not_found", "No such call", "There is no call with this id.")
