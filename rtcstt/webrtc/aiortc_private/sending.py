"""What tests of receivers do to a caller's own connection: lose, delay, or stop what it sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiortc.rtcdtlstransport import RTCDtlsTransport


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
