"""Everything that rtcstt does behind the public interface of aiortc 1.16 and aioice 0.13, in one place.

All of it is done to single objects (one connection, one receiver), never to a class or a module, so
that other users of aiortc in the same process see nothing of it. `PRIVATE` lists the names touched;
a test fails with the name when a release renames one. What is done, why, what it costs, and when it
can go:

1. **RTP is taken as the datagram arrives** (`TransportTap`), before aiortc's queue, packet classes,
   jitter buffer and decoder thread. Why: the jitter buffer drops four good frames for each lost one
   and delays all that follow by 200 ms, and the thread is the larger part of the cost of a call.
   Cost: SRTP is undone here, and the receiver's statistics are fed by hand so that its receiver
   reports stay right (without loss reports browsers send no FEC). The track of a tapped receiver
   yields no frames. Goes when aiortc hands out encoded packets (WebRTC encoded transform).
2. **The decoder thread ends as soon as it has begun** (`_stop_decoder_thread`). Same reason.
3. **Datagrams are told apart by their first byte** (RFC 7983 section 7). Why: aioice parses every
   datagram as STUN and swallows PCMA and G.722 packets that look like it, and an empty datagram
   from anybody ends the DTLS transport. Goes when `aioice.ice.StunProtocol` does the same.
4. **Packets of an unknown SSRC find their section by the mid they carry** (RFC 8843 section 9.2).
   Why: aiortc drops them when two sections share a payload type. Goes with 1.
5. **Errors in packets stay in the packet** (`_contain_errors`). Why: any exception on the packet
   path ends the DTLS transport, and with it the call; a datagram of 1501 bytes from anybody is
   enough. Goes when `RTCDtlsTransport._recv_next` contains them.
6. **ECDHE-RSA cipher suites are offered too** (`_add_rsa_ciphers`). Why: aiortc offers ECDSA alone,
   and a DTLS server with an RSA certificate (GStreamer 1.22) finds no shared cipher. Goes when
   `RTCCertificate._create_ssl_context` lists them.
7. **Sockets read no more than a datagram may hold** (`_read_datagrams_only`). Why: asyncio reserves
   256 KiB for each, which costs ten times what receiving it does. Goes when asyncio reserves less.
8. **One certificate and TLS context for all our connections** (`share_certificate`), a new one each day.
   Why: aiortc makes one each, which costs 30 kB and the better part of a millisecond. Callers that
   compare fingerprints can tell that they talk to the same server. Goes when `RTCConfiguration`
   takes certificates, as the browsers' does.
9. **Gathering is capped, and may use loopback** (`shape_gathering`). Why: a dead STUN server holds
   the answer for 5 s, and aioice leaves out 127.0.0.1. Goes when aioice takes both as settings.
10. **Host candidates keep to a range of ports** (`_gather_on_ports`), where one is asked for. Why: aioice
   lets the system choose, and firewalls want to know. Cost: the sockets are opened here, as aioice would
   open them. Goes when aioice takes a range as a setting.
11. **Checks of consent are sent twice** (`_ask_twice`). Why: aioice waits 0.5 s for the answer to each,
   and ends the connection after six without: 30 s into any call with a round trip of more, whatever
   packets come. Goes when aioice has consent expire by time alone (RFC 7675 section 5.1).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pylibsrtp
from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, server_reflexive_candidate
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc import RTCCertificate, RTCPeerConnection, RTCRtpReceiver, RTCRtpTransceiver
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpByePacket
from OpenSSL import SSL

from rtcstt.errors import RemoteProtocolError
from rtcstt.media.rtp import Codec, Packet
from rtcstt.webrtc.sdp import MID_EXTENSION

log = logging.getLogger(__name__)

PRIVATE: dict[str, tuple[str, ...]] = {
    "aiortc.RTCRtpReceiver": (
        "_handle_disconnect",
        "_handle_rtcp_packet",
        "_RTCRtpReceiver__remote_streams",
        "_RTCRtpReceiver__stop_decoder",
        "_RTCRtpReceiver__decoder_thread",
    ),
    "aiortc.rtcrtpreceiver.StreamStatistics": ("add", "jitter"),
    "aiortc.RTCRtpTransceiver": ("_codecs", "_headerExtensions"),
    "aiortc.RTCDtlsTransport": (
        "_handle_rtp_data",
        "_recv_next",
        "_rtp_router",
        "_rx_srtp",
        "_send_rtp",
        "_RTCDtlsTransport__local_certificate",
    ),
    "aiortc.rtcdtlstransport.RtpRouter": ("ssrc_table",),
    "aiortc.RTCPeerConnection": ("_RTCPeerConnection__certificates",),
    "aiortc.rtcdtlstransport.RTCCertificate": ("_create_ssl_context",),
    "aiortc.RTCIceTransport": ("_connection", "_send"),
    "aioice.Connection": (
        "get_component_candidates",
        "_protocols",
        "_queue",
        "_closing",
        "data_received",
        "stun_server",
    ),
    "aioice.ice.server_reflexive_candidate": ("protocol.request", "local_candidate"),
    "aioice.ice.StunProtocol": ("datagram_received", "local_candidate", "request", "send_stun"),
    "asyncio.selector_events._SelectorDatagramTransport": ("max_size",),
}

MAX_WAITING = 512  # datagrams for aiortc, which takes none before ICE has connected
MAX_DATAGRAM = 4096  # bytes; what comes over real networks has at most 1500
MAX_SOURCES = 8  # SSRCs remembered per track; more come only from a broken or hostile sender
_SUITES = ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
_CIPHERS = ":".join(f"ECDHE-{key}-{suite}" for key in ("ECDSA", "RSA") for suite in _SUITES).encode()


class TrackTap:
    """The packets of one audio section go to ``on_packet``; BYE or the end of DTLS calls ``on_end``, once."""

    def __init__(
        self,
        transceiver: RTCRtpTransceiver,
        *,
        mid: str,
        codecs: Mapping[int, Codec],
        on_packet: Callable[[Packet], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.mid = mid
        self.codecs = codecs
        self._on_packet = on_packet
        self._on_end: Callable[[str], None] | None = on_end
        self._latest_ssrc: int | None = None
        receiver: Any = transceiver.receiver
        self._receiver = receiver
        self._streams: dict[int, _Statistics] = receiver._RTCRtpReceiver__remote_streams
        self._hook()

    @property
    def receiver(self) -> RTCRtpReceiver:
        receiver: RTCRtpReceiver = self._receiver
        return receiver

    def push(self, packet: Packet) -> None:
        self._latest_ssrc = packet.ssrc
        codec = self.codecs.get(packet.payload_type)
        if codec is not None:
            stream = self._streams.get(packet.ssrc)
            if stream is None:
                if len(self._streams) >= MAX_SOURCES:
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
            await rtcp(packet)
            # A sender that changes its SSRC says BYE for the old one (RFC 3550 section 8.2).
            if isinstance(packet, RtcpByePacket) and self._latest_ssrc in packet.sources:
                self.end("bye")

        receiver.receive = receive_without_thread
        receiver._handle_disconnect = handle_disconnect
        receiver._handle_rtcp_packet = handle_rtcp
        _stop_decoder_thread(receiver)  # where it was receiving already


class TransportTap:
    """Takes the RTP of tapped tracks out of one DTLS transport's datagrams; all else goes aiortc's way.

    Exceptions of a track's ``on_packet`` are contained here, counted in ``failures`` and logged once.
    ``goodbye`` becomes true when the other side closes the transport, rather than being lost.
    ``last_received`` is the loop's time at which any datagram came, at first that of the beginning.
    """

    def __init__(self, dtls: RTCDtlsTransport) -> None:
        self._clock = asyncio.get_running_loop().time
        self.goodbye = False
        self.last_received = self._clock()
        self.failures = 0
        self.broken = 0
        self.overflowed = 0
        self.unroutable = 0
        self._dtls: Any = dtls
        self._tracks: list[TrackTap] = []
        self._by_ssrc: dict[int, TrackTap] = {}
        self._mid_extension: int | None = None
        self._hook_rtp()
        self._contain_errors()
        _add_rsa_ciphers(self._dtls)
        self._hook_sockets(self._dtls.transport._connection)

    def add(self, track: TrackTap, mid_extension: int | None) -> None:
        self._tracks.append(track)
        if mid_extension is not None:
            self._mid_extension = mid_extension

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

    def _hook_rtp(self) -> None:
        """Packets that waited in aiortc's queue, as those do that come before DTLS is done."""
        handle = self._dtls._handle_rtp_data

        async def handle_rtp_data(data: bytes, arrival_time_ms: int) -> None:
            track = self._track_of(data) if len(data) >= 12 else None
            if track is not None:
                self._deliver(data, track)
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
                _read_datagrams_only(protocol.transport)
                _ask_twice(protocol)

    def _demultiplexer(self, connection: Any, protocol: Any) -> Callable[[bytes, Any], None]:
        stun = protocol.datagram_received

        def datagram_received(data: bytes, address: Any) -> None:
            self.last_received = self._clock()
            if data and data[0] > 3:
                self._on_datagram(data, connection, protocol)
            elif data:
                try:
                    stun(data, address)
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
        track = self._track_of(data)
        if track is None:
            return False
        try:
            self._deliver(srtp.unprotect(data), track)
        except (pylibsrtp.Error, ValueError):
            self.broken += 1  # forged, replayed, or longer than a datagram should be
        return True

    def _track_of(self, data: bytes) -> TrackTap | None:
        return self._by_ssrc.get(int.from_bytes(data[8:12], "big")) or self._find(data)

    def _deliver(self, data: bytes, track: TrackTap) -> None:
        """A packet that SRTP has vouched for."""
        try:
            packet = Packet.parse(data)
            if packet.ssrc not in self._by_ssrc:
                self._learn(packet.ssrc, track)
            track.push(packet)
        except RemoteProtocolError:
            self.broken += 1
        except Exception:
            self._failed("an RTP packet")

    def _find(self, data: bytes) -> TrackTap | None:
        """The track of an SSRC not seen before: by its mid, else by a payload type of only one track."""
        mid = self._mid_extension and header_extension(data, self._mid_extension)
        if mid:
            name = mid.decode("utf-8", "replace")
            return next((track for track in self._tracks if track.mid == name), None)
        payload_type = data[1] & 0x7F
        able = [track for track in self._tracks if payload_type in track.codecs]
        if len(able) > 1:  # no way to tell: a track that nobody speaks for yet
            spoken_for = {id(track) for track in self._by_ssrc.values()}
            able = [track for track in able if id(track) not in spoken_for][:1]
            self.unroutable += not able
        return able[0] if able else None

    def _learn(self, ssrc: int, track: TrackTap) -> None:
        routes = self._dtls._rtp_router.ssrc_table  # by which sender reports and BYE find the receiver
        mine = [known for known, owner in self._by_ssrc.items() if owner is track]
        if len(mine) >= MAX_SOURCES:
            del self._by_ssrc[mine[0]]
            routes.pop(mine[0], None)
        self._by_ssrc[ssrc] = track
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


