"""smart-turn v3.2: the probability that what was said is complete, from its sound.

The model sees the last 8 s as Whisper's log-mel features: 80 Slaney mel bands, a 25 ms Hann window
every 10 ms, log10 floored 8 below the maximum. They are computed here from their definition.

Its answer climbs with the silence after the words, finished or not (of sentences cut in the middle
it calls 18 % complete after 0.1 s and 86 % after 1.6 s). So it is asked once per pause, on audio that
ends 0.1 s after the last speech, and never again in the same pause.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtcstt.embedded.engines.onnx import session
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.levelling import raised
from rtcstt.media.pcm import SAMPLE_RATE

WINDOW = 8 * SAMPLE_RATE
_FFT, _HOP, _MELS = 400, 160, 80
_HANN = np.hanning(_FFT + 1)[:-1]


class SmartTurn:
    """The model; safe to use from many threads."""

    def __init__(self, folder: Path) -> None:
        self._session = session(folder / "smart-turn-v3.2-cpu.onnx")

    def complete(self, audio: Audio) -> float:
        """The probability, 0 to 1, that 16 kHz ``audio`` ends with a finished utterance."""
        window = raised(audio[-WINDOW:])
        features = log_mel(np.pad(window, (WINDOW - len(window), 0)))
        return float(self._session.run(None, {"input_features": features[None]})[0].ravel()[0])


def log_mel(audio: Audio) -> NDArray[np.float32]:
    """Whisper's features of 8 s of audio, shape (80, 800)."""
    wave = audio.astype(np.float32)
    wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    padded = np.pad(wave.astype(np.float64), _FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    power = np.abs(np.fft.rfft(frames * _HANN)) ** 2
    log = np.log10(np.maximum(power @ _FILTERS, 1e-10))[:-1].T
    return np.asarray((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0, np.float32)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale: linear up to 1 kHz (15 mel), then 27 mel per factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (np.maximum(mel, 15) - 15)))


def _filters() -> NDArray[np.float64]:
    """Triangles of equal area on the mel scale; shape (201, 80)."""
    highest = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    edges = _hertz(np.linspace(0, highest, _MELS + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (edges[2:] - edges[:-2]))


_FILTERS = _filters()
