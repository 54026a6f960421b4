"""Frames and gaps become labelled PCM: Opus, G.711, G.722 and L16 to 16 kHz mono.

Whatever a payload holds, a decoder goes on: what cannot be decoded is concealed and counted. What
was lost is restored from the next Opus packet where that carries it (in-band FEC); else concealed,
fading out, for up to 100 ms; else silence.

Opus comes out of libopus at 16 kHz, and G.722 is 16 kHz by itself. All else goes through one
resampler per decoder. It holds some samples back, so labels travel beside the samples and are given
out by count.
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from rtcstt.media import opus
from rtcstt.media.g711 import ALAW, MULAW
from rtcstt.media.pcm import SAMPLE_RATE, Label, Samples
from rtcstt.media.playout import Cause, Frame, Gap
from rtcstt.media.resampling import resampler
from rtcstt.media.rtp import LONGEST_S, Codec

CONCEALED_MS = 100  # of a hole; the rest is silence
STEADY_MS = 40  # of what is concealed; then it fades
BLEND_MS = 5  # from concealment back into what was received
LOWEST_PITCH_HZ, HIGHEST_PITCH_HZ = 66, 400


@dataclass(slots=True)
class Decoded:
    """``samples``: int16 mono at 16 kHz."""

    samples: Samples
    label: Label


def length_of(decoded: list[Decoded]) -> int:
    """In samples."""
    return len(decoded[0].samples) if len(decoded) == 1 else sum(len(part.samples) for part in decoded)


class Decoder(Protocol):
    """One track's decoder. ``bad_payloads`` counts what could not be decoded.

    What comes out, with `flush`, is as long as the frames and lost frames that went in.
    """

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
        recoverable = self._decoder.recoverable(gap.next_payload) if gap.next_payload else 0
        if gap.next_payload is None or not 0 < recoverable <= missing:
            return self._conceal(missing)
        before = self._conceal(missing - recoverable)
        try:
            recovered = self._decoder.recover(gap.next_payload)
        except opus.OpusError:
            return before + self._conceal(recoverable)
        return [*before, Decoded(recovered, Label.RECOVERED)]

    def _conceal(self, missing: int) -> list[Decoded]:
        parts = []
        while missing > 0 and self._concealed < len(FADE):
            count = min(missing, SAMPLE_RATE // 50, len(FADE) - self._concealed)
            try:
                samples = self._decoder.conceal(-(-count // opus.STEP) * opus.STEP)
            except opus.OpusError:
                break
            parts.append(_faded(samples[:count], FADE[self._concealed :]))
            self._concealed += count
            missing -= count
        decoded = [Decoded(np.concatenate(parts), Label.CONCEALED)] if parts else []
        return [*decoded, Decoded(np.zeros(missing, np.int16), Label.SILENCE)] if missing > 0 else decoded


class FrameDecoder:
    """Everything but libopus: decode at the codec's own rate, conceal by repeating the last pitch
    period, and resample."""

    def __init__(self, codec: Codec) -> None:
        self.bad_payloads = 0
        self._payload = _payload_decoder(codec)
        self._rate = self._payload.rate
        self._past = np.zeros(self._rate // 25, np.int16)  # 40 ms, to repeat from
        self._repetition: _Repetition | None = None  # since the last good packet
        self._output = _LabelledResampler(self._rate)

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        if isinstance(item, Frame):
            return self._decode(item)
        if item.cause is Cause.PAUSE:
            return []
        return self._conceal(item.duration * self._rate // item.codec.clock_rate)

    def flush(self) -> list[Decoded]:
        return self._output.flush()

    def _decode(self, frame: Frame) -> list[Decoded]:
        try:
            samples = self._payload.decode(frame.payload)
            if len(samples) > LONGEST_S * self._rate:
                raise ValueError("longer than a packet may be")
        except (FFmpegError, ValueError):
            self.bad_payloads += 1
            return self._conceal(frame.codec.duration(frame.payload) * self._rate // frame.codec.clock_rate)
        if self._repetition is not None:
            samples = self._repetition.blend_into(samples)
            self._repetition = None
        kept = len(self._past)
        self._past = (
            samples[-kept:] if len(samples) >= kept else np.concatenate((self._past, samples))[-kept:]
        )
        return self._output.push(samples, Label.RECEIVED)

    def _conceal(self, missing: int) -> list[Decoded]:
        if self._repetition is None:
            self._repetition = _Repetition(self._past, self._rate)
        made = self._repetition.take(missing)
        silence = np.zeros(missing - len(made), np.int16)
        return [
            *self._output.push(made, Label.CONCEALED),
            *self._output.push(silence, Label.SILENCE),
        ]


class _Repetition:
    """What might follow ``past``: its last pitch period again and again, fading to silence."""

    def __init__(self, past: Samples, rate: int) -> None:
        self._period = past[-_pitch(past, rate) :]
        self._fade = _fade(rate)
        self._blend = rate * BLEND_MS // 1000
        self._taken = 0

    def take(self, count: int) -> Samples:
        """The next samples, fewer than ``count`` where silence is reached."""
        fade = self._fade[self._taken : self._taken + count]
        phase = np.arange(self._taken, self._taken + len(fade)) % len(self._period)
        self._taken += len(fade)
        return _faded(self._period[phase], fade)

    def blend_into(self, samples: Samples) -> Samples:
        """``samples`` that follow what was made up, without a step in between."""
        made = self.take(min(len(samples), self._blend))
        rise = (np.arange(len(made), dtype=np.float32) + 1) / (self._blend + 1)
        blended = samples.copy()
        blended[: len(made)] = made * (1 - rise) + samples[: len(made)] * rise
        return blended


def _fade(rate: int) -> NDArray[np.float32]:
    """The amplitude of concealment, from its first sample to silence."""
    fading = np.linspace(1, 0, rate * (CONCEALED_MS - STEADY_MS) // 1000, dtype=np.float32)
    return np.concatenate((np.ones(rate * STEADY_MS // 1000, np.float32), fading))


def _faded(samples: Samples, fade: NDArray[np.float32]) -> Samples:
    return (samples * fade[: len(samples)]).astype(np.int16)


FADE = _fade(SAMPLE_RATE)


def _pitch(past: Samples, rate: int) -> int:
    """The period in samples at which the past repeats best, by normalised correlation of its end
    with what was there a period before."""
    signal = past.astype(np.float32)
    longest, shortest = rate // LOWEST_PITCH_HZ, rate // HIGHEST_PITCH_HZ
    end = signal[-longest:]
    before = np.lib.stride_tricks.sliding_window_view(signal[: -max(1, shortest)], longest)[-longest:]
    score = before @ end / np.sqrt(np.einsum("ij,ij->i", before, before) + 1)
    return max(1, shortest) + len(before) - 1 - int(np.argmax(score))


class _LabelledResampler:
    """A stream to 16 kHz, with the labels of what is inside it."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = resampler(rate)
        self._taken = 0
        self._given = 0
        self._inside: deque[tuple[int, Label]] = deque()  # up to which output sample a label holds

    def push(self, samples: Samples, label: Label) -> list[Decoded]:
        if not len(samples):
            return []
        self._taken += len(samples)
        until = round(self._taken * SAMPLE_RATE / self._rate)
        if self._inside and self._inside[-1][1] is label:
            self._inside[-1] = (until, label)
        else:
            self._inside.append((until, label))
        return self._labelled(self._stream.push(samples))

    def flush(self) -> list[Decoded]:
        return self._labelled(self._stream.flush()) if self._taken else []

    def _labelled(self, samples: Samples) -> list[Decoded]:
        decoded = []
        while len(samples):
            until, label = self._inside[0]
            is_last = len(self._inside) == 1
            part = samples if is_last else samples[: until - self._given]
            samples = samples[len(part) :]
            self._given += len(part)
            if not is_last and self._given >= until:
                self._inside.popleft()
            if len(part):
                decoded.append(Decoded(part, label))
        return decoded


