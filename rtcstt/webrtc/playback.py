"""Recordings as a caller sends them: read by PyAV, mono at 48 kHz, encoded to Opus packets of 20 ms."""

from __future__ import annotations

import asyncio
import fractions
import math
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack

from rtcstt.media.files import OPUS_RATE
from rtcstt.media.pcm import Samples
from rtcstt.media.rtp import PACKET_S

PACKET_SAMPLES = round(PACKET_S * OPUS_RATE)
TIME_BASE = fractions.Fraction(1, OPUS_RATE)


def opus_packets(samples: Samples, *, fec: bool = True, bit_rate: int = 32000) -> list[bytes]:
    """Mono int16 at 48 kHz as Opus packets of 20 ms, the last one padded with silence.

    With ``fec`` each packet also holds a coarse copy of the one before (RFC 6716 section 2.1.7).
    """
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = OPUS_RATE, "mono", "s16"
    encoder.bit_rate, encoder.time_base = bit_rate, TIME_BASE
    if fec:
        encoder.options = {"application": "voip", "fec": "1", "packet_loss": "10"}
    padded = np.pad(samples, (0, -len(samples) % PACKET_SAMPLES))
    packets: list[bytes] = []
    for start in range(0, len(padded), PACKET_SAMPLES):
        frame = av.AudioFrame.from_ndarray(padded[None, start : start + PACKET_SAMPLES], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = OPUS_RATE, start, TIME_BASE
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


def silence_packet() -> bytes:
    """One packet of digital silence, as a muted microphone sends it."""
    return opus_packets(np.zeros(4 * PACKET_SAMPLES, np.int16), fec=False)[-1]


class Playback(MediaStreamTrack):
    """Opus packets in their time, then silence, as a microphone goes on.

    During ``mute`` (from, to; seconds from the start) nothing is sent and, as browsers do after
    `replaceTrack(null)`, sequence numbers and timestamps know nothing of the pause.
    """

    kind = "audio"

    def __init__(self, packets: Sequence[bytes], mute: tuple[float, float] | None) -> None:
        super().__init__()
        self._packets = packets
        self._mute = mute
        self._silence = silence_packet()
        self._index = 0
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[float] = loop.create_future()
        self.played: asyncio.Future[float] = loop.create_future()

    def again(self) -> Playback:
        """The same, at the same moments, for another connection."""
        other = Playback(self._packets, self._mute)
        other.started, other.played = self.started, self.played
        return other

    async def recv(self) -> Any:
        loop = asyncio.get_running_loop()
        if not self.started.done():
            self.started.set_result(loop.time())
        elif not self._index:  # it was begun elsewhere
            self._index = self._next(loop.time())
        await asyncio.sleep(self._due(self._index) - loop.time())
        if self._index < len(self._packets):
            data = self._packets[self._index]
        else:
            data = self._silence
            if not self.played.done():
                self.played.set_result(loop.time())
        packet = av.Packet(data)
        packet.pts = packet.dts = self._index * PACKET_SAMPLES
        packet.time_base = TIME_BASE
        self._index += 1
        return packet

    def _due(self, index: int) -> float:
        """When a packet is sent, in the loop's time."""
        at = self.started.result() + index * PACKET_S
        if self._mute and index >= round(self._mute[0] / PACKET_S):
            at += self._mute[1] - self._mute[0]
        return at

    def _next(self, now: float) -> int:
        index = max(0, math.ceil((now - self.started.result()) / PACKET_S))
        if self._mute and index > round(self._mute[0] / PACKET_S):
            muted = round((self._mute[1] - self._mute[0]) / PACKET_S)
            index = max(round(self._mute[0] / PACKET_S), index - muted)
        return index
