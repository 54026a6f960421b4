"""The audio clock: exactly 1.00 s of 16 kHz mono PCM out per 1.00 s of call.

Decoded audio goes in as it comes, in bursts, with holes, at the sender's pace; chunks come out at
ours. The schedule is fixed by the first packet: the chunk that ends at sample n of the call is due
n/16000 s after the call's beginning, plus a small delay that covers the network's jitter. What
happens then depends on what is there:

- Enough audio: the chunk goes out.
- Not enough, but not late yet beyond the cap: wait. Nothing is inserted into speech that is merely late.
- Not enough, and the cap is over (mute, hold, a stall): the chunk is filled with silence, and from
  then on silence goes out on schedule until audio comes again.

The rest is about keeping the two ends of the queue together. ``ahead`` is the audio sent or queued,
less the time that has passed; it should be near zero.

- ahead < 0 after a pause: silence is put before the audio that resumes. ahead < 0 in lasting
  speech (the sender's clock is slow, or a timer was): silence is put where it is quiet.
- ahead > 0 (a stall whose packets came after all in a burst, when silence had gone out meanwhile; or a
  fast clock): the words are real, so they are sent late; the lag is won back by discarding quiet
  stretches, with a margin on both sides so that no edge of a word is touched. Concealment for which
  silence went out already is discarded first.

Behind schedule, chunks leave at most 1.25 times as fast as real time, and never ahead of it: on
average the STT gets one second per second.

No I/O and no clock here: ``now`` is an argument, in s of any monotonic clock.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000

MAX_CATCH_UP = 1.25  # times real time
MAX_QUEUED_S = 20.0  # beyond it the newest audio is discarded, and counted
TOLERATED_S = 0.02  # lastingly ahead or behind by less is left alone
MARGIN = int(0.12 * SAMPLE_RATE)  # quiet that is kept before and after speech when lag is won back
QUIET = 40.0  # root mean square of int16 samples; about -58 dB of full scale
POLL_S = 0.01  # while a chunk waits for late audio

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


class AudioClock:
    """One track's audio, from what comes to what is due.

    `begin` once, `push` and `pause` as frames come, `pull` whenever `next_due` says, `close` at the
    end. `pull`'s ``delay`` is the jitter to be expected, in s; ``max_delay_s`` caps how far the
    output may fall behind while it waits.
    """

    def __init__(self, *, chunk_ms: int = 100, max_delay_s: float = 0.2) -> None:
        self._chunk = chunk_ms * SAMPLE_RATE // 1000
        self._max_delay_s = max_delay_s
        self._queue = _Queue()
        self._origin: float | None = None
        self._delay = 0.0
        self._not_before = -math.inf  # the catch-up limit
        self._injected = 0  # silence sent since the last audio that came, not yet accounted for
        self._loudness = _Loudness()
        self._trend = _Trend()  # of `ahead`
        self.ledger = Ledger()

    @property
    def origin(self) -> float | None:
        """When the call's time began; None before."""
        return self._origin

    @property
    def lag_s(self) -> float:
        """How long what comes now will wait before it is sent."""
        return self._queue.length / SAMPLE_RATE

    def begin(self, origin: float) -> None:
        """The call's time begins at ``origin``: when the first sample was spoken, as far as known
        (the arrival of the first frame, less its duration)."""
        self._origin = origin

    def ahead(self, now: float) -> float:
        """Audio sent or queued, less the time that has passed; in s."""
        if self._origin is None:
            return 0.0
        return (self.ledger.sent + self._queue.length) / SAMPLE_RATE - (now - self._origin)

    def push(self, samples: Samples, label: Label, now: float) -> None:
        """Audio that came, or that stands for what was lost."""
        if label in (Label.CONCEALED, Label.SILENCE) and self._injected:
            samples = self._without_injected(samples, label)
        elif self._injected:
            self._resume(now, len(samples))
        room = int(MAX_QUEUED_S * SAMPLE_RATE) - self._queue.length
        self.ledger.counts[label] += len(samples)
        if not len(samples):
            return
        if len(samples) > room:
            self.ledger.discard("overflow", len(samples) - room)
            samples = samples[:room]
        self._queue.append(samples, label is Label.SILENCE or self._loudness.is_quiet(samples))

    def pause(self, count: int, now: float) -> None:
        """``count`` samples of silence that the sender left out; less what was injected already."""
        self.push(np.zeros(count, np.int16), Label.SILENCE, now)

    def pull(self, now: float, delay: float = 0.0, *, expects_nothing: bool = False) -> list[Chunk]:
        """The chunks due at ``now``. ``expects_nothing``: the sender said that it pauses, so do not wait."""
        if self._origin is None:
            return []
        self._delay = min(delay, self._max_delay_s)
        self._settle(now)
        chunks = []
        while (due := self._due()) <= now:
            if self._queue.length < self._chunk and not (expects_nothing or self._may_fill(now)):
                self._not_before = now
                break
            chunks.append(self._send(self._chunk))
            self._not_before = due + self._chunk / SAMPLE_RATE / MAX_CATCH_UP
        return chunks

    def next_due(self, now: float) -> float:
        """When `pull` is worth calling again; soon while a chunk waits for audio that is late."""
        if self._origin is None:
            return math.inf
        return max(self._due(), now + POLL_S)

    def close(self) -> list[Chunk]:
        """All that is queued, at once; the last chunk may be short."""
        chunks = []
        while self._queue.length:
            chunks.append(self._send(min(self._chunk, self._queue.length)))
        return chunks

    def _scheduled(self) -> float:
        assert self._origin is not None
        return self._origin + (self.ledger.sent + self._chunk) / SAMPLE_RATE + self._delay

    def _due(self) -> float:
        return max(self._scheduled(), self._not_before)

    def _may_fill(self, now: float) -> bool:
        """Whether a chunk that lacks audio is filled: in a silence that has begun, or past the cap."""
        return self._injected > 0 or now >= self._scheduled() - self._delay + self._max_delay_s

    def _send(self, count: int) -> Chunk:
        samples, missing = self._queue.take(count)
        self._inject(missing)
        chunk = Chunk(samples, self.ledger.sent)
        self.ledger.sent += count
        return chunk

    def _inject(self, count: int) -> None:
        self._injected += count
        self.ledger.counts[Label.SILENCE] += count

    def _without_injected(self, samples: Samples, label: Label) -> Samples:
        """What stands for lost or silent time, less the silence that went out for it already."""
        covered = min(len(samples), self._injected)
        self._injected -= covered
        if label is not Label.SILENCE:
            self.ledger.counts[label] += covered
            self.ledger.discard("covered by silence", covered)
        return samples[covered:]

    def _resume(self, now: float, count: int) -> None:
        """Audio comes again after a silence: what the silence still lacks goes out before it."""
        self._injected = 0
        behind = -self.ahead(now) - self._delay - count / SAMPLE_RATE
        if behind > 0:
            self._queue_silence(behind)

    def _settle(self, now: float) -> None:
        """Keep the queue's end near the present, where it is quiet."""
        self._trend.see(self.ahead(now), now)
        if self._trend.lowest > TOLERATED_S:
            discarded = self._queue.discard_quiet(int(self._trend.lowest * SAMPLE_RATE))
            if discarded:
                self.ledger.discard("lag", discarded)
                self._trend.shift(-discarded / SAMPLE_RATE)
        behind = -self._trend.highest - self._delay
        if behind > TOLERATED_S and not self._injected and self._queue.ends_quiet():
            self._queue_silence(behind)
            self._trend.shift(behind)

    def _queue_silence(self, seconds: float) -> None:
        silence = np.zeros(int(seconds * SAMPLE_RATE), np.int16)
        self.ledger.counts[Label.SILENCE] += len(silence)
        self._queue.append(silence, quiet=True)


