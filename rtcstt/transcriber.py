"""`Transcriber`: calls into text inside somebody's own program.

    async for event in Transcriber(pc, stt=Embedded()):
        match event:
            case TurnEnd():
                print(event.transcript)

The audio comes from a peer connection of one's own, from a bare track, from RTP packets or from PCM;
what comes out is the same each time. A thin face over `rtcstt.call`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from rtcstt.call import Call, CallSettings, Mode
from rtcstt.errors import CallerError, ConfigError, UsageError
from rtcstt.events import AnyEvent, ErrorEvent
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import Codec, Packet, Rtcp
from rtcstt.wire import TurnSettings

if TYPE_CHECKING:
    from typing import Any

    from aiortc import MediaStreamTrack, RTCPeerConnection
    from numpy.typing import NDArray

    from rtcstt.call import Track
    from rtcstt.stt.seam import Stt
    from rtcstt.webrtc.attachment import Attachment

    Pcm = bytes | bytearray | memoryview | NDArray[Any]

TRACK = "0"  # the id of the one track of a transcriber that has no peer connection
ROOM_S = 1.0  # audio that waits to be sent before `send` waits
MAX_FLOAT = 4.0  # above 1 is too loud, far above it another scale
USUAL = CallSettings()
_OTHER = cast("RTCPeerConnection", object())  # in the place of a peer connection: there is another source


class Transcriber:
    """Receives every audio track of ``pc``, an `aiortc.RTCPeerConnection`; iterate it for events.

    Make it before `setRemoteDescription`, so that no packet is missed. It takes the packets before
    aiortc decodes them: ``await track.recv()`` gives nothing on tracks it receives. Who wants both reads
    the track themselves and uses `from_track` with a relayed one. With ``channels`` the data channels
    that the remote peer opens get every event, and commands are taken from there.

    ``mode``, ``turn``, ``keyterms``, ``language`` and the other keywords are those of `CallSettings`;
    `ConfigError` names the one that cannot be. ``label`` and ``metadata`` are kept with the call.

    The iteration ends after the drain: when the connection is closed or `close` is called, the last
    words still come, then `session.end`. It raises `UpstreamError` when the speech-to-text service has
    refused for good, and at the end when it was never reached. Closing ``pc`` is left to its owner.
    """

    def __init__(
        self,
        pc: RTCPeerConnection,
        *,
        stt: Stt,
        channels: bool = False,
        mode: Mode = USUAL.mode,
        turn: TurnSettings = USUAL.turn,
        keyterms: Sequence[str] = (),
        language: str | None = None,
        update_ms: float | None = None,
        chunk_ms: int = USUAL.chunk_ms,
        max_delay_ms: int = USUAL.max_delay_ms,
        fallback: Stt | None = None,
        patience_s: float = USUAL.patience_s,
        drain_timeout_s: float = USUAL.drain_timeout_s,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
        id: str | None = None,
    ) -> None:
        try:
            settings = CallSettings(
                mode=mode,
                turn=turn,
                keyterms=keyterms,  # type: ignore[arg-type]  # any sequence: it makes a tuple of it
                language=language,
                update_ms=update_ms,
                chunk_ms=chunk_ms,
                max_delay_ms=max_delay_ms,
                fallback=fallback,
                patience_s=patience_s,
                drain_timeout_s=drain_timeout_s,
            )
        except CallerError as error:
            raise ConfigError(error.message) from error
        _check(pc, stt)
        self._loop = _running_loop()
        self.call = Call(id or str(uuid.uuid4()), stt=stt, label=label, metadata=metadata, settings=settings)
        self._source: asyncio.Task[None] | None = None
        self._track: Track | None = None
        self._rate = 0
        self._pcm = _PcmInput()
        if pc is not _OTHER:
            from rtcstt.webrtc.attachment import Attachment

            self._source = asyncio.create_task(self._receive(Attachment(pc, self.call, channels=channels)))

    @classmethod
    def from_track(
        cls,
        track: MediaStreamTrack,
        *,
        stt: Stt,
        mode: Mode = USUAL.mode,
        turn: TurnSettings = USUAL.turn,
        keyterms: Sequence[str] = (),
        language: str | None = None,
        fallback: Stt | None = None,
        drain_timeout_s: float = USUAL.drain_timeout_s,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Self:
        """From one `aiortc.MediaStreamTrack`, read until it ends. Lost packets cannot be repaired there."""
        self = cls(
            _OTHER,
            stt=stt,
            mode=mode,
            turn=turn,
            keyterms=keyterms,
            language=language,
            fallback=fallback,
            drain_timeout_s=drain_timeout_s,
            label=label,
            metadata=metadata,
        )
        self._source = asyncio.create_task(_read(track, self.call.add_track(TRACK), self.call))
        return self

    @classmethod
    def from_rtp(
        cls,
        codecs: Mapping[int, Codec],
        *,
        stt: Stt,
        mode: Mode = USUAL.mode,
        turn: TurnSettings = USUAL.turn,
        keyterms: Sequence[str] = (),
        language: str | None = None,
        fallback: Stt | None = None,
        drain_timeout_s: float = USUAL.drain_timeout_s,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Self:
        """From RTP packets, given to `push` as they arrive; ``codecs`` says what payload types mean."""
        self = cls(
            _OTHER,
            stt=stt,
            mode=mode,
            turn=turn,
            keyterms=keyterms,
            language=language,
            fallback=fallback,
            drain_timeout_s=drain_timeout_s,
            label=label,
            metadata=metadata,
        )
        self._track = self.call.add_track(TRACK, codecs)
        return self

    @classmethod
    def from_pcm(
        cls,
        sample_rate: int = SAMPLE_RATE,
        *,
        stt: Stt,
        mode: Mode = USUAL.mode,
        turn: TurnSettings = USUAL.turn,
        keyterms: Sequence[str] = (),
        language: str | None = None,
        fallback: Stt | None = None,
        drain_timeout_s: float = USUAL.drain_timeout_s,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Self:
        """From mono PCM in real time, given to `push`: 16-bit bytes (little-endian), or an array of int16 or
        of floats from -1 to 1. Audio that comes faster, from a file, is given to `send`."""
        if not 4000 <= sample_rate <= 192000:
            raise ConfigError(f"a sample rate of {sample_rate} Hz is not possible")
        self = cls(
            _OTHER,
            stt=stt,
            mode=mode,
            turn=turn,
            keyterms=keyterms,
            language=language,
            fallback=fallback,
            drain_timeout_s=drain_timeout_s,
            label=label,
            metadata=metadata,
        )
        self._track = self.call.add_track(TRACK)
        self._rate = sample_rate
        return self

    # -- audio in ------------------------------------------------------------------------------------

    def push(self, data: Packet | Pcm) -> None:
        """One RTP packet (`from_rtp`; `RemoteProtocolError` when bytes are none), RTCP that came on the same
        port (RFC 5761), or some PCM (`from_pcm`).

        Never waits: of PCM that comes faster than real time half a minute is kept, and what is too much is
        missing (`transcript.gap`, reason ``overflow``). `TypeError` for data that is neither, `ValueError`
        for floats of another scale, `UsageError` after `close`, from another thread, and on a transcriber
        that has a source of its own.
        """
        track = self._open_track()
        if self._rate:
            track.push_pcm(self._pcm.samples(data), self._rate)
        elif isinstance(data, Packet):
            track.push(data)
        elif isinstance(data, bytes | bytearray | memoryview):
            _push_datagram(track, bytes(data))
        else:
            raise TypeError(f"push takes an RTP packet or its bytes here, not {type(data).__name__}")

    async def send(self, data: Packet | Pcm) -> None:
        """As `push`, but wait until there is room: a file may be sent at once, and is read in real time."""
        track = self._open_track()
        if not self._rate:
            self.push(data)
            return
        samples = self._pcm.samples(data)
        for begin in range(0, len(samples), self._rate):
            await asyncio.sleep(max(0.0, track.queued_s - ROOM_S))
            self._open_track().push_pcm(samples[begin : begin + self._rate], self._rate)

    def finalize(self) -> None:
        """Manual mode: transcribe what was said until now. `CallerError` in auto mode."""
        self.call.finalize()

    def configure(self, turn: TurnSettings) -> None:
        """Change turn detection from now on; `CallerError` when it cannot be."""
        self.call.configure(turn)

    # -- events out ----------------------------------------------------------------------------------

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
            if isinstance(event, ErrorEvent) and self.call.failure is not None:
                raise self.call.failure
        if self.call.failure is not None:
            raise self.call.failure

    # -- inside --------------------------------------------------------------------------------------

    def _open_track(self) -> Track:
        if _running_loop() is not self._loop:
            raise UsageError("push in the event loop that the transcriber was made in: call_soon_threadsafe")
        if self._track is None:
            raise UsageError("this transcriber has a source of its own; from_pcm and from_rtp take audio")
        if self._track.ended:
            raise UsageError("the transcriber is closed")
        return self._track

    async def _receive(self, attachment: Attachment) -> None:
        try:
            await self.call.close(await attachment.run() or "closed")
        finally:
            await attachment.close()


def _check(pc: RTCPeerConnection, stt: Stt) -> None:
    if not hasattr(stt, "connect"):
        raise ConfigError(f"stt must be an Stt such as rtcstt.Embedded(), not {type(stt).__name__}")
    if pc is not _OTHER and not hasattr(pc, "getTransceivers"):
        others = "from_track, from_rtp and from_pcm take other sources"
        raise ConfigError(f"pc must be an RTCPeerConnection; {others}")


async def _read(source: MediaStreamTrack, track: Track, call: Call) -> None:
    from rtcstt.webrtc.connection import read_track

    try:
        async for samples, rate in read_track(source):
            track.push_pcm(samples, rate)
    finally:
        track.end("track ended")
    await call.close("track ended")


def _push_datagram(track: Track, data: bytes) -> None:
    """RTP, or RTCP on the same port."""
    if len(data) > 1 and 192 <= data[1] < 224:
        rtcp = Rtcp.parse(data)
        for ssrc, sent in rtcp.sent:
            track.report(ssrc, sent)
        for ssrc in rtcp.byes:
            track.bye(ssrc)
    else:
        track.push(Packet.parse(data))


class _PcmInput:
    """PCM in any form that `Transcriber.push` takes, as int16."""

    def __init__(self) -> None:
        self._odd = b""  # the first byte of a sample that the next piece goes on with

    def samples(self, data: Packet | Pcm) -> Samples:
        if isinstance(data, bytes | bytearray | memoryview):
            pcm = self._odd + bytes(data)
            whole = len(pcm) - len(pcm) % 2
            self._odd = pcm[whole:]
            return np.frombuffer(pcm[:whole], "<i2").astype(np.int16)
        if not isinstance(data, np.ndarray):
            raise TypeError(f"PCM is bytes or an array of int16 or floats, not {type(data).__name__}")
        if data.ndim != 1:
            raise TypeError(f"PCM is mono here, an array of one dimension, not {data.ndim}")
        if np.issubdtype(data.dtype, np.floating):
            loudest = float(np.abs(np.nan_to_num(data, posinf=np.inf, neginf=-np.inf)).max(initial=0.0))
            if loudest > MAX_FLOAT:
                advice = ": divide by 32768" if loudest <= 32768 else ""
                raise ValueError(f"floats are from -1 to 1, not up to {loudest:.0f}{advice}")
            scaled: Samples = (np.clip(np.nan_to_num(data), -1.0, 1.0) * 32767).astype(np.int16)
            return scaled
        if data.dtype != np.int16:
            raise TypeError(f"PCM is an array of int16 or of floats from -1 to 1, not {data.dtype}")
        return data


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        message = "a Transcriber lives in an event loop: make it, and push, inside an async function"
        raise UsageError(message) from None
