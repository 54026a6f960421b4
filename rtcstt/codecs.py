"""Frames and gaps become labelled PCM: Opus, G.711, G.722 and L16 to 16 kHz mono.

Whatever a payload holds, a decoder goes on: what cannot be decoded is concealed and counted. What
was lost is restored from the next Opus packet where that carries it (in-band FEC); else concealed,
fading out, for up to 100 ms; else silence.

Opus comes out of libopus at 16 kHz, and G.722 is 16 kHz by itself. All else goes through one soxr
stream per decoder. It holds some samples back, so labels travel beside the samples and are given
out by count.
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np
import soxr
from av.error import FFmpegError
from numpy.typing import NDArray

from rtcstt import opus
from rtcstt.g711 import ALAW, MULAW
from rtcstt.pcm import SAMPLE_RATE, Label, Samples
from rtcstt.rtp import Cause, Codec, Frame, Gap

CONCEAL_S = 0.1
LOWEST_PITCH_HZ, HIGHEST_PITCH_HZ = 66, 400
NOTHING = np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class Decoded:
    """``samples``: int16 mono at 16 kHz."""

    samples: Samples
    label: Label


class Decoder(Protocol):
    """One track's decoder. ``bad_payloads`` counts what could not be decoded."""

    bad_payloads: int

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        """Never raises. A pause decodes to nothing: silence is the audio clock's business."""

    def flush(self) -> list[Decoded]:
        """What is held back; the decoder is of no use after."""


def decoder_for(codec: Codec, *, libopus: bool = True) -> Decoder:
    """A new decoder. ``libopus=False`` keeps to PyAV, as where the library is missing."""
    library = opus.load() if codec.name == "opus" and libopus else None
    return LibopusDecoder(library) if library is not None else FrameDecoder(codec)


class LibopusDecoder:
    """Opus with FEC and PLC, straight to 16 kHz mono."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.bad_payloads = 0
        self._decoder = opus.OpusDecoder(library)
        self._concealed = 0  # samples concealed since the last good packet

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        if isinstance(item, Gap):
            return self._fill(item) if item.cause is Cause.LOST else []
        try:
            samples = self._decoder.decode(item.payload)
        except opus.OpusError:
            self.bad_payloads += 1
            return self._conceal(item.codec.duration(item.payload) * SAMPLE_RATE // item.codec.clock_rate)
        self._concealed = 0
        return [Decoded(samples, Label.RECEIVED)]

    def flush(self) -> list[Decoded]:
        return []

    def _fill(self, gap: Gap) -> list[Decoded]:
        missing = gap.duration * SAMPLE_RATE // gap.codec.clock_rate
        payload = gap.next_payload
        if payload is None or not self._decoder.has_fec(payload):
            return self._conceal(missing)
        frame = min(missing, gap.codec.duration(payload) * SAMPLE_RATE // gap.codec.clock_rate)
        concealed = self._conceal(missing - frame)
        try:
            recovered = self._decoder.recover(payload, frame)
        except opus.OpusError:
            return concealed + self._conceal(frame)
        return [*concealed, Decoded(recovered, Label.RECOVERED)]

    def _conceal(self, missing: int) -> list[Decoded]:
        parts = []
        step = SAMPLE_RATE // 50
        while missing > 0 and self._concealed < CONCEAL_S * SAMPLE_RATE:
            try:
                samples = self._decoder.conceal(min(step, missing))[:missing]
            except opus.OpusError:
                break
            self._concealed += len(samples)
            missing -= len(samples)
            parts.append(samples)
        return _concealment(parts, missing)


class FrameDecoder:
    """Everything but libopus: decode at the codec's own rate, conceal by repeating the last pitch
    periods, and resample."""

    def __init__(self, codec: Codec) -> None:
        self.bad_payloads = 0
        self._payload = _payload_decoder(codec)
        self._rate = self._payload.rate
        self._past = np.zeros(self._rate // 25, np.int16)  # 40 ms, to repeat from
        self._concealed = 0
        self._resampler = _Resampler(self._rate)

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        if isinstance(item, Frame):
            return self._decode(item)
        if item.cause is Cause.PAUSE:
            return []
        return self._conceal(item.duration * self._rate // item.codec.clock_rate)

    def flush(self) -> list[Decoded]:
        return self._resampler.flush()

    def _decode(self, frame: Frame) -> list[Decoded]:
        expected = frame.codec.duration(frame.payload) * self._rate // frame.codec.clock_rate
        try:
            samples = self._payload.decode(frame.payload)
        except (FFmpegError, ValueError):
            self.bad_payloads += 1
            return self._conceal(expected)
        self._concealed = 0
        self._past = np.concatenate((self._past, samples))[-len(self._past) :]
        return self._resampler.push(samples, Label.RECEIVED)

    def _conceal(self, missing: int) -> list[Decoded]:
        limit = int(CONCEAL_S * self._rate)
        count = min(missing, max(0, limit - self._concealed))
        made = NOTHING
        if count:
            period = self._past[-_pitch(self._past, self._rate) :]
            ramp = 1 - (self._concealed + np.arange(count)) / limit
            repeated = np.resize(np.roll(period, -(self._concealed % len(period))), count)
            made = (repeated * ramp).astype(np.int16)
            self._concealed += count
        silence = np.zeros(missing - count, np.int16)
        return [
            *self._resampler.push(made, Label.CONCEALED),
            *self._resampler.push(silence, Label.SILENCE),
        ]


def _concealment(parts: list[Samples], silent: int) -> list[Decoded]:
    decoded = [Decoded(np.concatenate(parts), Label.CONCEALED)] if parts else []
    return [*decoded, Decoded(np.zeros(silent, np.int16), Label.SILENCE)] if silent > 0 else decoded


def _pitch(past: Samples, rate: int) -> int:
    """The period in samples at which the past repeats best, by normalised autocorrelation."""
    signal = past.astype(np.float32)
    longest, shortest = rate // LOWEST_PITCH_HZ, rate // HIGHEST_PITCH_HZ
    window = signal[-longest:]
    candidates = np.lib.stride_tricks.sliding_window_view(signal, longest)[:-1]
    lags = len(signal) - longest - np.arange(len(candidates))
    score = candidates @ window / np.sqrt((candidates**2).sum(axis=1) + 1)
    score[(lags < shortest) | (lags > longest)] = -np.inf
    return int(lags[int(np.argmax(score))])


class _Resampler:
    """One soxr stream to 16 kHz, with the labels of what is inside it."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = (
            soxr.ResampleStream(rate, SAMPLE_RATE, 1, "int16", "HQ") if rate != SAMPLE_RATE else None
        )
        self._taken = 0
        self._given = 0
        self._inside: deque[tuple[int, Label]] = deque()  # up to which output sample a label holds

    def push(self, samples: Samples, label: Label) -> list[Decoded]:
        if not len(samples):
            return []
        if self._stream is None:
            return [Decoded(samples, label)]
        self._taken += len(samples)
        until = self._taken * SAMPLE_RATE // self._rate
        if self._inside and self._inside[-1][1] is label:
            self._inside[-1] = (until, label)
        else:
            self._inside.append((until, label))
        return self._labelled(self._stream.resample_chunk(samples))

    def flush(self) -> list[Decoded]:
        if self._stream is None or not self._taken:
            return []
        rest = self._stream.resample_chunk(NOTHING, last=True)
        wanted = self._taken * SAMPLE_RATE // self._rate - self._given
        return self._labelled(np.resize(rest, wanted) if len(rest) > wanted else rest)

    def _labelled(self, samples: Samples) -> list[Decoded]:
        decoded = []
        while len(samples):
            until, label = self._inside[0]
            part = samples if len(self._inside) == 1 else samples[: until - self._given]
            samples = samples[len(part) :]
            self._given += len(part)
            if len(self._inside) > 1 and self._given >= until:
                self._inside.popleft()
            if len(part):
                decoded.append(Decoded(part, label))
        return decoded