class _Queue:
    """Runs of samples, each quiet or not, in the order of the call."""

    def __init__(self) -> None:
        self.length = 0
        self._runs: deque[tuple[Samples, bool]] = deque()
        self._quiet_sent = 0  # quiet samples that went out last

    def append(self, samples: Samples, quiet: bool) -> None:
        if len(samples):
            self._runs.append((samples, quiet))
            self.length += len(samples)

    def take(self, count: int) -> tuple[Samples, int]:
        """``count`` samples, and how many of them are zeros for want of others."""
        parts: list[Samples] = []
        wanted = count
        while wanted and self._runs:
            samples, quiet = self._runs.popleft()
            if len(samples) > wanted:
                self._runs.appendleft((samples[wanted:], quiet))
                samples = samples[:wanted]
            parts.append(samples)
            wanted -= len(samples)
            self._quiet_sent = self._quiet_sent + len(samples) if quiet else 0
        self.length -= count - wanted
        if wanted:
            parts.append(np.zeros(wanted, np.int16))
            self._quiet_sent += wanted
        return (np.concatenate(parts) if len(parts) > 1 else parts[0]), wanted

    def ends_quiet(self) -> bool:
        """Whether the newest audio has been quiet for the margin."""
        quiet = 0
        for samples, is_quiet in reversed(self._runs):
            if not is_quiet:
                return False
            quiet += len(samples)
            if quiet >= MARGIN:
                return True
        return quiet + self._quiet_sent >= MARGIN

    def discard_quiet(self, count: int) -> int:
        """Discard up to ``count`` samples from the middle of quiet stretches; how many it was."""
        after = self._quiet_after()
        before = self._quiet_sent
        kept: deque[tuple[Samples, bool]] = deque()
        left = count
        for (samples, quiet), following in zip(self._runs, after, strict=True):
            if quiet and left and before >= MARGIN and following >= MARGIN:
                cut = min(left, len(samples))
                samples = samples[cut:]
                left -= cut
            before = before + len(samples) if quiet else 0
            if len(samples):
                kept.append((samples, quiet))
        self._runs = kept
        self.length -= count - left
        return count - left

    def _quiet_after(self) -> list[int]:
        """For each run, how many quiet samples follow it directly."""
        after, quiet_so_far = [], 0
        for samples, quiet in reversed(self._runs):
            after.append(quiet_so_far)
            quiet_so_far = quiet_so_far + len(samples) if quiet else 0
        return after[::-1]