def header_extension(data: bytes, wanted: int) -> bytes | None:
    """One header extension of a packet (RFC 8285), None where it has none or is broken."""
    start = 12 + 4 * (data[0] & 0x0F)
    if not data[0] & 0x10 or len(data) < start + 4:
        return None
    profile = int.from_bytes(data[start : start + 2], "big")
    position = start + 4
    end = min(position + 4 * int.from_bytes(data[start + 2 : start + 4], "big"), len(data))
    two_bytes = profile & 0xFFF0 == 0x1000
    if not two_bytes and profile != 0xBEDE:
        return None
    while position + 1 < end:
        if data[position] == 0:  # padding
            position += 1
            continue
        if two_bytes:
            number, length, position = data[position], data[position + 1], position + 2
        else:
            number, length, position = data[position] >> 4, (data[position] & 0x0F) + 1, position + 1
        if number == wanted and position + length <= end:
            return data[position : position + length]
        position += length
    return None


def shape_gathering(
    dtls: RTCDtlsTransport,
    *,
    timeout_s: float,
    hosts: Sequence[str],
    loopback: bool,
    ports: range | None = None,
) -> None:
    """Cap candidate gathering, and choose the addresses: ``hosts`` alone where given, else all that
    the machine has, and loopback where asked for or where there is no other. And the ``ports``."""
    connection: Any = dtls.transport._connection
    gather = connection.get_component_candidates

    async def gather_shaped(component: int, addresses: list[str]) -> Any:
        chosen = list(hosts or addresses)
        if not chosen or (loopback and "127.0.0.1" not in chosen):
            chosen.append("127.0.0.1")
        if ports is not None:
            return await _gather_on_ports(connection, gather, component, chosen, timeout_s, ports)
        return await gather(component=component, addresses=chosen, timeout=timeout_s)

    connection.get_component_candidates = gather_shaped


