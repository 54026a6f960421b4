"""Recordings as a caller sends them: read by PyAV, mono at 48 kHz, encoded to Opus packets of 20 ms."""

from __future__ import annotations

import fractions
from typing import Any

import av
import numpy as np

from rtcstt.media.files import OPUS_RATE
from rtcstt.media.pcm import Samples

PACKET_SAMPLES = 960  # 20 ms
PACKET_S = PACKET_SAMPLES / OPUS_RATE
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
