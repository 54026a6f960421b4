"""One stream of samples at any rate to 16 kHz, statefully: any chunking gives the same samples.

soxr does it, but not for telephony: doubling 8 kHz, soxr works in blocks of 100 ms, so up to 115 ms
of a caller's voice would be inside it at any time, and their last syllable would stay there while
they are silent. Doubling is simple enough to do here, with a delay of 4 ms: every other sample is the one
that came, and those between are interpolated by a windowed sinc. Its error is below -84 dB up to
3.6 kHz; telephony ends at 3.4 kHz.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import soxr

from rtcstt.media.pcm import SAMPLE_RATE, Samples

NOTHING: Samples = np.zeros(0, np.int16)


class Resampler(Protocol):
    """Samples are int16 mono."""

    def push(self, samples: Samples) -> Samples:
        """What is ready after ``samples``; some of it is held back."""

    def flush(self) -> Samples:
        """The rest: now as much came out as went in. The stream ends here."""


def resampler(rate: int) -> Resampler:
    """A new stream from ``rate`` Hz to 16 kHz."""
    if rate == SAMPLE_RATE:
        return _Same()
    return _Doubler() if 2 * rate == SAMPLE_RATE else _Soxr(rate)


class _Same:
    def push(self, samples: Samples) -> Samples:
        return samples

    def flush(self) -> Samples:
        return NOTHING


class _Soxr:
    def __init__(self, rate: int) -> None:
        self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "int16", "HQ")

    def push(self, samples: Samples) -> Samples:
        ready: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples))
        return ready

    def flush(self) -> Samples:
        rest: Samples = self._stream.resample_chunk(NOTHING, last=True)
        return rest


_REACH = 32  # samples on either side that shape one between; also the delay
_OFFSETS = np.arange(-_REACH, _REACH) + 0.5
_KAISER = np.i0(8.0 * np.sqrt(1 - (_OFFSETS / _REACH) ** 2)) / np.i0(8.0)
_BETWEEN = (np.sinc(_OFFSETS) * _KAISER).astype(np.float32)
_BETWEEN /= _BETWEEN.sum()


class _Doubler:
    """8 to 16 kHz."""

    def __init__(self) -> None:
        self._past = np.zeros(_REACH - 1, np.float32)

    def push(self, samples: Samples) -> Samples:
        signal = np.concatenate((self._past, samples), dtype=np.float32)
        count = len(signal) - 2 * _REACH + 1
        if count <= 0:
            self._past = signal
            return NOTHING
        self._past = signal[count:]
        doubled = np.empty(2 * count, np.int16)
        doubled[0::2] = signal[_REACH - 1 : _REACH - 1 + count]
        between = np.rint(np.convolve(signal, _BETWEEN, "valid"))
        np.minimum(between, 32767, out=between)  # quicker than clip() for so few
        doubled[1::2] = np.maximum(between, -32768, out=between)
        return doubled

    def flush(self) -> Samples:
        return self.push(np.zeros(_REACH, np.int16))
