"""Recordings as a caller sends them: read by PyAV, mono at 48 kHz, encoded to Opus packets of 20 ms."""

from __future__ import annotations

import fractions
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from rtcstt.errors import ConfigError
from rtcstt.pcm import Samples

OPUS_RATE = 48000
PACKET_SAMPLES = 960  # 20 ms
PACKET_S = PACKET_SAMPLES / OPUS_RATE
TIME_BASE = fractions.Fraction(1, OPUS_RATE)


def read(path: str | Path, rate: int = OPUS_RATE) -> Samples:
    """The first audio stream of a file of any kind that FFmpeg opens, as mono int16.

    Raises `ConfigError` when there is no such file, or no audio in it.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    parts: list[Samples] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ConfigError(f"cannot read audio from {path}: {error}") from error
    if not parts:
        raise ConfigError(f"there is no audio in {path}")
    return np.concatenate(parts)


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


@dataclass(frozen=True, slots=True)
class Network:
    """What a bad network does to packets on their way: ``loss`` (share of them) in bursts of mean
    length ``burst``, and a random delay up to ``jitter_ms``, which also swaps them."""

    loss: float = 0.0
    burst: float = 1.0
    jitter_ms: float = 0.0
    seed: int = 0


class Fate:
    """The fate of each packet in turn, by the Gilbert model; the same for the same seed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._random = random.Random(network.seed)
        self._losing = False

    def next_delay_s(self) -> float | None:
        """Seconds that the next packet is held up, None when it is lost."""
        network = self._network
        if network.loss >= 1:
            return None
        recover = 1 / max(network.burst, 1.0)
        fail = min(1.0, network.loss * recover / (1 - network.loss))
        chance = self._random.random()
        self._losing = chance >= recover if self._losing else chance < fail
        delay = self._random.random() * network.jitter_ms / 1000
        return None if self._losing else delay
