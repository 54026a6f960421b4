"""What attaches a call to a connection: audio sections become tracks, data channels get the events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiortc import RTCDataChannel, RTCPeerConnection

from rtcstt.events import AudioIgnored
from rtcstt.webrtc.aiortc_private import ChunkLimit, TrackTap, TransportTap, negotiated
from rtcstt.webrtc.candidates import CheckLimit, DeniedPeers
from rtcstt.webrtc.connection import GOODBYE_S
from rtcstt.webrtc.negotiation import Offer

if TYPE_CHECKING:
    from rtcstt.call import Call
    from rtcstt.call.track import Track

log = logging.getLogger(__name__)

MAX_CHANNELS = 8
MAX_UNROUTABLE = 8  # sources of which it is said that they belong to no section
BUFFERED_HIGH = 16 * 1024  # bytes waiting on a data channel before the feed is left to coalesce
BUFFERED_LOW = 4 * 1024


class Receivers:
    """Makes each audio track of a connection one of the call, also those of tracks that come later.

    ``offered``, where known, tells what payload types mean; aiortc is not asked then. ``denied``: addresses
    to which no check is sent.
    """

    def __init__(self, pc: RTCPeerConnection, call: Call, *, denied: DeniedPeers | None = None) -> None:
        self._pc = pc
        self._call = call
        self.offered: Offer | None = None
        self.limit = CheckLimit(denied) if denied is not None else None
        self._transports: dict[Any, TransportTap] = {}
        self._shaped: set[Any] = set()
        self._unroutable: set[int] = set()  # sources
        self._received: dict[str, tuple[Track, TrackTap, TransportTap]] = {}  # by mid
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
        """Packets that went nowhere, by cause; ``ignored``: checks from more addresses than are taken."""
        total: Counter[str] = Counter()
        for transport in self._transports.values():
            total.update(transport.stats())
        if self.limit is not None and self.limit.ignored:
            total["ignored"] = self.limit.ignored
        return dict(total)

    def end(self, reason: str) -> None:
        """No packet will come any more; the call's tracks end."""
        with contextlib.suppress(KeyError):  # a closed connection has dropped its listeners
            self._pc.remove_listener("track", self._on_track)
        for transport in self._transports.values():
            transport.end(reason)

    def _on_track(self, _track: Any = None) -> None:
        for transceiver in self._pc.getTransceivers():
            receiver = transceiver.receiver
            if transceiver.kind == "audio" and receiver.track and transceiver.mid not in self._received:
                self._receive(transceiver)

    def _receive(self, transceiver: Any) -> None:
        codecs, mid_extension = negotiated(transceiver)
        section = self.offered.whole.section(transceiver.mid) if self.offered else None
        if section is not None:
            codecs, mid_extension = section.codecs(), section.mid_extension
        track = self._call.add_track(transceiver.mid, codecs)
        tap = TrackTap(
            transceiver,
            mid=transceiver.mid,
            codecs=codecs,
            on_packet=track.push,
            on_bye=track.bye,
            on_report=track.report,
            on_end=track.end,
        )
        transport = self.tap(transceiver.receiver.transport)
        transport.add(tap, mid_extension, section.ssrcs if section is not None else ())
        self._received[transceiver.mid] = track, tap, transport

    def update(self, offer: Offer) -> None:
        """A later offer of the same connection holds: sections are on hold, resumed, or gone, and payload
        types may mean something else. New sections come as tracks of the connection."""
        self.offered = offer
        for mid, (track, tap, transport) in list(self._received.items()):
            section = offer.whole.section(mid)
            if section is None or mid not in offer.tracks:
                del self._received[mid]
                transport.remove(tap)
                track.finish("section removed")
                continue
            if offer.direction_of(mid) not in ("sendrecv", "sendonly"):
                track.mute("hold")
            if section.codecs() != tap.codecs:
                tap.codecs = section.codecs()
                track.renegotiate(tap.codecs, reconnected=False)
            transport.add(tap, section.mid_extension, section.ssrcs)

    def tap_new(self, dtls: Any) -> bool:
        """Tap a transport; false where that is done."""
        if dtls in self._shaped:
            return False
        self._shaped.add(dtls)
        self.tap(dtls)
        return True

    def tap(self, dtls: Any) -> TransportTap:
        """What takes the packets of a transport from now on."""
        transport = self._transports.get(dtls)
        if transport is None:
            transport = self._transports[dtls] = TransportTap(
                dtls,
                exclusive=self.offered is not None,
                limit=self.limit,
                on_unroutable=self._on_unroutable,
            )
        return transport

    def _on_unroutable(self, ssrc: int, payload_type: int) -> None:
        """Said once for each source, of a few; the rest is counted."""
        if ssrc not in self._unroutable and len(self._unroutable) < MAX_UNROUTABLE:
            self._unroutable.add(ssrc)
            reason = f"packets of payload type {payload_type} arrive that belong to no section of the offer"
            self._call.publish(AudioIgnored(track="", reason=reason, payload_type=payload_type))


class Channels:
    """Sends every data channel that the caller opens every event, and takes their commands from there."""

    def __init__(self, pc: RTCPeerConnection, call: Call) -> None:
        self._pc = pc
        self._call = call
        self._speaking: set[asyncio.Task[None]] = set()
        self._closed = False
        self.refused = 0
        self._limit: ChunkLimit | None = None
        pc.on("datachannel", self._on_channel)

    def __len__(self) -> int:
        return len(self._speaking)

    @property
    def dropped_chunks(self) -> int:
        """Of messages, which were taken for lost since too much of others waited."""
        return self._limit.dropped if self._limit is not None else 0

    def limit_messages(self) -> None:
        """Bound what waits, from when there is an association on; idempotent."""
        if self._limit is None and self._pc.sctp is not None:
            self._limit = ChunkLimit()
            self._limit.limit(self._pc.sctp)

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

    Audio goes to the call's tracks and, with ``channels``, its events to the caller's data channels.
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