async def _gather_on_ports(
    connection: Any, gather: Any, component: int, addresses: Sequence[str], limit_s: float, ports: range
) -> list[Candidate]:
    protocols = []
    for address in addresses:
        protocol = await _bound(connection, component, address, ports)
        if protocol is not None:
            protocols.append(protocol)
            connection._protocols.append(protocol)
    relayed, reflexive = await asyncio.gather(
        gather(component=component, addresses=[], timeout=limit_s),
        _reflexive_of(protocols, connection.stun_server, limit_s),
    )
    return [*(protocol.local_candidate for protocol in protocols), *reflexive, *relayed]


async def _bound(connection: Any, component: int, address: str, ports: range) -> Any:
    """A socket of the connection on one of the ports, None when none of them is free at this address."""
    loop, first = asyncio.get_running_loop(), random.randrange(len(ports))
    for port in (*ports[first:], *ports[:first]):
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            log.warning("cannot receive at %s: %s", address, error)  # an address that went, for one
            return None
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE
        )
        host = transport.get_extra_info("sockname")[0]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        return protocol
    log.warning("no UDP port from %d to %d is free at %s", ports[0], ports[-1], address)
    return None


async def _reflexive_of(protocols: list[Any], stun_server: Any, timeout_s: float) -> list[Candidate]:
    """What a STUN server sees of the sockets, as far as it answers in time."""
    asking = [
        asyncio.create_task(server_reflexive_candidate(protocol, stun_server))
        for protocol in protocols
        if stun_server and ":" not in protocol.local_candidate.host  # as aioice: IPv4 only
    ]
    try:
        if asking:
            await asyncio.wait(asking, timeout=timeout_s)
    finally:
        for task in asking:
            task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    return [answer[0] for answer in answers if not isinstance(answer, BaseException)]


