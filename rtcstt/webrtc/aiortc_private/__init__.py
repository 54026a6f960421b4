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
   Where they carry none, the SSRC that the offer named is asked (RFC 5576), then the payload type.
5. **Errors in packets stay in the packet** (`_contain_errors`). Why: any exception on the packet
   path ends the DTLS transport, and with it the call; a datagram of 1501 bytes from anybody is
   enough. Goes when `RTCDtlsTransport._recv_next` contains them.
6. **ECDHE-RSA cipher suites are offered too** (`_add_rsa_ciphers`). Why: aiortc offers ECDSA alone,
   and a DTLS server with an RSA certificate (GStreamer 1.22) finds no shared cipher. Goes when
   `RTCCertificate._create_ssl_context` lists them.
7. **Sockets read no more than a datagram may hold** (`_read_datagrams_only`). Why: asyncio reserves
   256 KiB for each, which costs ten times what receiving it does. Goes when asyncio reserves less.
8. **One certificate and TLS context for all our connections** (`share_certificate`), a new one each day.
   Why: aiortc makes one each, which costs 30 kB and the better part of a millisecond, and computes three
   digests of it for each section of each description. Callers that
   compare fingerprints can tell that they talk to the same server. Goes when `RTCConfiguration`
   takes certificates, as the browsers' does.
9. **Gathering is capped, and may use loopback** (`shape_gathering`). Why: a dead STUN server holds
   the answer for 5 s, and aioice leaves out 127.0.0.1. Each transport asks the machine for its addresses
   again, which takes 1 ms. Goes when aioice takes the addresses and the time as settings.
10. **Host candidates keep to a range of ports** (`_gather_on_ports`), where one is asked for. Why: aioice
   lets the system choose, and firewalls want to know. Cost: the sockets are opened here, as aioice would
   open them. Goes when aioice takes a range as a setting.
11. **Checks of consent are sent twice** (`_ask_twice`). Why: aioice waits 0.5 s for the answer to each,
   and ends the connection after six without: 30 s into any call with a round trip of more, whatever
   packets come. Goes when aioice has consent expire by time alone (RFC 7675 section 5.1).
12. **Checks are limited** (`limit_checks`): none to a denied address, and so many in all to addresses that
   have not answered; and taken from so many addresses. Why: whoever offers names the addresses that ICE sends
   to, and aioice keeps each from which a check comes, and looks through all of them with every check. Goes
   when aioice bounds its check list (RFC 8445 section 6.1.2.5) and asks before it sends.
13. **A failed DTLS handshake says why** (`tell_failures`). Why: aiortc says so in its debug log alone. Goes
   when `RTCDtlsTransport` has an error event, as the browsers' does.
14. **BYE is no end** (`TrackTap`). Why: aiortc ends a track for ever when one of its sources leaves, though
   libwebrtc sends BYE when a sender is paused, and goes on later. Goes with 1.
15. **All connections of a process may share one UDP port** (`udp_port`), where one is asked for. Why: aioice
   opens a socket for each connection, and firewalls, containers and Kubernetes want one port. Each connection
   gets a face of the shared socket for its transport. There is one socket for IPv4 and one for IPv6; the
   kernel tells to which local address a datagram came (IP_PKTINFO). Goes when aioice can be given a socket.
16. **An offer that bundles all its sections gets one transport** (`share_transport`). Why: aiortc makes one
   for each section, and then stops all but one, unless it is told of the bundle before it is given the offer.
   Goes when `RTCPeerConnection` looks at the bundle first.
17. **A DTLS client says hello again after 30 ms** (`repeat_hello`), and ever later, until it is answered.
   Why: servers that are not ready drop the first one (FFmpeg's, which has just found its way by ICE), and
   OpenSSL waits a second before it repeats it. Goes when aiortc sets OpenSSL's timer, as browsers do (50 ms).
18. **What a data channel's messages leave waiting is bounded** (`ChunkLimit`). Why: aiortc keeps whatever
   comes, and sorts and searches all of it for each chunk: messages without an end, or with gaps before them,
   hold the event loop and fill the memory. Goes when `RTCSctpTransport` keeps to the window that it tells.
"""

from rtcstt.webrtc.aiortc_private.dtls import share_certificate, share_transport
from rtcstt.webrtc.aiortc_private.ice import shape_gathering
from rtcstt.webrtc.aiortc_private.rtp import TrackTap, TransportTap, negotiated
from rtcstt.webrtc.aiortc_private.sctp import ChunkLimit
from rtcstt.webrtc.aiortc_private.sending import fall_silent, intercept_rtp
from rtcstt.webrtc.aiortc_private.udp_port import UdpPort

__all__ = [
    "PRIVATE",
    "ChunkLimit",
    "TrackTap",
    "TransportTap",
    "UdpPort",
    "fall_silent",
    "intercept_rtp",
    "negotiated",
    "shape_gathering",
    "share_certificate",
    "share_transport",
]

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
        "_do_handshake",
        "_recv_next",
        "_role",
        "_rtp_router",
        "_rx_srtp",
        "_send_rtp",
        "_set_state",
        "_ssl",
        "_RTCDtlsTransport__local_certificate",
    ),
    "aiortc.rtcdtlstransport.RtpRouter": ("ssrc_table",),
    "aiortc.RTCPeerConnection": ("_RTCPeerConnection__certificates", "_RTCPeerConnection__configuration"),
    "aiortc.rtcdtlstransport.RTCCertificate": ("_create_ssl_context",),
    "aiortc.RTCIceTransport": ("_connection", "_send"),
    "aioice.Connection": (
        "gather_candidates",
        "get_component_candidates",
        "_components",
        "_local_candidates",
        "_local_candidates_end",
        "_local_candidates_start",
        "_protocols",
        "_queue",
        "_closing",
        "_nominated",
        "check_incoming",
        "data_received",
        "stun_server",
    ),
    "aiortc.RTCSctpTransport": (
        "_inbound_streams",
        "_last_received_tsn",
        "_receive_data_chunk",
        "_sack_needed",
    ),
    "aiortc.rtcsctptransport.InboundStream": ("reassembly",),
    "aioice.ice.server_reflexive_candidate": ("protocol.request", "local_candidate"),
    "aioice.ice.StunProtocol": ("datagram_received", "local_candidate", "request", "send_stun"),
    "asyncio.selector_events._SelectorDatagramTransport": ("max_size",),
}