class _Payload(Protocol):
    rate: int

    def decode(self, payload: bytes) -> Samples:
        """int16 mono at ``rate``; raises ValueError or FFmpegError."""


class _G711:
    rate = 8000

    def __init__(self, table: NDArray[np.int16]) -> None:
        self._table = table

    def decode(self, payload: bytes) -> Samples:
        return self._table[np.frombuffer(payload, np.uint8)]


class _L16:
    """Linear PCM in network byte order (RFC 3551 section 4.5.11)."""

    def __init__(self, codec: Codec) -> None:
        self.rate = codec.clock_rate
        self._channels = codec.channels

    def decode(self, payload: bytes) -> Samples:
        samples = np.frombuffer(payload, ">i2").reshape(-1, self._channels)
        return _to_mono(samples)


class _Av:
    """A codec of PyAV's."""

    def __init__(self, name: str, rate: int, layout: str) -> None:
        self.rate = rate
        context = av.CodecContext.create(name, "r")
        assert isinstance(context, av.AudioCodecContext)
        self._context = context
        self._context.sample_rate = rate
        self._context.layout = layout

    def decode(self, payload: bytes) -> Samples:
        parts = []
        for frame in self._context.decode(av.Packet(payload)):
            channels = frame.layout.nb_channels
            parts.append(_to_mono(frame.to_ndarray().reshape(-1, channels)))
        if not parts:
            raise ValueError("nothing decoded")
        return np.concatenate(parts)


def _to_mono(samples: NDArray[np.int16]) -> Samples:
    if samples.shape[1] == 1:
        return samples[:, 0].astype(np.int16, copy=True)
    mixed: Samples = samples.mean(axis=1).astype(np.int16)
    return mixed


def _payload_decoder(codec: Codec) -> _Payload:
    match codec.name:
        case "PCMU":
            return _G711(MULAW)
        case "PCMA":
            return _G711(ALAW)
        case "G722":
            return _Av("g722", 16000, "mono")
        case "L16":
            return _L16(codec)
        case "opus":
            return _Av("libopus", 48000, "stereo")
    raise ValueError(f"{codec.name} is no speech codec")
