"""Samples at any rate to 16 kHz."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.resampling import resampler

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]


def tone(hz: float, rate: int, duration_s: float = 1.0, amplitude: float = 20000) -> Samples:
    return np.rint(amplitude * np.sin(2 * np.pi * hz * np.arange(round(rate * duration_s)) / rate)).astype(
        np.int16
    )


def resampled(samples: Samples, rate: int, cuts: list[int] | None = None) -> Samples:
    stream = resampler(rate)
    parts = [stream.push(part) for part in np.split(samples, sorted(cuts or []))]
    return np.concatenate([*parts, stream.flush()])


def snr_db(samples: Samples, hz: float) -> float:
    """Of a tone at 16 kHz, against whatever else is there."""
    phase = 2 * np.pi * hz * np.arange(len(samples)) / SAMPLE_RATE
    basis = np.stack([np.sin(phase), np.cos(phase), np.ones(len(phase))], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, samples.astype(float), rcond=None)[0]
    return float(10 * np.log10(fitted.var() / (samples - fitted).var()))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hz", [300, 1000, 3400])
def test_a_tone_stays_clean(rate: int, hz: int) -> None:
    received = resampled(tone(hz, rate), rate)
    assert snr_db(received[1000:-1000], hz) > 80


@given(
    rate=st.sampled_from(RATES),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
    length=st.integers(0, 3000),
    seed=st.integers(0, 100),
)
@example(rate=44100, cuts=[], length=1, seed=0)  # no sample at 16 kHz
def test_any_chunking_gives_the_same_samples_and_all_of_them(
    rate: int, cuts: list[int], length: int, seed: int
) -> None:
    samples = np.random.default_rng(seed).integers(-32768, 32767, length, np.int16)
    whole = resampled(samples, rate)
    assert abs(len(whole) - length * SAMPLE_RATE / rate) <= 0.5
    cut = resampled(samples, rate, [min(cut, length) for cut in cuts])
    assert len(cut) == len(whole)
    assert np.abs(cut.astype(int) - whole).max(initial=0) <= 2  # soxr dithers, at random


def test_doubling_keeps_the_samples_and_holds_back_four_milliseconds() -> None:
    samples = tone(440, 8000)
    stream = resampler(8000)
    ready = stream.push(samples)
    assert len(samples) * 2 - len(ready) == 64
    assert np.array_equal(np.concatenate([ready, stream.flush()])[::2], samples)


def test_what_lies_between_the_loudest_samples_does_not_wrap() -> None:
    square = np.where(np.arange(4000) % 40 < 20, 32767, -32768).astype(np.int16)
    doubled = resampled(square, 8000).astype(int)
    assert np.abs(np.diff(doubled)).max() < 50000  # overshoot that wraps would step by 65000
    assert doubled.max() == 32767
    assert doubled.min() == -32768


def test_an_hour_in_packets_is_an_hour() -> None:
    for rate in (8000, 44100, 48000):
        stream, packet = resampler(rate), np.zeros(rate, np.int16)
        assert sum(len(stream.push(packet)) for _ in range(3600)) + len(stream.flush()) == 3600 * SAMPLE_RATE
