"""One track's ear: RTP packets or PCM in, continuous chunks out, every sample accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtcstt.media.clock import AudioClock
from rtcstt.media.codecs import Decoder, decoder_for
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.playout import Cause, Frame, Gap, Playout
from rtcstt.media.rtp import Codec, Packet

STALLED_S = 0.45  # without a packet; longer than the 400 ms of DTX, in case its announcement was lost
PAUSED_STALLED_S = 1.5  # the same when the sender said that it pauses: DTX sends every 400 ms
PCM_DELAY_S = 0.03  # jitter to be expected of a source that is not RTP
PACKET_S = 0.02  # PCM that comes more at a time comes later by the difference
START_POLL_S = 0.01  # while the first packet waits for earlier ones
IDLE_POLL_S = 0.1  # while there is no sound at all


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
        self.last_received: float | None = None
        """When audio last came."""
        self._stalled_since: float | None = None
        self._signals: list[Stalled | Resumed] = []
        self._pcm_delay_s: float | None = None

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
        self._pcm_delay_s = None
        known = self._playout.push(packet, now)
        if known and (packet.payload or self._stalled_since is None):  # keep-alives end no stall
            self._received(now)

    def push_pcm(self, samples: Samples, now: float) -> None:
        """int16 mono at 16 kHz, as it is captured: one second per second."""
        duration_s = len(samples) / SAMPLE_RATE
        if self._clock.origin is None:
            self._clock.begin(now - duration_s)
        self._pcm_delay_s = max(self._pcm_delay_s or 0.0, PCM_DELAY_S, PCM_DELAY_S + duration_s - PACKET_S)
        self._clock.push(samples, Label.RECEIVED, now)
        self._received(now)

    def pull(self, now: float) -> list[Chunk]:
        """The chunks that are due, oldest first."""
        while (item := self._playout.pop(now)) is not None:
            self._take(item)
        self._watch(now)
        delay = self._playout.usual_delay if self._pcm_delay_s is None else self._pcm_delay_s
        return self._clock.pull(now, delay, expects_nothing=self._playout.paused)

    def next_due(self, now: float) -> float:
        """When to call `pull` next."""
        if self._clock.origin is None:
            return now + (START_POLL_S if self._playout.first_arrival is not None else IDLE_POLL_S)
        due = self._clock.next_due(now)
        return due if self._stalled_since is not None else min(due, max(now, self._stall_due()))

    def close(self, now: float) -> list[Chunk]:
        """Everything that is still inside, at once. Nothing may be pushed after."""
        for item in self._playout.flush():
            self._take(item)
        self._change_codec(None, now)
        return self._clock.close(now)

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
            "jitter_ms": round(1000 * self._playout.jitter, 1),
            "delay_ms": round(1000 * self._playout.usual_delay, 1),
            "lag_ms": round(1000 * self._clock.lag_s, 1),
        }

    def _received(self, now: float) -> None:
        if self._stalled_since is not None:
            self._signals.append(Resumed(now - self._stalled_since))
            self._stalled_since = None
        self.last_received = now

    def _stall_due(self) -> float:
        assert self.last_received is not None
        return self.last_received + (PAUSED_STALLED_S if self._playout.paused else STALLED_S)

    def _watch(self, now: float) -> None:
        if self.last_received is None or self._stalled_since is not None or now < self._stall_due():
            return
        self._stalled_since = self.last_received
        self._signals.append(Stalled(self.last_received))

    def _take(self, item: Frame | Gap) -> None:
        if isinstance(item, Gap) and item.cause is Cause.PAUSE:
            self._clock.pause(item.duration * SAMPLE_RATE // item.codec.clock_rate, item.arrival)
            return
        if item.codec is not self._codec:
            self._change_codec(item.codec, item.arrival)
        if isinstance(item, Frame) and self._clock.origin is None:
            self._begin(item)
        assert self._decoder is not None
        for decoded in self._decoder.decode(item):
            self._clock.push(decoded.samples, decoded.label, item.arrival)

    def _begin(self, first: Frame) -> None:
        """The call begins when its first sample was spoken: a packet's duration before it could be sent."""
        duration_s = first.codec.duration(first.payload) / first.codec.clock_rate
        self._clock.begin((self._playout.first_arrival or first.arrival) - duration_s)

    def _change_codec(self, codec: Codec | None, now: float) -> None:
        if self._decoder is not None:
            self._bad_payloads += self._decoder.bad_payloads
            for decoded in self._decoder.flush():
                self._clock.push(decoded.samples, decoded.label, now)
        self._codec = codec
        self._decoder = decoder_for(codec) if codec is not None else None
