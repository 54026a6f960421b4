"""RTP packets that carry earlier ones once more (RFC 2198): the payload type `red`."""

from __future__ import annotations

from collections import deque

from rtcstt.media.rtp import Packet

MAX_BLOCKS = 8


class Redundancy:
    """Packets of payload type `red` become the packets that they are made of: of the earlier ones those whose
    sequence numbers have not come, oldest first, then the one that is new."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=64)  # SSRC and sequence number
        self.bad = 0

    def unpack(self, packet: Packet) -> list[Packet]:
        blocks = self._blocks(packet.payload)
        if blocks is None:
            self.bad += 1
            return []
        made = []
        for index, (payload_type, offset, payload) in enumerate(blocks):
            sequence = (packet.sequence - (len(blocks) - 1 - index)) & 0xFFFF
            if (packet.ssrc, sequence) in self._seen or not (payload or not offset):
                continue
            self._seen.append((packet.ssrc, sequence))
            timestamp = (packet.timestamp - offset) & 0xFFFFFFFF
            made.append(Packet(packet.ssrc, sequence, timestamp, payload_type, payload, packet.marker))
        return made

    @staticmethod
    def _blocks(data: bytes) -> list[tuple[int, int, bytes]] | None:
        """(payload type, timestamp offset, payload) of each block; None where they are broken."""
        heads, at = list[tuple[int, int, int]](), 0
        while at < len(data) and data[at] & 0x80:
            if at + 4 > len(data) or len(heads) >= MAX_BLOCKS:
                return None
            rest = int.from_bytes(data[at + 1 : at + 4], "big")
            heads.append((data[at] & 0x7F, rest >> 10, rest & 0x3FF))
            at += 4
        if at >= len(data):
            return None
        primary, at = data[at] & 0x7F, at + 1
        blocks = []
        for payload_type, offset, length in heads:
            if at + length > len(data):
                return None
            blocks.append((payload_type, offset, data[at : at + length]))
            at += length
        return [*blocks, (primary, 0, data[at:])]
