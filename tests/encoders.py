"""Something like a voice, and PyAV's encoders to send it with."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from rtcstt.media.pcm import Samples
from rtcstt.media.rtp import Codec

OPUS = Codec("opus", 48000, 2)
PCMU = Codec("PCMU", 8000)
PCMA = Codec("PCMA", 8000)
G722 = Codec("G722", 8000)
_ENCODERS = {"opus": ("libopus", 48000), "PCMU": ("pcm_mulaw", 8000), "PCMA": ("pcm_alaw", 8000)}
_ENCODERS["G722"] = ("g722", 16000)
VOIP: dict[str, Any] = {"application": "voip", "fec": "1", "packet_loss": "20"}


def sample_rate(codec: Codec) -> int:
    """The rate of the audio that the codec's encoder takes, in Hz."""
    return _ENCODERS[codec.name][1] if codec.name in _ENCODERS else codec.clock_rate


def voice(duration_s: float, rate: int, *, pitch_hz: float = 125.0) -> Samples:
    """A gliding pitch with harmonics up to 3 kHz, in four syllables a second."""
    time = np.arange(round(duration_s * rate)) / rate
    phase = 2 * np.pi * (pitch_hz * time + 4 * np.sin(2 * np.pi * 0.7 * time))
    wave = sum(np.sin(n * phase) / n**1.2 for n in range(1, int(3000 / pitch_hz)))
    syllables = 0.15 + 0.85 * np.sin(2 * np.pi * 2 * time) ** 2
    return (6000 * wave * syllables).astype(np.int16)


def encode(codec: Codec, samples: Samples, *, ms: int = 20, bit_rate: int = 0, **options: str) -> list[bytes]:
    """The whole packets of ``samples``, mono or, for Opus, with a column for each side; ``options``
    are FFmpeg's."""
    if codec.name == "L16":
        data = np.repeat(samples, codec.channels).astype(">i2").tobytes()
        size = codec.clock_rate * ms // 1000 * codec.channels * 2
        return [data[start : start + size] for start in range(0, len(data) - size + 1, size)]
    name, rate = _ENCODERS[codec.name]
    encoder: Any = av.CodecContext.create(name, "w")
    layout = "mono" if samples.ndim == 1 else "stereo"
    encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "s16"
    encoder.options = options | ({"frame_duration": str(ms)} if codec.name == "opus" else {})
    if bit_rate:
        encoder.bit_rate = bit_rate
    size = rate * ms // 1000
    packets: list[bytes] = []
    for start in range(0, len(samples) - size + 1, size):
        block = samples[start : start + size].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, "s16", layout)
        frame.sample_rate, frame.pts = rate, start
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


def likeness(received: Samples, said: Samples, *, longest_lag: int = 400) -> float:
    """The best normalised correlation of two signals at 16 kHz, over lags that a codec may have."""
    ends = slice(longest_lag, min(len(received), len(said)) - longest_lag)
    a = received[ends].astype(float)
    scores = []
    for lag in range(longest_lag):
        b = said[ends.start - lag : ends.stop - lag].astype(float)
        scores.append(float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1))
    return float(max(scores))


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples.astype(float) ** 2)))
