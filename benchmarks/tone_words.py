"""Words of two tones each, which survive Opus, and the receiver that an oracle reads them back with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from rtcstt.media.files import OPUS_RATE
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.testing import speech

LOW_HZ = [400 + 60 * index for index in range(16)]
HIGH_HZ = [1600 + 90 * index for index in range(16)]
WORD_S, GAP_S, PAUSE_S = 0.2, 0.08, 1.0
ROW = 12  # words, then a pause
FRAME = SAMPLE_RATE // 100
LOUD = 600.0
WORDS = [f"w{number:03}x" for number in range(len(LOW_HZ) * len(HIGH_HZ))]


def tones(words: Sequence[str], rate: int = OPUS_RATE) -> Samples:
    """The words, with a pause after every twelve."""
    time = np.arange(round(WORD_S * rate)) / rate
    envelope = np.minimum(1.0, np.minimum(time, WORD_S - time) / 0.01)
    parts = []
    for index, word in enumerate(words):
        low, high = divmod(WORDS.index(word), len(HIGH_HZ))
        wave = np.sin(2 * np.pi * LOW_HZ[low] * time) + np.sin(2 * np.pi * HIGH_HZ[high] * time)
        gap_s = PAUSE_S if index % ROW == ROW - 1 else GAP_S
        parts += [(6000 * envelope * wave).astype(np.int16), np.zeros(round(gap_s * rate), np.int16)]
    return np.concatenate(parts)


def ends(count: int) -> list[float]:
    """When each of so many words has ended, in s of the recording."""
    row_s = ROW * (WORD_S + GAP_S) - GAP_S + PAUSE_S
    return [i // ROW * row_s + (i % ROW) * (WORD_S + GAP_S) + WORD_S for i in range(count)]


class ToneReceiver:
    """Finds the words in a stream of samples, however it is cut; of which less than half arrives is none."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.int16)
        self._position = 0
        self._loud: list[Samples] = []
        self._quiet = 0
        self._last = ""

    def receive(self, samples: Samples) -> list[tuple[int, str | None]]:
        """(sample, None) for every frame of a word; (sample, text) where a word is complete."""
        pcm = np.concatenate([self._rest, samples])
        found: list[tuple[int, str | None]] = []
        count = len(pcm) // FRAME
        for frame in pcm[: count * FRAME].reshape(count, FRAME):
            self._position += FRAME
            if np.sqrt(np.mean(frame.astype(float) ** 2)) > LOUD:
                self._loud.append(frame)
                self._quiet = 0
                found.append((self._position, None))
            elif self._loud:
                self._quiet += 1
                if self._quiet == 2:
                    if len(self._loud) * FRAME >= WORD_S * SAMPLE_RATE / 2:
                        word = _word(np.concatenate(self._loud))
                        if word != self._last:  # else one word that silence was put into
                            found.append((self._position - 2 * FRAME, word))
                        self._last = word
                    self._loud = []
        self._rest = pcm[count * FRAME :]
        return found


def _word(sound: Samples) -> str:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), SAMPLE_RATE))  # a line for each Hz
    low, high = (
        int(np.argmax([spectrum[hz - 10 : hz + 10].sum() for hz in each])) for each in (LOW_HZ, HIGH_HZ)
    )
    return WORDS[low * len(HIGH_HZ) + high]


@contextlib.contextmanager
def taught() -> Iterator[None]:
    """The oracles of this process understand these words, and no others."""
    module = vars(sys.modules[speech.__module__])
    before, module["_Receiver"] = module["_Receiver"], ToneReceiver
    try:
        yield
    finally:
        module["_Receiver"] = before
