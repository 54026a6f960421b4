"""One audio stream of a recording on its way from decoded frames to `Sound` on the recording's clock.

frame -> place on the clock -> 16 kHz float32 -> seconds, mixed or in channels -> the wanted part
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from av.container import InputContainer

from rtcstt.errors import FileError
from rtcstt.media import kinds, raw
from rtcstt.media.mixing import Floats, Mixer
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.media.timeline import Timeline

TS_DISCONT = 0x0200  # FFmpeg's AVFMT_TS_DISCONT
RATES = range(2000, 705_601)  # of what is read, in Hz
MAX_CHANNELS = 32
SHORTEST_GAP_S = 0.2
MISSING_S = 1.0  # of a stated length, before its lack is told
NEAR_S = 3.0  # from where bytes were left out to the hole in the clock: a page or packet holds so much


@dataclass(frozen=True, slots=True)
class RawAudio:
    """What raw audio is: an encoding of `raw.ENCODINGS`, its rate in Hz, and how many channels are
    interleaved."""

    encoding: str
    rate: int
    channels: int = 1


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """``stream``: the index of an audio stream among those of the file, or all of them, each a channel;
    None: the default one, else the first with sound. ``start`` and ``duration`` in s: only that part; its
    times stay those of the file. ``max_s``: a longer recording is refused. ``ending``: of the name it has
    elsewhere, such as ".gsm"."""

    split: bool = False
    stream: int | Literal["all"] | None = None
    start: float = 0.0
    duration: float | None = None
    raw: RawAudio | None = None
    max_s: float | None = None
    ending: str = ""
    rate: int = SAMPLE_RATE

    @property
    def end(self) -> float:
        return float("inf") if self.duration is None else self.start + self.duration


@dataclass(frozen=True, slots=True)
class FileInfo:
    """``kind``: FFmpeg's name of it; ``duration`` in s where the file states it; ``notes``: what a user
    should know of how it is read, such as the streams that are left out."""

    kind: str
    duration: float | None
    channels: int
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sound:
    """``samples``: (channels, samples) of -1 to 1; the first one's index on the recording's clock is
    ``start``. ``channel``: the first of them."""

    channel: int
    start: int
    samples: Floats


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio of this stretch (in s) is lost: the file is ``damaged`` there, or ``truncated``."""

    start: float
    end: float
    reason: Literal["damaged", "truncated"]


Part = Sound | Gap


@dataclass(slots=True)
class _Converter:
    """Frames of one shape to packed float32 at the rate that is wanted."""

    shape: tuple[str, str, int]
    resampler: av.AudioResampler
    layout: str

    @classmethod
    def of(cls, frame: av.AudioFrame, rate: int) -> _Converter:
        if frame.sample_rate not in RATES:
            raise FileError(
                f"its rate is {frame.sample_rate} Hz; from {RATES[0]} to {RATES[-1]} Hz can be read"
            )
        if not 1 <= frame.layout.nb_channels <= MAX_CHANNELS:
            raise FileError(f"it has {frame.layout.nb_channels} channels; at most {MAX_CHANNELS} can be read")
        # Packed, because PyAV finds the planes of a frame by the first empty pointer behind them, and there
        # are only eight: with more planes, and with eight, it reads beyond and crashes.
        resampler = av.AudioResampler(format="flt", rate=rate)
        return cls(_shape(frame), resampler, frame.layout.name)

    def convert(self, frame: av.AudioFrame | None) -> Floats | None:
        """(channels, samples); None as frame: what is left."""
        if frame is not None:
            frame.pts = None  # times are ours to keep
        parts = [
            part.to_ndarray().reshape(-1, part.layout.nb_channels).T
            for part in self.resampler.resample(frame)
            if part.samples
        ]
        if not parts:
            return None
        return raw.clean(np.concatenate(parts, axis=1))


