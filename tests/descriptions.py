"""Sections of an offer as a browser makes them."""

from __future__ import annotations

FINGERPRINT = ":".join(["AA"] * 32)

TRANSPORT = f"""a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=fingerprint:sha-256 {FINGERPRINT}
a=setup:actpass
a=rtcp-mux
"""

AUDIO = (
    """m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 110 126 13
c=IN IP4 0.0.0.0
a=mid:0
a=extmap:14 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:4/recvonly urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=candidate:1 1 udp 2122260223 10.0.0.1 5000 typ host generation 0 network-id 1
a=candidate:2 1 tcp 1518280447 10.0.0.1 9 typ host tcptype active
a=candidate:3 1 udp 2122260223 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 5001 typ host
a=candidate:4 2 udp 2122260223 10.0.0.1 5002 typ host
a=candidate:nonsense
a=end-of-candidates
"""
    + TRANSPORT
)

VIDEO = (
    """m=video 9 UDP/TLS/RTP/SAVPF 45
a=mid:1
a=sendrecv
a=rtpmap:45 AV1/90000
"""
    + TRANSPORT
)

DATA = (
    """m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=mid:2
a=sctp-port:5000
"""
    + TRANSPORT
)

SESSION = """v=0
o=- 1 2 IN IP4 127.0.0.1
s=-
t=0 0
"""