class _Trend:
    """The least and the most of a value over the last half second to second; before that, zero."""

    WINDOW_S = 0.5

    def __init__(self) -> None:
        self._begin = math.inf
        self._now = (math.inf, -math.inf)
        self._before = (0.0, 0.0)

    @property
    def lowest(self) -> float:
        return min(self._now[0], self._before[0])

    @property
    def highest(self) -> float:
        return max(self._now[1], self._before[1])

    def see(self, value: float, now: float) -> None:
        if now - self._begin >= self.WINDOW_S:
            self._before = self._now
            self._now = (math.inf, -math.inf)
            self._begin = now
        self._begin = min(self._begin, now)
        self._now = (min(self._now[0], value), max(self._now[1], value))

    def shift(self, by: float) -> None:
        """The value was changed by ``by``, and its past with it."""
        self._now = (self._now[0] + by, self._now[1] + by)
        self._before = (self._before[0] + by, self._before[1] + by)


class _Loudness:
    """Tells quiet from sound by level: against the noise floor, which it follows, and the loudest of late.

    Only used to find where time may be won or lost unheard; it never decides what is speech.
    """

    def __init__(self) -> None:
        self._floor = 30.0
        self._peak = 300.0

    def is_quiet(self, samples: Samples) -> bool:
        level = math.sqrt(float(np.vdot(floats := samples.astype(np.float32), floats)) / len(floats))
        self._floor = max(min(level, self._floor * 1.004), 1.0)
        self._peak = max(level, self._peak * 0.999)
        return level <= QUIET or (level < 1.8 * self._floor and level < 0.1 * self._peak)
