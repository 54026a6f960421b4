"""Packets of a connection that comes up while another server still has the call; a core."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from rtcstt.media.rtp import Codec, Packet

MAX_HELD = 500  # packets; 10 s


class HeldPackets:
    """The newest `MAX_HELD` packets, with the time at which each came."""

    def __init__(self) -> None:
        self._packets: deque[tuple[Packet, float]] = deque(maxlen=MAX_HELD)

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, packet: Packet, at: float) -> None:
        self._packets.append((packet, at))

    @property
    def since(self) -> float | None:
        """When the first one came."""
        return self._packets[0][1] if self._packets else None

    def after(self, time: float, codecs: Mapping[int, Codec]) -> Iterator[tuple[Packet, float]]:
        """Those that were sent after ``time``, with the time at which each would have come if nothing had
        held it up: a caller, a network or a server that stalls lets many come late, all at once, and the
        other server had some of these. No packet comes before it is sent, so the one held up least of those
        that follow (of its source) tells; packets before a pause, which timestamps may not tell, prove
        nothing."""
        least: dict[int, tuple[float, int]] = {}
        found = []
        for packet, at in reversed(self._packets):
            codec = codecs.get(packet.payload_type)
            if codec is not None:
                known, timestamp = least.get(packet.ssrc, (at, packet.timestamp))
                earlier = (timestamp - packet.timestamp + 2**31) % 2**32 - 2**31
                at = min(at, known - earlier / codec.clock_rate)
                least[packet.ssrc] = at, packet.timestamp
            if at > time:
                found.append((packet, at))
        return reversed(found)
