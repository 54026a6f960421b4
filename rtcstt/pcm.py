"""The audio clock: exactly 1.00 s of 16 kHz mono PCM out per 1.00 s of call."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000

Samples = NDArray[np.int16]


class Label(enum.Enum):
    """Where a sample came from; the ledger counts by it."""

    RECEIVED = "received"  # decoded from a packet
    RECOVERED = "recovered"  # from in-band FEC
    CONCEALED = "concealed"  # made up by packet loss concealment
    SILENCE = "silence"  # injected: no audio was due, or none came


@dataclass(frozen=True, slots=True)
class Chunk:
    """PCM ready for the STT: int16 mono at 16 kHz. ``start`` is the index of its first sample,
    counted from the beginning of the track's clock; chunks follow each other without hole."""

    samples: Samples
    start: int

    @property
    def pcm(self) -> bytes:
        """The samples as `pcm_s16le`."""
        return self.samples.astype("<i2", copy=False).tobytes()
