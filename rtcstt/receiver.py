"""One track's ear: RTP packets or PCM in, continuous chunks out, every sample accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtcstt.codecs import Decoder, decoder_for
from rtcstt.pcm import SAMPLE_RATE, AudioClock, Chunk, Label, Ledger, Samples
from rtcstt.rtp import Cause, Codec, Frame, Gap, Packet, Playout

STALLED_S = 0.3  # without a packet; with chunks of up to 200 ms it is said within 500 ms
PAUSED_STALLED_S = 1.5  # the same when the sender said that it pauses: DTX sends every 400 ms
DTX_BYTES = 2  # an Opus packet this short says that nothing follows for a while (RFC 7587 section 3.1.3)
PCM_DELAY_S = 0.03  # jitter to be expected of a source that is not RTP


@dataclass(frozen=True, slots=True)
class Stalled:
    """Packets stopped, and the sender had not said that they would."""

    since: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """Packets come again, after ``stalled_s`` seconds."""

    stalled_s: float


class AudioReceiver:
    """Packets in any order -> `pcm.Chunk`s at an even pace.

    `push` only stores; decoding happens in `pull`, which is to be called whenever `next_due` says.
    ``codecs`` tells what each payload type means. A source without RTP uses `push_pcm` instead.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, chunk_ms: int = 100, max_delay_ms: int = 200) -> None:
        self._playout = Playout(codecs, max_delay_s=max_delay_ms / 1000)
        self._clock = AudioClock(chunk_ms=chunk_ms, max_delay_s=max_delay_ms / 1000)
        self._codec: Codec | None = None
        self._decoder: Decoder | None = None
        self._bad_payloads = 0
        self._pauses = False  # the last packet said that the sender pauses
        self._last_heard: float | None = None
        self._stalled_since: float | None = None
        self._signals: list[Stalled | Resumed] = []
        self._is_rtp = False

    @property
    def ledger(self) -> Ledger:
        return self._clock.ledger

    @property
    def origin(self) -> float | None:
        """When the track's first sample was spoken, as far as known; None before audio came."""
        return self._clock.origin

    def renegotiate(self, codecs: Mapping[int, Codec]) -> None:
        """From here on payload types mean this; another source may take over."""
        self._playout.codecs = codecs

    def push(self, packet: Packet, now: float) -> None:
        self._is_rtp = True
        self._playout.push(packet, now)
        self._heard(now)

    def push_pcm(self, samples: Samples, now: float) -> None:
        """int16 mono at 16 kHz, as it is captured: one second per second."""
        if self._clock.origin is None:
            self._clock.begin(now - len(samples) / SAMPLE_RATE)
        self._clock.push(samples, Label.RECEIVED, now)
        self._heard(now)

    def pull(self, now: float) -> list[Chunk]:
        """The chunks that are due, oldest first."""
        self._decode_due(now)
        self._watch(now)
        delay = self._playout.delay if self._is_rtp else PCM_DELAY_S
        return self._clock.pull(now, delay, expects_nothing=self._pauses)

    def next_due(self, now: float) -> float:
        """When to call `pull` next; infinity before the first packet."""
        if self._clock.origin is not None or self._last_heard is None:
            return self._clock.next_due(now)
        return now + 0.01

    def close(self, now: float) -> list[Chunk]:
        """Everything that is still inside, at once. Nothing may be pushed after."""
        for item in self._playout.flush():
            self._take(item, now)
        self._change_codec(None, now)
        return self._clock.close()

    def signals(self) -> list[Stalled | Resumed]:
        """What happened since the last time this was asked."""
        signals, self._signals = self._signals, []
        return signals

    def stats(self) -> dict[str, Any]:
        bad = self._bad_payloads + (self._decoder.bad_payloads if self._decoder else 0)
        return {
            **self._playout.counters.as_dict(),
            "bad_payloads": bad,
            "codec": self._codec.name if self._codec else None,
            "delay_ms": round(1000 * self._playout.delay, 1),
            "lag_ms": round(1000 * self._clock.lag_s, 1),
        }

    def _heard(self, now: float) -> None:
        if self._stalled_since is not None:
            self._signals.append(Resumed(now - self._stalled_since))
            self._stalled_since = None
        self._last_heard = now

    def _watch(self, now: float) -> None:
        if self._last_heard is None or self._stalled_since is not None:
            return
        if now - self._last_heard >= (PAUSED_STALLED_S if self._pauses else STALLED_S):
            self._stalled_since = self._last_heard
            self._signals.append(Stalled(self._last_heard))

    def _decode_due(self, now: float) -> None:
        while (item := self._playout.pop(now)) is not None:
            self._take(item, now)

    def _take(self, item: Frame | Gap, now: float) -> None:
        if isinstance(item, Gap) and item.cause is Cause.PAUSE:
            self._clock.pause(item.duration * SAMPLE_RATE // item.codec.clock_rate, now)
            return
        if item.codec is not self._codec:
            self._change_codec(item.codec, now)
        if isinstance(item, Frame):
            self._begin(item)
            self._pauses = item.codec.name == "opus" and len(item.payload) <= DTX_BYTES
        assert self._decoder is not None
        for decoded in self._decoder.decode(item):
            self._clock.push(decoded.samples, decoded.label, now)

    def _begin(self, frame: Frame) -> None:
        first = self._playout.first_arrival
        if self._clock.origin is None and first is not None:
            self._clock.begin(first - frame.codec.duration(frame.payload) / frame.codec.clock_rate)

    def _change_codec(self, codec: Codec | None, now: float) -> None:
        if self._decoder is not None:
            self._bad_payloads += self._decoder.bad_payloads
            for decoded in self._decoder.flush():
                self._clock.push(decoded.samples, decoded.label, now)
        self._codec = codec
        self._decoder = decoder_for(codec) if codec is not None else None
