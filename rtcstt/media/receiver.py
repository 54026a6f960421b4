"""One track's receiver: RTP packets or PCM in, continuous chunks out, every sample accounted for.

A track is mostly one source (SSRC) at a time. Where a second one sends beside it for longer than a moment,
both are decoded and mixed, as a conference bridge does: whoever speaks is received, and no word is cut by
going from one to the other. Where the main source falls silent, the other one becomes the main one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rtcstt.media.clock import AudioClock
from rtcstt.media.codecs import Decoded
from rtcstt.media.dtmf import Digits
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.playout import LOST_S, Cause, Frame, Gap
from rtcstt.media.presence import Presence
from rtcstt.media.red import Redundancy
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.sequence import Counters, PacketCounts
from rtcstt.media.signals import Lost, SeveralSources, Signal
from rtcstt.media.source import MAX_SIDES, SideSource, SideSources, Source
from rtcstt.media.suspicion import PayloadSuspicion

PCM_DELAY_S = 0.03  # jitter to be expected of a source that is not RTP
PACKET_S = 0.02  # PCM that comes more at a time comes later by the difference
START_POLL_S = 0.01  # while the first packet waits for earlier ones
IDLE_POLL_S = 0.1  # while there is no sound at all
HANDOVER_S = 0.15  # of silence of the main source, until another one takes its place


@dataclass(slots=True)
class LastAudio:
    """Where on the clock the last audio that came is, in samples."""

    end: int = 0
    _run: int = 0  # where the audio began that has come without a hole
    _late: int = 0  # by how much its end is behind its time

    def note(self, end: int, count: int, ahead_s: float) -> None:
        """The last ``count`` samples up to ``end`` are audio that came."""
        if end - count > self.end:
            self._run = end - count
        self.end, self._late = end, max(0, round(ahead_s * SAMPLE_RATE))

    @property
    def missing_from(self) -> int:
        """Where what did not come after it begins. Where silence had gone out in the place of that audio, its
        end was due before it, and that silence stands for what is lost too."""
        due = self.end - self._late
        return due if due < self._run else self.end


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
        self._counters = Counters()
        self._main = Source(codecs, max_delay_s=self._max_delay_s, counters=self._counters)
        self._sides = SideSources(self._max_delay_s, self._counters)
        self.clock = AudioClock(chunk_ms=chunk_ms, max_delay_s=self._max_delay_s)
        self._digits = Digits()
        self._redundancy = Redundancy()
        self._suspicion = PayloadSuspicion()
        self._bad_payloads = 0  # of sources that are gone
        self._presence = Presence()
        self._pcm_delay_s: float | None = None
        self._last = LastAudio()
        self._hole_is_loss = False  # whatever is before the next audio was not received

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
        self._codecs = self._main.playout.codecs = codecs
        for side in self._sides:
            side.source.playout.codecs = codecs
        if reconnected:
            self._hole_is_loss = not self._presence.is_muted
            self._main.playout.forget_report()

    def push(self, packet: Packet, now: float) -> None:
        self._pcm_delay_s = None
        codec = self._codecs.get(packet.payload_type)
        if codec is None:
            number = packet.payload_type
            self._presence.ignore(number, _not_agreed(number, self._codecs), number)
        elif codec.name == "telephone-event":
            self._presence.signals += self._digits.push(packet, codec.clock_rate, now)
        elif codec.name == "red":
            self._counters.received += 1
            for inner in self._redundancy.unpack(packet):
                self.push(inner, now)
            return
        elif codec.name != "opus":
            self._presence.signals += self._suspicion.push(codec, packet.payload, now)
        side = self._sides.get(packet.ssrc) if self._sides else None
        known = side.push(packet, now) if side is not None else self._main.playout.push(packet, now)
        if known and (packet.payload or not self._presence.is_stalled):  # keep-alives end no stall
            self._presence.received(now)
        elif not known and codec is not None:
            self._admit_rival(now)

    def push_pcm(self, samples: Samples, now: float) -> None:
        """int16 mono at 16 kHz, as it is captured: one second per second."""
        duration_s = len(samples) / SAMPLE_RATE
        if self.clock.origin is None:
            self.clock.begin(now - duration_s)
        self._pcm_delay_s = max(self._pcm_delay_s or 0.0, PCM_DELAY_S, PCM_DELAY_S + duration_s - PACKET_S)
        self.clock.push(samples, Label.RECEIVED, now)
        self._presence.received(now)
        if self._hole_is_loss:
            self._note_lost_until(self.clock.end - len(samples))
        self._last.note(self.clock.end, len(samples), 0.0)

    def bye(self, ssrc: int, now: float) -> None:
        """A source says that it leaves (RTCP BYE, RFC 3550 section 6.6). It may come back."""
        if self._sides.take(ssrc) is not None:
            return
        is_lost = self._main.has_lost(now, by=max(LOST_S, self._main.playout.delay))
        if self._main.playout.bye(ssrc):
            self._hole_is_loss |= is_lost  # a source that stops says so at once
            if self._sides:
                self._hand_over(now)
            else:
                self.mute("bye")

    def report(self, ssrc: int, sent: int, now: float) -> None:
        """A source says how many packets it has sent (RTCP sender report, RFC 3550 section 6.4.1)."""
        side = self._sides.get(ssrc)
        (side.source if side is not None else self._main).playout.report(ssrc, sent, now)

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now: no stall is to be told."""
        self._presence.mute(reason)
        self._main.playout.paused = True

    def pull(self, now: float, *, waits: bool = False) -> list[Chunk]:
        """The chunks that are due, oldest first. ``waits``: what does not come may have gone to another
        server, so no silence is put in its place."""
        if self._sides:
            self._advance_sides(now)
        while (item := self._main.playout.pop(now)) is not None:
            self._take(item)
        playout = self._main.playout
        self._presence.signals += self._digits.poll(now)
        self._presence.watch(now, paused=playout.paused)
        delay = playout.usual_delay if self._pcm_delay_s is None else self._pcm_delay_s
        expected_until = math.inf if waits else -math.inf
        if self._pcm_delay_s is not None and self.last_received is not None and not waits:
            # Over TCP nothing is lost: what comes slower than real time is late, and no word has a hole.
            expected_until = self.last_received + self._max_delay_s
        nothing = playout.paused and not waits
        return self.clock.pull(now, delay, expects_nothing=nothing, expected_until=expected_until)

    def next_due(self, now: float) -> float:
        """When to call `pull` next."""
        if self.clock.origin is None:
            return now + (START_POLL_S if self._main.playout.first_arrival is not None else IDLE_POLL_S)
        return min(
            self.clock.next_due(now), max(now, self._presence.stall_due(paused=self._main.playout.paused))
        )

    def close(self, now: float) -> list[Chunk]:
        """Everything that is still inside, at once. Nothing may be pushed after."""
        self._advance_sides(now)
        for item in self._main.playout.flush():
            self._take(item)
        self._push(self._main.change_codec(None), now)
        for side in self._sides:
            self._push_alone(side.finish(self.clock.end), now)
        self._presence.signals += self._sides.take_losses()
        chunks = self.clock.close(now)
        self._note_lost_end(now)
        return chunks

    def signals(self) -> list[Signal]:
        """What happened since the last time this was asked."""
        overflow = self.clock.take_overflow()
        if overflow is not None:
            self._presence.signals.append(Lost(*overflow, reason="overflow"))
        signals, self._presence.signals = self._presence.signals, []
        return signals

    def stats(self) -> AudioStats:
        playout = self._main.playout
        sources = [self._main, *(side.source for side in self._sides)]
        return {
            **self._counters.as_dict(),
            "bad_payloads": self._bad_payloads + sum(source.bad_payloads for source in sources),
            "sources": len(sources),
            "codec": self._main.codec.name if self._main.codec else None,
            "jitter_ms": round(1000 * playout.jitter, 1),
            "delay_ms": round(1000 * playout.usual_delay, 1),
            "lag_ms": round(1000 * self.clock.lag_s, 1),
        }

    # -- the main source -------------------------------------------------------------------------------

    def _take(self, item: Frame | Gap) -> None:
        if isinstance(item, Gap):
            if item.cause is Cause.PAUSE:
                self.clock.pause(item.duration * SAMPLE_RATE // item.codec.clock_rate, item.arrival)
            else:
                self._push(self._main.decode(item), item.arrival)
            return
        if self.clock.origin is None:
            self._begin(item)
        decoded = self._main.decode(item)
        self._push(decoded, item.arrival)
        if self._main.is_bad:
            self._hole_is_loss = True
            self._presence.ignore("payload", f"payloads arrive that cannot be read as {item.codec.name}")
            return
        count = sum(len(part.samples) for part in decoded)
        if item.lost or item.follows_doubt or self._hole_is_loss:
            self._note_loss(item, count)
        self._last.note(self.clock.end, count, self.clock.ahead(item.arrival))

    def _note_loss(self, frame: Frame, count: int) -> None:
        """The frame, which is the last ``count`` samples, follows a hole in which packets were lost."""
        lost_s = frame.lost * frame.codec.duration(frame.payload) / frame.codec.clock_rate
        if lost_s > LOST_S or frame.follows_doubt or self._hole_is_loss:
            self._note_lost_until(self.clock.end - count)

    def _note_lost_until(self, end: int) -> None:
        start, self._hole_is_loss = self._last.missing_from, False
        if self._last.end and end - start > LOST_S * SAMPLE_RATE:
            self._presence.signals.append(Lost(start, end, "network"))

    def _note_lost_end(self, now: float) -> None:
        """No packet tells what was lost after the last one. The sender's report does, where one came since;
        else packets that stopped, where the sender had not said that they would, count as lost."""
        if self._pcm_delay_s is not None or self.last_received is None:
            return
        end = self.clock.end
        start = max(self._last.missing_from, end - round((now - self.last_received) * SAMPLE_RATE))
        if (self._hole_is_loss or self._main.has_lost(now)) and end - start > LOST_S * SAMPLE_RATE:
            self._presence.signals.append(Lost(start, end, "network"))

    def _push(self, decoded: list[Decoded], arrival: float) -> None:
        for part in decoded:
            samples = self._sides.mix(part.samples, self.clock.ledger) if self._sides else part.samples
            self.clock.push(samples, part.label, arrival)

    def _begin(self, first: Frame) -> None:
        """The call begins when its first sample was spoken: a packet's duration before it could be sent."""
        duration_s = first.codec.duration(first.payload) / first.codec.clock_rate
        self.clock.begin((self._main.playout.first_arrival or first.arrival) - duration_s)

    def _admit_rival(self, now: float) -> None:
        packets = self._main.playout.take_rival(now)
        if not packets:
            return
        if self._sides.admit(packets, self._codecs):
            self._presence.signals.append(SeveralSources(1 + len(self._sides)))
            return
        self._counters.stray += len(packets)
        self._presence.ignore("sources", f"more than {1 + MAX_SIDES} sources send at once")

    def _advance_sides(self, now: float) -> None:
        self._bad_payloads += self._sides.advance(now, self.clock.end, self.clock.ledger)
        self._presence.signals += self._sides.take_losses()
        playout = self._main.playout
        if self._sides and now - playout.last_arrival > max(HANDOVER_S, playout.delay):
            self._hand_over(now)

    def _hand_over(self, now: float) -> None:
        """The main source is silent: the one that sent last takes its place."""
        side = self._sides.take_after(self._main.playout.last_arrival)
        if side is not None:
            old, self._main = self._main, side.source
            self._sides.add(SideSource(old, self._last.end))
            self._push_alone(side.take_all(), now)

    def _push_alone(self, decoded: list[Decoded], now: float) -> None:
        for part in decoded:
            self.clock.push(part.samples, part.label, now)
            self._last.end = self.clock.end


def _not_agreed(payload_type: int, codecs: Mapping[int, Codec]) -> str:
    agreed = ", ".join(str(number) for number, codec in codecs.items() if codec.is_speech)
    return f"packets of payload type {payload_type} arrive, {agreed or 'none'} was agreed"