class Track:
    """One audio stream on the recording's clock."""

    def __init__(self, settings: ReadSettings, channel: int, channels: int) -> None:
        self.channels = channels
        self.decoded = False
        self.is_over = False
        self._settings = settings
        self._channel = channel
        self._timeline = Timeline()
        self._converter: _Converter | None = None
        self._mixer = Mixer()
        self._held: list[Floats] = []
        self._length = 0
        self._done = 0  # samples that have left
        self._damaged = False
        self._unreadable = False
        self._may_pause = True
        self._skipped_at: float | None = None
        self._hole: Gap | None = None  # the last that was taken for a pause
        self._lost = 0.0  # seconds

    def begin(self, container: InputContainer) -> None:
        """A container begins where the last one ended."""
        start = (container.start_time or 0) / av.time_base
        from_zero = container.format.name in kinds.FROM_ZERO
        may_jump = bool(int(container.format.flags) & TS_DISCONT)
        counted = container.format.name in kinds.COUNTED
        self._may_pause = container.format.name not in kinds.WITHOUT_PAUSES
        self._timeline.start(0.0 if from_zero else start, may_jump=may_jump, counted=counted)

    def note_damage(self, *, unreadable: bool = False, seconds: float = 0.0) -> None:
        """Something before the next frame could not be decoded; not even the container, if ``unreadable``.
        ``seconds``: how long it was, where its container's clock does not know."""
        self._damaged = True
        self._lost += seconds
        self._unreadable = self._unreadable or unreadable

    def note_skipped(self) -> Iterator[Gap]:
        """Something was left out of the file near here, of which the clock knows: the last hole, if it is
        near, or the next."""
        self._skipped_at = self.position
        if self._hole is not None and self.position - self._hole.end <= NEAR_S:
            yield self._hole
            self._hole = self._skipped_at = None

    def damaged(self) -> Gap:
        """A part of unknown length is lost here."""
        return Gap(self._timeline.position, self._timeline.position, "damaged")

    @property
    def position(self) -> float:
        """Seconds of it so far, what was left out included."""
        return self._timeline.position

    def truncated(self, missing: float) -> Iterator[Gap]:
        """So many seconds are missing at its end; infinite: nobody knows how many."""
        begin = max(self.position, self._settings.start)
        end = begin if math.isinf(missing) else min(self.position + missing, self._settings.end)
        if missing and not self.is_over and end >= begin:
            yield Gap(begin, end, "truncated")

    def push(self, frame: av.AudioFrame) -> Iterator[Part]:
        self.decoded = True
        if self._converter is None or self._converter.shape != _shape(frame):
            yield from self._drain()
            self._converter = _Converter.of(frame, self._settings.rate)
        before = self._timeline.position
        lost, self._lost = self._lost if self._lost >= SHORTEST_GAP_S else 0.0, 0.0
        self._timeline.insert(lost)
        silence = lost + self._timeline.place(frame.time, frame.samples / frame.sample_rate)
        if silence:
            yield from self._drain()
            self._converter = _Converter.of(frame, self._settings.rate)
            if silence >= SHORTEST_GAP_S:
                yield from self._tell(Gap(before, before + silence, "damaged"))
            yield from self._silence(round(silence * self._settings.rate))
        self._damaged = self._unreadable = False
        converted = self._converter.convert(frame)
        if converted is not None:
            yield from self._hold(converted)
        self._check(self._timeline.position)

    def _tell(self, hole: Gap) -> Iterator[Gap]:
        """If it is damage, and not a pause."""
        near = self._skipped_at is not None and hole.start - self._skipped_at <= NEAR_S
        if self._damaged or near or not self._may_pause:
            self._skipped_at = None
            yield hole
        else:
            self._hole = hole

    def flush(self) -> Iterator[Part]:
        """What is left. A container that cannot be read to its end has lost an unknown rest."""
        yield from self._drain()
        self._converter = None
        if self.decoded and not self._done:  # too few samples for the converter
            yield from self._silence(max(1, round(self.position * self._settings.rate)))
        begin, lost = self.position, self._lost
        if lost >= MISSING_S and not self.is_over:
            yield Gap(begin, min(begin + lost, self._settings.end), "damaged")
        elif self._unreadable:
            yield self.damaged()

    def _check(self, position: float) -> None:
        self.is_over = position >= self._settings.end + 1  # a second is still in the converter at most
        limit = self._settings.max_s
        if limit is not None and position > limit + 0.01:  # a sum of many frames
            raise FileError(f"it is longer than {limit / 3600:g} hours", "too_long")

    def _silence(self, count: int) -> Iterator[Sound]:
        while count > 0:
            size = min(count, 10 * self._settings.rate)
            yield from self._release(np.zeros((self.channels, size), np.float32))
            count -= size

    def _drain(self) -> Iterator[Sound]:
        """What the converter has, and what is held."""
        if self._converter is not None and (rest := self._converter.convert(None)) is not None:
            self._held.append(rest)
        yield from self._send()

    def _hold(self, samples: Floats) -> Iterator[Sound]:
        """Collect a second: what is mixed is looked at together, and each `Sound` is some work."""
        self._held.append(samples)
        self._length += samples.shape[1]
        if self._length >= self._settings.rate:
            yield from self._send()

    def _send(self) -> Iterator[Sound]:
        if self._held:
            assert self._converter is not None
            window = np.concatenate(self._held, axis=1)
            self._held, self._length = [], 0
            if self.channels == 1:
                shaped = self._mixer.mix(window, self._converter.layout)
            else:
                shaped = np.zeros((self.channels, window.shape[1]), np.float32)
                count = min(self.channels, len(window))
                shaped[:count] = window[:count]
            yield from self._release(shaped)

    def _release(self, samples: Floats) -> Iterator[Sound]:
        """The part of it that is wanted."""
        start, length = self._done, samples.shape[1]
        self._done += length
        first = max(0, round(self._settings.start * self._settings.rate) - start)
        last = length
        if self._settings.duration is not None:
            last = min(length, round(self._settings.end * self._settings.rate) - start)
        if first < last:
            yield Sound(self._channel, start + first, np.ascontiguousarray(samples[:, first:last]))


def _shape(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
