"""Raw audio bytes, in the encodings of the wire protocol, as float samples; at 16 kHz what recognisers
take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtcstt.embedded.hypothesis import Audio
from rtcstt.media import raw
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.resampling import resampler
from rtcstt.wire.handshake import ENCODINGS


class AudioDecoder:
    """Raw audio bytes in one of `ENCODINGS` -> float32 samples of -1 to 1; any cutting of the bytes
    into messages gives the same samples (what is left of a sample waits for its rest)."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._width = ENCODINGS[encoding]
        self._rest = b""

    def decode(self, data: bytes) -> NDArray[np.float32]:
        data = self._rest + data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        return raw.samples(self._encoding, data[:whole])


class AudioInput:
    """A client's bytes as 16 kHz samples. Messages all below ``min_volume`` (0 to 1) are silence."""

    def __init__(self, encoding: str, sample_rate: int, *, min_volume: float = 0.0) -> None:
        self._decoder = AudioDecoder(encoding)
        self._rate = sample_rate
        self._bytes_per_s = sample_rate * ENCODINGS[encoding]
        self._resampler = resampler(sample_rate)
        self._min_volume = min_volume

    def duration_s(self, data: bytes) -> float:
        return len(data) / self._bytes_per_s

    def receive(self, data: bytes) -> Audio:
        samples = self._decoder.decode(data)
        if len(samples) and float(np.abs(samples).max()) < self._min_volume:
            samples = np.zeros_like(samples)
        if self._rate == SAMPLE_RATE:
            return samples
        return _floats(self._resampler.push(_integers(samples)))

    def flush(self) -> Audio:
        """What the resampler held back: now as much came out as went in."""
        rest = self._resampler.flush()
        self._resampler = resampler(self._rate)
        return _floats(rest)


def _integers(samples: Audio) -> Samples:
    scaled: Samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return scaled


def _floats(samples: Samples) -> Audio:
    return samples.astype(np.float32) / np.float32(32768)
