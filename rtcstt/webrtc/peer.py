"""WebRTC by aiortc: the peer that answers a caller, and what attaches a call to any connection.

A `Peer` is one caller's connection; the `Call` behind it may outlive it. Each audio section of the
offer becomes a track of the call; every data channel that the caller opens gets every event of the
call, from the first, and what the caller says there goes to the call as commands.

Only the modules of this folder import aiortc.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from aiortc import RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from rtcstt.errors import CallerError
from rtcstt.events import TrackRefused
from rtcstt.webrtc import candidates
from rtcstt.webrtc.aiortc_private import shape_gathering, share_transport
from rtcstt.webrtc.attachment import Attachment
from rtcstt.webrtc.candidates import DeniedPeers
from rtcstt.webrtc.connection import PeerSettings, close_connection, new_connection, transports_of
from rtcstt.webrtc.negotiation import Offer, opus_preference
from rtcstt.webrtc.sdp import Description, bad_offer

if TYPE_CHECKING:
    from rtcstt.call import Call

log = logging.getLogger(__name__)


class PeerStats(TypedDict):
    state: str
    channels: int
    refused_channels: int
    dropped_chunks: int
    """Of data channels' messages: too many waited for the rest."""
    dropped_packets: dict[str, int]
    """Packets that went nowhere, by cause."""


