"""What a caller's data channels leave waiting: bounded, and nothing that keeps to the protocol is lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtcsctptransport import DataChunk

from rtcstt.webrtc.aiortc_private.sctp import MAX_AHEAD, MAX_HELD, MAX_STREAMS, ChunkLimit

FIRST, LAST, UNORDERED = 2, 1, 4  # flags of a chunk (RFC 9260 section 3.3.1)
FLOOD = 5000


class Limited:
    """An association without a connection; ``received`` are its messages."""

    def __init__(self, association: Any) -> None:
        self.association = association
        self.received: list[tuple[int, bytes]] = []
        association._last_received_tsn = 999
        association._receive = self._receive
        self.limit = ChunkLimit()
        self.limit.limit(association)

    async def _receive(self, stream_id: int, protocol: int, data: bytes) -> None:
        self.received.append((stream_id, data))

    async def give(self, number: int, data: bytes, *, flags: int, stream: int = 0, sequence: int = 0) -> None:
        """``number``: counted from the first that is expected."""
        chunk = DataChunk(flags=flags)
        chunk.tsn = 1000 + number
        chunk.stream_id, chunk.stream_seq, chunk.user_data = stream, sequence, data
        await self.association._receive_data_chunk(chunk)

    @property
    def held(self) -> int:
        return sum(len(stream.reassembly) for stream in self.association._inbound_streams.values())


@asynccontextmanager
async def limited() -> AsyncIterator[Limited]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.createDataChannel("one")
    try:
        yield Limited(pc.sctp)
    finally:
        await pc.close()


def fragments(size: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, flags and data of a message in so many chunks."""
    for number in range(size):
        yield number, FIRST * (number == 0) | LAST * (number == size - 1), bytes((number % 251,))


@pytest.mark.parametrize("flags", [FIRST, 0, UNORDERED])
async def test_messages_without_an_end_do_not_fill_the_memory(flags: int) -> None:
    async with limited() as given:
        for number in range(FLOOD):
            await given.give(number, b"x", flags=flags if number == 0 else flags & UNORDERED)
        assert given.held == MAX_HELD and given.limit.dropped == FLOOD - MAX_HELD


async def test_chunks_far_behind_a_gap_are_taken_for_lost() -> None:
    async with limited() as given:
        for number in range(1, FLOOD):
            await given.give(number, b"x", flags=FIRST | LAST | UNORDERED)
        assert len(given.association._sack_misordered) < MAX_AHEAD
        assert given.limit.dropped == FLOOD - MAX_AHEAD
        await given.give(0, b"first", flags=FIRST | LAST | UNORDERED)
        await given.give(MAX_AHEAD, b"again", flags=FIRST | LAST | UNORDERED)
        assert given.received[-1] == (0, b"again") and len(given.received) == MAX_AHEAD + 1


async def test_there_are_so_many_streams() -> None:
    async with limited() as given:
        for number in range(FLOOD):
            await given.give(0 if number < MAX_STREAMS else 1, b"x", flags=0, stream=number)
            given.association._last_received_tsn = 999
            given.association._sack_misordered.clear()
        assert len(given.association._inbound_streams) <= MAX_STREAMS


@pytest.mark.parametrize("seed", range(5))
async def test_the_largest_message_in_any_order_is_received_whole(seed: int) -> None:
    async with limited() as given:
        chunks = list(fragments(224))
        random.Random(seed).shuffle(chunks)
        for number, flags, data in chunks * 2:  # each is repeated, too
            await given.give(number, data, flags=flags)
        assert given.limit.dropped == 0 and given.held == 0
        assert given.received == [(0, b"".join(data for _, _, data in fragments(224)))]
