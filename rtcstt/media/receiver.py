"""One track's receiver: RTP packets or PCM in, continuous chunks out, every sample accounted for.

Its sources (SSRCs) are in `sources`, what is missing of them in `losses`; here they meet the clock, and what
is no speech: telephone events, redundancy, PCM without packets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rtcstt.media.clock import AudioClock
from rtcstt.media.dtmf import Digits
from rtcstt.media.losses import MAIN, Losses
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.presence import Presence
from rtcstt.media.red import Redundancy
from rtcstt.media.rtp import PACKET_S, Codec, Packet, meaning
from rtcstt.media.sequence import PacketCounts
from rtcstt.media.signals import Lost, Signal
from rtcstt.media.sources import Sources
from rtcstt.media.suspicion import PayloadSuspicion

PCM_DELAY_S = 0.03  # jitter to be expected of a source that is not RTP
START_POLL_S = 0.01  # while the first packet waits for earlier ones
STALL_S = 2.5  # times the longest delay: so long a stall in a word may be, until silence is put into it
MOST_BEHIND_S = 2.0  # audio that comes for longer at less than its pace is not waited for
IDLE_POLL_S = 0.1  # while there is no sound at all
NO_SPEECH = 4  # bytes: a payload of a type that was not agreed and is no longer holds no speech


class AudioStats(PacketCounts):
    """Packets of one track by what became of them, and how it is played out."""

    bad_payloads: int
    sources: int
    codec: str | None
    jitter_ms: float
    delay_ms: float
    lag_ms: float


class AudioReceiver:
    """Packets in any order -> `pcm.Chunk`s at an even pace.

    `push` only stores; decoding happens in `pull`, which is to be called whenever `next_due` says.
    ``codecs`` tells what each payload type means. A source without RTP uses `push_pcm` instead.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, chunk_ms: int = 100, max_delay_ms: int = 200) -> None:
        self._codecs = codecs
        self._max_delay_s = max_delay_ms / 1000
        self.clock = AudioClock(chunk_ms=chunk_ms, max_delay_s=self._max_delay_s)
        self._digits = Digits()
        self._redundancy = Redundancy()
        self._suspicion = PayloadSuspicion()
        self._presence = Presence()
        self._pcm_delay_s: float | None = None
        self._losses = Losses()
        self._sources = Sources(
            codecs, self.clock, self._presence, self._losses, max_delay_s=self._max_delay_s
        )

    @property
    def codecs(self) -> Mapping[int, Codec]:
        """By payload type."""
        return self._codecs

    @property
    def ledger(self) -> Ledger:
        return self.clock.ledger

    @property
    def origin(self) -> float | None:
        """When the track's first sample was spoken, as far as known; None before audio came."""
        return self.clock.origin

    @property
    def last_received(self) -> float | None:
        """When audio last came."""
        return self._presence.last_received

    @property
    def position(self) -> int:
        """The next sample to go out, counted from the track's beginning."""
        return self.clock.position

    def renegotiate(self, codecs: Mapping[int, Codec], *, reconnected: bool = True) -> None:
        """From here on payload types mean this. ``reconnected``: another source takes over, and what was said
        since the last packet is lost."""
        self._codecs = codecs
        self._sources.renegotiate(codecs)
        if reconnected:
            self._losses.hole_is_loss = not self._presence.is_muted
            self._sources.main.playout.forget_report()

    def push(self, packet: Packet, now: float) -> None:
        self._pcm_delay_s = None
        codec = meaning(self._codecs, packet.payload_type)
        if codec is None:
            self._ignore(packet, now)
        elif codec.name == "telephone-event":
            self._presence.signals += self._digits.push(packet, codec.clock_rate, now)
        elif codec.name == "red":
            self._sources.counters.received += 1
            bad = self._redundancy.bad
            for inner in self._redundancy.unpack(packet):
                self.push(inner, now)
            if self._redundancy.bad > bad:
                self._presence.ignore("red", "packets arrive that cannot be read as red (RFC 2198)")
                self._sources.not_taken.note(now)
            return
        elif codec.name != "opus" and packet.ssrc == self._sources.main.playout.ssrc:
            self._presence.signals += self._suspicion.push(codec, packet.payload, now)
        known = self._sources.push(packet, now, is_known_type=codec is not None)
        if known and (packet.payload or not self._presence.is_stalled):  # keep-alives end no stall
            self._presence.received(now, leaves=self._sources.main.playout.has_left)

    def push_pcm(self, samples: Samples, now: float) -> None:
        """int16 mono at 16 kHz, as it is captured: one second per second."""
        duration_s = len(samples) / SAMPLE_RATE
        if self.clock.origin is None:
            self.clock.begin(now - duration_s)
        self._pcm_delay_s = max(self._pcm_delay_s or 0.0, PCM_DELAY_S, PCM_DELAY_S + duration_s - PACKET_S)
        self.clock.push(samples, Label.RECEIVED, now)
        self._presence.received(now)
        self._losses.received_pcm(len(samples), self.clock.end)

    def drop_pcm(self, duration_s: float, now: float, reason: str) -> None:
        """PCM came that is not understood. Silence is put in its place: of that duration; where it is not
        known (0), since the last that came."""
        if self.clock.origin is None:
            self.clock.begin(now - duration_s)
        self._pcm_delay_s = self._pcm_delay_s or PCM_DELAY_S
        at, present = self.clock.next, self._sources.not_taken.place(now)
        count = round(duration_s * SAMPLE_RATE) or max(0, present - at)
        begin = max(at, present - count)
        self.clock.push(np.zeros(begin + count - at, np.int16), Label.SILENCE, now)
        self._losses.unread.note(MAIN, begin, begin + count, reason, least=0)
        self._presence.received(now)

    def note_outside(self, duration_s: float) -> None:
        """At the end: so much PCM had come, and there was no room for it yet."""
        count = round(duration_s * SAMPLE_RATE)
        self._losses.unread.note("outside", self.clock.end, self.clock.end + count, "overflow", least=0)

    def bye(self, ssrc: int, now: float) -> None:
        """A source says that it leaves (RTCP BYE, RFC 3550 section 6.6). It may come back."""
        if self._sources.bye(ssrc, now):
            self.mute("bye")

    def report(self, ssrc: int, sent: int, now: float) -> None:
        """A source says how many packets it has sent (RTCP sender report, RFC 3550 section 6.4.1)."""
        self._sources.report(ssrc, sent, now)

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now: no stall is to be told."""
        self._presence.mute(reason)
        self._sources.main.playout.paused = True

    def pull(self, now: float, *, waits: bool = False) -> list[Chunk]:
        """The chunks that are due, oldest first. ``waits``: what does not come may have gone to another
        server, so no silence is put in its place."""
        self._sources.advance(now)
        playout = self._sources.main.playout
        self._presence.signals += self._digits.poll(now)
        self._presence.watch(now, paused=playout.paused)
        delay = playout.usual_delay if self._pcm_delay_s is None else self._pcm_delay_s
        expected_until = math.inf if waits else self._expected_until(now)
        nothing = playout.paused and not waits
        if self._sources.are_others_sending(now):
            expected_until, nothing = math.inf, False
        return self.clock.pull(now, delay, expects_nothing=nothing, expected_until=expected_until)

    def _expected_until(self, now: float) -> float:
        """What comes slower than real time, or after a stall, is late, and no word has a hole: until then
        audio is waited for, longer where a word is not over."""
        if self._pcm_delay_s is not None:  # over TCP nothing is lost
            return -math.inf if self.last_received is None else self.last_received + self._max_delay_s
        usual = self._sources.last_audio + self._max_delay_s
        if self.clock.ahead(now) < -MOST_BEHIND_S:
            return -math.inf
        stall_s = STALL_S * self._max_delay_s
        if usual <= now < self._sources.last_audio + stall_s and self.clock.ends_in_sound:
            return self._sources.last_audio + stall_s
        return usual

    def next_due(self, now: float) -> float:
        """When to call `pull` next."""
        if self.clock.origin is None:
            return now + (
                START_POLL_S if self._sources.main.playout.first_arrival is not None else IDLE_POLL_S
            )
        return min(
            self.clock.next_due(now),
            max(now, self._presence.stall_due(paused=self._sources.main.playout.paused)),
        )

    def hand_over(self, now: float) -> list[Chunk]:
        """Everything that is still inside, at once, for another server. More may be pushed if that one does
        not take the call."""
        self._sources.flush(now)
        self._presence.signals += self._losses.due(self.clock.end, everything=True)
        return self.clock.hand_over()

    def close(self, now: float) -> list[Chunk]:
        """The same, with silence up to ``now``, and what is known of losses at the end."""
        self._sources.flush(now)
        chunks = self.clock.close(now)
        self._note_lost_end(now)
        self._sources.note_lost_ends(now)
        self._presence.signals += self._losses.due(self.clock.end, everything=True)
        return chunks

    def signals(self) -> list[Signal]:
        """What happened since the last time this was asked."""
        overflow = self.clock.take_overflow()
        if overflow is not None:
            self._presence.signals.append(Lost(*overflow, reason="overflow"))
        self._presence.signals += self._losses.due(self.clock.end)
        signals, self._presence.signals = self._presence.signals, []
        return signals

    def stats(self) -> AudioStats:
        main, playout = self._sources.main, self._sources.main.playout
        return {
            **self._sources.counters.as_dict(),
            "bad_payloads": self._sources.bad_payloads,
            "sources": 1 + len(self._sources.sides),
            "codec": main.codec.name if main.codec else None,
            "jitter_ms": round(1000 * playout.jitter, 1),
            "delay_ms": round(1000 * playout.usual_delay, 1),
            "lag_ms": round(1000 * self.clock.lag_s, 1),
        }

    def _ignore(self, packet: Packet, now: float) -> None:
        """Its payload type was not agreed. It may be speech, unless what was agreed comes beside it."""
        number = packet.payload_type
        self._presence.ignore(number, _not_agreed(number, self._codecs), number)
        if len(packet.payload) > NO_SPEECH:
            self._sources.not_taken.note(now)

    def _note_lost_end(self, now: float) -> None:
        """No packet tells what was lost after the last one. The sender's report does, where one came since;
        else packets that stopped, where the sender had not said that they would, count as lost."""
        if self._pcm_delay_s is not None or self.last_received is None:
            return
        end = self.clock.end
        if self._losses.hole_is_loss or self._sources.main.has_lost(now):
            self._losses.note_lost_end(end - round((now - self.last_received) * SAMPLE_RATE), end)


def _not_agreed(payload_type: int, codecs: Mapping[int, Codec]) -> str:
    agreed = ", ".join(str(number) for number, codec in codecs.items() if codec.is_speech)
    return f"packets of payload type {payload_type} arrive, {agreed or 'none'} was agreed"
