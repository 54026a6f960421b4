"""Whether audio can be what its sender states: mu-law read as A-law, samples in the wrong byte order, or at
another rate sound like noise or come at another pace, and nobody is told. Here a guess is made.

A core: bytes and arrival times in, at most one guess of each kind out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rtcstt.media.g711 import ALAW, MULAW
from rtcstt.media.pcm import Samples
from rtcstt.media.rtp import Codec
from rtcstt.media.signals import Suspect

WINDOW_S = 0.5
WINDOWS = 40  # that are looked at; who has been understood for so long is understood
NEEDED, OF = 4, 6  # of the last windows with sound so many say the same
SPEECH = 0.35  # the most roughness of speech; of white noise it is 1
ROUGHER = 1.6  # so many times as rough as the best other reading, which speech never is when read rightly
LEVELS = (60.0, 12000.0)  # root mean square, of what may be speech
PACE_S = 1.0
PACES = 5  # seconds in a row at the same pace
FACTORS = (0.5, 2.0, 3.0, 1 / 3, 1.5, 2 / 3)
TOLERANCE = 0.03

READERS: Mapping[str, Callable[[bytes], Samples]] = {
    "pcm_s16le": lambda data: np.frombuffer(data[: len(data) // 2 * 2], "<i2"),
    "pcm_s16be": lambda data: np.frombuffer(data[: len(data) // 2 * 2], ">i2").astype(np.int16),
    "pcm_mulaw": lambda data: np.asarray(MULAW[np.frombuffer(data, np.uint8)]),
    "pcm_alaw": lambda data: np.asarray(ALAW[np.frombuffer(data, np.uint8)]),
}

_NOISE = np.array([20000, -20000], np.int16)


def _floats(data: bytes) -> Samples:
    """Of full scale 1; noise where that is not so."""
    values = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    if not np.all(np.abs(values) <= 1.5):  # no number is not, either
        return _NOISE
    samples: Samples = np.clip(values * 32768, -32768, 32767).astype(np.int16)
    return samples


def _upper(data: bytes, width: int) -> Samples:
    """The upper 16 bits of wider samples. Noise where those below are neither zero nor any."""
    samples = np.frombuffer(data[: len(data) // width * width], np.uint8).reshape(-1, width)
    for below in samples[:, :-2].T:
        if below.any() and not 60 < float(below.std()) < 90:
            return _NOISE
    return np.frombuffer(samples[:, -2:].tobytes(), "<i2")


# What is guessed, but not taken, as well
_GUESSED: Mapping[str, Callable[[bytes], Samples]] = {
    **READERS,
    "pcm_u8": lambda data: ((np.frombuffer(data, np.uint8).astype(np.int16) - 128) << 8).astype(np.int16),
    "pcm_s24le": lambda data: _upper(data, 3),
    "pcm_s32le": lambda data: _upper(data, 4),
    "pcm_f32le": _floats,
}
# Of these one read as the other is hardly rougher than speech may be, but always rougher than read rightly.
_ALIKE = {"pcm_mulaw": ("pcm_alaw", "pcm_u8"), "pcm_alaw": ("pcm_mulaw", "pcm_u8")}


class Suspicion:
    """One stream's. ``encoding`` is one of `READERS`."""

    def __init__(self, encoding: str, sample_rate: int, channels: int = 1) -> None:
        self._encoding = encoding
        self._rate = sample_rate
        width = 2 if encoding.startswith("pcm_s16") else 1
        self._bytes_per_s = sample_rate * channels * width
        self._channels = channels
        self._window = bytearray()
        self._windows = 0
        self._guesses: deque[str] = deque(maxlen=OF)
        self._since: float | None = None
        self._came_s = 0.0
        self._paces: list[float] = []
        self._told: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Enough was seen: nothing will be guessed any more."""
        return self._windows >= WINDOWS and len(self._paces) >= 4 * PACES

    def push(self, data: bytes, now: float) -> list[str]:
        """What the audio seems to be, if not what was stated."""
        guesses = [self._pace(len(data) / self._bytes_per_s, now)]
        if self._windows < WINDOWS:
            self._window += data
            while len(self._window) >= WINDOW_S * self._bytes_per_s and self._windows < WINDOWS:
                size = int(WINDOW_S * self._bytes_per_s) // 12 * 12  # whole samples of every width
                guesses.append(self._look(bytes(self._window[:size])))
                del self._window[:size]
        fresh = [guess for guess in guesses if guess and guess not in self._told]
        self._told.update(fresh)
        return fresh

    def _look(self, window: bytes) -> str | None:
        """Rough as it is read now, but speech if it were read otherwise."""
        self._windows += 1
        guess = ""
        rough = _roughness(self._read(self._encoding, window))
        if not rough:
            return None  # silence
        others = {
            name: _roughness(self._read(name, window))
            for name in (_GUESSED if rough > SPEECH else _ALIKE.get(self._encoding, ()))
            if name != self._encoding
        }
        if others:
            best = min(others, key=lambda name: others[name])
            guess = best if 0 < others[best] < min(SPEECH, rough / ROUGHER) else ""
        self._guesses.append(guess)
        is_sure = guess and self._guesses.count(guess) >= NEEDED
        return f"{guess}, not {self._encoding}" if is_sure else None

    def _read(self, encoding: str, window: bytes) -> NDArray[np.float64]:
        """The first channel."""
        samples = _GUESSED[encoding](window)
        return samples[:: self._channels].astype(np.float64)

    def _pace(self, duration_s: float, now: float) -> str | None:
        """Whether audio comes steadily at a multiple of its own pace."""
        if self._since is None:
            self._since = now
        self._came_s += duration_s
        passed = now - self._since
        if passed < PACE_S or len(self._paces) >= 4 * PACES:
            return None
        self._paces.append((self._came_s - duration_s) / passed)
        self._since, self._came_s = now, duration_s
        last = self._paces[-PACES:]
        for factor in FACTORS:
            if len(last) == PACES and all(abs(pace / factor - 1) < TOLERANCE for pace in last):
                return f"sample_rate {round(self._rate * factor)}, not {self._rate}: it comes at that pace"
        return None


_ENCODINGS = {"PCMU": "pcm_mulaw", "PCMA": "pcm_alaw", "L16": "pcm_s16be"}


class PayloadSuspicion:
    """The same for RTP payloads, whose codec may change."""

    def __init__(self) -> None:
        self._codec: Codec | None = None
        self._suspicion: Suspicion | None = None

    def push(self, codec: Codec, payload: bytes, now: float) -> list[Suspect]:
        if codec is not self._codec:
            self._codec = codec
            encoding = _ENCODINGS.get(codec.name)
            self._suspicion = Suspicion(encoding, codec.clock_rate, codec.channels) if encoding else None
        if self._suspicion is None or self._suspicion.is_over:
            return []
        return [Suspect(guess) for guess in self._suspicion.push(payload, now)]


def _roughness(samples: NDArray[np.float64]) -> float:
    """The power of the difference of neighbours, over twice that of the samples; 0 where it says nothing."""
    centred = samples - samples.mean()
    power = float(np.mean(centred**2))
    if not LEVELS[0] ** 2 < power < LEVELS[1] ** 2:
        return 0.0 if power <= LEVELS[0] ** 2 else 1.0
    return float(np.mean(np.diff(centred) ** 2)) / (2 * power)
