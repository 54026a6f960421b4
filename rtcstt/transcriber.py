"""`Transcriber`: calls into text inside somebody's own program.

    async for event in Transcriber(pc, stt=Embedded()):
        if event.type == "turn.end":
            print(event.transcript)

The audio comes from a peer connection of one's own, from a bare track, from RTP packets or from PCM;
what comes out is the same each time. A thin face over `call.Call`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rtcstt.call import Call
from rtcstt.errors import ConfigError
from rtcstt.events import AnyEvent
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import Codec, Packet, byes

if TYPE_CHECKING:
    from rtcstt.stt.seam import Stt
    from rtcstt.webrtc.attachment import Attachment

TRACK = "0"  # the id of the one track of a transcriber that has no peer connection


class Transcriber:
    """Transcribes every audio track of ``pc``, an `aiortc.RTCPeerConnection`; iterate it for typed events.

    Make it before `setRemoteDescription`, so that no packet is missed. It takes the packets before
    aiortc decodes them: ``await track.recv()`` gives nothing on tracks it receives. For both, read
    the track yourself and use `from_track` with a relayed one. With ``channels`` the data channels
    that the remote peer opens get every event, and may send commands.

    The iteration ends after the drain: when the connection is closed or `close` is called, the last
    words still come, then `session.end`. Closing ``pc`` is left to its owner. ``options`` are those
    of `call.Call`.
    """

    def __init__(self, pc: Any = None, *, stt: Stt, channels: bool = False, **options: Any) -> None:
        self.call = Call(options.pop("id", None) or str(uuid.uuid4()), stt=stt, **options)
        self._source: asyncio.Task[None] | None = None
        self._track: Any = None
        self._rate = 0
        if pc is not None:
            from rtcstt.webrtc.attachment import Attachment

            self._source = asyncio.create_task(self._receive(Attachment(pc, self.call, channels=channels)))

    @classmethod
    def from_track(cls, track: Any, *, stt: Stt, **options: Any) -> Self:
        """From one `aiortc.MediaStreamTrack`, read until it ends. Lost packets cannot be repaired there."""
        self = cls(stt=stt, **options)
        self._track = self.call.add_track(TRACK)
        self._source = asyncio.create_task(self._read(track))
        return self

    @classmethod
    def from_rtp(cls, codecs: Mapping[int, Codec], *, stt: Stt, **options: Any) -> Self:
        """From RTP packets, given to `push` as they arrive; ``codecs`` says what payload types mean."""
        self = cls(stt=stt, **options)
        self._track = self.call.add_track(TRACK, codecs)
        return self

    @classmethod
    def from_pcm(cls, sample_rate: int = SAMPLE_RATE, *, stt: Stt, **options: Any) -> Self:
        """From mono 16-bit PCM (bytes, little-endian, or int16 samples), given to `push` in real time."""
        if not 4000 <= sample_rate <= 192000:
            raise ConfigError(f"a sample rate of {sample_rate} Hz is not possible")
        self = cls(stt=stt, **options)
        self._track = self.call.add_track(TRACK)
        self._rate = sample_rate
        return self

    def push(self, data: Packet | bytes | Samples) -> None:
        """One RTP packet (`from_rtp`; `RemoteProtocolError` when bytes are none), RTCP that came on the same
        port (RFC 5761), or some PCM (`from_pcm`)."""
        if self._rate:
            samples = np.frombuffer(data, "<i2") if isinstance(data, bytes) else data
            self._track.push_pcm(samples, self._rate)
        elif isinstance(data, bytes) and len(data) > 1 and 192 <= data[1] < 224:
            for ssrc in byes(data):
                self._track.bye(ssrc)
        else:
            self._track.push(Packet.parse(data) if isinstance(data, bytes) else data)

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        """Every event from the first; each iteration has them all."""
        return self._events()

    async def close(self, reason: str = "closed") -> None:
        """Drain what was received so far, then end. Idempotent; returns when nothing runs any more."""
        await self.call.close(reason)
        if self._source is not None:
            self._source.cancel()
            await asyncio.gather(self._source, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _events(self) -> AsyncIterator[AnyEvent]:
        async for event in self.call.feed.subscribe():
            yield event

    async def _receive(self, attachment: Attachment) -> None:
        try:
            await self.call.close(await attachment.run() or "closed")
        finally:
            await attachment.close()

    async def _read(self, track: Any) -> None:
        from rtcstt.webrtc.connection import read_track

        try:
            async for samples, rate in read_track(track):
                self._track.push_pcm(samples, rate)
        finally:
            self._track.end("track ended")
        await self.call.close("track ended")