class Peer:
    """One caller's connection to a call.

    `answer` once; then the peer lives until the connection is lost, the call ends, or `close`.
    When the connection is lost ``on_lost`` is awaited with the reason; by default it closes the
    call, which drains it. When the call ends, every event reaches the data channels before the
    connection is closed.
    """

    def __init__(
        self,
        call: Call,
        *,
        settings: PeerSettings | None = None,
        on_lost: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._call = call
        self._settings = settings or PeerSettings()
        self._on_lost = on_lost or call.close
        self._pc = new_connection(self._settings.ice_servers)
        served = [*self._settings.hosts, *(["127.0.0.1"] if self._settings.loopback else [])]
        denied = DeniedPeers(self._settings.deny_peers, served)
        self._attached = Attachment(self._pc, call, channels=True, denied=denied)
        self._answering = self._renegotiating = False
        self._answers = 0  # to later offers
        self._given = Description((), ())  # to aiortc
        self._local = ""  # aiortc's answer to it
        self._candidates_left = candidates.MAX_CANDIDATES
        self._trickling: set[asyncio.Task[None]] = set()
        self._life: asyncio.Task[None] | None = None
        self._watching: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        """`new`, `connecting`, `connected`, `failed` or `closed`."""
        return str(self._pc.connectionState)

    @property
    def hung_up(self) -> bool:
        """Whether the caller has closed the connection, rather than having lost it."""
        return self._attached.receivers.goodbye

    def stats(self) -> PeerStats:
        channels = self._attached.channels
        return {
            "state": self.state,
            "channels": len(channels) if channels else 0,
            "refused_channels": channels.refused if channels else 0,
            "dropped_chunks": channels.dropped_chunks if channels else 0,
            "dropped_packets": self._attached.receivers.stats(),
        }

    async def answer(self, offer: str | Offer) -> str:
        """The SDP answer to a caller's offer.

        Raises `CallerError` 400 for an offer that cannot be answered, 409 for a second one, 503
        when no network address is there to answer with. After an error the peer is closed.
        """
        if self._answering:
            raise CallerError(409, "already_answered", "Second offer", "This call has been answered already.")
        self._answering = True
        try:
            if isinstance(offer, str):
                offer = Offer.parse(offer, max_tracks=self._settings.max_tracks)
            self._attached.receivers.offered = offer
            await self._negotiate(offer)
        except BaseException:
            await self.close()
            raise
        self._life = asyncio.create_task(self._live())
        return self._answered(offer)

    def continues(self, offer: Offer) -> bool:
        """Whether an offer is a later one of this connection: a hold, or other sections on its transport."""
        before = self._attached.receivers.offered
        return self.state == "connected" and before is not None and before.same_session(offer)

    @property
    def tracks(self) -> list[str]:
        """The mids of the audio sections that are taken now."""
        offer = self._attached.receivers.offered
        return offer.tracks if offer is not None else []

    @property
    def refused(self) -> dict[str, str]:
        """Why each section of the latest offer that is not taken is refused, by mid."""
        offer = self._attached.receivers.offered
        return dict(offer.refused) if offer is not None else {}

    async def renegotiate(self, offer: Offer) -> str:
        """The answer to a later offer of this connection, which goes on meanwhile, whatever comes of it.

        Raises `CallerError` 400 when it cannot be answered, 409 while another one is being answered.
        """
        if self._renegotiating:
            raise CallerError(409, "negotiating", "Two offers at once", "The offer before is being answered.")
        self._renegotiating = True
        try:
            known = {section.mid for section in self._given.sections}
            receivers, before = self._attached.receivers, self._attached.receivers.offered
            if not {section.mid for section in offer.taken.sections} <= known:
                receivers.offered = offer  # which tells what the payload types of new tracks mean
                try:
                    await self._negotiate(offer)
                except BaseException:
                    receivers.offered = before
                    raise
            receivers.update(offer)
        finally:
            self._renegotiating = False
        self._answers += 1
        return self._answered(offer)

    def _answered(self, offer: Offer) -> str:
        """The text of the answer, once aiortc has the offer; what belongs to it is done."""
        for mid, reason in offer.refused.items():
            log.info("call %s: section %s of the offer is refused: %s", self._call.id, mid, reason)
            self._call.publish(TrackRefused(track=mid, reason=reason))
        self._trickle(offer.trickled)
        preference = opus_preference(stereo=self._settings.stereo, dtx=self._settings.dtx)
        answer = offer.answer(self._local, opus=preference, version=self._answers)
        public_ip = self._settings.public_ip
        return answer if public_ip is None else candidates.with_public_address(answer, public_ip)

    def add_candidates(self, fragment: str) -> None:
        """Candidates that come after the offer (RFC 8840); unusable ones are left out.

        Raises `CallerError` 400 for a broken fragment, 422 for an ICE restart, which aiortc knows nothing of,
        429 when there were too many.
        """
        offer = self._attached.receivers.offered
        if offer is not None and candidates.restarts_ice(fragment, offer.whole):
            raise CallerError(422, "no_ice_restart", "No ICE restart", "Place a new call instead.")
        found = candidates.in_fragment(fragment)
        if len(found) > self._candidates_left:
            message = f"A call takes {candidates.MAX_CANDIDATES} candidates after its offer."
            raise CallerError(429, "too_many_candidates", "Too many candidates", message, retry_after_s=60)
        self._trickle(found)

    async def wait_closed(self) -> None:
        """Until the connection is closed and nothing of it runs any more."""
        if self._life is not None:
            await asyncio.shield(self._life)

    async def close(self, reason: str = "closed") -> None:
        """End the connection as if the caller had gone, and wait until nothing of it runs any more."""
        self._attached.lose(reason)
        if self._life is None:
            await self._shut()
        await self.wait_closed()

    async def _negotiate(self, offer: Offer) -> None:
        pc, settings = self._pc, self._settings
        given = offer.after(self._given)
        # What the offer does not bundle gets a transport each; aiortc's default is one for all audio.
        share_transport(pc, not self._given.sections and len(given.bundle) == len(given.sections))
        try:
            await asyncio.sleep(0)  # others run between the parts of this work, each of which may take 2 ms
            await pc.setRemoteDescription(RTCSessionDescription(str(given), "offer"))
            await asyncio.sleep(0)
            answer = await pc.createAnswer()
        except Exception as error:
            # aiortc has no error of its own for a bad description: asserts, key and value errors.
            log.debug("aiortc refused an offer", exc_info=True)
            raise bad_offer(f"The offer cannot be used ({type(error).__name__}).") from error
        self._given = given
        for dtls in transports_of(pc):
            if not self._attached.receivers.tap_new(dtls):
                continue
            shape_gathering(
                dtls,
                timeout_s=settings.gather_timeout_s,
                hosts=settings.hosts,
                loopback=settings.loopback,
                ports=settings.udp_port or settings.ports,
            )
        if self._attached.channels is not None:
            self._attached.channels.limit_messages()
        await pc.setLocalDescription(answer)
        self._local = pc.localDescription.sdp
        if "a=candidate:" not in self._local:
            raise CallerError(
                503, "no_candidates", "No way to connect", "The server found no address to be reached at."
            )

    def _trickle(self, found: Sequence[tuple[str, str]]) -> None:
        """Add candidates, as far as there may be more: addresses one after the other, and each name (mDNS)
        by itself, since it takes time to be resolved."""
        found = found[: self._candidates_left]
        if not found or self._attached.lost.done():
            return
        self._candidates_left -= len(found)
        addresses = [one for one in found if not candidates.is_mdns(one[1])]
        for some in (addresses, *([one] for one in found if candidates.is_mdns(one[1]))):
            task = asyncio.create_task(self._add_candidates(some))
            self._trickling.add(task)
            task.add_done_callback(self._trickling.discard)

    async def _add_candidates(self, given: Sequence[tuple[str, str]]) -> None:
        for mid, candidate in given:
            await asyncio.sleep(0)  # others run between them
            try:
                found = candidate_from_sdp(candidate)
                found.sdpMid = self._given.transport_of(mid)
                await self._pc.addIceCandidate(found)
            except Exception:  # whatever one candidate does, the others may still connect
                log.debug("a candidate was not added", exc_info=True)

    async def _live(self) -> None:
        timeout_s = self._settings.connect_timeout_s
        overdue = asyncio.get_running_loop().call_later(timeout_s, self._give_up, timeout_s)
        self._watch()
        try:
            lost = await self._attached.run()
            if lost is not None:
                await self._on_lost(lost)
        finally:
            overdue.cancel()
            if self._watching is not None:
                self._watching.cancel()
            await self._shut()

    def _give_up(self, timeout_s: float) -> None:
        if self.state != "connected":
            progress = self._attached.receivers.progress()
            self._attached.lose(f"not connected within {timeout_s:g} s: {progress}")

    def _watch(self) -> None:
        """Miss a caller who vanished, before ICE does."""
        loop, limit_s = asyncio.get_running_loop(), self._settings.lost_after_s
        due = self._attached.receivers.last_received + limit_s
        if due <= loop.time() and self.state == "connected":
            self._attached.lose(f"nothing came for {limit_s:g} s")
        else:
            self._watching = loop.call_at(max(due, loop.time() + limit_s / 5), self._watch)

    async def _shut(self) -> None:
        if lost := {cause: count for cause, count in self._attached.receivers.stats().items() if count}:
            log.info("call %s: packets that went nowhere: %s", self._call.id, lost)
        await self._attached.close()
        trickling = list(self._trickling)
        for task in trickling:
            task.cancel()
        await asyncio.gather(*trickling, return_exceptions=True)
        await close_connection(self._pc)
