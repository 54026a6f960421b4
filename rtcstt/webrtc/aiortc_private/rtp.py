"""Behind aiortc's receivers: RTP as its datagrams arrive (entries 1 to 5)."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pylibsrtp
from aiortc import RTCRtpReceiver, RTCRtpTransceiver
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpByePacket, RtcpSrPacket, unpack_header_extensions

from rtcstt.errors import RemoteProtocolError
from rtcstt.media.rtp import Codec, Packet
from rtcstt.webrtc.aiortc_private.dtls import add_rsa_ciphers, repeat_hello, tell_failures
from rtcstt.webrtc.aiortc_private.ice import (
    ask_twice,
    limit_checks,
    note_checks,
    read_datagrams_only,
)
from rtcstt.webrtc.candidates import CheckLimit
from rtcstt.webrtc.routing import MAX_SOURCES, Router
from rtcstt.webrtc.sdp import MID_EXTENSION

log = logging.getLogger(__name__)

MAX_WAITING = 512  # datagrams for aiortc, which takes none before ICE has connected


class TrackTap:
    """The packets of one audio section go to ``on_packet``, the sources that say BYE to ``on_bye``, how many
    packets a source says it has sent to ``on_report``, and the end of DTLS to ``on_end``, once."""

    def __init__(
        self,
        transceiver: RTCRtpTransceiver,
        *,
        mid: str,
        codecs: Mapping[int, Codec],
        on_packet: Callable[[Packet], None],
        on_bye: Callable[[int], None],
        on_report: Callable[[int, int], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.mid = mid
        self.codecs = codecs
        self._on_packet = on_packet
        self._on_bye = on_bye
        self._on_report = on_report
        self._on_end: Callable[[str], None] | None = on_end
        receiver: Any = transceiver.receiver
        self._receiver = receiver
        self._streams: dict[int, StreamStatistics] = receiver._RTCRtpReceiver__remote_streams
        self._hook()

    @property
    def receiver(self) -> RTCRtpReceiver:
        receiver: RTCRtpReceiver = self._receiver
        return receiver

    def push(self, packet: Packet) -> None:
        codec = self.codecs.get(packet.payload_type)
        if codec is not None:
            stream = self._streams.get(packet.ssrc)
            if not isinstance(
                stream, _Statistics
            ):  # aiortc's own is there of a source that it took to be known
                if stream is None and len(self._streams) >= MAX_SOURCES:
                    del self._streams[next(iter(self._streams))]
                stream = self._streams[packet.ssrc] = _Statistics(codec.clock_rate)
            stream.count(packet)
        self._on_packet(packet)

    def end(self, reason: str) -> None:
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end(reason)

    def _hook(self) -> None:
        receiver = self._receiver
        receive, disconnect, rtcp = (
            receiver.receive,
            receiver._handle_disconnect,
            receiver._handle_rtcp_packet,
        )

        async def receive_without_thread(parameters: Any) -> None:
            await receive(parameters)
            _stop_decoder_thread(receiver)

        def handle_disconnect() -> None:
            disconnect()
            self.end("disconnected")

        async def handle_rtcp(packet: Any) -> None:
            if isinstance(packet, RtcpByePacket):
                # Not for aiortc, which would end the track for ever: BYE ends a source, and another one, or
                # the same, may follow (RFC 3550 section 8.2, RFC 8834 section 4.8).
                for ssrc in packet.sources:
                    self._streams.pop(ssrc, None)
                    self._on_bye(ssrc)
                return
            if isinstance(packet, RtcpSrPacket):
                self._on_report(packet.ssrc, packet.sender_info.packet_count)
            await rtcp(packet)

        receiver.receive = receive_without_thread
        receiver._handle_disconnect = handle_disconnect
        receiver._handle_rtcp_packet = handle_rtcp
        _stop_decoder_thread(receiver)  # where it was receiving already


class TransportTap:
    """Takes the RTP of tapped tracks out of one DTLS transport's datagrams; all else goes aiortc's way.

    Exceptions of a track's ``on_packet`` are contained here, counted in ``failures`` and logged once.
    ``goodbye`` becomes true when the other side closes the transport, rather than being lost.
    ``failure`` says why the transport could not be established, where that is known.
    ``last_received`` is the loop's time at which something came that only the caller can have sent (a check,
    an answer to ours, a packet), at first that of the beginning.
    ``exclusive``: only tapped tracks use the transport. ``limit``: of the checks that ICE sends.
    ``on_unroutable`` is told of packets for which no track is found, by SSRC and payload type.
    """

    def __init__(
        self,
        dtls: RTCDtlsTransport,
        *,
        exclusive: bool = False,
        limit: CheckLimit | None = None,
        on_unroutable: Callable[[int, int], None] = lambda ssrc, payload_type: None,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self.goodbye = False
        self.failure: str | None = None
        self.last_received = self._clock()
        self.failures = 0
        self.broken = 0
        self.overflowed = 0
        self.unroutable = 0
        self._dtls: Any = dtls
        self._tracks: list[TrackTap] = []
        self._router: Router[TrackTap] = Router(exclusive=exclusive)
        self._mid_extension: int | None = None
        self._limit = limit
        self._on_unroutable = on_unroutable
        self._hook_rtp()
        self._contain_errors()
        add_rsa_ciphers(self._dtls)
        tell_failures(self._dtls, self._set_failure)
        repeat_hello(self._dtls)
        self._hook_sockets(self._dtls.transport._connection)

    def add(self, track: TrackTap, mid_extension: int | None, ssrcs: Sequence[int] = ()) -> None:
        if track not in self._tracks:
            self._tracks.append(track)
        self._router.add(track, track.mid, track.codecs, ssrcs)
        if mid_extension is not None:
            self._mid_extension = mid_extension

    def remove(self, track: TrackTap) -> None:
        """The track's section is gone; its packets go nowhere from now on."""
        self._router.remove(track.mid)
        self._tracks.remove(track)

    def stats(self) -> dict[str, int]:
        """Packets that went nowhere: we failed on them, they were broken or forged, no track is known
        for them, or they were too many."""
        return {
            "failed": self.failures,
            "broken": self.broken,
            "unroutable": self.unroutable,
            "overflowed": self.overflowed,
        }

    def end(self, reason: str) -> None:
        for track in self._tracks:
            track.end(reason)

    def _note(self) -> None:
        self.last_received = self._clock()

    def _set_failure(self, reason: str) -> None:
        self.failure = self.failure or reason

    def _hook_rtp(self) -> None:
        """Packets that waited in aiortc's queue, as those do that come before DTLS is done."""
        handle = self._dtls._handle_rtp_data

        async def handle_rtp_data(data: bytes, arrival_time_ms: int) -> None:
            ssrc = int.from_bytes(data[8:12], "big")
            track = self._router.known(ssrc) or self._find(ssrc, data) if len(data) >= 12 else None
            if track is not None:
                self._deliver(data, track, is_known=False)
            else:
                await handle(data, arrival_time_ms=arrival_time_ms)

        self._dtls._handle_rtp_data = handle_rtp_data

    def _contain_errors(self) -> None:
        receive = self._dtls._recv_next

        async def receive_next() -> None:
            try:
                await receive()
            except ConnectionError:
                # How aiortc says that the transport has ended: ICE has lost it, or the caller closed it.
                self.goodbye = not self._dtls.transport._connection._closing
                raise
            except Exception:
                self._failed("a datagram")

        self._dtls._recv_next = receive_next

    def _hook_sockets(self, connection: Any) -> None:
        note_checks(connection, self._note)
        gather = connection.get_component_candidates

        async def gather_and_hook(*args: Any, **kwargs: Any) -> Any:
            found = await gather(*args, **kwargs)
            self._hook_protocols(connection)
            return found

        connection.get_component_candidates = gather_and_hook
        self._hook_protocols(connection)

    def _hook_protocols(self, connection: Any) -> None:
        for protocol in connection._protocols:
            if "datagram_received" not in vars(protocol):
                protocol.datagram_received = self._demultiplexer(connection, protocol)
                read_datagrams_only(protocol.transport)
                ask_twice(protocol, self._note)
                if self._limit is not None:
                    limit_checks(connection, protocol, self._limit)

    def _demultiplexer(self, connection: Any, protocol: Any) -> Callable[[bytes, Any], None]:
        stun = protocol.datagram_received

        def datagram_received(data: bytes, address: Any) -> None:
            if data and data[0] > 3:
                self._on_datagram(data, connection, protocol)
            elif data:
                try:
                    stun(data, address)
                except (ValueError, struct.error):  # attributes that are too short: anybody can send them
                    self.broken += 1
                except Exception:
                    self._failed("a STUN message")

        return datagram_received

    def _on_datagram(self, data: bytes, connection: Any, protocol: Any) -> None:
        waiting = connection._queue.qsize()
        if not waiting and self._take(data):  # later packets must not overtake those that wait for aiortc
            return
        if waiting < MAX_WAITING:
            connection.data_received(data, protocol.local_candidate.component)
        else:
            self.overflowed += 1

    def _take(self, data: bytes) -> bool:
        """Whether the datagram was RTP of a tapped track, and so is dealt with."""
        srtp = self._dtls._rx_srtp
        if srtp is None or not 127 < data[0] < 192 or len(data) < 12:
            return False
        if 192 <= data[1] < 224:  # RTCP, RFC 5761 section 4
            return False
        ssrc = int.from_bytes(data[8:12], "big")
        known = self._router.known(ssrc)
        track = known or self._find(ssrc, data)
        if track is None:
            return False
        try:
            self._deliver(srtp.unprotect(data), track, is_known=known is not None)
        except (pylibsrtp.Error, ValueError):
            self.broken += 1  # forged, replayed, or longer than a datagram should be
        return True

    def _find(self, ssrc: int, data: bytes) -> TrackTap | None:
        """The track of an SSRC not seen before. Nothing is learned yet: the packet may be forged."""
        payload_type = data[1] & 0x7F
        mid = mid_of(data, self._mid_extension) if self._mid_extension is not None else None
        track = self._router.find(ssrc, payload_type, mid)
        if track is None and self._router.concerns(payload_type):
            self.unroutable += 1
            self._on_unroutable(ssrc, payload_type)
        return track

    def _deliver(self, data: bytes, track: TrackTap, *, is_known: bool) -> None:
        """A packet that SRTP has vouched for. ``is_known``: so is its source."""
        self._note()
        try:
            packet = Packet.parse(data)
            if not is_known and self._router.known(packet.ssrc) is None:
                self._learn(packet.ssrc, track)
            track.push(packet)
        except RemoteProtocolError:
            self.broken += 1
        except Exception:
            self._failed("an RTP packet")

    def _learn(self, ssrc: int, track: TrackTap) -> None:
        routes = self._dtls._rtp_router.ssrc_table  # by which sender reports and BYE find the receiver
        forgotten = self._router.learn(ssrc, track)
        if forgotten is not None:
            routes.pop(forgotten, None)
        routes[ssrc] = track.receiver

    def _failed(self, what: str) -> None:
        self.failures += 1
        if self.failures == 1:
            log.exception(
                "failed on %s of a caller; it was dropped (further failures are only counted)", what
            )


