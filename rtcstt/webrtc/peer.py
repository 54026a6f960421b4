"""WebRTC by aiortc: the peer that answers a caller, and what attaches a call to any connection.

A `Peer` is one caller's connection; the `Call` behind it may outlive it. Each audio section of the
offer becomes a line of the call; every data channel that the caller opens gets every event of the
call, from the first, and what the caller says there goes to the call as commands.

Only this module, `caller` and `aiortc_private` import aiortc.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiortc import (
    RTCBundlePolicy,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

from rtcstt.errors import CallerError
from rtcstt.events import TrackRefused
from rtcstt.webrtc import candidates
from rtcstt.webrtc.aiortc_private import (
    TrackTap,
    TransportTap,
    negotiated,
    shape_gathering,
)
from rtcstt.webrtc.candidates import CheckLimit, DeniedPeers
from rtcstt.webrtc.connection import GOODBYE_S, PeerSettings, close_connection, new_connection, transports_of
from rtcstt.webrtc.negotiation import Offer, opus_preference
from rtcstt.webrtc.sdp import bad_offer

if TYPE_CHECKING:
    from rtcstt.call import Call

log = logging.getLogger(__name__)

MAX_CHANNELS = 8
BUFFERED_HIGH = 16 * 1024  # bytes waiting on a data channel before the feed is left to coalesce
BUFFERED_LOW = 4 * 1024


class Receivers:
    """Makes each audio track of a connection a line of the call, also those of tracks that come later.

    ``offered``, where known, tells what payload types mean; aiortc is not asked then. ``denied``: addresses
    to which no check is sent.
    """

    def __init__(self, pc: RTCPeerConnection, call: Call, *, denied: DeniedPeers | None = None) -> None:
        self._pc = pc
        self._call = call
        self.offered: Offer | None = None
        self.limit = CheckLimit(denied) if denied is not None else None
        self._transports: dict[Any, TransportTap] = {}
        self._received: set[Any] = set()
        pc.on("track", self._on_track)
        self._on_track()

    @property
    def goodbye(self) -> bool:
        """Whether the other side has closed the connection, rather than being lost."""
        return any(transport.goodbye for transport in self._transports.values())

    @property
    def failure(self) -> str | None:
        """Why a transport could not be established, where that is known."""
        return next((transport.failure for transport in self._transports.values() if transport.failure), None)

    @property
    def last_received(self) -> float:
        """The loop's time at which the other side last sent anything."""
        return max((transport.last_received for transport in self._transports.values()), default=math.inf)

    def progress(self) -> str:
        """How far a connection came that does not stand, in words."""
        limit = self.limit
        if limit is None or "completed" in self._pc.iceConnectionState:
            return "ICE succeeded, DTLS did not"
        if limit.asked_by:
            return f"checks came from {limit.asked_by} addresses, but none of {limit.sent} there was answered"
        denied = f"; {limit.denied} more would have gone to denied addresses" if limit.denied else ""
        return f"no connectivity check came, and none of {limit.sent} sent was answered{denied}"

    def stats(self) -> dict[str, int]:
        """Packets that went nowhere, by cause."""
        total: Counter[str] = Counter()
        for transport in self._transports.values():
            total.update(transport.stats())
        return dict(total)

    def end(self, reason: str) -> None:
        """No packet will come any more; the lines end."""
        with contextlib.suppress(KeyError):  # a closed connection has dropped its listeners
            self._pc.remove_listener("track", self._on_track)
        for transport in self._transports.values():
            transport.end(reason)

    def _on_track(self, _track: Any = None) -> None:
        for transceiver in self._pc.getTransceivers():
            receiver = transceiver.receiver
            if transceiver.kind == "audio" and receiver.track and transceiver.mid not in self._received:
                self._received.add(transceiver.mid)
                self._receive(transceiver)

    def _receive(self, transceiver: Any) -> None:
        codecs, mid_extension = negotiated(transceiver)
        section = self.offered.whole.section(transceiver.mid) if self.offered else None
        if section is not None:
            codecs, mid_extension = section.codecs(), section.mid_extension
        line = self._call.add_track(transceiver.mid, codecs)
        track = TrackTap(
            transceiver,
            mid=transceiver.mid,
            codecs=codecs,
            on_packet=line.push,
            on_bye=line.bye,
            on_end=line.end,
        )
        transport = self.tap(transceiver.receiver.transport)
        transport.add(track, mid_extension, section.ssrcs if section is not None else ())

    def tap(self, dtls: Any) -> TransportTap:
        """What takes the packets of a transport from now on."""
        transport = self._transports.get(dtls)
        if transport is None:
            exclusive = self.offered is not None
            transport = self._transports[dtls] = TransportTap(dtls, exclusive=exclusive, limit=self.limit)
        return transport


