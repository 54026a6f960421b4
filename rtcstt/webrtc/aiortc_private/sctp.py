"""What an association (SCTP, RFC 9260) keeps of what came: bounded."""

from __future__ import annotations

from typing import Any

MAX_HELD = 512  # chunks that wait for the rest of their message: two messages of the largest size
MAX_AHEAD = 256  # numbers (TSN) that a chunk may be ahead of the last one before which none is missing
MAX_STREAMS = 1024  # as many as Chromium has
TSN_MODULO = 2**32


class ChunkLimit:
    """Keeps `limit` for one association. ``dropped``: chunks that were taken for lost."""

    def __init__(self) -> None:
        self.dropped = 0
        self._held = 0

    def limit(self, association: Any) -> None:
        """Drop DATA chunks beyond the bounds, as a receiver without room may (section 6.2): they are not
        acknowledged, and whoever keeps to the protocol sends them again."""
        receive = association._receive_data_chunk

        async def receive_data_chunk(chunk: Any) -> None:
            if not self._has_room(association, chunk):
                self.dropped += 1
                association._sack_needed = True
                return
            before = _held_of(association, chunk.stream_id)
            await receive(chunk)
            self._held += _held_of(association, chunk.stream_id) - before

        association._receive_data_chunk = receive_data_chunk

    def _has_room(self, association: Any, chunk: Any) -> bool:
        ahead = (chunk.tsn - association._last_received_tsn) % TSN_MODULO
        if MAX_AHEAD < ahead < TSN_MODULO // 2:
            return False
        streams = association._inbound_streams
        if chunk.stream_id not in streams and len(streams) >= MAX_STREAMS:
            return False
        if self._held >= MAX_HELD:  # or some were given up, or their stream was reset
            self._held = sum(len(stream.reassembly) for stream in streams.values())
        return self._held < MAX_HELD


def _held_of(association: Any, stream_id: int) -> int:
    stream = association._inbound_streams.get(stream_id)
    return len(stream.reassembly) if stream is not None else 0