class _Statistics(StreamStatistics):
    """What a receiver report says of one source, fed with our own packets."""

    sequence_number = 0
    timestamp = 0

    def count(self, packet: Packet) -> None:
        self.sequence_number, self.timestamp = packet.sequence, packet.timestamp
        self.add(self)  # type: ignore[arg-type]

    @property
    def jitter(self) -> int:
        # Timestamps that leap to and fro overflow the report's 32 bits; packing it would then end
        # the report task, and closing the connection would wait for it for ever.
        return min(super().jitter, 0xFFFFFFFF)


def negotiated(transceiver: RTCRtpTransceiver) -> tuple[dict[int, Codec], int | None]:
    """What payload types mean on this transceiver, and the id of the header extension with the mid.

    Public only as SDP text, which the "track" event comes too early for.
    """
    inside: Any = transceiver
    codecs = {c.payloadType: Codec(c.name, c.clockRate, c.channels or 1) for c in inside._codecs}
    extension = next((e.id for e in inside._headerExtensions if e.uri == MID_EXTENSION), None)
    return codecs, extension


def _stop_decoder_thread(receiver: Any) -> None:
    receiver._RTCRtpReceiver__stop_decoder()


def mid_of(data: bytes, extension: int) -> str | None:
    """The mid in an RTP packet's header extension (RFC 8285), None where it has none or is broken."""
    start = 12 + 4 * (data[0] & 0x0F)
    if not data[0] & 0x10 or len(data) < start + 4:
        return None
    profile = int.from_bytes(data[start : start + 2], "big")
    length = 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    profile = 0x1000 if profile & 0xFFF0 == 0x1000 else profile  # the rest are bits for the application
    try:
        found = dict(unpack_header_extensions(profile, data[start + 4 : start + 4 + length]))
    except (ValueError, IndexError):
        return None
    mid = found.get(extension)
    return mid.decode("utf-8", "replace") if mid else None