class Channels:
    """Sends every data channel that the caller opens every event, and takes his commands from there."""

    def __init__(self, pc: RTCPeerConnection, call: Call) -> None:
        self._pc = pc
        self._call = call
        self._speaking: set[asyncio.Task[None]] = set()
        self._closed = False
        self.refused = 0
        pc.on("datachannel", self._on_channel)

    def __len__(self) -> int:
        return len(self._speaking)

    async def finish(self, timeout_s: float) -> None:
        """Once the call has ended: let what is still due arrive."""
        if self._speaking:
            await asyncio.wait(self._speaking, timeout=timeout_s)

    async def close(self) -> None:
        self._closed = True
        with contextlib.suppress(KeyError):
            self._pc.remove_listener("datachannel", self._on_channel)
        speaking = list(self._speaking)
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._closed or len(self._speaking) >= MAX_CHANNELS:
            self.refused += 1
            channel.close()
            return
        channel.on("message", self._on_message)
        task = asyncio.create_task(_speak(channel, self._call))
        self._speaking.add(task)
        task.add_done_callback(self._speaking.discard)

    def _on_message(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        try:
            self._call.command(text)
        except Exception:  # an exception here would end the whole transport
            log.exception("a caller's command failed")


class Attachment:
    """A call attached to a connection, from now until one of the two ends.

    Audio goes to the call's lines and, with ``channels``, its events to the caller's data channels.
    """

    def __init__(
        self, pc: RTCPeerConnection, call: Call, *, channels: bool, denied: DeniedPeers | None = None
    ) -> None:
        self._pc = pc
        self._call = call
        self.receivers = Receivers(pc, call, denied=denied)
        self.channels = Channels(pc, call) if channels else None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pc.on("connectionstatechange", self._on_state)
        self._on_state()

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    async def run(self) -> str | None:
        """Until the connection is lost, and then why; or until the call has ended and the caller knows."""
        ended = asyncio.create_task(self._call.wait_closed())
        try:
            either: set[asyncio.Future[Any]] = {ended, self.lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self.lost.done():
            self.receivers.end(self.lost.result())
            return self.lost.result()
        if self.channels is not None:
            await self.channels.finish(GOODBYE_S)
        return None

    async def close(self) -> None:
        """Let go of the connection; idempotent."""
        self.lose("closed")
        self.receivers.end("closed")
        with contextlib.suppress(KeyError):
            self._pc.remove_listener("connectionstatechange", self._on_state)
        if self.channels is not None:
            await self.channels.close()

    def _on_state(self) -> None:
        log.debug("connection %s, ICE %s", self._pc.connectionState, self._pc.iceConnectionState)
        if self._pc.connectionState == "failed":
            self.lose(f"connection failed: {self._why()}")
        elif self._pc.connectionState == "closed":
            self.lose("connection closed")

    def _why(self) -> str:
        return self.receivers.failure or "no connectivity check succeeded (ICE)"


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
        # Sections that the offer does not bundle get a transport each; aiortc's default is one for all audio.
        self._pc = new_connection(self._settings.ice_servers, bundling=RTCBundlePolicy.MAX_COMPAT)
        served = [*self._settings.hosts, *(["127.0.0.1"] if self._settings.loopback else [])]
        denied = DeniedPeers(self._settings.deny_peers, served)
        self._attached = Attachment(self._pc, call, channels=True, denied=denied)
        self._answering = False
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

    def stats(self) -> dict[str, Any]:
        channels = self._attached.channels
        return {
            "state": self.state,
            "channels": len(channels) if channels else 0,
            "refused_channels": channels.refused if channels else 0,
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
        for mid, reason in offer.refused.items():
            log.info("call %s: section %s of the offer is refused: %s", self._call.id, mid, reason)
            self._call.publish(TrackRefused(track=mid, reason=reason))
        for mid, candidate in offer.trickled:
            self._trickle(mid, candidate)
        preference = opus_preference(stereo=self._settings.stereo, dtx=self._settings.dtx)
        answer = offer.answer(self._pc.localDescription.sdp, opus=preference)
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
        for mid, candidate in found:
            self._trickle(mid, candidate)

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
        try:
            await pc.setRemoteDescription(RTCSessionDescription(str(offer.taken), "offer"))
            answer = await pc.createAnswer()
        except Exception as error:
            # aiortc has no error of its own for a bad description: asserts, key and value errors.
            log.debug("aiortc refused an offer", exc_info=True)
            raise bad_offer(f"The offer cannot be used ({type(error).__name__}).") from error
        for dtls in transports_of(pc):
            self._attached.receivers.tap(dtls)
            shape_gathering(
                dtls,
                timeout_s=settings.gather_timeout_s,
                hosts=settings.hosts,
                loopback=settings.loopback,
                ports=settings.ports,
            )
        await pc.setLocalDescription(answer)
        if "a=candidate:" not in pc.localDescription.sdp:
            raise CallerError(
                503, "no_candidates", "No way to connect", "The server found no address to be reached at."
            )

    def _trickle(self, mid: str, candidate: str) -> None:
        if self._candidates_left and not self._attached.lost.done():
            self._candidates_left -= 1
            task = asyncio.create_task(self._add_candidate(mid, candidate))
            self._trickling.add(task)
            task.add_done_callback(self._trickling.discard)

    async def _add_candidate(self, mid: str, candidate: str) -> None:
        try:
            found = candidate_from_sdp(candidate)
            found.sdpMid = mid or self._pc.getTransceivers()[0].mid
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
        await self._attached.close()
        trickling = list(self._trickling)
        for task in trickling:
            task.cancel()
        await asyncio.gather(*trickling, return_exceptions=True)
        await close_connection(self._pc)


async def _speak(channel: RTCDataChannel, call: Call) -> None:
    """Send a channel every event of the call, as fast as it takes them, then close it."""
    state_changed = asyncio.Event()
    for event_name in ("open", "close", "bufferedamountlow"):
        channel.on(event_name, state_changed.set)
    channel.bufferedAmountLowThreshold = BUFFERED_LOW

    async def until(ready: Callable[[], bool]) -> None:
        while not ready() and channel.readyState != "closed":
            state_changed.clear()
            await state_changed.wait()

    await until(lambda: channel.readyState == "open")
    async for event in call.caller_events():
        await until(lambda: channel.bufferedAmount <= BUFFERED_HIGH)
        if channel.readyState != "open":
            return
        channel.send(event.to_json())
    channel.close()  # a stream is reset only after all that was sent on it (RFC 8831 section 6.7)
    await until(lambda: False)
