"""PCM on its way to the STT: int16 mono at 16 kHz, in chunks, with a ledger of where it came from."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

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

    __hash__ = object.__hash__  # members are single; an enumeration's own hash is that of the name


@dataclass(frozen=True, slots=True)
class Chunk:
    """PCM ready for the STT: int16 mono at 16 kHz. ``start`` is the index of its first sample,
    counted from the beginning of the track's clock; chunks follow each other without hole."""

    samples: Samples
    start: int

    @property
    def end(self) -> int:
        """The sample behind its last."""
        return self.start + len(self.samples)

    @property
    def pcm(self) -> bytes:
        """The samples as `pcm_s16le`."""
        return self.samples.astype("<i2", copy=False).tobytes()


@dataclass(slots=True)
class Ledger:
    """What became of every sample. When nothing is queued any more, and so at the end of every call,
    sent = received + recovered + concealed + silence - discarded."""

    counts: dict[Label, int] = field(default_factory=lambda: dict.fromkeys(Label, 0))
    sent: int = 0
    discarded: dict[str, int] = field(default_factory=dict)

    def discard(self, reason: str, count: int) -> None:
        self.discarded[reason] = self.discarded.get(reason, 0) + count

    @property
    def queued(self) -> int:
        """Samples that came in and did not go out yet."""
        return sum(self.counts.values()) - sum(self.discarded.values()) - self.sent

    def as_dict(self) -> dict[str, float | dict[str, float]]:
        """Milliseconds of audio. A sample is 1/16 ms, which a float holds exactly: the sums are exact too."""
        values: dict[str, float | dict[str, float]] = {
            label.value: n / 16 for label, n in self.counts.items()
        }
        values["sent"] = self.sent / 16
        values["discarded"] = sum(self.discarded.values()) / 16
        values["discarded_by_reason"] = {reason: n / 16 for reason, n in self.discarded.items()}
        return values