class _Payload(Protocol):
    rate: int

    def decode(self, payload: bytes) -> Samples:
        """int16 mono at ``rate``, at least one; raises ValueError or FFmpegError."""


class _G711:
    def __init__(self, table: NDArray[np.int16], codec: Codec) -> None:
        self.rate = codec.clock_rate
        self._table = table
        self._channels = codec.channels

    def decode(self, payload: bytes) -> Samples:
        samples = self._table[np.frombuffer(_whole(payload, self._channels), np.uint8)]
        return samples if self._channels == 1 else _to_mono(samples.reshape(-1, self._channels))


class _L16:
    """Linear PCM in network byte order (RFC 3551 section 4.5.11)."""

    def __init__(self, codec: Codec) -> None:
        self.rate = codec.clock_rate
        self._channels = codec.channels

    def decode(self, payload: bytes) -> Samples:
        whole = _whole(payload, 2 * self._channels)
        return _to_mono(np.frombuffer(whole, ">i2").reshape(-1, self._channels))


class _Av:
    """A codec of PyAV's, decoded to mono."""

    def __init__(self, name: str, rate: int) -> None:
        self.rate = rate
        context = av.CodecContext.create(name, "r")
        assert isinstance(context, av.AudioCodecContext)
        self._context = context
        self._context.sample_rate = rate
        self._context.layout = "mono"

    def decode(self, payload: bytes) -> Samples:
        # An empty packet would be taken for the end, and nothing be decoded after it.
        frames = self._context.decode(av.Packet(_not_empty(payload)))
        parts = [_to_mono(frame.to_ndarray().reshape(-1, frame.layout.nb_channels)) for frame in frames]
        if not parts:
            raise ValueError("nothing decoded")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _whole(payload: bytes, width: int) -> bytes:
    """Without the bytes of a sample that is cut, as some senders have them."""
    return _not_empty(payload[: len(payload) - len(payload) % width])


def _not_empty(payload: bytes) -> bytes:
    if not payload:
        raise ValueError("an empty payload")
    return payload


def _to_mono(samples: NDArray[Any]) -> Samples:
    """The average of the channels, which are the columns."""
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0].astype(np.int16)
    total = samples[:, 0].astype(np.int32)
    for channel in range(1, channels):
        total += samples[:, channel]
    mixed: Samples = (total // channels).astype(np.int16)
    return mixed


def _payload_decoder(codec: Codec) -> _Payload:
    match codec.name:
        case "PCMU":
            return _G711(MULAW, codec)
        case "PCMA":
            return _G711(ALAW, codec)
        case "G722":
            return _Av("g722", 16000)
        case "L16":
            return _L16(codec)
        case "opus":
            return _Av("libopus", 48000)
    raise ValueError(f"{codec.name} is no speech codec")