def intercept_rtp(dtls: RTCDtlsTransport, network: Callable[[bytes, Callable[[bytes], Any]], Any]) -> None:
    """Let ``network(data, send)`` decide what becomes of each RTP packet sent; for tests of receivers."""
    transport: Any = dtls
    send = transport._send_rtp

    async def send_rtp(data: bytes) -> None:
        if len(data) > 1 and 192 <= data[1] < 224:
            await send(data)
        else:
            await network(data, send)

    transport._send_rtp = send_rtp


def fall_silent(dtls: RTCDtlsTransport) -> None:
    """Nothing leaves this transport any more, not even a goodbye: as if the machine had lost its power."""

    async def nowhere(data: bytes) -> None:
        return None

    transport: Any = dtls.transport
    transport._send = nowhere
    for protocol in transport._connection._protocols:
        protocol.datagram_received = lambda data, address: None
        protocol.send_stun = lambda message, address: None


def _read_datagrams_only(transport: Any) -> None:
    if hasattr(transport, "max_size"):  # not that of a TURN relay, nor of another event loop
        transport.max_size = MAX_DATAGRAM


def _ask_twice(protocol: Any) -> None:
    """The second time is when the first has had no answer; one to either will do, for 1.5 s in all."""
    request = protocol.request

    async def request_patiently(*args: Any, retransmissions: int | None = None, **kwargs: Any) -> Any:
        again = 1 if retransmissions == 0 else retransmissions  # only those of consent are sent just once
        return await request(*args, retransmissions=again, **kwargs)

    protocol.request = request_patiently


def _stop_decoder_thread(receiver: Any) -> None:
    receiver._RTCRtpReceiver__stop_decoder()


def share_certificate(pc: RTCPeerConnection) -> None:
    """To be called before anything else is done with the connection."""
    connection: Any = pc
    connection._RTCPeerConnection__certificates = [_certificate(int(time.time() // 86400))]


@functools.lru_cache(maxsize=1)
def _certificate(day: int) -> _SharedCertificate:
    return _SharedCertificate.generateCertificate()


class _SharedCertificate(RTCCertificate):
    """Its TLS context serves every connection that has it."""

    _context: SSL.Context | None = None

    def _create_ssl_context(self, srtp_profiles: Any) -> SSL.Context:
        if self._context is None:
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(_CIPHERS)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # no call resumes the session of another
            context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            self._context = context
        return self._context


def _add_rsa_ciphers(dtls: Any) -> None:
    certificate = dtls._RTCDtlsTransport__local_certificate
    if isinstance(certificate, _SharedCertificate) or "_create_ssl_context" in vars(certificate):
        return  # done for the connection's other transports
    create = certificate._create_ssl_context

    def create_ssl_context(*args: Any, **kwargs: Any) -> Any:
        context = create(*args, **kwargs)
        context.set_cipher_list(_CIPHERS)
        return context

    certificate._create_ssl_context = create_ssl_context
